package mesh_test

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/sim/mesh"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/replay"
)

// recorded are the files that the callers of a mesh have written.
func recorded(t *testing.T, dir string) []replay.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recordings in %s: %v", dir, err)
	}
	var files []replay.File
	for _, path := range paths {
		files = append(files, replay.File{Name: path, Open: func() (io.ReadCloser, error) { return os.Open(path) }})
	}
	return files
}

// meshFile is what a mesh file would say of a mesh.
func meshFile(m *mesh.Mesh, inbound bool) *registry.Mesh {
	s := registry.NewService(mesh.Service)
	for _, e := range m.Endpoints {
		s.Endpoints = append(s.Endpoints, registry.Endpoint{
			Address: netip.MustParseAddrPort(e.Address), Instance: e.Instance, Zone: e.Zone, Node: "host-of-" + e.Instance, Weight: 1, Inbound: inbound,
		})
	}
	return &registry.Mesh{Services: []registry.Service{s}}
}

// explained checks that the way to a verdict of the statistic on endpoint 2 can be seen.
func explained(t *testing.T, m *mesh.Mesh) {
	t.Helper()
	why := m.Why(2)
	if why.Explain.Rule == outlier.RuleHard.String() {
		return
	}
	if len(why.Scores) == 0 || why.Scores[0].Verdict.IsZero() {
		t.Errorf("scores %+v, want those up to the verdict", why.Scores)
		return
	}
	points := why.Scores[0].Points
	first, last := points[0], points[len(points)-1]
	if last.At != why.Scores[0].Verdict || last.T < last.Threshold || first.T >= first.Threshold || len(points) > 60 {
		t.Errorf("%d points from %+v to %+v, want up to 60 from below the threshold to over it at the verdict", len(points), first, last)
	}
}

// nearly is how far a replay of certain failures may be from what was: what the last
// poll before the verdict brought, or did not, is a report or two, of which a sidecar
// sends one in 100 ms.
const nearly = 300 * time.Millisecond

// What real sidecars record of real faults, replayed under the same policy, leads to
// the verdicts that the live control plane gave, at the same time.
//
// Of verdicts of the statistic little is left to chance: they rest on counts, which are
// recorded, those that were told in answer to a poll included. Where every request fails
// nothing is: only the network's delay is missing, so that they come a few milliseconds
// early. Where the score climbs in small steps, a poll that is answered out of the
// reports around it may have it over the threshold one failure sooner or later, which
// may be another rule's; that of the few and steady failures stays the same.
//
// A crash hangs on who is asked to probe, and dice decide that. The replay throws others:
// of who is asked there nothing may be recorded but his traffic, if he has some at the
// time, so that it may take longer, and the count of failures may be what decides. What
// the sidecar before the application says of it first-hand, and that all callers run
// into at once, is recorded whoever was asked.
func TestAReplayDecidesAsTheLiveControlPlaneDid(t *testing.T) {
	for _, tc := range []struct {
		name    string
		fault   fakeupstream.Fault
		rate    float64
		base    float64
		inbound bool
		near    time.Duration // how far apart in time the two may be
		chance  bool          // the rule may differ
		seeds   uint64
	}{
		{"a crash", fakeupstream.Crash(), 50, 0, false, 200 * time.Millisecond, true, 2},
		{"a crash at 1 % base errors", fakeupstream.Crash(), 50, 0.01, false, 200 * time.Millisecond, true, 2},
		{"a crash behind a sidecar", fakeupstream.Crash(), 50, 0.01, true, 100 * time.Millisecond, false, 2},
		{"nothing but errors", fakeupstream.Errors(1), 50, 0, false, nearly, false, 1},
		{"nothing but errors behind a sidecar", fakeupstream.Errors(1), 50, 0.01, true, nearly, false, 1},
		{"half errors at 1 % base errors", fakeupstream.Errors(0.5), 50, 0.01, false, time.Second, true, 1},
		{"8 % errors", fakeupstream.Errors(0.08), 150, 0, false, time.Second, false, 1},
	} {
		for seed := range tc.seeds {
			t.Run(fmt.Sprintf("%s, seed %d", tc.name, seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					dir := t.TempDir()
					m := mesh.Start(t, mesh.Config{
						Callers: 6, Endpoints: 6, Zones: 2, Rate: tc.rate, BaseErrors: tc.base, Seed: seed + 1, Inbound: tc.inbound,
						Sidecar: func(i int, c *config.Config) { c.Record.Path = filepath.Join(dir, fmt.Sprintf("caller-%d", i)) },
						Inside:  func(i int, c *config.Config) { c.Record.Path = filepath.Join(dir, fmt.Sprintf("inside-%d", i)) },
					})
					m.Wait(12 * time.Second)
					must(t, m.Endpoints[2].Set(tc.fault))
					m.Wait(10 * time.Second)
					explained(t, m)
					must(t, m.Endpoints[2].Heal())
					m.Wait(40 * time.Second)
					live := m.Verdicts(func(v mesh.Verdict) bool { return v.Out() })
					start := time.Now().Add(-m.Now())
					for i := range m.Callers {
						m.StopCaller(i)
					}
					recordings, err := replay.Scan(recorded(t, dir))
					if err != nil {
						t.Fatal(err)
					}
					// Another seed than the live one: others are asked.
					got, err := recordings.Replay(replay.Policy{Mesh: meshFile(m, tc.inbound), Merge: merge.DefaultConfig(), Seed: 99})
					if err != nil {
						t.Fatal(err)
					}
					// A sidecar may have taken out another by itself, at base errors.
					out := slices.DeleteFunc(got.Endpoints, func(e replay.Endpoint) bool { return len(e.Would)+len(e.Held) == 0 })
					if len(live) == 0 || len(out) != 1 || len(out[0].Would) == 0 || len(out[0].Held) == 0 {
						t.Fatalf("live verdicts %+v, replayed %+v; want one endpoint that was and would have been out", live, got.Endpoints)
					}
					e := out[0]
					would, held, first := e.Would[0], e.Held[0], live[0]
					if e.Key.Instance != m.Endpoints[first.Endpoint].Instance || would.Scope.String() != first.Scope {
						t.Errorf("would have taken out %s for %s, want %+v", e.Key, would.Scope, first)
					}
					if d := would.From.Sub(start) - first.At; d.Abs() > tc.near || !tc.chance && would.Rule.String() != first.Rule {
						t.Errorf("would have taken it out %v after the live verdict by rule %s, want within %v by rule %s", d, would.Rule, tc.near, first.Rule)
					}
					if d := held.From.Sub(start) - first.At; d < -time.Millisecond || d > 20*time.Millisecond || held.Rule.String() != first.Rule {
						t.Errorf("the record has the live verdict %v late, by rule %s; want %s within 20ms", d, held.Rule, first.Rule)
					}
					if last := e.Would[len(e.Would)-1]; last.To.IsZero() {
						t.Errorf("it would still be out 40s after the fault: %+v", e.Would)
					}
					if len(got.Unknown) != 0 || len(got.Problems) != 0 || len(got.Refused) != 0 {
						t.Errorf("unknown %v, problems %v, refused %v; want none", got.Unknown, got.Problems, got.Refused)
					}
				})
			})
		}
	}
}
