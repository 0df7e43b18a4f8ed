package merge

import (
	"fmt"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// refused has a reporter tell that e0 refuses its connections.
func (b *bench) refused(reporter string, now time.Duration) {
	b.tb.Helper()
	at := [2]string{reporter, "e0"}
	counts := b.n[at]
	counts.N++
	counts.Conn++
	b.n[at] = counts
	b.seq[reporter]++
	cell := Cell{Key: Key{"api", "e0"}, Counts: counts, LastOK: never, LastOKStart: never, LastHard: now, LastHardStart: now, Witness: outlier.LevelConnect}
	if got := b.Apply(Report{Reporter: reporter, Seq: b.seq[reporter], At: now, Received: now, Cells: []Cell{cell}}, now); len(got.Refused) > 0 {
		b.tb.Fatalf("%s at %v: %v", reporter, now, got.Refused)
	}
}

func TestOthersAreAskedWhenAllWhoWereHaveLeft(t *testing.T) {
	for _, test := range []struct {
		name string
		gone func(b *bench, id string, now time.Duration)
	}{
		{"they left", func(b *bench, id string, now time.Duration) { b.Leave(id, now) }},
		{"they left and came back", func(b *bench, id string, now time.Duration) {
			b.Leave(id, now)
			if err := b.Join(Reporter{ID: id, Node: "again-" + id}, []string{"api"}, now); err != nil {
				t.Fatal(err)
			}
		}},
		{"they began anew", func(b *bench, id string, now time.Duration) {
			if err := b.Join(Reporter{ID: id, Node: "again-" + id, Incarnation: 7}, []string{"api"}, now); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		b := newBench(t, DefaultPolicy(), 8, 5)
		now := 20 * time.Second
		for i := range 8 {
			b.report(fmt.Sprint("r", i), "e0", good(1), now)
		}
		b.Step(now)
		now += 500 * ms
		b.refused("r0", now)
		asked := b.Step(now).Orders
		if len(asked) == 0 {
			t.Fatalf("%s: nobody was asked", test.name)
		}
		now += 5 * ms
		for _, o := range asked {
			test.gone(b, o.Reporter, now)
		}
		if again := b.Step(now).Orders; len(again) == 0 {
			t.Errorf("%s: nobody else is asked", test.name)
		}
	}
}

func TestWhoComesAndGoesIsNotAskedWithoutEnd(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 2, 5)
	now, orders := 20*time.Second, 0
	for i := range 400 {
		now += 5 * ms
		b.refused("r0", now)
		orders += len(b.Step(now).Orders)
		if i%2 == 0 {
			b.Leave("r1", now)
		} else if err := b.Join(Reporter{ID: "r1", Node: "n1", Incarnation: uint64(i)}, []string{"api"}, now); err != nil {
			t.Fatal(err)
		}
	}
	if orders < 2 || orders > 6 {
		t.Errorf("%d probes were ordered in two seconds, want some, and two a second at most and those of the beginning", orders)
	}
}

// The round that a contradiction makes one of a zone may begin a second after the last: a
// Step that comes a little late, or a complaint, does not lose it.
func TestTheRoundAboutAZoneWaitsForItsTurn(t *testing.T) {
	for _, late := range []time.Duration{0, 10 * ms, 300 * ms} {
		b := newBench(t, DefaultPolicy(), 8, 8, "east", "west")
		s := &b.endpoints[Key{"api", "e0"}].susp
		now := 20 * time.Second
		for i := range 8 {
			b.report(fmt.Sprint("r", i), "e0", good(1), now)
		}
		b.Step(now)
		for round, want := range []string{"", "west"} {
			b.refused("r1", now+ms)
			orders := b.Step(now + ms).Orders
			if len(orders) == 0 || s.zone != want {
				t.Fatalf("%v late, round %d: %d were asked, about zone %q, want some, about %q", late, round, len(orders), s.zone, want)
			}
			for _, o := range orders {
				result := outlier.ProbeOK
				if b.reporters[o.Reporter].Zone == "west" {
					result = outlier.Refused
				}
				b.Probed(o.ID, o.Reporter, outlier.LevelConnect, result, now+2*ms, now+3*ms, now+4*ms)
			}
			b.Step(now + 4*ms)
			now += time.Second + late
		}
	}
}
