package merge

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// busy lets time go by in steps of 10 ms, in each of which one caller reports, so that
// the table hears of the endpoints one after the other. slow tells which part of an
// endpoint's answers are slow and very slow.
func (w *paces) busy(d time.Duration, random *rand.Rand, slow func(endpoint int) outlier.SlowShares) {
	for end := w.now + d; w.now < end; {
		w.now += 10 * time.Millisecond
		if w.now%time.Second == 0 {
			w.before = w.read()
		}
		for j := range w.endpoints { // each has 50 answers a second
			if random.Float64() >= 0.5 {
				continue
			}
			c, at, is := &w.counts[random.IntN(w.callers)][j], random.Float64(), slow(j)
			c.N++
			if at < is.Often {
				c.N90++
			}
			if at < is.Tail {
				c.N99++
			}
		}
		w.report(int(w.now/(10*time.Millisecond)) % w.callers)
	}
}

// report has one caller tell of all endpoints.
func (w *paces) report(caller int) {
	w.seq++
	r := Report{
		Reporter: w.caller(caller), Incarnation: 1, Seq: w.seq, At: w.now, Received: w.now,
		Clusters: []ClusterTotals{{Service: "api", Slower: w.slower}},
	}
	for j := range w.endpoints {
		x := w.cell(caller, j)
		x.History[0].At = w.now.Truncate(time.Second)
		r.Cells = append(r.Cells, x)
	}
	if done := w.table.Apply(r, w.now); done.Refused != nil {
		w.t.Fatalf("refused: %v", done.Refused)
	}
	w.step()
}

// restart puts a table in the place of the one that was, which knows nothing.
func (w *paces) restart() {
	w.table = NewTable(DefaultConfig(), 2)
	w.join()
}

var usualShares = outlier.SlowShares{Often: 0.05, Tail: 0.005}

func TestABusyMachineTakesNoEndpointsShare(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		for seed := range uint64(15) {
			random := rand.New(rand.NewPCG(seed, 7))
			w := newPaces(t, 5, 5)
			usual := func(int) outlier.SlowShares { return usualShares }
			w.busy(12*time.Second+time.Duration(random.IntN(1000))*time.Millisecond, random, usual)
			if restarted {
				w.restart()
				w.busy(time.Duration(random.IntN(1500))*time.Millisecond, random, usual)
			}
			w.busy(4*time.Second, random, func(int) outlier.SlowShares { return outlier.SlowShares{Often: 0.4, Tail: 0.3} })
			w.busy(2*time.Second, random, usual)
			for e := range w.endpoints {
				if got := w.least(e); got < paceFull {
					t.Errorf("restarted %v, seed %d: %s had weight %.2f, want its full one: all were as slow\n%s", restarted, seed, w.key(e), got, strings.Join(w.events, "\n"))
					break
				}
			}
		}
	}
}

func TestASlowEndpointLosesItsShareAlsoAfterARestart(t *testing.T) {
	for _, others := range []outlier.SlowShares{usualShares, {Often: 0.3, Tail: 0.1}} {
		for seed := range uint64(15) {
			random := rand.New(rand.NewPCG(seed, 7))
			w := newPaces(t, 5, 5)
			w.busy(12*time.Second, random, func(int) outlier.SlowShares { return usualShares })
			w.restart()
			w.busy(time.Duration(100+random.IntN(1500))*time.Millisecond, random, func(int) outlier.SlowShares { return usualShares })
			w.busy(2*time.Second, random, func(e int) outlier.SlowShares {
				if e == 2 {
					return outlier.SlowShares{Often: 1, Tail: 1}
				}
				return others
			})
			if got := w.weight(2); got > 0.5 {
				t.Errorf("others %v, seed %d: weight %.2f, want at most half\n%s", others, seed, got, strings.Join(w.events, "\n"))
			}
		}
	}
}

// least is the lowest weight that callers were told of an endpoint.
func (w *paces) least(endpoint int) float64 {
	least := 1.0
	for _, x := range w.weights {
		if x.Key == w.key(endpoint) {
			least = min(least, x.Weight)
		}
	}
	return least
}
