package mesh_test

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
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
func meshFile(m *mesh.Mesh) *registry.Mesh {
	s := registry.NewService(mesh.Service)
	for _, e := range m.Endpoints {
		s.Endpoints = append(s.Endpoints, registry.Endpoint{
			Address: netip.MustParseAddrPort(e.Address), Instance: e.Instance, Zone: e.Zone, Node: "host-of-" + e.Instance, Weight: 1,
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

// What real sidecars record of real faults, replayed under the same policy, leads to
// the verdicts that the live control plane gave, at about the same time.
func TestAReplayDecidesAsTheLiveControlPlaneDid(t *testing.T) {
	const near = 200 * time.Millisecond // how far apart in time the two may be
	for _, tc := range []struct {
		name  string
		fault fakeupstream.Fault
		rate  float64
		base  float64
	}{
		{"a crash", fakeupstream.Crash(), 50, 0},
		{"a crash at 1 % base errors", fakeupstream.Crash(), 50, 0.01},
		// The rule may differ: a replay asks others, of whom nothing was recorded, so that
		// the count of failures may be what decides. Statistical verdicts, which hang on
		// what polls brought in, are replayed from fixed recordings in xds/replay.
	} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s, seed %d", tc.name, seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					dir := t.TempDir()
					m := mesh.Start(t, mesh.Config{
						Callers: 6, Endpoints: 6, Zones: 2, Rate: tc.rate, BaseErrors: tc.base, Seed: seed + 1,
						Sidecar: func(i int, c *config.Config) { c.Record.Path = filepath.Join(dir, fmt.Sprintf("caller-%d", i)) },
					})
					m.Wait(12 * time.Second)
					must(t, m.Endpoints[2].Set(tc.fault))
					m.Wait(8 * time.Second)
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
					got, err := recordings.Replay(replay.Policy{Mesh: meshFile(m), Merge: merge.DefaultConfig(), Seed: 99})
					if err != nil {
						t.Fatal(err)
					}
					if len(live) == 0 || len(got.Endpoints) != 1 || len(got.Endpoints[0].Would) == 0 || len(got.Endpoints[0].Held) == 0 {
						t.Fatalf("live verdicts %+v, replayed %+v; want one endpoint that was and would have been out", live, got.Endpoints)
					}
					e := got.Endpoints[0]
					would, held, first := e.Would[0], e.Held[0], live[0]
					if e.Key.Instance != m.Endpoints[first.Endpoint].Instance || would.Scope.String() != first.Scope {
						t.Errorf("would have taken out %s for %s, want %+v", e.Key, would.Scope, first)
					}
					if d := would.From.Sub(start) - first.At; d.Abs() > near {
						t.Errorf("would have taken it out %v after the live verdict, want within %v", d, near)
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
