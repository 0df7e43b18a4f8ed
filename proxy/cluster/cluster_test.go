package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

func TestACrashedEndpointLeavesThePickerWithin150Milliseconds(t *testing.T) {
	for _, rate := range []int{50, 1000} {
		t.Run(fmt.Sprintf("%d per second", rate), func(t *testing.T) {
			inMesh(t, 5, nil, func(m *mesh) {
				stop := m.traffic(rate)
				time.Sleep(5 * time.Second)
				m.servers[0].crash()
				before := m.status(0).Counts.Conn
				m.await("first failed attempt", time.Second, func() bool { return m.status(0).Counts.Conn > before })
				took := m.awaitState(outlier.Ejected, time.Second)
				if took > 150*time.Millisecond {
					t.Errorf("ejected %v after the first failed attempt, want at most 150ms", took)
				}
				if got := m.picks(1000)["i-1"]; got != 0 {
					t.Errorf("ejected endpoint got %d of 1000 picks, want none", got)
				}
				classes := stop()
				delete(classes, outlier.OK)
				if len(classes) > 0 {
					t.Errorf("requests that did not end well: %v, want none: all could be repeated", classes)
				}
			})
		})
	}
}

func TestAHungEndpointIsSuspendedUntilItAnswers(t *testing.T) {
	inMesh(t, 4, nil, func(m *mesh) {
		stop := m.traffic(100)
		time.Sleep(5 * time.Second)
		m.servers[0].hang.Store(true)
		overdue := m.cluster.Overdue()
		m.await("first hung attempt", time.Second, func() bool { return m.status(0).Inflight > 0 })
		took := m.awaitState(outlier.Suspended, 5*time.Second)
		if limit := 2*overdue + 400*time.Millisecond; took > limit {
			t.Errorf("suspended %v after the first hung attempt, want at most %v", took, limit)
		}
		before := m.servers[0].accepted.Load()
		time.Sleep(time.Second)
		if got := m.servers[0].accepted.Load() - before; got > 3 {
			t.Errorf("a suspended endpoint got %d new connections in a second, want a trickle", got)
		}
		m.servers[0].unhang()
		m.await("the suspension ends", 2*time.Second, func() bool { return m.status(0).State != outlier.Suspended })
		stop()
	})
}

func TestAnEndpointThatIsBackRampsUp(t *testing.T) {
	inMesh(t, 4, nil, func(m *mesh) {
		stop := m.traffic(200)
		defer stop()
		time.Sleep(5 * time.Second)
		m.servers[0].crash()
		m.awaitState(outlier.Ejected, 2*time.Second)
		m.servers[0].start()
		m.awaitState(outlier.Ramp, 60*time.Second)
		if share := m.status(0).Share; share <= 0 || share > 0.5 {
			t.Errorf("share %v at the start of the ramp, want little", share)
		}
		m.awaitState(outlier.In, 15*time.Second)
		if share := m.status(0).Share; share != 1 {
			t.Errorf("share %v after the ramp, want 1", share)
		}
		before := m.status(0).Counts.N
		time.Sleep(10 * time.Second)
		if got := m.status(0).Counts.N - before; got < 250 {
			t.Errorf("%d of 2000 attempts after recovery, want about 500", got)
		}
	})
}

func TestTheSameIdentityIsTheSameEndpoint(t *testing.T) {
	inMesh(t, 3, nil, func(m *mesh) {
		e := m.cluster.Pick(m.clock.Now(), nil)
		for e.ID != "i-1" {
			e = m.cluster.Pick(m.clock.Now(), nil)
		}
		if class := m.attempt(e, m.clock.Now()); class != outlier.OK {
			t.Fatalf("attempt: %v", class)
		}
		specs := m.specs()

		t.Log("the others come and go")
		m.update(specs[:1])
		again := m.cluster.Pick(m.clock.Now(), nil)
		if again != e || again.Idle() != 1 || again.Stats.Counts().N != 1 {
			t.Errorf("after an update: same object %v, %d idle connections, %d attempts; want true, 1, 1",
				again == e, again.Idle(), again.Stats.Counts().N)
		}

		t.Log("the same instance moves to another address")
		moved := specs[0]
		moved.Address = specs[1].Address
		m.update([]cluster.Spec{moved})
		there := m.cluster.Pick(m.clock.Now(), nil)
		if there == e || there.Stats != e.Stats || there.Address != moved.Address {
			t.Errorf("after a move: same object %v, same record %v, address %s; want false, true, %s",
				there == e, there.Stats == e.Stats, there.Address, moved.Address)
		}
		if e.Idle() != 0 {
			t.Errorf("%d idle connections to the old address, want none", e.Idle())
		}

		t.Log("another instance takes the address over")
		other := moved
		other.ID = "i-new"
		m.update([]cluster.Spec{other})
		if e := m.cluster.Pick(m.clock.Now(), nil); e.Stats == there.Stats || e.Stats.Counts().N != 0 {
			t.Errorf("an address that is used again inherited a record: %+v", e.Stats.Counts())
		}
	})
}

func TestARemovedEndpointFinishesWhatItHas(t *testing.T) {
	inMesh(t, 2, nil, func(m *mesh) {
		e := m.cluster.Pick(m.clock.Now(), nil)
		i := slices.IndexFunc(m.servers, func(s *server) bool { return s.id == e.ID })
		if class := m.attempt(e, m.clock.Now()); class != outlier.OK { // leaves an idle connection
			t.Fatalf("attempt: %v", class)
		}
		m.servers[i].hang.Store(true)
		result := make(chan outlier.Class, 1)
		go func() { result <- m.attempt(e, m.clock.Now()) }()
		time.Sleep(100 * time.Millisecond)
		m.update(m.specs()[1-i : 2-i])
		if e.Idle() != 0 {
			t.Errorf("%d idle connections to a removed endpoint, want none", e.Idle())
		}
		m.servers[i].unhang()
		if class := <-result; class != outlier.OK {
			t.Errorf("an attempt in flight at the removal ended as %v, want ok", class)
		}
		synctest.Wait()
		if e.Open() != 0 {
			t.Errorf("%d connections open to a removed endpoint after its last attempt, want none", e.Open())
		}
	})
}

func TestWhenAllAreBadSomethingIsStillPicked(t *testing.T) {
	inMesh(t, 4, nil, func(m *mesh) {
		stop := m.traffic(200)
		time.Sleep(3 * time.Second)
		for _, s := range m.servers {
			s.crash()
		}
		for range 300 {
			time.Sleep(10 * time.Millisecond)
			if e := m.cluster.Pick(m.clock.Now(), nil); e == nil {
				t.Fatal("nothing was picked")
			}
		}
		for _, s := range m.servers {
			s.start()
		}
		m.await("all back", 3*time.Minute, func() bool {
			for i := range m.servers {
				if m.status(i).State != outlier.In {
					return false
				}
			}
			return true
		})
		stop()
	})
}

func TestADrainingEndpointGetsNothingNew(t *testing.T) {
	inMesh(t, 3, nil, func(m *mesh) {
		specs := m.specs()
		specs[0].Draining = true
		m.update(specs)
		if got := m.picks(1000); got["i-1"] != 0 {
			t.Errorf("picks %v: one that drains got new attempts", got)
		}
		for i := range specs {
			specs[i].Draining = true
		}
		m.update(specs)
		if got := m.picks(1000); len(got) != 3 {
			t.Errorf("picks %v: when all drain, any is better than none", got)
		}
		if !m.cluster.Snapshot().Panic {
			t.Error("the snapshot does not say that the cluster is in panic")
		}
	})
}

func TestACentralVerdictIsObeyed(t *testing.T) {
	inMesh(t, 4, nil, func(m *mesh) {
		specs := m.specs()
		specs[0].Verdict = outlier.Verdict{State: outlier.Ejected, Epoch: 7, Rule: outlier.RuleFast, Reason: "31 of 40 failed"}
		m.update(specs)
		if got := m.picks(1000)["i-1"]; got != 0 {
			t.Errorf("%d of 1000 picks went to an endpoint that the fleet has ejected", got)
		}
		specs[0].Verdict = outlier.Verdict{State: outlier.In, Epoch: 8}
		m.update(specs)
		if got := m.picks(4000)["i-1"]; got < 700 {
			t.Errorf("%d of 4000 picks after the verdict was lifted, want about 1000", got)
		}
	})
}

func TestTheNextPriorityIsUsedWhenTheFirstIsOut(t *testing.T) {
	inMesh(t, 4, nil, func(m *mesh) {
		specs := m.specs()
		specs[2].Priority, specs[3].Priority = 1, 5
		m.update(specs)
		if got := m.picks(1000); got["i-1"]+got["i-2"] != 1000 {
			t.Errorf("picks %v: a lower priority got traffic while the first is well", got)
		}
		for i, state := range []outlier.State{outlier.Ejected, outlier.Suspended} {
			specs[i].Verdict = outlier.Verdict{State: state, Epoch: 1, Rule: outlier.RuleHard}
		}
		m.update(specs)
		if got := m.picks(1000); got["i-3"] != 1000 {
			t.Errorf("picks %v: want all on the second priority, as the first is out", got)
		}
		specs[2].Draining = true
		m.update(specs)
		if got := m.picks(1000); got["i-4"] != 1000 {
			t.Errorf("picks %v: want all on the last priority, as the others are out", got)
		}
	})
}

func TestARetryGoesToTheNextPriorityWhenTheFirstHasBeenTried(t *testing.T) {
	inMesh(t, 4, nil, func(m *mesh) {
		specs := m.specs()
		specs[2].Priority, specs[3].Priority = 1, 1
		m.update(specs)
		for range 100 {
			var tried cluster.Tried
			for k := range 4 {
				e := m.cluster.Pick(m.clock.Now(), &tried)
				if want := uint32(k / 2); e.Priority != want || tried.Has(e) {
					t.Fatalf("pick %d: %s of priority %d, tried %v; want an untried one of priority %d", k, e.ID, e.Priority, tried.Has(e), want)
				}
				tried.Add(e)
			}
			if e := m.cluster.Pick(m.clock.Now(), &tried); e.Priority != 0 {
				t.Fatalf("with all tried, %s of priority %d was picked, want the first priority", e.ID, e.Priority)
			}
		}
	})
}

// TestWhatAPriorityCannotBearSpillsToTheNext: two thirds of a priority times the
// default factor of 1.4 are 93 % of its load.
func TestWhatAPriorityCannotBearSpillsToTheNext(t *testing.T) {
	inMesh(t, 6, nil, func(m *mesh) {
		specs := m.specs()
		for i := 3; i < 6; i++ {
			specs[i].Priority = 1
		}
		out := func(ids ...int) map[string]int {
			for i := range specs {
				specs[i].Verdict = outlier.Verdict{}
			}
			for _, i := range ids {
				specs[i].Verdict = outlier.Verdict{State: outlier.Ejected, Epoch: 1, Rule: outlier.RuleHard}
			}
			m.update(specs)
			return m.picks(10_000)
		}
		for _, tt := range []struct {
			out  []int
			want float64 // the part of the second priority
		}{{nil, 0}, {[]int{0}, 1 - 1.4*2/3}, {[]int{0, 1}, 1 - 1.4/3}, {[]int{0, 1, 3, 4}, 0.5}} {
			got := out(tt.out...)
			if share := float64(got["i-4"]+got["i-5"]+got["i-6"]) / 10_000; math.Abs(share-tt.want) > 0.03 {
				t.Errorf("with %v out: %.3f of the picks spilled, want %.3f", tt.out, share, tt.want)
			}
		}
	})
}

func TestTheOwnZoneIsPreferredWhileItCanBearTheLoad(t *testing.T) {
	inMeshOf(t, 6, cluster.Deps{Node: "s-1", Zone: "a"}, func(c *cluster.Config) { c.Balancer.PreferZone = true }, func(m *mesh) {
		specs := m.specs()
		for i := range specs {
			specs[i].Zone = []string{"b", "a"}[i%2]
		}
		m.update(specs)
		if got := m.picks(1000); got["i-2"]+got["i-4"]+got["i-6"] != 1000 {
			t.Errorf("picks %v: want all in the own zone", got)
		}
		for _, i := range []int{1, 3} {
			specs[i].Verdict = outlier.Verdict{State: outlier.Ejected, Epoch: 1, Rule: outlier.RuleHard}
		}
		m.update(specs)
		if got, want := float64(m.picks(10_000)["i-6"])/10_000, 1.4/3; math.Abs(got-want) > 0.03 {
			t.Errorf("the one that is left in the own zone got %.3f of the picks, want %.3f", got, want)
		}
	})
}

func TestASubsetIsStableAndFillsUp(t *testing.T) {
	used := map[string]bool{}
	for _, node := range []string{"s-1", "s-2", "s-3", "s-4"} {
		inMeshOf(t, 8, cluster.Deps{Node: node}, func(c *cluster.Config) { c.Balancer.Subset = 3 }, func(m *mesh) {
			specs := m.specs()
			first := slices.Sorted(maps.Keys(m.picks(1000)))
			if len(first) != 3 {
				t.Fatalf("%s uses %v, want three", node, first)
			}
			for _, id := range first {
				used[id] = true
			}
			i := slices.IndexFunc(specs, func(s cluster.Spec) bool { return s.ID == first[0] })
			specs[i].Verdict = outlier.Verdict{State: outlier.Ejected, Epoch: 1, Rule: outlier.RuleHard}
			m.update(specs)
			then := m.picks(1000)
			if len(then) != 3 || then[first[1]] == 0 || then[first[2]] == 0 || then[first[0]] != 0 {
				t.Errorf("%s used %v and, without the first, uses %v: want one that is new", node, first, then)
			}
		})
	}
	if len(used) < 5 {
		t.Errorf("four sidecars with subsets of three use %d of eight endpoints: want other ones at every sidecar", len(used))
	}
}

func TestAKeyKeepsToOneEndpointWhereThePolicyHashes(t *testing.T) {
	inMesh(t, 5, func(c *cluster.Config) { c.Balancer.Policy = balancer.Maglev }, func(m *mesh) {
		seen := map[string]bool{}
		for key := range uint64(50) {
			e := m.cluster.PickKeyed(key, m.clock.Now(), nil)
			seen[e.ID] = true
			for range 20 {
				if again := m.cluster.PickKeyed(key, m.clock.Now(), nil); again != e {
					t.Fatalf("key %d was with %s and goes to %s", key, e.ID, again.ID)
				}
			}
		}
		if len(seen) != 5 {
			t.Errorf("fifty keys are with %d of five endpoints", len(seen))
		}
	})
}

// With few keys a route may be pinned to one endpoint, and its errors say nothing of
// that one; with many, all endpoints serve the same mix.
func TestOneRouteSpeaksAgainstAHashedEndpointThatHasManyKeys(t *testing.T) {
	for keys, want := range map[uint64]outlier.State{20: outlier.In, 500: outlier.Ejected} {
		inMesh(t, 5, func(c *cluster.Config) { c.Balancer.Policy = balancer.Maglev }, func(m *mesh) {
			ill := m.endpoint(0)
			for i := range uint64(4000) { // of 10 ms
				now := m.clock.Now()
				e := m.cluster.PickKeyed(i%keys, now, nil)
				route := uint16(1 + i/7%2)
				o := outlier.Outcome{Class: outlier.OK, Route: route, Conn: uint32(i), Now: now}
				if e == ill && route == 1 && i > 3500 {
					o.Class = outlier.Server
				}
				a := e.BeginOn(route, now, true)
				a.End(o)
				time.Sleep(10 * time.Millisecond)
				if e == ill && m.status(0).State != outlier.In {
					break
				}
			}
			if got := m.status(0).State; got != want {
				t.Errorf("%d keys: it is %v, want %v", keys, got, want)
			}
		})
	}
}

func TestBaseWeightsAreHonoured(t *testing.T) {
	inMesh(t, 3, nil, func(m *mesh) {
		specs := m.specs()
		specs[0].Weight = 300
		specs[1].Weight, specs[2].Weight = 100, 0
		m.update(specs)
		got := m.picks(10000)
		if a, b := got["i-1"], got["i-2"]; a < 7100 || a > 7900 || b < 2100 || b > 2900 || got["i-3"] > 100 {
			t.Errorf("picks %v with weights 300, 100 and none, want about 7500, 2500, 25", got)
		}
	})
}

func TestAnEndpointListedTwiceCountsOnce(t *testing.T) {
	inMesh(t, 2, nil, func(m *mesh) {
		specs := m.specs()
		double := specs[0]
		double.Address = "10.9.9.9:80"
		m.update(append(specs, double))
		if got := len(m.cluster.Snapshot().Endpoints); got != 2 {
			t.Errorf("%d endpoints, want 2", got)
		}
		if !strings.Contains(m.log.String(), "listed twice") {
			t.Errorf("nothing in the log: %s", m.log)
		}
	})
}

func TestOneLinePerChangeOfBelief(t *testing.T) {
	inMesh(t, 4, nil, func(m *mesh) {
		stop := m.traffic(100)
		time.Sleep(5 * time.Second)
		m.servers[0].crash()
		m.awaitState(outlier.Ejected, 2*time.Second)
		m.servers[0].start()
		m.awaitState(outlier.In, 2*time.Minute)
		stop()
		m.mu.Lock()
		said := 0
		for _, e := range m.events {
			said += len(e.Changes)
		}
		m.mu.Unlock()
		lines := strings.Count(m.log.String(), "\n")
		if changes := m.changes(); lines != said || len(changes) < 3 {
			t.Errorf("%d lines for %d changes (%v); log:\n%s", lines, said, changes, m.log)
		}
		if !strings.Contains(m.log.String(), `, and so did 2 of 2 probes from here; next: it is probed, in `) {
			t.Errorf("the log does not say why:\n%s", m.log)
		}
		var counted uint64
		for _, n := range m.cluster.Stats().Changes {
			counted += n
		}
		if counted != uint64(said) {
			t.Errorf("%d changes counted, want %d", counted, said)
		}
	})
}

func TestABreakerSaysThatItGivesUpAndThatSomebodyIsBack(t *testing.T) {
	inMesh(t, 2, nil, func(m *mesh) {
		requests := func(n int, r resilience.Result) {
			for range n {
				if permit, ok := m.cluster.Breaker().Allow(m.clock.Now()); ok {
					permit.Done(r, m.clock.Now())
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		requests(200, resilience.Refused)
		requests(20, resilience.Reached)
		var said []string
		for line := range strings.Lines(m.log.String()) {
			if _, what, found := strings.Cut(line, "msg="); found {
				said = append(said, strings.TrimSpace(what))
			}
		}
		want := []string{`"breaker open" cluster=api`, `"breaker closed" cluster=api`}
		if diff := cmp.Diff(want, said); diff != "" {
			t.Errorf("an outage of ten seconds (-want +got):\n%s", diff)
		}
	})
}

func TestSyncReturnsWhenRequestsFindWhatWasPosted(t *testing.T) {
	inMesh(t, 2, nil, func(m *mesh) {
		for range 50 {
			for _, s := range m.specs() {
				m.cluster.Update([]cluster.Spec{s})
				if err := m.cluster.Sync(m.t.Context()); err != nil {
					t.Fatalf("Sync = %v, want nil", err)
				}
				if e := m.cluster.Pick(m.clock.Now(), nil); e.ID != s.ID {
					t.Fatalf("Pick = %s, want %s, the only one", e.ID, s.ID)
				}
			}
		}
		m.stop()
		synctest.Wait()
		if err := m.cluster.Sync(m.t.Context()); !errors.Is(err, cluster.ErrStopped) {
			t.Errorf("Sync after the end = %v, want %v", err, cluster.ErrStopped)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		cfg := cluster.DefaultConfig()
		cfg.Name = "api"
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := cluster.New(cfg, cluster.Deps{Clock: clock.New()}).Sync(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Sync without a Run = %v, want %v", err, context.DeadlineExceeded)
		}
	})
}

func TestAskRunsWhileTheClusterDoesAndNotAfter(t *testing.T) {
	inMesh(t, 1, nil, func(m *mesh) {
		var n int
		if err := m.cluster.Ask(m.t.Context(), func(d *outlier.Detector, _ time.Duration) { n = len(d.View()) }); err != nil || n != 1 {
			t.Errorf("Ask = %v and saw %d members, want nil and 1", err, n)
		}
		m.stop()
		synctest.Wait()
		if err := m.cluster.Ask(m.t.Context(), func(*outlier.Detector, time.Duration) { t.Error("ran after Run had ended") }); !errors.Is(err, cluster.ErrStopped) {
			t.Errorf("Ask = %v, want %v", err, cluster.ErrStopped)
		}
		ctx, cancel := context.WithTimeout(m.t.Context(), time.Second)
		defer cancel()
		if p := m.cluster.Probe(ctx, "i-1", outlier.LevelConnect, time.Second); p.Result != outlier.NotRun {
			t.Errorf("Probe = %v, want %v", p.Result, outlier.NotRun)
		}
	})
}

func TestAClusterThatDoesNotRunYetHasNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := cluster.DefaultConfig()
		cfg.Name = "api"
		c := cluster.New(cfg, cluster.Deps{Clock: clock.New()})
		c.Update([]cluster.Spec{{ID: "a", Address: "10.0.0.1:80"}})
		c.Wake()
		c.Wake() // never blocks
		if e := c.Pick(0, nil); e != nil {
			t.Errorf("Pick = %v, want nil", e.ID)
		}
		if s := c.Snapshot(); s != nil {
			t.Errorf("Snapshot = %+v, want nil", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Ask(ctx, func(*outlier.Detector, time.Duration) {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Ask = %v, want %v", err, context.DeadlineExceeded)
		}
	})
}

func TestThePathOfARequestAllocatesNothing(t *testing.T) {
	inMesh(t, 5, nil, func(m *mesh) {
		var tried cluster.Tried
		now := m.clock.Now()
		e := m.cluster.Pick(now, nil)
		tried.Add(e)
		for name, fn := range map[string]func(){
			"pick":  func() { m.cluster.Pick(now, nil) },
			"retry": func() { m.cluster.Pick(now, &tried) },
			"wake":  m.cluster.Wake,
		} {
			if n := testing.AllocsPerRun(100, fn); n != 0 {
				t.Errorf("%s: %v allocations, want none", name, n)
			}
		}
	})
}

func TestTroubleOfThisMachineRaisesSelfDoubtAndBlamesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		self := outlier.NewSelf()
		cfg := cluster.DefaultConfig()
		cfg.Name = "api"
		m := &mesh{t: t, clock: clock.New()}
		m.cluster = cluster.New(cfg, cluster.Deps{Clock: m.clock, Self: self, Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
		}})
		m.cluster.Update([]cluster.Spec{{ID: "a", Address: "10.0.0.1:80"}, {ID: "b", Address: "10.0.0.2:80"}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.cluster.Run(ctx) }()
		synctest.Wait()
		for range 50 {
			e := m.cluster.Pick(m.clock.Now(), nil)
			a := e.Begin(m.clock.Now(), true)
			_, _, err := e.Get(t.Context(), m.clock.Now())
			connect, ok := errors.AsType[*upstream.ConnectError](err)
			if !ok || connect.Ending != outlier.EndOwnErrno {
				t.Fatalf("Get = %v, want an error of this machine", err)
			}
			a.End(outlier.Outcome{Class: outlier.ClassifyHTTP(outlier.HTTPResult{Ending: connect.Ending}), Now: m.clock.Now()})
			time.Sleep(100 * time.Millisecond)
		}
		if lhm := self.LHM(); lhm < 2 {
			t.Errorf("self-doubt %d after 5 s without descriptors, want at least 2", lhm)
		}
		for _, e := range m.cluster.Snapshot().Endpoints {
			if e.State != outlier.In || e.Counts.N != 0 {
				t.Errorf("%s is %v with %d attempts, want in with none", e.ID, e.State, e.Counts.N)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
}

func TestSettingsChangeWhileItRuns(t *testing.T) {
	inMesh(t, 2, nil, func(m *mesh) {
		m.cluster.SetTimeout(600 * time.Millisecond)
		cfg := m.cluster.Config()
		cfg.Name, cfg.Service = "other", "api.v2"
		m.cluster.SetConfig(cfg)
		time.Sleep(2 * time.Second)
		if d := m.cluster.Overdue(); d <= 0 || d > 300*time.Millisecond {
			t.Errorf("overdue after %v with routes of 600ms, want at most half of that", d)
		}
		if got := m.cluster.Config(); m.cluster.Name() != "api" || got.Name != "api" || got.Service != "api.v2" {
			t.Errorf("name %q, %q, service %q; want api, api, api.v2", m.cluster.Name(), got.Name, got.Service)
		}
	})
}

func TestConfigurationNamesWhatIsWrong(t *testing.T) {
	var fields []string
	cfg := cluster.DefaultConfig()
	cfg.Protocol, cfg.ConnectTimeout, cfg.IdleTimeout, cfg.MaxIdle, cfg.MaxConns, cfg.ProxyProtocol = 9, 0, -1, -1, -1, 3
	for _, err := range cfg.Validate().(interface{ Unwrap() []error }).Unwrap() {
		fields = append(fields, err.(interface{ Field() string }).Field())
	}
	want := []string{"name", "protocol", "proxy_protocol", "proxy_protocol", "connect_timeout", "idle_timeout", "max_idle", "max_connections"}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	for _, s := range []cluster.Spec{{Address: "10.0.0.1:80"}, {ID: "a"}, {ID: "a", Address: "10.0.0.1"}, {ID: "a", Address: "10.0.0.1:"}} {
		if s.Validate() == nil {
			t.Errorf("%+v is valid", s)
		}
	}
	if err := (cluster.Spec{ID: "a", Address: "[::1]:80"}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestAClusterAtRestIsWokenByTheAttemptThatBegins(t *testing.T) {
	inMesh(t, 5, func(c *cluster.Config) { c.Ping.Kind = ping.Off }, func(m *mesh) {
		a, b := m.endpoint(0), m.endpoint(1)
		stop := m.traffic(100)
		time.Sleep(5 * time.Second)
		stop()
		limit := m.cluster.Overdue() + 200*time.Millisecond
		rest := func() { // begins now
			time.Sleep(time.Minute)
			m.cluster.Wake()
			time.Sleep(10 * time.Millisecond)
		}
		rest()
		hung := a.Stats.Start(m.clock.Now(), true) // as nobody begins one, without a word
		time.Sleep(limit)
		if s := m.status(0).State; s != outlier.In {
			t.Errorf("%v, %v after an attempt began of which the cluster was not told: it does not rest", s, limit)
		}
		a.Stats.End(&hung, outlier.Outcome{Class: outlier.Censored, Now: m.clock.Now()})

		rest()
		told := b.Begin(m.clock.Now(), true)
		time.Sleep(limit)
		if s := m.status(1).State; s != outlier.Suspended {
			t.Errorf("%v, %v after an attempt began that hangs, want it suspended", s, limit)
		}
		told.End(outlier.Outcome{Class: outlier.Censored, Now: m.clock.Now()})
	})
}
