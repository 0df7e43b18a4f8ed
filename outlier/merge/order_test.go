package merge

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// askFor makes a table in which some reporters may be asked about one endpoint.
func askFor(t *testing.T, reporters []Reporter) (*Table, *endpoint) {
	t.Helper()
	table := NewTable(DefaultConfig(), 1)
	k := Key{"api", "e0"}
	table.SetService("api", DefaultPolicy(), []Endpoint{{Key: k, Zone: "a", Node: "server0"}, {Key: Key{"api", "e1"}, Zone: "b", Node: "server1"}}, 0)
	for _, r := range reporters {
		r.Incarnation = 1
		if r.Principal == "" {
			r.Principal = "10.0.0." + r.ID
		}
		if err := table.Join(r, []string{"api"}, 0); err != nil {
			t.Fatal(err)
		}
	}
	return table, table.endpoints[k]
}

// fails has a reporter tell of a refused connection.
func (t *Table) fails(id string, k Key, now time.Duration) {
	t.Apply(Report{Reporter: id, Incarnation: 1, Seq: uint64(now/time.Millisecond) + 1, At: now, Received: now, Cells: []Cell{{
		Key: k, Counts: outlier.Counts{N: uint32(now/time.Millisecond) + 1, Conn: uint32(now/time.Millisecond) + 1},
		LastOK: never, LastOKStart: never, LastHard: now, LastHardStart: now - ms, Witness: outlier.LevelConnect,
	}}}, now)
}

func TestWhoIsAskedToConfirmIsElsewhereSureOfItselfAndOfAnotherFaultDomain(t *testing.T) {
	table, e := askFor(t, []Reporter{
		{ID: "first", Node: "n0", Zone: "a"},
		{ID: "sameNode", Node: "n0", Zone: "a"},    // as the one who complains
		{ID: "beside", Node: "server0", Zone: "a"}, // the endpoint
		{ID: "doubting", Node: "n1", Zone: "a", LHM: 4},
		{ID: "gone", Node: "n2", Zone: "a"},
		{ID: "a1", Node: "n3", Zone: "a", LHM: 3}, {ID: "a2", Node: "n4", Zone: "a"}, {ID: "a3", Node: "n5", Zone: "a"},
		{ID: "b1", Node: "n6", Zone: "b"}, {ID: "b2", Node: "n6", Zone: "b"},
	})
	table.Leave("gone", 0)
	table.Step(0)
	now := 2 * time.Second
	table.fails("first", e.Key, now)
	var asked []string
	zones := map[string]int{}
	for _, o := range table.Step(now).Orders {
		if o.Key == e.Key && o.Reason == reasonSuspicion {
			asked = append(asked, o.Reporter)
			zones[table.reporters[o.Reporter].Zone]++
		}
	}
	if len(asked) != DefaultPolicy().ConfirmProbers || zones["b"] != 1 {
		t.Errorf("asked %v; want three, one of the other zone, though that has two of one node", asked)
	}
	for _, id := range []string{"first", "sameNode", "beside", "doubting", "gone"} {
		if slices.Contains(asked, id) {
			t.Errorf("%s is asked", id)
		}
	}
}

func TestADecisionCancelsWhatIsStillAsked(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	e := f.table.endpoints[f.targets[2].Key]
	tell := func(i int) {
		f.table.Apply(Report{Reporter: f.callers[i].ID, Incarnation: 1, Seq: 1 << 20, At: f.now, Received: f.now, Cells: []Cell{f.callers[i].cells[e.Key].say(f.now)}}, f.now)
	}
	c := f.callers[0].cells[e.Key]
	c.lastHard, c.level = f.now, outlier.LevelConnect
	c.counts.N++
	c.counts.Conn++
	tell(0)
	asked := f.table.Step(f.now).Orders
	// Somebody answers the endpoint's requests: the question is closed before any probe.
	f.now += 100 * ms
	c = f.callers[1].cells[e.Key]
	c.lastOK, c.okStart = f.now, f.now-ms
	c.counts.N++
	tell(1)
	cancelled := map[OrderID]bool{}
	for _, c := range f.table.Step(f.now).Cancels {
		cancelled[c.ID] = true
	}
	n := 0
	for _, o := range asked {
		if o.Key == e.Key && o.Reason == reasonSuspicion {
			n++
			if !cancelled[o.ID] {
				t.Errorf("the probe of %s is not cancelled", o.Reporter)
			}
		}
	}
	if n == 0 {
		t.Error("nobody was asked")
	}
}

// Whoever was contradicted is not heard for a second, and after three times in a row for
// ten; the others of its fault domain neither.
func TestADomainThatIsContradictedIsNotHeardForAWhile(t *testing.T) {
	var s suspicion
	d, other := &domain{name: "n0"}, &domain{name: "n1"}
	complain := []witness{{reporter: &reporter{domain: d}}, {reporter: &reporter{domain: d}}}
	now := time.Duration(0)
	for round, want := range []time.Duration{time.Second, time.Second, 10 * time.Second, 10 * time.Second} {
		if until := s.doubt(now, complain); until != now+want {
			t.Errorf("contradiction %d: not heard until %v, want %v", round+1, until, now+want)
		}
		if !s.doubts(d, now+want-ms) || s.doubts(d, now+want) || s.doubts(other, now) {
			t.Errorf("contradiction %d: doubted %t before %v, %t at it, the other %t", round+1, s.doubts(d, now+want-ms), want, s.doubts(d, now+want), s.doubts(other, now))
		}
		now += want
	}
	now += 20 * time.Second
	s.doubt(now, []witness{{reporter: &reporter{domain: other}}}) // what is old is forgotten
	if until := s.doubt(now, complain); until != now+time.Second {
		t.Errorf("long after: not heard until %v, want %v", until, now+time.Second)
	}
}

func TestInAStormASampleOfEachZoneIsAskedAbout(t *testing.T) {
	f := newFleet(t, mesh{callers: 10, endpoints: 20, zones: twoZones, rate: 50, base: 0.001, seed: 7})
	f.run(12 * time.Second)
	f.orders, f.changes = nil, nil
	for i := range f.targets {
		if f.targets[i].Zone == "east" {
			f.targets[i].fault = always(crashed)
		}
	}
	// All of them fail in one moment.
	for i := range f.targets {
		f.callers[i%3].attempt(f.callers[i%3].cells[f.targets[i].Key])
	}
	f.run(300 * ms)
	storm := slices.ContainsFunc(f.events, func(e Event) bool { return e.Kind == EventStorm })
	asked := map[Key]bool{}
	for _, o := range f.orders {
		if o.Reason == reasonSuspicion {
			asked[o.Key] = true
		}
	}
	if !storm || len(asked) > stormSample {
		t.Errorf("storm %t, asked about %d endpoints; want %d of the ten", storm, len(asked), stormSample)
	}
	if v := f.verdicts(outlier.Ejected); len(v) != 10 || v[0].At+100*ms < v[9].At {
		t.Errorf("got %s\nwant all ten of the zone out at once", describe(v))
	}
}

// Of some suspects nobody can tell, because probes do not come through. They must not
// keep those that are down from being asked about.
func TestInAStormThoseOfWhomNobodyCanTellMakeRoomForOthers(t *testing.T) {
	f := newFleet(t, mesh{callers: 1, bystanders: 5, endpoints: 20, rate: 50, seed: 7})
	f.run(12 * time.Second)
	all := f.table.services["api"].groups[0].endpoints
	byHash := slices.Clone(all)
	slices.SortFunc(byHash, func(a, b *endpoint) int { return cmp.Compare(f.table.stormHash(a), f.table.stormHash(b)) })
	for i, e := range byHash[:10] {
		fault := crashed
		if i < 8 {
			fault.probe = outlier.NotRun
		}
		f.target(e.Key).fault = always(fault)
	}
	for _, e := range byHash[:10] { // in one moment
		f.callers[0].attempt(f.callers[0].cells[e.Key])
	}
	down := func() bool { return byHash[8].fleet.state.Out() && byHash[9].fleet.state.Out() }
	if !f.until(f.now+5*time.Second, down) {
		t.Errorf("after 5 s the two that are down are %v and %v, want both out", byHash[8].fleet.state, byHash[9].fleet.state)
	}
	for _, e := range byHash[:8] {
		if e.fleet.state != outlier.In {
			t.Errorf("%s, of which nobody can tell, is %v", e.Key, e.fleet.state)
		}
	}
}
