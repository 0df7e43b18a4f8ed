package outlier

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func (w *world) evidence(id string) Evidence {
	for _, e := range w.d.Evidence(w.now) {
		if e.ID == id {
			return e
		}
	}
	w.t.Fatalf("no evidence of %s", id)
	return Evidence{}
}

func TestEvidenceBearsWitnessWhileAHardFailureIsTheNewestNews(t *testing.T) {
	w := newWorld(t, 4, 1)
	ep := w.d.Endpoint("e01")
	if all := w.d.Evidence(w.now); len(all) != 0 {
		t.Errorf("before any attempt there is evidence: %+v", all)
	}
	attempt := func(c Class, level Level) {
		a := ep.Start(w.now-5*time.Millisecond, true)
		ep.End(&a, Outcome{Class: c, Now: w.now, Level: level})
		w.doStep()
	}
	attempt(OK, LevelNone)
	e := w.evidence("e01")
	if e.Witness != LevelNone || e.LastOK != w.now || e.LastOKStart != w.now-5*time.Millisecond || e.LastHard != Never {
		t.Errorf("after an ok: %+v", e)
	}
	w.runFor(time.Second)
	failed := w.now
	attempt(Conn, LevelTLS)
	if e := w.evidence("e01"); e.Witness != LevelTLS || e.WitnessAt != failed || !e.Excursion || e.Score == 0 {
		t.Errorf("after a hard failure: %+v, want witness at level tls", e)
	}
	w.runFor(900 * time.Millisecond)
	if e := w.evidence("e01"); e.Witness != LevelTLS {
		t.Errorf("0.9 s later: witness %v, want tls", e.Witness)
	}
	w.runFor(200 * time.Millisecond)
	if e := w.evidence("e01"); e.Witness != LevelNone {
		t.Errorf("1.1 s later: witness %v, want none", e.Witness)
	}
	attempt(Conn, LevelNone)
	w.runFor(10 * time.Millisecond)
	attempt(Overload, LevelNone)
	if e := w.evidence("e01"); e.Witness != LevelNone {
		t.Errorf("after an answer: witness %v, want none", e.Witness)
	}
}

func TestEvidenceTellsWhereAnExcursionBegan(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.load(40, 100*second)
	w.run(20*second + 300*time.Millisecond)
	if e := w.evidence("e01"); e.History != nil || e.Excursion {
		t.Errorf("without an excursion: %+v", e)
	}
	w.hosts["e01"].errors = 1
	for w.d.Endpoint("e01").score.Load() == 0 {
		w.runFor(time.Millisecond)
	}
	w.runFor(2 * time.Millisecond)
	e := w.evidence("e01")
	if len(e.History) != 3 {
		t.Fatalf("history is %+v, want 3 points", e.History)
	}
	for i, want := range []time.Duration{19 * second, 20 * second} {
		if p := e.History[i]; p.At < want || p.At > want+busyStep {
			t.Errorf("point %d is from %v, want %v", i, p.At, want)
		}
	}
	last := e.History[2]
	if last.K != 0 || last.N != e.Counts.N-1 || last.At > w.now || last.At < w.now-10*time.Millisecond {
		t.Errorf("at %v the last point is %+v, with counts %+v; want it from just before the failure", w.now, last, e.Counts)
	}
	p, ok := w.d.History("e01", 19*second+500*time.Millisecond)
	if !ok || !cmp.Equal(p, e.History[0]) {
		t.Errorf("the reading at 19.5s is %+v, %v, want %+v", p, ok, e.History[0])
	}
	if p, ok := w.d.History("e01", 0); ok {
		t.Errorf("there is a reading from before the start: %+v", p)
	}
	if _, ok := w.d.History("nobody", 19*second); ok {
		t.Error("there is a reading of an unknown endpoint")
	}
}

func TestUrgencyFollowsTheNews(t *testing.T) {
	w := newWorld(t, 4, 1)
	ep := w.d.Endpoint("e01")
	step := func() Urgency { return w.d.Step(w.now).Urgency }
	if got := step(); got != UrgencyNone {
		t.Errorf("at rest: %v", got)
	}
	a := ep.Start(w.now, true)
	ep.End(&a, Outcome{Class: Server, Now: w.now})
	w.now += time.Millisecond
	if got := step(); got != UrgencySoft {
		t.Errorf("after a soft failure: %v, want soft", got)
	}
	w.now += time.Millisecond
	if got := step(); got != UrgencyNone {
		t.Errorf("a moment later: %v, want none", got)
	}
	a = ep.Start(w.now, true)
	ep.End(&a, Outcome{Class: Timeout, Now: w.now})
	w.now += time.Millisecond
	if got := step(); got != UrgencyRising {
		t.Errorf("after another one: %v, want rising", got)
	}
	a = ep.Start(w.now, true)
	ep.End(&a, Outcome{Class: Conn, Now: w.now})
	w.now += time.Millisecond
	if got := step(); got != UrgencyHard {
		t.Errorf("after a hard failure: %v, want hard", got)
	}
	w.now += 2 * second
	if got := step(); got != UrgencyNone {
		t.Errorf("2 s later: %v, want none", got)
	}
	ep.Start(w.now, true)
	got := UrgencyNone
	for range 20 {
		w.now += busyStep
		got = step()
	}
	if got != UrgencyHard {
		t.Errorf("with an overdue attempt: %v, want hard", got)
	}
}

func TestASummaryAddsUp(t *testing.T) {
	w := newWorld(t, 4, 1)
	for _, h := range w.hosts {
		h.errors = 0.02
	}
	w.load(400, 61*second)
	w.run(62 * second)
	s := w.d.Summary(w.now)
	var n, k uint64
	for _, e := range w.d.Evidence(w.now) {
		n += uint64(e.Counts.N)
		k += uint64(e.Counts.K())
	}
	if s.N != n || s.K != k || n < 20000 {
		t.Errorf("summary has %d, %d, the endpoints %d, %d", s.N, s.K, n, k)
	}
	if s.Pg < 0.008 || s.Pg > 0.025 {
		t.Errorf("p_g is %v, want a little under 0.02", s.Pg)
	}
	// The median of the simulated service is 1 ms + ln 2 ms, its p99 5.6 ms.
	if s.P50 < 1400*time.Microsecond || s.P50 > 2000*time.Microsecond {
		t.Errorf("p50 is %v, want about 1.7ms", s.P50)
	}
	if s.P99 < 5*time.Millisecond || s.P99 > 6500*time.Microsecond {
		t.Errorf("p99 is %v, want about 5.6ms", s.P99)
	}
	if s.Overdue != 250*time.Millisecond {
		t.Errorf("D_over is %v, want its least, 250ms", s.Overdue)
	}
	if len(s.Latency) == 0 {
		t.Error("there is no histogram")
	}
}

func TestOverdueFollowsWhatIsKnown(t *testing.T) {
	d := New(DefaultConfig(), nil)
	if got := d.Overdue(); got != 1500*time.Millisecond {
		t.Errorf("nothing known: %v, want 1.5s", got)
	}
	d.SetLatency(Percentiles{P50: 40 * time.Millisecond, P90: 80 * time.Millisecond, P99: 100 * time.Millisecond})
	d.setOverdue(0)
	if got := d.Overdue(); got != 400*time.Millisecond {
		t.Errorf("p99 of 100ms: %v, want 400ms", got)
	}
	c := DefaultConfig()
	c.Timeout = 600 * time.Millisecond
	d.SetConfig(c)
	d.setOverdue(0)
	if got := d.Overdue(); got != 300*time.Millisecond {
		t.Errorf("with a timeout of 600ms: %v, want 300ms", got)
	}
	d.SetConfig(DefaultConfig())
	d.shared.stall(0, 800*time.Millisecond)
	d.noteStall(time.Minute)
	if got := d.Overdue(); got != 1200*time.Millisecond {
		t.Errorf("after a stall of 0.8s: %v, want 1.2s", got)
	}
	d.setOverdue(12 * time.Minute)
	if got := d.Overdue(); got != 400*time.Millisecond {
		t.Errorf("11 min after it: %v, want 400ms", got)
	}
	d.self.lhm.Store(7)
	d.setOverdue(12 * time.Minute)
	if got := d.Overdue(); got != overdueLimitDoubted {
		t.Errorf("in full doubt: %v, want %v", got, overdueLimitDoubted)
	}
}

func TestSelfDoubtTakesTwoClusters(t *testing.T) {
	for _, tt := range []struct {
		name     string
		clusters int
		active   int // each
		turned   int // each
		want     int
	}{
		{"two clusters, all bad", 2, 2, 2, 3},
		{"one cluster, all bad", 1, 8, 8, 0},
		{"two clusters, half bad", 2, 4, 2, 0},
		{"two clusters, three endpoints", 2, 1, 1, 0},
	} {
		s := NewSelf()
		for sec := 1; sec <= 4; sec++ {
			for range tt.clusters {
				s.tally(time.Duration(sec)*second, tt.active, tt.turned)
			}
		}
		s.tally(5*second, 0, 0)
		if got := s.LHM(); got != tt.want {
			t.Errorf("%s: doubt after 3 seconds is %d, want %d", tt.name, got, tt.want)
		}
		for sec := 6; sec <= 12; sec++ {
			s.tally(time.Duration(sec)*second, 4, 0)
		}
		if got := s.LHM(); got != 0 {
			t.Errorf("%s: after clean seconds it is %d, want 0", tt.name, got)
		}
	}
	s := NewSelf()
	s.Trouble(5 * second)
	for sec := 5; sec <= 7; sec++ {
		s.tally(time.Duration(sec)*second, 0, 0)
	}
	if got := s.LHM(); got != 1 {
		t.Errorf("after trouble: %d, want 1", got)
	}
}

func TestALateStepIsOurOwnTrouble(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.run(10 * second)
	late := w.d.next + 60*time.Millisecond
	w.d.Step(late)
	for i := range 3 {
		w.d.Step(late + time.Duration(i+1)*second)
	}
	if got := w.d.self.LHM(); got == 0 {
		t.Error("a Step that came 60 ms late left no doubt")
	}
}

func TestDoubtRaisesThresholdsAndSuspendsNobody(t *testing.T) {
	w := newWorld(t, 4, 1)
	m := w.d.byID["e01"]
	base := w.d.threshold(m)
	w.d.self.lhm.Store(4)
	if got := w.d.threshold(m); got != 3*base {
		t.Errorf("threshold with a doubt of 4 is %d, want 3 x %d", got, base)
	}
	m.wait.overdue = 5
	var r Result
	w.d.suspendOverdue(w.now, &r)
	if len(r.Changes) != 1 || r.Changes[0].Refused != refusedDoubt || r.Changes[0].To != Suspended {
		t.Errorf("a sidecar in doubt tells %+v, want that it suspends nobody", r.Changes)
	}
	if got := r.Changes[0].Sentence(); !strings.Contains(got, "held back by self-doubt: this sidecar distrusts itself 4 of 7") {
		t.Errorf("it says %q", got)
	}
	w.d.self.lhm.Store(3)
	r = Result{}
	w.d.suspendOverdue(w.now, &r)
	if len(r.Changes) != 1 || r.Changes[0].Refused != "" {
		t.Errorf("with a doubt of 3 it tells %+v, want a suspension", r.Changes)
	}
}

func TestARestIsOfferedOnlyAfterAQuietWhile(t *testing.T) {
	w := newWorld(t, 3, 1)
	e := w.d.Endpoint("e00")
	step := func() bool {
		r := w.d.Step(w.now)
		w.now = r.Next
		return r.Rest
	}
	until := func() time.Duration { // a rest is offered
		from := w.now
		for !step() {
			if w.now-from > time.Minute {
				t.Fatal("no rest within a minute")
			}
		}
		return w.now - from
	}
	until()
	a := e.Start(w.now, true)
	if _, ok := w.d.Rest(); ok {
		t.Error("a rest although an attempt has just begun")
	}
	for range 3 {
		if step() {
			t.Error("a rest while an attempt is under way")
		}
	}
	e.Headers(&a, w.now)
	e.End(&a, Outcome{Class: OK, Now: w.now})
	if took := until(); took < restAfter*time.Second {
		t.Errorf("a rest %v after an attempt, want at least %d s: so far back is looked", took, restAfter)
	}
	if snap := w.d.members[0].second; snap != e.Counts() {
		t.Errorf("at rest, and the last whole second knows of %+v, want %+v", snap, e.Counts())
	}

	w.d.self.lhm.Store(2)
	if took := until(); took < time.Second {
		t.Errorf("a rest %v after doubt, want none before it is over", took)
	}

	rest, ok := w.d.Rest()
	if !ok || rest < w.now+time.Second {
		t.Fatalf("rest until %v at %v, %t", rest, w.now, ok)
	}
	w.now = rest
	step()
	if w.d.next > rest+time.Second { // what was promised is over
		t.Errorf("after a rest until %v a Step is promised for %v", rest, w.d.next)
	}

	b := e.Start(w.now, true)
	e.End(&b, Outcome{Class: Server, Now: w.now})
	for range 4 * 60 {
		if step() {
			t.Fatal("a rest with something against an endpoint")
		}
	}
}
