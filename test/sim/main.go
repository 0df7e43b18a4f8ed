// Command sim puts Overhear's real detector, evidence table, picker and retry rules,
// and models of other products' rules, through scenarios in virtual time.
//
//	go run ./test/sim                                overhear through every scenario, against what is wanted
//	go run ./test/sim -scenario 'crash*' -products all
//	go run ./test/sim -soak 10000 -seeds 1001        how often what is well is taken out
//	go run ./test/sim -svg /tmp/plots                plots
//	go run ./test/sim -whole -scenario crash         whole real sidecars and control plane instead
//	go run ./test/sim -mesh .                        the figures that are asserted of those
//	go run ./test/sim -help
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/internal/cmdline"
	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/test/sim/rival"
	"github.com/overhear-mesh/overhear/test/sim/scenarios"
	"github.com/overhear-mesh/overhear/test/sim/world"
)

// heldOut is the first seed of those on which nothing was ever tuned.
const heldOut = 1001

const intro = `sim runs meshes in virtual time: users, a network, endpoints with faults, and a product
between them. Overhear is simulated with its real rules: outlier.Detector, merge.Table,
tiers.Picker over balancer.Set, the retry rules, and what decides when its sidecars
report (cadence) and ping (vigil). The others are models of their documented rules, each
with round robin (rr) and the power of two choices (p2c).

The second mode models nothing but the network, the backends and the users: whole real
sidecars and the real control plane run on an in-memory network. -whole plays the
scenarios so, a thousand times more slowly; -mesh runs the tests that assert figures of
that mode, of which one holds both modes to the same story. Go's virtual clock,
testing/synctest, exists only within a test, so both run "go test" on the package
test/sim/mesh.

Seeds 1 to 1000 are for tuning; seeds from 1001 on are held out: rules are frozen before
they are looked at. -seeds tuning is 1-20, -seeds held-out is 1001-1020, and every report
says on which set it rests. What was never seen is given with its exact upper 95 %
Poisson bound: none in X endpoint-hours means less than 3 in X.

Overhear and the models differ in detection and picking alone: users, network, endpoints
and retry rules are the same. -list names the document that each model follows.

`

func main() {
	// Worlds are small and make much short-lived garbage: collect it less often.
	debug.SetGCPercent(400)
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

type options struct {
	scenario, file, products, seeds, svg, set string
	mesh                                      string
	json, smoke, list, sweep, story           bool
	long, whole                               bool
	soak                                      float64
	soakRates, soakBases                      string
}

func run(args []string, out, errs io.Writer) error {
	var o options
	f := flag.NewFlagSet("sim", flag.ContinueOnError)
	f.SetOutput(errs)
	f.StringVar(&o.scenario, "scenario", "*", "scenarios to run, by name; comma-separated, with * and ?")
	f.StringVar(&o.file, "file", "", "a scenario file of your own instead")
	f.StringVar(&o.set, "set", "", "settings that replace the scenario's, such as 'callers 20,rate 5'")
	f.StringVar(&o.products, "products", "overhear", "products, comma-separated; 'all', or a prefix such as envoy")
	f.StringVar(&o.seeds, "seeds", "1-20", "seeds: tuning, held-out, or such as 1-20 or 1001-1100; one number N means 20 from N on")
	f.BoolVar(&o.json, "json", false, "print JSON instead of tables")
	f.StringVar(&o.svg, "svg", "", "folder for plots: per scenario, over the number of sidecars, and the sweep")
	f.BoolVar(&o.smoke, "smoke", false, "a few scenarios, few seeds: shows that everything runs")
	f.BoolVar(&o.sweep, "sweep", false, "false ejections against speed, while each product's threshold is swept")
	f.BoolVar(&o.story, "story", false, "tell what overhear decided in the first scenario with the first seed, line by line")
	f.StringVar(&o.mesh, "mesh", "", "run those tests of whole real meshes whose names match, such as Crash; '.' is all of them (about a minute)")
	f.BoolVar(&o.whole, "whole", false, "play the scenarios of -scenario with whole real meshes, as far as those can, with -seeds")
	f.BoolVar(&o.long, "long", false, "with -mesh: five times as many runs of each scenario")
	f.Float64Var(&o.soak, "soak", 0, "endpoint-hours in health, for each base rate, instead of scenarios")
	f.StringVar(&o.soakBases, "soak-bases", "0%,0.1%,1%,3%,5%", "base error rates of -soak")
	f.StringVar(&o.soakRates, "soak-rates", "1", "attempts per second and pair of -soak")
	f.BoolVar(&o.list, "list", false, "list scenarios and products")
	f.Usage = func() {
		fmt.Fprint(errs, intro, "Flags:\n\n")
		f.PrintDefaults()
		fmt.Fprint(errs, "\nFigures, over the seeds of a scenario:\n\n", world.MeasureHelp(), "\n", world.Language)
	}
	if err := cmdline.Parse(f, args, errs); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("what is %q? see -help", f.Arg(0))
	}
	if err := o.check(f); err != nil {
		return err
	}
	if o.smoke {
		o.scenario, o.products, o.seeds = "crash-unsafe,errors-50,hang-impatient,zone-three", "overhear,envoy-eager,none", "1-2"
	}
	products, err := pickProducts(o.products)
	if err != nil {
		return err
	}
	seeds, err := parseSeeds(o.seeds)
	if err != nil {
		return err
	}
	switch {
	case o.list:
		return list(out)
	case o.whole:
		return whole(o, seeds, out, errs)
	case o.mesh != "":
		return meshes(o, out, errs)
	case o.soak > 0:
		return soak(o, products, seeds, out)
	case o.sweep:
		return sweep(o, seeds, out)
	}
	scenarios, err := pickScenarios(o)
	if err != nil {
		return err
	}
	if o.story {
		tell(scenarios[0], seeds[0], out)
		return nil
	}
	began := time.Now()
	runs := simulate(scenarios, products, seeds)
	took := time.Since(began)
	if o.svg != "" {
		if err := plots(o.svg, runs, o.seeds+" ("+setName(seeds)+")"); err != nil {
			return err
		}
	}
	if o.json {
		return cmp.Or(encode(out, map[string]any{"seeds": o.seeds, "set": setName(seeds), "runs": runs}), missed(runs))
	}
	tables(out, runs)
	bounds(out, runs, setName(seeds))
	attempts, speed := elapsed(runs, took)
	fmt.Fprintf(out, "\n%d runs on seeds %s (%s); %.3g attempts in %.1f s: %.2g a second and core\n", len(runs)*len(seeds), o.seeds, setName(seeds), float64(attempts), took.Seconds(), speed)
	return missed(runs)
}

// check refuses what would be left out silently.
func (o *options) check(f *flag.FlagSet) error {
	given := map[string]bool{}
	f.Visit(func(g *flag.Flag) { given[g.Name] = true })
	mode := ""
	for _, m := range []string{"list", "whole", "mesh", "soak", "sweep", "story", "smoke"} {
		switch {
		case !given[m]:
		case mode != "":
			return fmt.Errorf("-%s and -%s: want one of them", mode, m)
		default:
			mode = m
		}
	}
	ignored := map[string][]string{
		"list":  {"json", "svg"},
		"whole": {"json", "svg", "products", "set", "file"},
		"mesh":  {"json", "svg", "products", "set", "scenario", "file", "seeds"},
		"story": {"json", "svg", "products"},
		"soak":  {"svg", "scenario", "file"},
		"sweep": {"scenario", "file", "products", "set"},
		"smoke": {"scenario", "file", "products", "seeds"},
		"":      {"long", "soak-bases", "soak-rates"},
	}
	for _, name := range ignored[mode] {
		switch {
		case given[name] && mode == "":
			return fmt.Errorf("-%s: for -mesh or -soak only", name)
		case given[name]:
			return fmt.Errorf("-%s: there is none with -%s", name, mode)
		}
	}
	switch {
	case given["file"] && given["scenario"]:
		return errors.New("-file and -scenario: want one of them")
	case given["soak"] && !(o.soak > 0):
		return fmt.Errorf("-soak: want endpoint-hours above 0, have %v", o.soak)
	}
	return nil
}

func encode(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// setName says whether seeds are those that rules were tuned on.
func setName(seeds []uint64) string {
	tuning := slices.ContainsFunc(seeds, func(s uint64) bool { return s < heldOut })
	held := slices.ContainsFunc(seeds, func(s uint64) bool { return s >= heldOut })
	switch {
	case tuning && held:
		return "tuning and held-out seeds mixed"
	case held:
		return "held-out seeds"
	}
	return "tuning seeds"
}

func pickScenarios(o options) ([]world.Scenario, error) {
	set, err := settings(o.set)
	if err != nil {
		return nil, err
	}
	files, patterns := scenarioFiles(o)
	if files == nil {
		text, err := os.ReadFile(o.file)
		if err != nil {
			return nil, err
		}
		return world.Variants(strings.TrimSuffix(filepath.Base(o.file), ".txt"), string(text), set...)
	}
	list, err := variants(files, patterns, set)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no scenario is called %q%s", o.scenario, meant(o.scenario, scenarioNames(files)))
	}
	return list, nil
}

// meant says which name was probably meant, else where they are listed.
func meant(name string, known []string) string {
	return cmp.Or(strictyaml.DidYouMean(name, known), "; see -list")
}

func scenarioNames(files fs.FS) []string {
	names, _ := fs.Glob(files, "*.txt") // a pattern that is right
	for i := range names {
		names[i] = strings.TrimSuffix(names[i], ".txt")
	}
	return names
}

// settings are the lines of -set.
func settings(text string) ([]string, error) {
	var lines []string
	for line := range strings.SplitSeq(text, ",") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		key, value, _ := strings.Cut(line, " ")
		tried := world.Default()
		if err := tried.Set(key, strings.TrimSpace(value)); err != nil {
			return nil, fmt.Errorf("-set: %w", err)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

func pickProducts(text string) ([]world.Maker, error) {
	all := append([]world.Maker{world.Overhear("overhear", world.Options{}), world.Overhear("overhear-alone", world.Options{Alone: true})}, rival.All()...)
	if text == "all" {
		return all, nil
	}
	var some []world.Maker
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		n := len(some)
		for _, p := range all {
			if p.Name == name {
				some = append(some[:n], p)
				break
			}
			if strings.HasPrefix(p.Name, name+" ") {
				some = append(some, p)
			}
		}
		if len(some) == n {
			var names []string
			for _, p := range all {
				names = append(names, p.Name)
			}
			return nil, fmt.Errorf("no product is called %q%s", name, meant(name, names))
		}
	}
	return some, nil
}

func parseSeeds(text string) ([]uint64, error) {
	switch text {
	case "tuning":
		text = "1"
	case "held-out":
		text = fmt.Sprint(heldOut)
	}
	low, high, ranged := strings.Cut(text, "-")
	a, err := strconv.ParseUint(low, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("-seeds: want tuning, held-out, a number or a range such as 1-20, have %q", text)
	}
	b := a + 19
	if ranged {
		if b, err = strconv.ParseUint(high, 10, 32); err != nil {
			return nil, fmt.Errorf("-seeds: want tuning, held-out, a number or a range such as 1-20, have %q", text)
		}
	}
	if b < a || b-a >= 100_000 {
		return nil, fmt.Errorf("-seeds: %q is no range", text)
	}
	var seeds []uint64
	for s := a; s <= b; s++ {
		seeds = append(seeds, s)
	}
	return seeds, nil
}

func list(out io.Writer) error {
	all, err := world.Load(scenarios.Files)
	if err != nil {
		return err
	}
	for _, s := range all {
		fmt.Fprintf(out, "%-20s %s\n", s.Name, s.About)
	}
	products, err := pickProducts("all")
	if err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, p := range products {
		kind := "real rules"
		if p.Model {
			kind = strings.TrimSpace("model " + p.Source)
		}
		fmt.Fprintf(out, "%-26s %s\n", p.Name, kind)
	}
	return nil
}
