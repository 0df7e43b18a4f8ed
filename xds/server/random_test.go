package server_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

// robot is a client that behaves as a real one does: it applies what comes and
// acknowledges it after a while, and changes its mind about what it wants at any
// moment.
type robot struct {
	c    *stream
	zone string
	rng  *rand.Rand

	mu    sync.Mutex // guards the rest, and sending
	wants map[string]bool
	holds map[string]map[string]*anypb.Any // by type, by name

	// elsewhere: it has its clusters from another control plane. Those that were made anew
	// wait for endpoints.
	elsewhere bool
	waits     map[string]bool
}

// run takes what comes until the test ends.
func (r *robot) run() {
	for a := range r.c.got {
		time.Sleep(time.Duration(r.rng.IntN(3000)) * time.Microsecond)
		r.mu.Lock()
		if r.rng.IntN(10) == 0 {
			// Refused as a whole, but what it brought is taken all the same: so does an
			// Envoy with the resources of a response that are good.
			r.take(a)
			r.c.nack(a, "no")
		} else {
			r.take(a)
			r.c.ack(a)
		}
		r.mu.Unlock()
	}
}

func (r *robot) take(a answer) {
	held := r.holds[a.url]
	if held == nil || !r.c.delta && a.url == cds {
		held = map[string]*anypb.Any{}
		r.holds[a.url] = held
	}
	maps.Copy(held, a.resources)
	for _, name := range a.removed {
		delete(held, name)
	}
	for name := range a.resources {
		delete(r.waits, name)
	}
}

// change subscribes to the name, or ends that, or asks for it once more.
func (r *robot) change(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.elsewhere {
		r.waits[name] = true
		r.c.askAgain(eds)
		return
	}
	if !r.wants[name] {
		r.wants[name] = true
		r.c.subscribe(eds, name)
		return
	}
	if len(r.wants) == 1 && !r.c.delta {
		return // a request without names could be taken for a wildcard
	}
	// What it holds it keeps for a while: it may want it again before the server has
	// heard that it did not.
	delete(r.wants, name)
	r.c.unsubscribe(eds, name)
}

// Whatever the order in which things happen, at the end everybody holds what there
// is: the server is compared with a map.
func TestInTheEndEverybodyHoldsWhatThereIs(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "w"}
	zones := []string{"", "z1", "z2"}
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, h *harness) {
				rng := rand.New(rand.NewPCG(seed, 1))
				h.Ready()
				var robots []*robot
				var running sync.WaitGroup
				for i := range 15 {
					v := resource.View{Kind: resource.Envoy, Zone: zones[i%len(zones)]}
					r := &robot{
						c: h.open(node(fmt.Sprint("n", i), v), i%2 == 0 && i < 12), zone: v.Zone, rng: rand.New(rand.NewPCG(seed, uint64(i))),
						wants: map[string]bool{}, holds: map[string]map[string]*anypb.Any{}, elsewhere: i >= 12, waits: map[string]bool{},
					}
					r.c.free = true
					if r.elsewhere {
						r.c.subscribe(eds, names...)
						for _, name := range names {
							r.wants[name] = true
						}
					} else {
						r.c.subscribe(cds)
					}
					running.Go(r.run)
					robots = append(robots, r)
				}
				truth := map[resource.View]map[string]server.Change{}
				for range 300 {
					var batch []server.Change
					for range 1 + rng.IntN(3) {
						name, generation := names[rng.IntN(len(names))], 1+rng.IntN(3)
						c := assignment(name, generation)
						if rng.IntN(4) == 0 {
							c = cluster(name, generation)
						} else if zone := zones[rng.IntN(len(zones))]; zone != "" {
							c.View.Zone = zone
						}
						if rng.IntN(4) == 0 {
							c.Message = nil
						}
						batch = append(batch, c)
						if truth[c.View] == nil {
							truth[c.View] = map[string]server.Change{}
						}
						truth[c.View][c.TypeURL+c.Name] = c
					}
					if err := h.Apply(batch...); err != nil {
						t.Fatal(err)
					}
					if rng.IntN(2) == 0 {
						robots[rng.IntN(len(robots))].change(names[rng.IntN(len(names))])
					}
					if rng.IntN(3) == 0 {
						time.Sleep(time.Duration(rng.IntN(4000)) * time.Microsecond)
					}
				}
				time.Sleep(time.Second)
				synctest.Wait()

				for i, r := range robots {
					want := map[string]string{}
					for _, name := range names {
						own, ok := truth[resource.View{Kind: resource.Envoy, Zone: r.zone}][eds+name]
						if !ok || own.Message == nil {
							own = truth[envoyView][eds+name]
						}
						switch {
						case r.wants[name] && own.Message != nil:
							want["endpoints "+name] = packed(t, own)
						case r.wants[name] && !r.c.delta:
							// State of the world cannot say that it is gone.
							delete(r.holds[eds], name)
							delete(r.waits, name)
						}
						if c := truth[envoyView][cds+name]; c.Message != nil && !r.elsewhere {
							want["cluster "+name] = packed(t, c)
						}
					}
					got := map[string]string{}
					for name, m := range r.holds[eds] {
						if r.wants[name] {
							got["endpoints "+name] = string(m.GetValue())
						}
					}
					for name, m := range r.holds[cds] {
						got["cluster "+name] = string(m.GetValue())
					}
					if !maps.Equal(want, got) {
						t.Errorf("robot %d (delta %t, zone %q) holds %q, want %q", i, r.c.delta, r.zone, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
					}
					if len(r.waits) > 0 {
						t.Errorf("robot %d waits for %q, want nothing", i, slices.Sorted(maps.Keys(r.waits)))
					}
				}
				for _, r := range robots {
					r.c.close()
					close(r.c.got)
				}
				running.Wait()
			})
		})
	}
}

func packed(t *testing.T, c server.Change) string {
	t.Helper()
	a, err := anypb.New(c.Message)
	if err != nil {
		t.Fatal(err)
	}
	return string(a.GetValue())
}
