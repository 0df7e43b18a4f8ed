package merge

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
)

func cellOf(n, server uint32) Cell {
	return Cell{Key: Key{"api", "e0"}, Counts: outlier.Counts{N: n, Server: server}, LastOK: -1, LastOKStart: -1, LastHard: -1, LastHardStart: -1}
}

func TestWhatCannotBeIsRefusedAndCountedByReason(t *testing.T) {
	// The reporter is known and has told of 100 attempts at 10 s, in report 5.
	prepare := func() *bench {
		b := newBench(t, DefaultPolicy(), 1, 3)
		b.Apply(Report{Reporter: "r0", Seq: 5, At: 10 * time.Second, Received: 10 * time.Second, Cells: []Cell{cellOf(100, 1)}}, 10*time.Second)
		b.Step(10 * time.Second)
		return b
	}
	const now = 11 * time.Second
	at := func(c Cell, change func(*Cell)) Cell { change(&c); return c }
	tests := map[string]struct {
		report      Report
		want        Refusal
		reincarnate bool
	}{
		"a reporter that has not joined":  {Report{Reporter: "stranger", Seq: 6, At: now, Cells: []Cell{cellOf(101, 1)}}, UnknownReporter, false},
		"another incarnation":             {Report{Reporter: "r0", Incarnation: 2, Seq: 6, At: now, Cells: []Cell{cellOf(101, 1)}}, WrongIncarnation, false},
		"an older report":                 {Report{Reporter: "r0", Seq: 4, At: now, Cells: []Cell{cellOf(101, 1)}}, OldReport, false},
		"the same report again":           {Report{Reporter: "r0", Seq: 5, At: 10 * time.Second, Cells: []Cell{cellOf(100, 1)}}, OldReport, false},
		"an endpoint that is not there":   {Report{Reporter: "r0", Seq: 6, At: now, Cells: []Cell{at(cellOf(101, 1), func(c *Cell) { c.Key.Instance = "e9" })}}, UnknownEndpoint, false},
		"a service that is not there":     {Report{Reporter: "r0", Seq: 6, At: now, Cells: []Cell{at(cellOf(101, 1), func(c *Cell) { c.Key.Service = "none" })}}, UnknownEndpoint, false},
		"a service that it does not use":  {Report{Reporter: "r0", Seq: 6, At: now, Cells: []Cell{at(cellOf(101, 1), func(c *Cell) { c.Key.Service = "other" })}}, NotSubscribed, false},
		"a counter that fell":             {Report{Reporter: "r0", Seq: 6, At: now, Cells: []Cell{cellOf(99, 1)}}, Backwards, true},
		"a failure counter that fell":     {Report{Reporter: "r0", Seq: 6, At: now, Cells: []Cell{cellOf(101, 0)}}, Backwards, true},
		"more attempts than can be":       {Report{Reporter: "r0", Seq: 6, At: now, Cells: []Cell{cellOf(200_000, 1)}}, Jump, false},
		"more failures than attempts":     {Report{Reporter: "r0", Seq: 6, At: now, Cells: []Cell{cellOf(101, 3)}}, BadCounts, false},
		"a report from the future":        {Report{Reporter: "r0", Seq: 6, At: now + 2*time.Second, Cells: []Cell{cellOf(101, 1)}}, BadTime, false},
		"a report from the distant past":  {Report{Reporter: "r0", Seq: 6, At: now - time.Hour, Cells: []Cell{cellOf(101, 1)}}, BadTime, false},
		"a success in the future":         {Report{Reporter: "r0", Seq: 6, At: now, Cells: []Cell{at(cellOf(101, 1), func(c *Cell) { c.LastOK = now + time.Minute })}}, BadTime, false},
		"a success before it was tried":   {Report{Reporter: "r0", Seq: 6, At: now, Cells: []Cell{at(cellOf(101, 1), func(c *Cell) { c.LastOK, c.LastOKStart = 1, 2 })}}, BadTime, false},
		"own counts of nothing we know":   {Report{Reporter: "r0", Seq: 6, At: now, Own: []OwnCell{{Key: Key{"api", "e9"}}}}, UnknownEndpoint, false},
		"own counts with a future answer": {Report{Reporter: "r0", Seq: 6, At: now, Own: []OwnCell{{Key: Key{"api", "e0"}, LastOK: now + time.Minute}}}, BadTime, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := prepare()
			b.SetService("other", DefaultPolicy(), []Endpoint{{Key: Key{"other", "e0"}}}, now)
			got := b.Apply(test.report, now)
			want := Applied{Refused: map[Refusal]int{test.want: 1}, Reincarnate: test.reincarnate}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Apply (-want +got):\n%s", diff)
			}
			b.Step(now)
			if c := b.endpoints[Key{"api", "e0"}].cells[0].counts; c != (outlier.Counts{N: 100, Server: 1}) {
				t.Errorf("the table has %+v, want it unchanged", c)
			}
			if test.want == UnknownReporter {
				return
			}
			if n := b.Reporters(now)[0].Refused[test.want]; n != 1 {
				t.Errorf("the reporter's count of %s is %d, want 1", test.want, n)
			}
		})
	}
}

func TestCountersMayWrap(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 2, 3)
	report := func(seq uint64, now time.Duration, n, k uint32) Applied {
		c := cellOf(n, k)
		c.Key.Instance = "e1"
		defer b.Step(now)
		return b.Apply(Report{Reporter: "r0", Seq: seq, At: now, Cells: []Cell{c}}, now)
	}
	report(5, 500*ms, math.MaxUint32-9, math.MaxUint32-11) // what it brings along
	b.report("r1", "e1", server(5), 3*time.Second)
	if got := report(6, 3*time.Second, 10, 8); got.Accepted != 1 {
		t.Fatalf("Apply: %+v, want it accepted", got)
	}
	if w := &b.endpoints[Key{"api", "e1"}].fast.last; w.n != 25 || w.k != 25 {
		t.Errorf("%d of %d failed over the wrap, want 25 of 25", w.k, w.n)
	}
}

func TestWhatAReporterCountedBeforeItCameIsNoNews(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 0, 6)
	now := time.Minute
	for i, id := range []string{"a", "b", "c"} {
		if err := b.Join(Reporter{ID: id, Node: id}, []string{"api"}, now); err != nil {
			t.Fatal(err)
		}
		c := cellOf(1000, 500)
		if i == 2 { // its history reaches back to before two of the failures
			c.History = []Point{{At: now - 3*time.Second, N: 990, K: 498}}
		}
		b.Apply(Report{Reporter: id, Seq: 1, At: now, Cells: []Cell{c}}, now)
	}
	b.Step(now)
	e := b.endpoints[Key{"api", "e0"}]
	if e.pooled.N != 10 || e.pooled.K != 2 {
		t.Errorf("%d of %d count as news, want 2 of 10", e.pooled.K, e.pooled.N)
	}
}

func TestAnEndpointOfWhichAKnownReporterFirstSpeaksBeganAtZero(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 1, 6)
	now := time.Minute
	c := cellOf(3, 3)
	c.Key.Instance = "e4"
	b.Apply(Report{Reporter: "r0", Seq: 9, At: now, Cells: []Cell{c}}, now)
	b.Step(now)
	if e := b.endpoints[c.Key]; e.pooled.N != 3 || e.pooled.K != 3 {
		t.Errorf("%d of %d count, want 3 of 3", e.pooled.K, e.pooled.N)
	}
}

func TestANewIncarnationBeginsAnewAndAnOlderOneIsRefused(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 2, 3)
	b.report("r0", "e0", good(100), 3*time.Second)
	b.Step(3 * time.Second)
	if err := b.Join(Reporter{ID: "r0", Node: "n0", Incarnation: 3}, []string{"api"}, 4*time.Second); err != nil {
		t.Fatal(err)
	}
	got := b.Apply(Report{Reporter: "r0", Incarnation: 3, Seq: 1, At: 4 * time.Second, Cells: []Cell{cellOf(2, 0)}}, 4*time.Second)
	if got.Accepted != 1 {
		t.Errorf("first report of the new incarnation: %+v", got)
	}
	b.Step(4 * time.Second)
	if err := b.Join(Reporter{ID: "r0", Node: "n0", Incarnation: 2}, []string{"api"}, 5*time.Second); !errors.Is(err, ErrIncarnation) {
		t.Errorf("an older incarnation: %v, want %v", err, ErrIncarnation)
	}
	if err := b.Join(Reporter{ID: "r0", Node: "n0", Incarnation: 4, Principal: "somebody else"}, []string{"api"}, 5*time.Second); !errors.Is(err, ErrPrincipal) {
		t.Errorf("another principal while it is connected: %v, want %v", err, ErrPrincipal)
	}
	b.Leave("r0", 6*time.Second)
	if err := b.Join(Reporter{ID: "r0", Node: "n0", Incarnation: 4, Principal: "new address"}, []string{"api"}, 7*time.Second); err != nil {
		t.Errorf("another principal after it left: %v", err)
	}
}

func TestAReporterThatIsLongSilentIsForgottenAndItsSilenceIsNoEvidence(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 3, 6)
	for _, id := range []string{"r0", "r1", "r2"} {
		b.report(id, "e0", outlier.Counts{N: 10, Server: 1}, 2*time.Second)
	}
	b.Step(2 * time.Second)
	before := b.endpoints[Key{"api", "e0"}].fast.last
	b.Leave("r2", 3*time.Second)
	b.Step(4 * time.Second)
	if after := b.endpoints[Key{"api", "e0"}].fast.last; after.t > before.t {
		t.Errorf("T rose from %d to %d in silence", before.t, after.t)
	}
	end := 2*time.Second + DefaultConfig().ReporterDrop + 2*time.Second
	for now := 5 * time.Second; now <= end; now += time.Second {
		b.Step(now)
	}
	if n := len(b.Reporters(end)); n != 0 {
		t.Errorf("%d reporters are still known", n)
	}
	if e := b.endpoints[Key{"api", "e0"}]; len(e.cells) != 0 || len(e.index) != 0 {
		t.Errorf("%d cells are still there", len(e.cells))
	}
}

func TestEvidenceWithoutNewsFadesByHalfEachMinute(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 3, 6)
	for _, id := range []string{"r0", "r1", "r2"} {
		b.report(id, "e0", server(1), 2*time.Second)
	}
	b.Step(2 * time.Second)
	row := &b.endpoints[Key{"api", "e0"}].fast
	before := row.last.t
	b.Step(62 * time.Second)
	if got, want := row.last.t, before/2; got < want-1 || got > want+1 {
		t.Errorf("after a minute T = %d, want %d", got, want)
	}
}

func TestASelfDoubtingReporterCountsForLess(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 2, 6)
	for _, id := range []string{"r0", "r1"} {
		b.seq[id]++
		b.Apply(Report{Reporter: id, Seq: b.seq[id], At: 2 * time.Second, LHM: 3, Cells: []Cell{cellOf(8, 8)}}, 2*time.Second)
	}
	b.Step(2 * time.Second)
	w := &b.endpoints[Key{"api", "e0"}].fast.last
	if want := 8 * w.odds.Steps().Fail / 4; w.t != want {
		t.Errorf("T = %d with lhm 3, want a quarter: %d", w.t, want)
	}
}

// Rows of zones are kept apart, whatever their generations: a reporter that goes takes
// nothing out of the row of another zone.
func TestAReporterThatGoesTakesItsOwnEvidenceOutOfTheRowsOfZones(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 6, 6, twoZones...)
	e := b.endpoints[Key{"api", "e0"}]
	now := 2 * time.Second
	for i := range 6 {
		b.report(fmt.Sprintf("r%d", i), "e0", outlier.Counts{N: 20, Server: 10}, now)
	}
	b.Step(now)
	in := func(zone string) (ids []string) {
		for _, z := range e.zones {
			if z.name == zone {
				for _, x := range z.row.active {
					ids = append(ids, b.slots[x.slot].ID)
				}
			}
		}
		slices.Sort(ids)
		return ids
	}
	east, west := twoZones[0], twoZones[1]
	if diff := cmp.Diff([][]string{{"r0", "r2", "r4"}, {"r1", "r3", "r5"}}, [][]string{in(east), in(west)}); diff != "" {
		t.Fatalf("rows of the zones (-want +got):\n%s", diff)
	}
	for _, tc := range []struct {
		goes string
		want [][]string
	}{
		{"r1", [][]string{{"r0", "r2", "r4"}, {"r3", "r5"}}},
		{"r5", [][]string{{"r0", "r2", "r4"}, {"r3"}}},
		{"r0", [][]string{{"r2", "r4"}, {"r3"}}},
		{"r3", [][]string{{"r2", "r4"}, nil}},
	} {
		if err := b.Join(Reporter{ID: tc.goes, Incarnation: 1, Node: "elsewhere", Zone: east}, []string{"api"}, now); err != nil {
			t.Fatal(err) // a new life forgets all of the old one
		}
		if diff := cmp.Diff(tc.want, [][]string{in(east), in(west)}); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", tc.goes, diff)
		}
	}
}

func TestEvidenceKeepsItsPlaceWhenReportersComeAndGo(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 5, 6)
	now := 2 * time.Second
	for i, id := range []string{"r0", "r1", "r2", "r3", "r4"} {
		b.report(id, "e0", server(uint32(i+1)), now)
	}
	b.Step(now)
	// r1 begins anew in the same breath in which others report.
	b.report("r4", "e0", server(1), now+ms)
	if err := b.Join(Reporter{ID: "r1", Node: "n1", Incarnation: 1}, []string{"api"}, now+ms); err != nil {
		t.Fatal(err)
	}
	b.report("r2", "e0", server(1), now+ms)
	b.Step(now + ms)
	row := &b.endpoints[Key{"api", "e0"}].fast
	lf := row.last.odds.Steps().Fail
	if want := (1 + 4 + 4 + 6) * lf; row.last.sum != want {
		t.Errorf("the sum is %d, want %d", row.last.sum, want)
	}
	if want := (1 + 4 + 4) * lf; row.last.t != want {
		t.Errorf("T = %d, want %d", row.last.t, want)
	}
}
