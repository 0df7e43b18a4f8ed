package mesh_test

import (
	"flag"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/test/sim/mesh"
	"github.com/overhear-mesh/overhear/test/sim/scenarios"
	"github.com/overhear-mesh/overhear/test/sim/world"
)

var (
	played    = flag.String("scenario", "", "scenarios of the fast simulator to play with whole meshes, by name; comma-separated, with * and ?")
	firstSeed = flag.Uint64("first-seed", 1, "of -scenario")
	seedCount = flag.Int("seeds", 5, "runs of each -scenario")
)

// TestScenarios is the simulator's second mode: see -whole in go run ./test/sim -help.
func TestScenarios(t *testing.T) {
	if *played == "" {
		t.Skip("no -scenario")
	}
	table := mesh.NewTable("Whole meshes: median over the seeds, and the largest", "scenario", "runs", "found", "off s", "most", "harm", "most", "failed", "false fleet", "false outs", "goodput")
	for _, s := range variants(t, *played) {
		if err := mesh.Playable(&s); err != nil {
			t.Logf("%s is left to the fast simulator: %v", s.Name, err)
			continue
		}
		runs := playMesh(t, s, *firstSeed, *seedCount)
		off, harm := column(runs, "off"), column(runs, "harm")
		table.Row(s.Name, len(runs), mean(column(runs, "found")), mesh.Median(off), mesh.Quantile(off, 1), mesh.Median(harm), mesh.Quantile(harm, 1),
			mean(column(runs, "failed")), mean(column(runs, "false-fleet")), mean(column(runs, "false-outs")), mean(column(runs, "goodput")))
	}
	table.Print(t)
}

// The fast simulator shares the product's rules and models what is around them. Where
// the two modes tell the same story, the model leaves out nothing that matters to it.
func TestTheFastSimulatorAndWholeMeshesTellTheSameStory(t *testing.T) {
	if raced {
		t.Skip("the story is about figures, and a mesh under the race detector is slow")
	}
	table := mesh.NewTable("The same scenario in both modes", "scenario", "off after, fast", "off after, whole", "harm, fast", "harm, whole")
	for _, c := range []struct {
		text string
		// slack is by how much the medians of time may differ, beside a factor of two.
		slack time.Duration
		harm  float64 // the same for harm
	}{
		{"at 0s endpoint 2: crash", 60 * time.Millisecond, 6},
		{"inbound yes\nat 0s endpoint 2: crash", 60 * time.Millisecond, 6},
		{"at 0s endpoint 2: hang", 150 * time.Millisecond, 30},
		{"at 0s endpoint 2: errors 50%", 250 * time.Millisecond, 15},
		{"control no\ncallers 1\nat 0s endpoint 2: crash", 60 * time.Millisecond, 6},
	} {
		s, err := world.Parse("both", "callers 5\nendpoints 6\nrate 50\nbase 1%\nsigma 0\nwarmup 10s\nlength 3s\n"+c.text)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.ReplaceAll(c.text, "\n", ", ")
		var fast, whole []map[string]float64
		for seed := range uint64(15) {
			fast = append(fast, world.New(s, world.Overhear("overhear", world.Options{}), seed+1).Run().Figures())
		}
		t.Run(name, func(t *testing.T) { whole = playMesh(t, s, 1, 5) })
		if len(whole) == 0 {
			continue // another part was asked for
		}
		for _, runs := range [][]map[string]float64{fast, whole} {
			if found := mean(column(runs, "found")); found != 1 {
				t.Errorf("%s: found in %v of the runs", name, found)
			}
		}
		a, b := mesh.Median(column(fast, "off-fault")), mesh.Median(column(whole, "off-fault"))
		if low, high := min(a, b), max(a, b); high > 2*low+c.slack.Seconds() {
			t.Errorf("%s: off after %.3f s in the fast simulator, %.3f s in a whole mesh (medians)", name, a, b)
		}
		x, y := mesh.Median(column(fast, "harm")), mesh.Median(column(whole, "harm"))
		if low, high := min(x, y), max(x, y); high > 2*low+c.harm {
			t.Errorf("%s: harm %.1f in the fast simulator, %.1f in a whole mesh (medians)", name, x, y)
		}
		table.Row(name, a, b, x, y)
	}
	table.Print(t)
}

// playMesh runs a scenario once for each seed.
func playMesh(t *testing.T, s world.Scenario, first uint64, n int) []map[string]float64 {
	t.Helper()
	var mu sync.Mutex
	var runs []map[string]float64
	t.Run(s.Name, func(t *testing.T) {
		for i := range n {
			seed := first + uint64(i)
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					f := mesh.Play(t, &s, seed)
					mu.Lock()
					defer mu.Unlock()
					runs = append(runs, f)
				})
			})
		}
	})
	return runs
}

// variants are the scenarios whose names match one of the patterns.
func variants(t *testing.T, patterns string) []world.Scenario {
	t.Helper()
	names, err := fs.Glob(scenarios.Files, "*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []world.Scenario
	for _, file := range names {
		name := strings.TrimSuffix(file, ".txt")
		if !slices.ContainsFunc(strings.Split(patterns, ","), func(p string) bool { ok, _ := path.Match(p, name); return ok }) {
			continue
		}
		text, err := fs.ReadFile(scenarios.Files, file)
		if err != nil {
			t.Fatal(err)
		}
		some, err := world.Variants(name, string(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, some...)
	}
	if len(all) == 0 {
		t.Fatalf("no scenario is called %q", patterns)
	}
	return all
}

// column is one figure of each run that has it.
func column(runs []map[string]float64, name string) []float64 {
	var all []float64
	for _, r := range runs {
		if v, ok := r[name]; ok {
			all = append(all, v)
		}
	}
	return all
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(max(1, len(values)))
}
