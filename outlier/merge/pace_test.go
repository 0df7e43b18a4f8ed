package merge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// paces is a table with reporters that tell of endpoints what a test wants: answers, a
// part of them slow.
type paces struct {
	t         *testing.T
	table     *Table
	policy    Policy
	now       time.Duration
	seq       uint64
	callers   int
	endpoints int
	counts    [][]outlier.Counts // by caller and endpoint
	before    [][]outlier.Counts // a second ago
	weights   []Weight
	events    []string
	slower    float64
	polled    int
}

func newPaces(t *testing.T, callers, endpoints int, edit ...func(*Policy)) *paces {
	w := &paces{t: t, table: NewTable(DefaultConfig(), 1), now: time.Minute, callers: callers, endpoints: endpoints, slower: 1}
	w.policy = DefaultPolicy()
	for _, f := range edit {
		f(&w.policy)
	}
	w.join()
	for range callers {
		w.counts = append(w.counts, make([]outlier.Counts, endpoints))
	}
	w.before = w.read()
	w.tell()
	return w
}

// join names the endpoints and the callers to the table.
func (w *paces) join() {
	var specs []Endpoint
	for i := range w.endpoints {
		specs = append(specs, Endpoint{Key: w.key(i), Weight: 1})
	}
	w.table.SetService("api", w.policy, specs, w.now)
	for i := range w.callers {
		if err := w.table.Join(Reporter{ID: w.caller(i), Incarnation: 1, Node: fmt.Sprint("node-", i)}, []string{"api"}, w.now); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *paces) key(i int) Key       { return Key{"api", fmt.Sprintf("e%02d", i)} }
func (w *paces) caller(i int) string { return fmt.Sprintf("caller%02d", i) }
func (w *paces) read() [][]outlier.Counts {
	var all [][]outlier.Counts
	for _, c := range w.counts {
		all = append(all, slices.Clone(c))
	}
	return all
}

// tell has every caller report everything.
func (w *paces) tell() {
	for i := range w.callers {
		w.seq++
		r := Report{
			Reporter: w.caller(i), Incarnation: 1, Seq: w.seq, At: w.now, Received: w.now,
			Clusters: []ClusterTotals{{Service: "api", Slower: w.slower}},
		}
		for j := range w.endpoints {
			r.Cells = append(r.Cells, w.cell(i, j))
		}
		if done := w.table.Apply(r, w.now); done.Refused != nil {
			w.t.Fatalf("refused: %v", done.Refused)
		}
	}
	w.step()
}

func (w *paces) cell(i, j int) Cell {
	return Cell{
		Key: w.key(j), Counts: w.counts[i][j], LastOK: w.now, LastOKStart: w.now, LastHard: -1, LastHardStart: -1,
		History: []Point{outlier.PointAt(w.now-time.Second, w.before[i][j])},
	}
}

func (w *paces) step() {
	out := w.table.Step(w.now)
	w.weights = append(w.weights, out.Weights...)
	for _, e := range out.Events {
		w.events = append(w.events, fmt.Sprintf("%v %s %s: %s", w.now, e.Kind, e.Key.Instance, e.Text))
	}
	for _, c := range out.Changes {
		w.t.Errorf("a verdict: %+v", c)
	}
	for _, p := range out.Polls {
		w.polled++
		for _, id := range p.Reporters {
			i := slices.IndexFunc(make([]struct{}, w.callers), func(struct{}) bool { return false })
			for k := range w.callers {
				if w.caller(k) == id {
					i = k
				}
			}
			var j int
			for k := range w.endpoints {
				if w.key(k) == p.Key {
					j = k
				}
			}
			w.seq++
			w.table.Polled(PollAnswer{ID: p.ID, Reporter: id, Seq: w.seq, At: w.now, Cell: w.cell(i, j), Then: outlier.PointAt(p.At-time.Second, w.before[i][j])}, w.now)
		}
	}
}

// pass lets a second go by in which each caller has n answers of each endpoint, of
// which slow tells how many were slow and very slow.
func (w *paces) pass(n uint32, slow func(endpoint int) (often, tail uint32)) {
	w.before = w.read()
	for range 4 {
		w.now += 250 * time.Millisecond
		w.step()
	}
	for i := range w.callers {
		for j := range w.endpoints {
			a, b := slow(j)
			c := &w.counts[i][j]
			c.N, c.N90, c.N99 = c.N+n, c.N90+a, c.N99+b
		}
	}
	w.tell()
	w.now += time.Millisecond
	w.step()
}

// weight is what callers were told of an endpoint last.
func (w *paces) weight(endpoint int) float64 {
	weight := 1.0
	for _, x := range w.weights {
		if x.Key == w.key(endpoint) {
			weight = x.Weight
			if len(x.Reporters) != w.callers || x.For < 20*time.Second {
				w.t.Errorf("told to %v for %v, want all %d callers, for longer than until the next time", x.Reporters, x.For, w.callers)
			}
		}
	}
	return weight
}

func calm(int) (often, tail uint32) { return 0, 0 }

func TestAnEndpointThatIsSlowForAllLosesWeightForAll(t *testing.T) {
	w := newPaces(t, 10, 5)
	for range 20 {
		w.pass(5, calm)
	}
	if len(w.weights) > 0 {
		t.Fatalf("weights in health: %+v", w.weights)
	}
	slow := func(e int) (often, tail uint32) {
		if e == 2 {
			return 4, 3
		}
		return 0, 0
	}
	w.pass(5, slow)
	if got := w.weight(2); got < 0.1 || got > 0.2 {
		t.Fatalf("a second after: weight %.2f, want at most a fifth\n%s", got, strings.Join(w.events, "\n"))
	}
	if w.polled == 0 {
		t.Error("nobody was asked for the answers that he had not told of")
	}
	x, _ := w.table.Explain(w.key(2), w.now)
	if len(x.Findings) != 1 || !strings.Contains(x.Findings[0], "gets 12 % of its share: 80 % of 50 answers took longer") {
		t.Errorf("findings: %q, want the weight with its reason", x.Findings)
	}
	for range 30 {
		w.pass(1, slow) // the picker leaves it little
	}
	if got := w.weight(2); got > 0.2 {
		t.Errorf("while it is slow: weight %.2f, want it to stay low\n%s", got, strings.Join(w.events, "\n"))
	}
	for range 40 {
		w.pass(1, calm)
	}
	if got := w.weight(2); got != 1 {
		t.Errorf("40 s after it is fast again: weight %.2f, want 1\n%s", got, strings.Join(w.events, "\n"))
	}
	if !slices.ContainsFunc(w.events, func(e string) bool { return strings.Contains(e, "e02: it gets 100 % of its share") }) {
		t.Errorf("nobody was told that it has its share back\n%s", strings.Join(w.events, "\n"))
	}
	if n := len(w.weights); n > 20 {
		t.Errorf("weights were sent %d times, want at most 20", n)
	}
	for i, x := range w.weights {
		if x.Key != w.key(2) {
			t.Errorf("weight %d is of %v, want e02 alone", i, x.Key)
		}
	}
}

func TestOneCallersSlowAnswersMoveNoWeight(t *testing.T) {
	w := newPaces(t, 10, 5)
	for range 12 {
		w.pass(5, calm)
	}
	for range 10 {
		w.before = w.read()
		for i := range w.callers {
			c := &w.counts[i][2]
			c.N += 5
			if i == 3 { // whose way to it is slow
				c.N90, c.N99 = c.N90+5, c.N99+5
			}
		}
		w.now += time.Second
		w.tell()
		w.now += time.Millisecond
		w.step()
	}
	if len(w.weights) > 0 {
		t.Errorf("weights by one caller's word: %+v\n%s", w.weights, strings.Join(w.events, "\n"))
	}
}

func TestAGroupThatIsSlowTogetherKeepsItsWeights(t *testing.T) {
	for _, slower := range []float64{1, 8} {
		w := newPaces(t, 10, 5)
		for range 12 {
			w.pass(5, calm)
		}
		w.slower = slower
		for range 20 {
			w.pass(5, func(int) (often, tail uint32) { return 4, 3 })
		}
		for e := range 5 {
			if got := w.weight(e); got < paceFull {
				t.Errorf("told slower %v: %s has weight %.2f, want its full one\n%s", slower, w.key(e), got, strings.Join(w.events, "\n"))
			}
		}
		if !slices.ContainsFunc(w.events, func(e string) bool { return strings.Contains(e, "slow, and keeps its share") }) {
			t.Errorf("told slower %v: nobody was told why\n%s", slower, strings.Join(w.events, "\n"))
		}
	}
}

func TestShadowAndOffLeaveWeightsAlone(t *testing.T) {
	for name, edit := range map[string]func(*Policy){
		"shadow": func(p *Policy) { p.Outlier.Mode = outlier.Shadow },
		"off":    func(p *Policy) { p.Outlier.Latency = outlier.LatencyOff },
	} {
		w := newPaces(t, 10, 5, edit)
		for range 12 {
			w.pass(5, calm)
		}
		for range 5 {
			w.pass(5, func(e int) (often, tail uint32) {
				if e == 2 {
					return 5, 5
				}
				return 0, 0
			})
		}
		if len(w.weights) > 0 {
			t.Errorf("%s: weights %+v", name, w.weights)
		}
		if told := len(w.events) > 0; told != (name == "shadow") {
			t.Errorf("%s: told %v: %v", name, told, w.events)
		}
		x, _ := w.table.Explain(w.key(2), w.now)
		says := slices.ContainsFunc(x.Findings, func(f string) bool { return strings.Contains(f, "would get, but for shadow mode, ") })
		if says != (name == "shadow") || x.Weight != 0 || w.table.Status(w.now)[0].Endpoints[2].Weight != 0 {
			t.Errorf("%s: explained by %q, weight %v; want no weight, and a finding in shadow mode alone", name, x.Findings, x.Weight)
		}
	}
}

func TestPercentilesOfAServiceAreToldToEveryReporterOnce(t *testing.T) {
	w := newPaces(t, 3, 2)
	told := map[string]int{}
	var last outlier.Percentiles
	feed := func(bucket int, count uint32) {
		for i := range w.callers {
			w.seq++
			w.table.Apply(Report{
				Reporter: w.caller(i), Incarnation: 1, Seq: w.seq, At: w.now, Received: w.now,
				Clusters: []ClusterTotals{{Service: "api", Latency: []outlier.LatencyCount{{Bucket: bucket, Count: count}, {Bucket: 200, Count: 9}}}},
			}, w.now)
		}
		for range 12 {
			w.now += time.Second
			for _, s := range w.table.Step(w.now).Settings {
				for _, r := range s.Reporters {
					told[r]++
				}
				last = s.Latency
			}
		}
	}
	feed(40, 1_000_000) // the sum of their lives before: no news
	if len(told) > 0 {
		t.Fatalf("told %v by what came before", last)
	}
	feed(40, 1_000_200)
	if len(told) != 3 || last.P50 != outlier.BucketUpper(40) || last.P99 != last.P50 {
		t.Fatalf("told %v to %v, want all percentiles at %v to all three", last, told, outlier.BucketUpper(40))
	}
	feed(40, 1_000_400)
	feed(41, 0)
	if told[w.caller(0)] != 1 {
		t.Errorf("told %d times, want once: nothing has moved", told[w.caller(0)])
	}
	feed(80, 0)
	feed(80, 5000)
	if told[w.caller(0)] != 2 || last.P99 != outlier.BucketUpper(80) {
		t.Errorf("after a change: told %d times, at last %v", told[w.caller(0)], last)
	}
	if err := w.table.Join(Reporter{ID: "late", Incarnation: 1, Node: "late"}, []string{"api"}, w.now); err != nil {
		t.Fatal(err)
	}
	w.now += time.Second
	s := w.table.Step(w.now).Settings
	if len(s) != 1 || !slices.Equal(s[0].Reporters, []string{"late"}) || s[0].Latency != last {
		t.Errorf("to who comes late: %+v, want what the others know", s)
	}
}
