package merge

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/overhear-mesh/overhear/outlier"
)

// seeds are inputs of random bytes, long enough to tell a story.
func seeds(f *testing.F, n, length int) {
	for seed := range uint64(n) {
		rng := rand.New(rand.NewPCG(seed, 77))
		data := make([]byte, length)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		f.Add(data)
	}
}

// story makes reports out of fuzz input: of honest reporters, of such as lie and of
// such as have gone mad.
type story struct {
	in     *tape
	seq    map[string]uint64
	counts map[[2]string]outlier.Counts
	told   []Report
}

func newStory(in *tape) *story {
	return &story{in: in, seq: map[string]uint64{}, counts: map[[2]string]outlier.Counts{}}
}

// report is anything that a decoder may hand on.
func (s *story) report(ids []string, keys []Key, now time.Duration) Report {
	in := s.in
	if len(s.told) > 0 && in.byte() < 24 { // a replay of anything earlier
		return s.told[in.byte()%len(s.told)]
	}
	id := ids[in.byte()%len(ids)]
	if in.byte() >= 40 { // else a number twice, with other news
		s.seq[id] += 1 + uint64(in.byte()/200)
	}
	rep := Report{
		Reporter: id, Seq: s.seq[id], At: in.instant(now), Received: now,
		LHM: in.byte()%10 - 1, Jitter: time.Duration(in.byte()%32) * ms,
	}
	for range in.byte() % 4 {
		k := keys[in.byte()%len(keys)]
		at := [2]string{id, k.Instance}
		c := Cell{Key: k, Counts: in.counts(s.counts[at])}
		s.counts[at] = c.Counts
		c.LastOK, c.LastHard = in.instant(now), in.instant(now)
		c.LastOKStart, c.LastHardStart = c.LastOK-time.Duration(in.byte())*ms, c.LastHard-time.Duration(in.byte())*ms
		c.Overdue, c.State, c.Witness, c.Score = in.byte()%3, outlier.State(in.byte()%8), outlier.Level(in.byte()%5), int64(in.byte()&1)
		for range in.byte() % 5 {
			c.History = append(c.History, Point{At: in.instant(now), N: uint32(in.byte()), K: uint32(in.byte() / 4)})
		}
		rep.Cells = append(rep.Cells, c)
	}
	if in.byte() < 40 {
		rep.Clusters = []ClusterTotals{{Service: "api", Overdue: time.Duration(in.byte()) * ms}}
	}
	if in.byte() < 40 {
		// An instance has one owner: the registry says which.
		i := in.byte() % min(len(ids), len(keys))
		rep.Reporter, rep.Seq = ids[i], s.seq[ids[i]]
		rep.Own = []OwnCell{{
			Key: keys[i], N: uint32(in.byte()), K: uint32(in.byte() / 4), LastOK: in.instant(now), Refused: in.instant(now),
			Draining: in.byte() < 8, Started: time.Duration(in.byte()%3) * time.Second,
		}}
	}
	s.told = append(s.told, rep)
	return rep
}

// smallTable is a table with some reporters and endpoints.
func smallTable(t testing.TB, ids []string, keys []Key) *Table {
	t.Helper()
	table := NewTable(DefaultConfig(), 1)
	var specs []Endpoint
	for i, k := range keys {
		specs = append(specs, Endpoint{Key: k, Zone: twoZones[i%2], Node: "m" + k.Instance})
	}
	table.SetService("api", DefaultPolicy(), specs, 0)
	for i, id := range ids {
		if err := table.Join(Reporter{ID: id, Node: fmt.Sprintf("n%d", i), Zone: twoZones[i%2]}, []string{"api"}, 0); err != nil {
			t.Fatal(err)
		}
	}
	table.Step(0)
	return table
}

func numbered(prefix string, n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("%s%d", prefix, i))
	}
	return list
}

func keysOf(n int) []Key {
	var list []Key
	for _, id := range numbered("e", n) {
		list = append(list, Key{"api", id})
	}
	return list
}

// alike fails if two tables differ in anything that can be seen of them.
func alike(t *testing.T, when string, a, b *Table, keys []Key, now time.Duration) {
	t.Helper()
	if diff := cmp.Diff(a.Step(now), b.Step(now), cmpopts.EquateNaNs()); diff != "" {
		t.Fatalf("%s: Step differs:\n%s", when, diff)
	}
	if diff := cmp.Diff(cellsOf(a), cellsOf(b)); diff != "" {
		t.Fatalf("%s: cells differ:\n%s", when, diff)
	}
	if diff := cmp.Diff(a.Verdicts(), b.Verdicts()); diff != "" {
		t.Fatalf("%s: verdicts differ:\n%s", when, diff)
	}
	for _, k := range keys {
		x, _ := a.Explain(k, now)
		y, _ := b.Explain(k, now)
		if diff := cmp.Diff(x, y); diff != "" {
			t.Fatalf("%s: Explain(%s) differs:\n%s", when, k, diff)
		}
	}
}

// What reports arrived between two Steps decides, and neither their order nor how often
// each came: the table is a join (Shapiro et al. 2011, state-based CRDT), commutative,
// associative and idempotent. That holds for reports of those who lie and replay, too.
func FuzzTheOrderAndNumberOfReportsMakesNoDifference(f *testing.F) {
	seeds(f, 6, 3000)
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &tape{data[:min(len(data), 4000)]}
		ids, keys := numbered("r", 4), keysOf(4)
		plain, mixed := smallTable(t, ids, keys), smallTable(t, ids, keys)
		s := newStory(in)
		now := 2 * time.Second
		for round := 0; len(in.data) > 0; round++ {
			var batch []Report
			for range 1 + in.byte()%6 {
				batch = append(batch, s.report(ids, keys, now))
			}
			for _, rep := range batch {
				plain.Apply(rep, now)
			}
			again := slices.Clone(batch)
			for _, rep := range batch {
				if in.byte()&1 == 0 {
					again = append(again, rep)
				}
			}
			rng := rand.New(rand.NewPCG(uint64(in.byte()), uint64(round)))
			rng.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
			for _, rep := range again {
				mixed.Apply(rep, now)
			}
			alike(t, fmt.Sprintf("round %d", round), plain, mixed, keys, now)
			now += time.Duration(1+in.byte()) * 4 * ms
		}
	})
}

// The same for counts that come as answers to polls.
func TestAnswersToPollsMayComeInAnyOrder(t *testing.T) {
	ids, keys := numbered("r", 4), keysOf(4)
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		plain, mixed := smallTable(t, ids, keys), smallTable(t, ids, keys)
		now := time.Duration(0)
		var a, b Result
		for seq, failed := range []uint32{0, 20} {
			for _, table := range []*Table{plain, mixed} {
				for _, id := range ids {
					table.Apply(Report{Reporter: id, Seq: uint64(seq), At: now, Received: now, Cells: []Cell{{
						Key: keys[0], Counts: outlier.Counts{N: failed, Server: failed}, LastOK: -1, LastOKStart: -1, LastHard: -1, LastHardStart: -1,
					}}}, now)
				}
			}
			a, b = plain.Step(now), mixed.Step(now)
			now += 2 * time.Second
		}
		now -= 2 * time.Second
		if len(a.Polls) != 1 || !cmp.Equal(a.Polls, b.Polls) {
			t.Fatalf("polls %+v and %+v, want one and the same", a.Polls, b.Polls)
		}
		now += 2 * ms
		var answers []PollAnswer
		for _, id := range ids {
			answers = append(answers, PollAnswer{ID: a.Polls[0].ID, Reporter: id, Seq: 2, At: now, Cell: Cell{
				Key: keys[0], Counts: outlier.Counts{N: uint32(20 + rng.IntN(200)), Server: 20}, LastOK: now - ms, LastOKStart: now - 2*ms, LastHard: -1, LastHardStart: -1,
			}})
		}
		for _, x := range answers {
			plain.Polled(x, now)
		}
		rng.Shuffle(len(answers), func(i, j int) { answers[i], answers[j] = answers[j], answers[i] })
		for _, x := range answers {
			mixed.Polled(x, now)
		}
		alike(t, fmt.Sprintf("seed %d", seed), plain, mixed, keys, now)
	}
}

// Whatever one fault domain says, under however many names and however often it comes
// back as somebody else, it takes nobody out whom the others see well.
func FuzzOneHostileFaultDomainTakesNobodyOut(f *testing.F) {
	seeds(f, 6, 3000)
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &tape{data[:min(len(data), 4000)]}
		honest, hostile, keys := numbered("r", 4), numbered("x", 3), keysOf(5)
		table := smallTable(t, honest, keys)
		now := time.Second
		incarnation := map[string]uint64{}
		join := func(id string) {
			_ = table.Join(Reporter{ // a refusal is as good
				ID: id, Incarnation: incarnation[id], Node: "rotten", Zone: twoZones[in.byte()%2],
				Principal: fmt.Sprintf("10.0.0.%d", in.byte()%2),
			}, []string{"api"}, now)
		}
		for _, id := range hostile {
			join(id)
		}
		s := newStory(in)
		seq, n := uint64(0), uint32(0)
		var orders []ProbeOrder
		var polls []Poll
		honestly := func() { // they have traffic, of which all goes well
			seq++
			n += 5
			for _, id := range honest {
				rep := Report{Reporter: id, Seq: seq, At: now, Received: now}
				for _, k := range keys {
					rep.Cells = append(rep.Cells, Cell{Key: k, Counts: outlier.Counts{N: n}, LastOK: now - ms, LastOKStart: now - 3*ms, LastHard: -1, LastHardStart: -1})
				}
				table.Apply(rep, now)
			}
		}
		step := func() {
			out := table.Step(now)
			for _, c := range out.Changes {
				if c.Refused == "" && c.To.Out() {
					t.Fatalf("at %v %s: %s -> %s by %s: %s", now, c.Verdict.Key, c.From, c.To, c.Verdict.Rule, c.Verdict.Explain.Reason)
				}
			}
			orders, polls = append(orders, out.Orders...), append(polls, out.Polls...)
		}
		for len(in.data) > 0 {
			switch op := in.byte() % 16; op {
			case 0:
				id := hostile[in.byte()%len(hostile)]
				incarnation[id] += uint64(in.byte() % 2)
				join(id)
			case 1:
				table.Leave(hostile[in.byte()%len(hostile)], now)
			case 2, 3:
				// Orders are answered by whom they were given to; its own the hostile one
				// answers as it likes, and those of others it tries to answer, too.
				for _, o := range orders {
					if slices.Contains(honest, o.Reporter) {
						table.Probed(o.ID, o.Reporter, max(o.Level, outlier.LevelConnect), outlier.ProbeOK, now-ms, now, now)
					}
					id := hostile[in.byte()%len(hostile)]
					table.Probed(o.ID, id, outlier.Level(in.byte()%5), outlier.ProbeResult(in.byte()%9), in.instant(now), in.instant(now), now)
				}
				orders = nil
			case 4:
				for _, p := range polls {
					id := hostile[in.byte()%len(hostile)]
					table.Polled(PollAnswer{ID: p.ID, Reporter: id, Seq: s.seq[id] + 1, At: now, Cell: Cell{
						Key: p.Key, Counts: in.counts(s.counts[[2]string{id, p.Key.Instance}]), LastOK: -1, LastOKStart: -1, LastHard: now, LastHardStart: now - ms, Witness: outlier.LevelApp,
					}}, now)
				}
				polls = nil
			case 5:
				table.Held(hostile[in.byte()%len(hostile)], []Verdict{{Key: keys[in.byte()%len(keys)], State: outlier.State(in.byte() % 8), Epoch: uint64(in.uint32())}}, now)
			case 6:
				table.Probation(hostile[in.byte()%len(hostile)], keys[in.byte()%len(keys)], uint64(in.byte()), in.counts(outlier.Counts{}), now)
			default:
				for range 1 + in.byte()%8 {
					rep := s.report(hostile, keys, now)
					rep.Incarnation, rep.Own = incarnation[rep.Reporter], nil
					table.Apply(rep, now)
				}
			}
			honestly()
			step()
			now += time.Duration(1+in.byte()) * 2 * ms
		}
	})
}
