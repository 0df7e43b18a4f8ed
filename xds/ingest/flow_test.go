package ingest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
)

const second = time.Second

// ms is an instant or a length in milliseconds.
func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// each gives samples one after the other, of intervals of 100 ms that begin at 1 s.
func each(f *flow, samples ...sample) *flow {
	for i, s := range samples {
		f.take(s, interval{ms(1000 + 100*i), ms(1100 + 100*i)}, 0, kinds{})
	}
	return f
}

func TestFailuresAreHardOnlyWhereMoreEndedThanWasThereToEnd(t *testing.T) {
	idle := sample{} // so that it is known what was under way
	for _, tc := range []struct {
		name    string
		samples []sample
		want    outlier.Counts
	}{
		{"answers", []sample{idle, {ok: 3, issued: 3}}, outlier.Counts{N: 3}},
		{"an error that was answered", []sample{idle, {ok: 2, failed: 1, issued: 3}}, outlier.Counts{N: 3, Server: 1}},
		{"refused connections", []sample{idle, {failed: 3}}, outlier.Counts{N: 3, Conn: 3}},
		{"refused connections beside an answer", []sample{idle, {ok: 1, failed: 2, issued: 1}}, outlier.Counts{N: 3, Conn: 2}},
		{"failures that may be those of requests under way", []sample{{issued: 2, active: 2}, {failed: 2}}, outlier.Counts{N: 2, Server: 2}},
		{"one more than were under way", []sample{{issued: 2, active: 2}, {failed: 3}}, outlier.Counts{N: 3, Conn: 1, Server: 2}},
		{"an answer whose body is still on its way", []sample{idle, {ok: 1, failed: 1, issued: 2, active: 1}}, outlier.Counts{N: 2, Server: 1}},
		{"a first report, before which nothing is known", []sample{{failed: 3}}, outlier.Counts{N: 3, Server: 3}},
		{"clients that gave up", []sample{{issued: 5, active: 5}, {}}, outlier.Counts{}},
	} {
		if got := each(newFlow(), tc.samples...).counts; got != tc.want {
			t.Errorf("%s: counts %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func TestWhatTheEnvoysOwnBreakersTurnAwayIsNoFailure(t *testing.T) {
	f := each(newFlow(), sample{})
	f.take(sample{failed: 3}, interval{ms(1100), ms(1200)}, 2, kinds{})
	if want := (outlier.Counts{N: 1, Conn: 1}); f.counts != want {
		t.Errorf("counts %+v, want %+v: two of three were turned away", f.counts, want)
	}
	f.take(sample{ok: 4, failed: 4, issued: 8}, interval{ms(1200), ms(1300)}, 9, kinds{})
	if want := (outlier.Counts{N: 9, Conn: 1, Server: 4}); f.counts != want {
		t.Errorf("counts %+v, want %+v: what was issued was not turned away", f.counts, want)
	}
}

func TestASuccessIsDatedByWhatIsCertain(t *testing.T) {
	for _, tc := range []struct {
		name          string
		samples       []sample
		lastOK, start time.Duration
	}{
		{"none", []sample{{}, {failed: 1, issued: 1}}, never, never},
		{"nothing was under way", []sample{{}, {ok: 1, issued: 1}}, ms(1200), ms(1100)},
		{"it may have begun before", []sample{{issued: 1, active: 1}, {ok: 1}}, ms(1200), never},
		{"one more than was under way", []sample{{issued: 1, active: 1}, {ok: 2, issued: 1}}, ms(1200), ms(1100)},
		{"nothing is known of before", []sample{{ok: 1, issued: 1}}, ms(1100), never},
	} {
		f := each(newFlow(), tc.samples...)
		if f.lastOK != tc.lastOK || f.okStart != tc.start {
			t.Errorf("%s: a success at %v that began at %v, want %v and %v", tc.name, f.lastOK, f.okStart, tc.lastOK, tc.start)
		}
	}
}

func TestRequestsAreOldThatWereNotIssuedLately(t *testing.T) {
	f := each(newFlow(), sample{}, sample{issued: 2, active: 2}, sample{issued: 1, active: 3}, sample{issued: 1, ok: 1, active: 3})
	now := ms(1400)
	for _, tc := range []struct {
		than time.Duration
		want uint64
	}{{0, 3}, {ms(50), 2}, {ms(150), 1}, {ms(250), 0}} {
		if got := f.older(tc.than, now); got != tc.want {
			t.Errorf("%d requests are older than %v, want %d", got, tc.than, tc.want)
		}
	}
	if got, want := f.age(now), ms(200); got != want {
		t.Errorf("the oldest waits for %v, want %v", got, want)
	}
	f.take(sample{ok: 3}, interval{now, now + ms(100)}, 0, kinds{})
	if got := f.age(now + ms(100)); got != 0 || f.waiting != 0 {
		t.Errorf("with all answered the oldest of %d waits for %v", f.waiting, got)
	}
}

func TestADownloadIsNotWaitedFor(t *testing.T) {
	f := each(newFlow(), sample{}, sample{issued: 1, ok: 1, active: 1}, sample{active: 1}, sample{active: 1})
	if got := f.older(ms(100), ms(1400)); got != 0 {
		t.Errorf("%d requests are overdue, want none: the answer has begun", got)
	}
}

func TestPatienceIsLearntFromWaitsThatEndedWell(t *testing.T) {
	var p patience
	type step struct {
		name    string
		answers uint64
		at      time.Duration
		want    time.Duration
	}
	check := func(s step) {
		t.Helper()
		if got := p.limit(s.answers, s.at); got != s.want {
			t.Errorf("%s: limit %v, want %v", s.name, got, s.want)
		}
	}
	check(step{"nothing is known", 0, second, patienceUnknown})
	check(step{"all answers come at once", 1000, second, patienceLeast})
	p.note(ms(400), 2*second)
	p.note(ms(200), 3*second)
	check(step{"the longest counts", 1000, 4 * second, ms(600)})
	p.note(memory, 5*second)
	check(step{"an outage teaches nothing", 1000, 6 * second, ms(600)})
	p.note(ms(1900), 7*second)
	check(step{"there is an upper bound", 1000, 8 * second, patienceMost})
	check(step{"it is forgotten", 1000, 7*second + patienceFor + 1, patienceLeast})
}

func TestACellTellsWhatItWasWhenTheIntervalBegan(t *testing.T) {
	f := each(newFlow(), sample{ok: 2, issued: 2}, sample{failed: 2})
	before := outlier.PointAt(ms(1100), outlier.Counts{N: 2})
	c := f.cell(api1, before)
	if diff := cmp.Diff([]outlier.Point{before}, c.History); diff != "" {
		t.Errorf("history: %s", diff)
	}
	if c.Witness != outlier.LevelConnect || c.LastHard != ms(1200) || c.LastHardStart != ms(1100) {
		t.Errorf("a hard failure at %v, begun at %v, level %v, want at 1.2s, 1.1s, connect", c.LastHard, c.LastHardStart, c.Witness)
	}
}
