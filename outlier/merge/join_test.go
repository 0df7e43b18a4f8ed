package merge

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/overhear-mesh/overhear/outlier"
)

// gossip makes reports of a fleet whose endpoints fail now and then.
type gossip struct {
	rng    *rand.Rand
	counts map[[2]string]*Cell
	seq    map[string]uint64
}

func (g *gossip) report(reporter string, endpoints int, now time.Duration) Report {
	g.seq[reporter]++
	rep := Report{Reporter: reporter, Incarnation: 1, Seq: g.seq[reporter], At: now, Received: now, LHM: g.rng.IntN(3), Jitter: time.Duration(g.rng.IntN(5)) * ms}
	for i := range endpoints {
		id := fmt.Sprintf("e%d", i)
		c := g.counts[[2]string{reporter, id}]
		if c == nil {
			c = &Cell{Key: Key{"api", id}, LastOK: -1, LastOKStart: -1, LastHard: -1, LastHardStart: -1}
			g.counts[[2]string{reporter, id}] = c
		}
		if g.rng.IntN(3) == 0 {
			continue
		}
		if g.rng.IntN(3) == 0 {
			c.History = append(slices.Clone(c.History), Point{At: now - 10*ms, N: c.Counts.N, K: c.Counts.K()})
			c.History = c.History[max(0, len(c.History)-3):]
		} else {
			c.History = nil
		}
		sick := i%3 == 0 && now > 10*time.Second
		for range g.rng.IntN(20) {
			c.Counts.N++
			switch p := g.rng.IntN(100); {
			case sick && p < 30:
				c.Counts.Server++
			case sick && p < 35:
				c.Counts.Conn++
				c.LastHard, c.LastHardStart, c.Witness = now, now-ms, outlier.LevelConnect
			case p < 1:
				c.Counts.Server++
			default:
				c.LastOK, c.LastOKStart = now, now-2*ms
			}
		}
		c.Overdue = g.rng.IntN(8) / 7
		c.Score = int64(g.rng.IntN(2))
		rep.Cells = append(rep.Cells, *c)
	}
	return rep
}

// Between two Steps, reports may come in any order and any number of times.
func TestReportsPermutedAndDoubledGiveTheSameTableAndTheSameChanges(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 9))
		const reporters, endpoints = 6, 7
		newTable := func() *Table {
			tb := NewTable(DefaultConfig(), seed)
			var specs []Endpoint
			for i := range endpoints {
				specs = append(specs, Endpoint{Key: Key{"api", fmt.Sprintf("e%d", i)}, Zone: twoZones[i%2]})
			}
			tb.SetService("api", DefaultPolicy(), specs, 0)
			for i := range reporters {
				r := Reporter{ID: fmt.Sprintf("r%d", i), Incarnation: 1, Node: fmt.Sprintf("n%d", i), Zone: twoZones[i%2]}
				if err := tb.Join(r, []string{"api"}, 0); err != nil {
					t.Fatal(err)
				}
			}
			return tb
		}
		plain, mixed := newTable(), newTable()
		g := &gossip{rng: rng, counts: map[[2]string]*Cell{}, seq: map[string]uint64{}}
		changes := 0
		now := time.Duration(0)
		for range 200 {
			now += time.Duration(20+rng.IntN(150)) * ms
			var batch []Report
			for i := range reporters {
				at := now - time.Duration(rng.IntN(10))*ms
				for range rng.IntN(3) {
					batch = append(batch, g.report(fmt.Sprintf("r%d", i), endpoints, at))
					at += ms
				}
			}
			for _, rep := range batch {
				plain.Apply(rep, now)
			}
			again := slices.Clone(batch)
			for _, rep := range batch {
				if rng.IntN(2) == 0 {
					again = append(again, rep)
				}
			}
			rng.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
			for _, rep := range again {
				mixed.Apply(rep, now)
			}
			a, b := plain.Step(now), mixed.Step(now)
			changes += len(a.Changes)
			if diff := cmp.Diff(a, b, cmpopts.EquateNaNs()); diff != "" {
				t.Fatalf("seed %d at %v: Step differs (-in order +permuted):\n%s", seed, now, diff)
			}
			for i := range endpoints {
				k := Key{"api", fmt.Sprintf("e%d", i)}
				x, _ := plain.Explain(k, now)
				y, _ := mixed.Explain(k, now)
				if diff := cmp.Diff(x, y); diff != "" {
					t.Fatalf("seed %d at %v: Explain(%s) differs:\n%s", seed, now, k, diff)
				}
			}
			if diff := cmp.Diff(cellsOf(plain), cellsOf(mixed)); diff != "" {
				t.Fatalf("seed %d at %v: cells differ:\n%s", seed, now, diff)
			}
		}
		if changes == 0 {
			t.Errorf("seed %d: nothing happened", seed)
		}
	}
}

func cellsOf(t *Table) map[string]outlier.Counts {
	all := make(map[string]outlier.Counts)
	for _, e := range t.endpoints {
		for i := range e.cells {
			all[e.Key.String()+" "+t.slots[e.cells[i].reporter].ID] = e.cells[i].counts
		}
	}
	return all
}

// The statistic is the sum over fault domains without the f loudest, whatever the
// order of cells and however it is kept.
func TestTheStatisticEqualsThatOfADumbSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for range 200 {
		p := DefaultPolicy()
		p.LeaveOut = rng.IntN(4)
		b := newBench(t, p, 12, 6)
		nodes := map[string]string{}
		for i := range 12 {
			id := fmt.Sprintf("r%d", i)
			nodes[id] = fmt.Sprintf("n%d", rng.IntN(7))
			if err := b.Join(Reporter{ID: id, Node: nodes[id]}, []string{"api"}, 0); err != nil {
				t.Fatal(err)
			}
			b.report(id, "e0", outlier.Counts{}, 0)
		}
		b.Step(0)
		now := 2 * time.Second
		for i := range 12 {
			n := uint32(rng.IntN(10))
			b.report(fmt.Sprintf("r%d", i), "e0", outlier.Counts{N: n, Server: uint32(rng.IntN(int(n) + 1))}, now)
		}
		b.Step(now)
		row := &b.endpoints[Key{"api", "e0"}].fast
		if !row.open {
			continue
		}
		sums := map[string]int64{}
		steps := row.last.odds.Steps()
		for id, node := range nodes {
			c := b.n[[2]string{id, "e0"}]
			sums[node] += steps.LLR(int64(c.N), int64(c.K()))
		}
		var total int64
		var loud []int64
		for _, c := range sums {
			total += c
			if c > 0 {
				loud = append(loud, c)
			}
		}
		slices.Sort(loud)
		slices.Reverse(loud)
		want := total
		for _, c := range loud[:min(p.LeaveOut, len(loud))] {
			want -= c
		}
		if row.last.sum != total || row.last.t != want {
			t.Fatalf("f = %d, domains %v: sum %d and T %d, want %d and %d", p.LeaveOut, slices.Sorted(maps.Values(sums)), row.last.sum, row.last.t, total, want)
		}
	}
}

// Zones are what reporters say they are, and cost a test each.
func TestAZoneThatNobodyObservesFromIsForgotten(t *testing.T) {
	keys := keysOf(4)
	table := smallTable(t, nil, keys)
	e := table.endpoints[keys[0]]
	tell := func(i int) {
		r := Reporter{ID: "wanderer", Incarnation: uint64(i), Principal: "p", Node: "n", Zone: fmt.Sprint("zone-", i)}
		now := time.Duration(i) * time.Second
		if err := table.Join(r, []string{keys[0].Service}, now); err != nil {
			t.Fatal(err)
		}
		for seq := range uint64(2) {
			now += 100 * ms
			table.Apply(Report{Reporter: r.ID, Incarnation: r.Incarnation, Seq: seq + 1, At: now, Received: now, Cells: []Cell{{
				Key: keys[0], Counts: outlier.Counts{N: 9 + uint32(seq), Server: 5 + uint32(seq)}, LastOK: -1, LastOKStart: -1, LastHard: -1, LastHardStart: -1, Score: 1,
			}}}, now)
			table.Step(now)
		}
	}
	for i := range 20 {
		tell(i + 1)
		if n := len(e.zones); n != 1 {
			t.Fatalf("after %d zones %d are kept", i+1, n)
		}
	}
	e.zones[0].rec.state = outlier.Ejected
	tell(21)
	if n := len(e.zones); n != 2 || !e.out("zone-20") {
		t.Errorf("%d zones are kept, want the new one, and the one with a verdict", n)
	}
}
