package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/test/sim/rival"
	"github.com/overhear-mesh/overhear/test/sim/world"
)

// Run is what came of one scenario with one product, over all seeds.
type Run struct {
	Scenario string           `json:"scenario"`
	About    string           `json:"about,omitempty"`
	Product  string           `json:"product"`
	Model    bool             `json:"model"`
	Source   string           `json:"source,omitempty"` // of a model: where its product documents the rule
	Seeds    int              `json:"seeds"`
	Attempts int64            `json:"attempts"`
	Figures  map[string]Stats `json:"figures"`
	Wants    []Outcome        `json:"wants,omitempty"`

	setting world.Scenario
}

// Stats sum up one figure. A run in which something never happened counts as one in
// which it took for ever.
type Stats struct {
	N    int     `json:"n"` // runs that have it
	Mean float64 `json:"mean"`
	P50  Number  `json:"p50"`
	P95  Number  `json:"p95"`
	Max  Number  `json:"max"`
}

// Number is a float that JSON can hold: infinite is null.
type Number float64

// MarshalJSON writes a number, or null for what never happened.
func (n Number) MarshalJSON() ([]byte, error) {
	if math.IsInf(float64(n), 0) || math.IsNaN(float64(n)) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// Outcome is an expectation with what was measured.
type Outcome struct {
	Want  string `json:"want"`
	Got   Number `json:"got"`
	Met   bool   `json:"met"`
	Runs  int    `json:"runs"`
	Needs int    `json:"needs"` // runs, fewer are not judged
	// Changed: -set gives the scenario settings of which this was not wanted.
	Changed bool `json:"changed,omitempty"`
}

// mark is the outcome in a word.
func (o Outcome) mark() string {
	switch {
	case o.Changed:
		return "other settings"
	case o.Runs < o.Needs:
		return "not judged"
	case o.Met:
		return "ok"
	}
	return "MISSED"
}

// enough is how many runs a median, a mean or a 95th percentile needs to say more of
// the rules than of the seeds. A maximum may be judged by each run.
const enough = 20

// variants reads the scenarios whose names match one of the patterns, each with all
// that it varies.
func variants(files fs.FS, patterns, set []string) ([]world.Scenario, error) {
	names, err := fs.Glob(files, "*.txt")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []world.Scenario
	for _, file := range names {
		name := strings.TrimSuffix(file, ".txt")
		if !slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, name); return ok }) {
			continue
		}
		text, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, err
		}
		some, err := world.Variants(name, string(text), set...)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// job is one run of one seed.
type job struct {
	run  int
	seed uint64
}

// simulate runs every scenario with every product and every seed, on all cores.
func simulate(list []world.Scenario, products []world.Maker, seeds []uint64) []Run {
	runs := make([]Run, 0, len(list)*len(products))
	makers := make([]world.Maker, 0, cap(runs))
	for _, s := range list {
		for _, p := range products {
			runs = append(runs, Run{Scenario: s.Name, About: s.About, Product: p.Name, Model: p.Model, Source: p.Source, Seeds: len(seeds), setting: s})
			makers = append(makers, p)
		}
	}
	// Runs without detection come last and are only compared with.
	without := map[string]int{}
	for i := range runs {
		if s := runs[i].setting; runs[i].Product == judged && slices.ContainsFunc(s.Wants, func(w world.Want) bool { return w.Without }) {
			without[s.Name] = len(runs)
			none := rival.None("none p2c", rival.P2C)
			runs = append(runs, Run{Scenario: s.Name, Product: none.Name, Model: true, Seeds: len(seeds), setting: s})
			makers = append(makers, none)
		}
	}
	figures := make([][]map[string]float64, len(runs))
	attempts := make([][]int64, len(runs))
	var jobs []job
	for i := range runs {
		figures[i], attempts[i] = make([]map[string]float64, len(seeds)), make([]int64, len(seeds))
		for s := range seeds {
			jobs = append(jobs, job{i, uint64(s)})
		}
	}
	each(len(jobs), func(n int) {
		j := jobs[n]
		l := world.New(runs[j.run].setting, makers[j.run], seeds[j.seed]).Run()
		figures[j.run][j.seed], attempts[j.run][j.seed] = l.Figures(), l.Attempts()
	})
	for i := range runs {
		runs[i].sum(figures[i])
		for _, n := range attempts[i] {
			runs[i].Attempts += n
		}
	}
	shown := len(runs) - len(without)
	for i := range runs[:shown] {
		runs[i].judge(runs, without)
	}
	return runs[:shown]
}

// each calls f with 0 to n-1, on all cores.
func each(n int, f func(int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// judged is the product that scenarios want something of.
const judged = "overhear"

// times are the figures of which a missing one means that it never happened.
var times = []string{"off", "off-fault", "half", "back"}

func (r *Run) sum(figures []map[string]float64) {
	r.Figures = map[string]Stats{}
	for _, name := range world.MeasureNames() {
		var values []float64
		n, total := 0, 0.0
		for _, f := range figures {
			v, ok := f[name]
			switch {
			case ok:
				n++
				total += v
				values = append(values, v)
			case slices.Contains(times, name):
				values = append(values, math.Inf(1))
			}
		}
		if n == 0 {
			continue
		}
		slices.Sort(values)
		r.Figures[name] = Stats{N: n, Mean: total / float64(n), P50: at(values, 0.5), P95: at(values, 0.95), Max: at(values, 1)}
	}
}

// judge compares with what is wanted, and with the run without detection where that is
// the measure.
func (r *Run) judge(runs []Run, without map[string]int) {
	if r.Product != judged {
		return
	}
	for _, w := range r.setting.Wants {
		var other Stats
		switch {
		case w.Without:
			other = runs[without[r.Scenario]].Figures[w.Measure]
			w.Value *= float64(stat(w, other))
		case w.Of != "":
			before := r.earlier(runs, w.Of)
			if before == nil {
				continue // it is that variant, or comes before it, or that one was not run
			}
			w.Value *= float64(stat(w, before.Figures[w.Measure]))
		}
		o := judge(w, r.Figures[w.Measure], r.Seeds)
		o.Changed = r.setting.Changed
		r.Wants = append(r.Wants, o)
	}
}

// earlier is the run of a variant of the same scenario that stands before r.
func (r *Run) earlier(runs []Run, variant string) *Run {
	file, _, _ := strings.Cut(r.Scenario, " ")
	for i := range runs {
		switch other := &runs[i]; {
		case other == r:
			return nil
		case other.Scenario == file+" "+variant && other.Product == r.Product:
			return other
		}
	}
	return nil
}

// missed is an error that counts the expectations that were not met; nil: none.
func missed(runs []Run) error {
	n, all := 0, 0
	for _, r := range runs {
		for _, w := range r.Wants {
			all++
			if w.mark() == "MISSED" {
				n++
			}
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d expectations were missed", n, all)
}

// at is the smallest value that the share q of the values do not exceed.
func at(sorted []float64, q float64) Number {
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return Number(sorted[min(max(i, 0), len(sorted)-1)])
}

func judge(w world.Want, s Stats, runs int) Outcome {
	got := stat(w, s)
	needs := enough
	if w.Stat == "max" {
		needs = 1
	}
	sign, met := ">=", float64(got) >= w.Value
	if w.Below {
		sign, met = "<=", float64(got) <= w.Value
	}
	want := strings.Join([]string{w.Measure, w.Stat, sign, format(w.Value)}, " ")
	switch {
	case w.Without:
		want += " (without)"
	case w.Of != "":
		want += " (" + w.Of + ")"
	}
	return Outcome{Want: want, Got: got, Met: met, Runs: runs, Needs: needs}
}

// stat is the statistic of a figure that is wanted.
func stat(w world.Want, s Stats) Number {
	switch {
	case s.N == 0:
		return Number(math.Inf(1))
	case w.Stat == "p50":
		return s.P50
	case w.Stat == "p95":
		return s.P95
	case w.Stat == "max":
		return s.Max
	}
	return Number(s.Mean)
}

// elapsed says how fast the simulation was.
func elapsed(runs []Run, took time.Duration) (attempts int64, perSecond float64) {
	for _, r := range runs {
		attempts += r.Attempts
	}
	return attempts, float64(attempts) / took.Seconds() / float64(runtime.GOMAXPROCS(0))
}
