package replay

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/test/recording"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/report"
)

const second = time.Second

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// fleet is four sidecars that send ten requests a second to each of four endpoints.
func fleet() recording.Fleet {
	return recording.Fleet{Sidecars: 4, Endpoints: 4, Start: start, Length: 60 * second, Rate: 10}
}

// failing has one endpoint fail half of its requests between two instants.
func failing(endpoint int, from, to time.Duration, sidecars ...int) func(int, int, time.Duration) float64 {
	return func(s, e int, at time.Duration) float64 {
		if e == endpoint && at >= from && at < to && (len(sidecars) == 0 || slices.Contains(sidecars, s)) {
			return 0.5
		}
		return 0
	}
}

func write(t *testing.T, f recording.Fleet) []File {
	t.Helper()
	paths, err := f.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var files []File
	for _, path := range paths {
		files = append(files, File{Name: path, Open: func() (io.ReadCloser, error) { return os.Open(path) }})
	}
	return files
}

// policy judges n endpoints.
func policy(n int, edit func(*merge.Policy)) Policy {
	s := registry.NewService("api")
	for i := range n {
		s.Endpoints = append(s.Endpoints, registry.Endpoint{
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 8080), Instance: recording.Key(i + 1).Instance, Weight: 1,
		})
	}
	if edit != nil {
		edit(&s.Detection)
	}
	return Policy{Mesh: &registry.Mesh{Services: []registry.Service{s}}, Merge: merge.DefaultConfig(), Seed: 1}
}

func run(t *testing.T, files []File, policies ...Policy) []*Outcome {
	t.Helper()
	recordings, err := Scan(files)
	if err != nil {
		t.Fatal(err)
	}
	var all []*Outcome
	for _, p := range policies {
		o, err := recordings.Replay(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	return all
}

// story is what would have been done with an endpoint.
func story(o *Outcome, k merge.Key) string {
	var b strings.Builder
	for _, c := range o.Changes {
		if c.Key == k {
			b.WriteString(c.Time.Sub(start).Round(time.Millisecond).String() + " " + c.To.String() + " " + c.HeldBack + "\n")
		}
	}
	return b.String()
}

// The record is of a fleet that left a bad endpoint in use. Its traffic then says what
// probes and test requests would have found.
func TestAPolicyThatWouldHaveEjectedIsFollowedToTheWayBack(t *testing.T) {
	f := fleet()
	f.Fails = failing(2, 20*second, 30*second)
	o := run(t, write(t, f), policy(4, nil))[0]
	if len(o.Endpoints) != 1 || o.Endpoints[0].Key != recording.Key(2) {
		t.Fatalf("endpoints %+v, want api-2 alone", o.Endpoints)
	}
	e := o.Endpoints[0]
	if len(e.Held) != 0 || e.Alone != 0 {
		t.Errorf("it was out: %+v, %d times alone; want never", e.Held, e.Alone)
	}
	s := e.Would[0]
	if after := s.From.Sub(start) - 20*second; after < 0 || after > 2*second || s.Rule != outlier.RuleFast || s.Scope != merge.Fleet {
		t.Errorf("out %v after it began to fail, by %s for %s; want within 2s by rule fast for the fleet", after, s.Rule, s.Scope)
	}
	if back := s.To.Sub(start); back < 30*second || back > 55*second {
		t.Errorf("back at %v, want after it was well at 30s:\n%s", back, story(o, e.Key))
	}
	if last := o.Changes[len(o.Changes)-1]; last.To != outlier.In {
		t.Errorf("at last it is %s, want in:\n%s", last.To, story(o, e.Key))
	}
	if a := o.Answers; a.Probes == 0 || a.Traffic == 0 || a.Own+a.NotRun != 0 || a.Polls == 0 || a.Counted != a.Polls {
		t.Errorf("answers %+v, want probes by traffic and every poll counted", a)
	}
	if len(o.Refused) != 0 || len(o.Unknown) != 0 || len(o.Problems) != 0 {
		t.Errorf("refused %v, unknown %v, problems %v; want none", o.Refused, o.Unknown, o.Problems)
	}
	if got, want := o.To.Sub(o.From), 60*second; (got - want).Abs() > 11*second {
		t.Errorf("the record is %v long, want about %v", got, want)
	}
}

func TestTwoPoliciesAreCompared(t *testing.T) {
	f := fleet()
	f.Fails = failing(2, 20*second, 30*second)
	strict := policy(4, func(p *merge.Policy) {
		p.HFleetMin, p.HFleetMax, p.HSlow = 40, 40, 40
		p.Outlier.Mode = outlier.Shadow
	})
	all := run(t, write(t, f), policy(4, nil), strict)
	d := Compare(all[0], all[1])
	if len(d.Endpoints) != 1 || d.Endpoints[0].Key != recording.Key(2) || len(d.Endpoints[0].A) == 0 || len(d.Endpoints[0].B) != 0 || d.Alike != 0 {
		t.Errorf("differences %+v, %d alike; want api-2, which the second policy leaves in", d.Endpoints, d.Alike)
	}
	if i := slices.IndexFunc(all[1].Changes, func(c Change) bool { return c.HeldBack == "shadow" }); i < 0 {
		t.Errorf("changes %+v, want one that is held back by shadow mode", all[1].Changes)
	}
	if d := Compare(all[0], all[0]); len(d.Endpoints) != 0 || d.Alike != 1 {
		t.Errorf("compared with itself: %+v", d)
	}
}

// What one sidecar alone complains of is no verdict; with leave_out 0 it is one.
func TestHowManyMustAgreeCanBeTried(t *testing.T) {
	f := fleet()
	f.Fails = failing(2, 20*second, 30*second, 3)
	all := run(t, write(t, f), policy(4, nil), policy(4, func(p *merge.Policy) { p.LeaveOut = 0 }))
	if len(all[0].Endpoints) != 0 {
		t.Errorf("by default it would have been out: %+v, want nothing", all[0].Endpoints)
	}
	if len(all[1].Endpoints) != 1 || len(all[1].Endpoints[0].Would) == 0 {
		t.Errorf("with leave_out 0: %+v, want api-2 out", all[1].Endpoints)
	}
}

func TestWhatWasHeldIsTakenFromTheRecord(t *testing.T) {
	f := fleet()
	f.Fails = failing(2, 20*second, 24*second)
	f.Traffic = func(e int, at time.Duration) float64 {
		if e == 2 && at >= 21*second && at < 40*second {
			return 0 // it was out
		}
		return 1
	}
	k := recording.Key(2)
	f.Held = []report.HeldChange{
		{Key: k, From: outlier.In, To: outlier.Suspended, Rule: outlier.RuleStalled, At: 20500 * time.Millisecond},
		{Key: k, From: outlier.In, To: outlier.Ejected, Rule: outlier.RuleFast, Fleet: true, Epoch: 4, At: 21 * second},
		{Key: k, From: outlier.Ejected, To: outlier.Probation, Rule: outlier.RuleFast, Fleet: true, Epoch: 6, At: 35 * second},
		{Key: k, From: outlier.Probation, To: outlier.Ramp, Rule: outlier.RuleFast, Fleet: true, Epoch: 7, At: 40 * second},
	}
	o := run(t, write(t, f), policy(4, nil))[0]
	want := []Held{
		{Time: start.Add(21 * second), Key: k, To: outlier.Ejected, Rule: outlier.RuleFast, Epoch: 4, Sidecars: 4},
		{Time: start.Add(35 * second), Key: k, To: outlier.Probation, Rule: outlier.RuleFast, Epoch: 6, Sidecars: 4},
		{Time: start.Add(40 * second), Key: k, To: outlier.Ramp, Rule: outlier.RuleFast, Epoch: 7, Sidecars: 4},
	}
	if diff := cmp.Diff(want, o.Held); diff != "" {
		t.Errorf("held (-want +got):\n%s", diff)
	}
	e := o.Endpoints[0]
	if diff := cmp.Diff([]Spell{{From: start.Add(21 * second), To: start.Add(40 * second), Rule: outlier.RuleFast}}, e.Held); diff != "" {
		t.Errorf("out (-want +got):\n%s", diff)
	}
	if e.Alone != 4 {
		t.Errorf("taken out %d times by single sidecars, want 4", e.Alone)
	}
}

// While an endpoint is out, the record has what some sidecars were asked. Those that a
// replay would have asked are others.
func TestAnotherSidecarsResultsLeadTheWayBack(t *testing.T) {
	f := fleet()
	k := recording.Key(2)
	f.Fails = failing(2, 20*second, 24*second)
	f.Traffic = func(e int, at time.Duration) float64 {
		if e == 2 && at >= 21*second && at < 45*second {
			return 0
		}
		return 1
	}
	// Caller 1 alone was asked, again and again, and had all of the test traffic.
	f.Probed, f.Shares = map[int][]report.Probed{}, map[int][]recording.Share{}
	for at := 21 * second; at < 45*second; at += second / 4 {
		p := report.Probed{ID: 7, Key: k, Level: outlier.LevelConnect, Result: outlier.Refused, Start: at, End: at + 2*time.Millisecond, Epoch: 4}
		if at >= 26*second {
			p.Result = outlier.ProbeOK
		}
		f.Probed[1] = append(f.Probed[1], p)
	}
	for i := range 60 {
		f.Shares[1] = append(f.Shares[1], recording.Share{
			At: 28*second + time.Duration(i)*second/5, Probation: report.Probation{Key: k, Epoch: 6, Counts: outlier.Counts{N: uint32(i + 1)}},
		})
	}
	o := run(t, write(t, f), policy(4, nil))[0]
	if len(o.Endpoints) != 1 || len(o.Endpoints[0].Would) != 1 {
		t.Fatalf("endpoints %+v, want api-2 out once:\n%s", o.Endpoints, story(o, k))
	}
	if back := o.Endpoints[0].Would[0].To.Sub(start); back < 28*second || back > 45*second {
		t.Errorf("back at %v, want by probes from 26s on and test requests from 28s on:\n%s", back, story(o, k))
	}
	if a := o.Answers; a.Others == 0 || a.Shares == 0 {
		t.Errorf("answers %+v, want probes by others and shares", a)
	}
}

func TestEndpointsThatTheMeshFileDoesNotHaveAreJudgedAndListed(t *testing.T) {
	f := fleet()
	f.Fails = failing(4, 20*second, 30*second)
	o := run(t, write(t, f), policy(3, nil))[0]
	if diff := cmp.Diff([]merge.Key{recording.Key(4)}, o.Unknown); diff != "" {
		t.Errorf("unknown (-want +got):\n%s", diff)
	}
	if o.Judged != 4 || len(o.Endpoints) != 1 || o.Endpoints[0].Key != recording.Key(4) {
		t.Errorf("%d judged, out %+v; want 4, and api-4 out", o.Judged, o.Endpoints)
	}
	empty := Policy{Mesh: &registry.Mesh{}, Merge: merge.DefaultConfig()}
	if o := run(t, write(t, f), empty)[0]; len(o.Unknown) != 4 || len(o.Endpoints) != 1 {
		t.Errorf("with an empty mesh: unknown %v, out %+v; want all four, and api-4 out", o.Unknown, o.Endpoints)
	}
}

func TestTheOrderOfFilesDoesNotMatter(t *testing.T) {
	f := fleet()
	f.Fails = failing(2, 20*second, 30*second)
	files := write(t, f)
	a := run(t, files, policy(4, nil))[0]
	slices.Reverse(files)
	b := run(t, files, policy(4, nil))[0]
	if diff := cmp.Diff(a, b, cmpopts.IgnoreUnexported(Sidecar{})); diff != "" {
		t.Errorf("forwards and backwards differ:\n%s", diff)
	}
}

// A segment begins with all that is known, so that it says the same whether the files
// before it are there or not.
func TestFilesThatHaveRotatedAreOneRecord(t *testing.T) {
	f := fleet()
	f.Fails = failing(2, 20*second, 30*second)
	whole := run(t, write(t, f), policy(4, nil))[0]
	f.MaxSize, f.Files = 2<<10, 100
	files := write(t, f)
	if len(files) < 3*f.Sidecars {
		t.Fatalf("%d files of %d sidecars: they have not rotated", len(files), f.Sidecars)
	}
	// The order of segments of one sidecar is not that of their names: PATH is the newest.
	rotated := run(t, files, policy(4, nil))[0]
	if diff := cmp.Diff(whole, rotated, cmpopts.IgnoreUnexported(Sidecar{}), cmpopts.IgnoreFields(Outcome{}, "From")); diff != "" {
		t.Errorf("in one file and in many (-one +many):\n%s", diff)
	}

	f.Files = 2 // the rest is gone
	late := run(t, write(t, f), policy(4, nil))[0]
	if !late.From.After(whole.From) || len(late.Problems)+len(late.Refused) != 0 {
		t.Errorf("of the newest files: from %v, problems %v, refused %v", late.From, late.Problems, late.Refused)
	}
	for _, s := range late.Sidecars {
		if s.Lives != 1 {
			t.Errorf("%s has lived %d times", s.ID, s.Lives)
		}
	}
}

// Every test of the record counts from zero. One of the replay that takes longer adds
// them up, and takes each from one sidecar only.
func TestOneTestOfAReplayMayBeSeveralOfTheRecord(t *testing.T) {
	k := recording.Key(1)
	p := &player{now: second, standins: newStandins()}
	for _, id := range []string{"a", "b"} {
		p.shares[view{id, k}] = &testShare{epoch: 1, until: second}
	}
	told := func(id string, epoch uint64, n uint32) (who string, sum uint32) {
		from := stand{view{id, k}, epoch}
		who, ok := p.stand[from]
		if !ok {
			who = p.holder(from)
			p.stand[from] = who
		}
		if who == "" {
			return "", 0
		}
		return who, p.shares[view{who, k}].add(from, outlier.Counts{N: n}).N
	}
	for _, tc := range []struct {
		id       string
		epoch    uint64
		n        uint32
		who      string
		together uint32
	}{
		{"a", 7, 3, "a", 3}, {"a", 7, 5, "a", 5},
		{"c", 7, 2, "b", 2}, // it has no share here: it stands for one that has
		{"b", 7, 4, "", 0},  // and takes its place
		{"a", 9, 1, "a", 6}, {"a", 9, 4, "a", 9},
		{"b", 9, 2, "b", 4}, {"c", 9, 1, "", 0},
	} {
		if who, n := told(tc.id, tc.epoch, tc.n); who != tc.who || n != tc.together {
			t.Errorf("%s tells of %d in test %d: it goes to %q as %d, want to %q as %d", tc.id, tc.n, tc.epoch, who, n, tc.who, tc.together)
		}
	}
}

func TestABrokenFileCountsUpToWhereItBreaks(t *testing.T) {
	f := fleet()
	f.Fails = failing(2, 20*second, 30*second)
	files := write(t, f)
	bytesOf := func(i int) []byte {
		data, err := os.ReadFile(files[i].Name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	hold := func(i int, data []byte) {
		files[i].Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	}
	cut, bad := bytesOf(0), bytesOf(1)
	hold(0, cut[:len(cut)-1])
	bad[len(bad)-10] ^= 1
	hold(1, bad)
	hold(2, bytesOf(2)[:30]) // not even a header
	o := run(t, files, policy(4, nil))[0]
	var got []bool
	for _, p := range o.Problems {
		if p.Offset <= 0 || p.File == "" {
			t.Errorf("problem %+v, want file and offset", p)
		}
		got = append(got, p.Damaged)
	}
	if diff := cmp.Diff([]bool{false, true, false}, got); diff != "" {
		t.Errorf("damaged (-want +got):\n%s", diff)
	}
	if len(o.Sidecars) != 3 || len(o.Endpoints) != 1 {
		t.Errorf("%d sidecars, out %+v; want 3, and api-2 out all the same", len(o.Sidecars), o.Endpoints)
	}
	hold(3, []byte("node: {id: x}, and some more"))
	if _, err := Scan(files); !errors.Is(err, report.ErrNoRecording) {
		t.Errorf("with a file that is no recording: got %v, want that it is none", err)
	}
	hold(3, []byte("overhear"))
	if _, err := Scan(files[3:]); err == nil || !strings.Contains(err.Error(), "nothing was recorded") {
		t.Errorf("with nothing in it: got %v, want that nothing was recorded", err)
	}
}

func TestCountsBetweenTwoReportsAreInProportion(t *testing.T) {
	v := view{"s", recording.Key(1)}
	cell := func(n, server uint32) merge.Cell { return merge.Cell{Counts: outlier.Counts{N: n, Server: server}} }
	tp := &tape{views: map[view][]sight{v: {
		{at: 10 * second, incarnation: 1, Cell: cell(100, 0)},
		{at: 20 * second, incarnation: 1, Cell: cell(200, 10)},
		{at: 30 * second, incarnation: 2, Cell: cell(5, 0)},
	}}}
	for _, tc := range []struct {
		at          time.Duration
		incarnation uint64
		n, k        uint32
		ok          bool
	}{
		{9 * second, 1, 0, 0, false}, // it had not spoken
		{10 * second, 1, 100, 0, true},
		{15 * second, 1, 150, 5, true},
		{20*second - 5*time.Millisecond, 1, 200, 10, true}, // an answer would have taken as long
		{20 * second, 1, 200, 10, true},
		{29 * second, 1, 200, 10, true}, // nothing more of that life
		{29 * second, 2, 0, 0, false},
		{31 * second, 2, 5, 0, true},
	} {
		c, ok := tp.counts(v, tc.incarnation, tc.at)
		if ok != tc.ok || c.N != tc.n || c.K() != tc.k {
			t.Errorf("at %v of life %d: got %d, %d, %t; want %d, %d, %t", tc.at, tc.incarnation, c.N, c.K(), ok, tc.n, tc.k, tc.ok)
		}
	}
}

func TestWhichResultFitsWhichOrder(t *testing.T) {
	for _, tc := range []struct {
		name   string
		order  outlier.Level
		ping   merge.PingKind
		level  outlier.Level
		result outlier.ProbeResult
		want   bool
	}{
		{"what was asked", outlier.LevelConnect, merge.PingTCP, outlier.LevelConnect, outlier.ProbeOK, true},
		{"deeper success", outlier.LevelConnect, merge.PingHTTP, outlier.LevelApp, outlier.ProbeOK, true},
		{"shallower success", outlier.LevelApp, merge.PingHTTP, outlier.LevelConnect, outlier.ProbeOK, false},
		{"the deepest there is", outlier.LevelApp, merge.PingTCP, outlier.LevelConnect, outlier.ProbeOK, true},
		{"shallower failure", outlier.LevelApp, merge.PingHTTP, outlier.LevelConnect, outlier.Refused, true},
		{"deeper failure", outlier.LevelConnect, merge.PingHTTP, outlier.LevelApp, outlier.TimedOut, false},
	} {
		got := fits(merge.ProbeOrder{Level: tc.order, Ping: tc.ping}, report.Probed{Level: tc.level, Result: tc.result})
		if got != tc.want {
			t.Errorf("%s: fits is %t, want %t", tc.name, got, tc.want)
		}
	}
}
