package main

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/test/cputime"
	"github.com/overhear-mesh/overhear/test/poisson"
	"github.com/overhear-mesh/overhear/test/sim/scenarios"
	"github.com/overhear-mesh/overhear/test/sim/world"
)

func scenarioFiles(o options) (fs.FS, []string) {
	if o.file != "" {
		return nil, nil
	}
	return scenarios.Files, strings.Split(o.scenario, ",")
}

const (
	soakCallers   = 4
	soakEndpoints = 20
	// soakTurn is one run of one seed; the first minutes of each are warm-up.
	soakTurn = 5 * time.Hour
)

// Soak is how often endpoints that are well were taken out.
type Soak struct {
	Product string  `json:"product"`
	Base    float64 `json:"base"`
	Rate    float64 `json:"rate_per_pair"`
	Hours   float64 `json:"endpoint_hours"`
	Events  []Rate  `json:"events"`
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu_seconds"`
}

// Rate is a number of events with the exact upper bound of their rate.
type Rate struct {
	What  string  `json:"what"`
	Count int     `json:"count"`
	Per   float64 `json:"unit_hours"` // of observation: endpoint-hours, or pair-hours
	Month float64 `json:"upper_per_month"`
	Week  float64 `json:"upper_per_week"`
}

// soaked are the events that are counted, and whether each belongs to a pair of
// caller and endpoint rather than to an endpoint.
var soaked = []struct {
	figure, what string
	pair         bool
}{
	{"false-fleet", "fleet ejections", false},
	{"false-fleet-suspends", "fleet suspends", false},
	{"false-outs", "ejections seen by one caller", true},
	{"false-suspends", "suspends seen by one caller", true},
}

// The units of rates, in hours.
const (
	week  = 7 * 24.0
	month = 30 * 24.0
)

// soakGarbage is how much the heap may grow between two collections: a world is small
// and makes little garbage, of which a collection is not worth its price each time.
const soakGarbage = 800

// soak lets endpoints live in health.
func soak(o options, products []world.Maker, seeds []uint64, out io.Writer) error {
	defer debug.SetGCPercent(debug.SetGCPercent(soakGarbage))
	var all []Soak
	for _, product := range products {
		for baseText := range strings.SplitSeq(o.soakBases, ",") {
			for rateText := range strings.SplitSeq(o.soakRates, ",") {
				s := world.Default()
				s.Callers, s.Endpoints, s.Name = soakCallers, soakEndpoints, "soak"
				for _, set := range [][2]string{{"base", baseText}, {"rate", rateText}} {
					if err := s.Set(set[0], strings.TrimSpace(set[1])); err != nil {
						return fmt.Errorf("-soak: %w", err)
					}
				}
				if o.set != "" {
					for line := range strings.SplitSeq(o.set, ",") {
						key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
						if err := s.Set(key, value); err != nil {
							return fmt.Errorf("-set: %w", err)
						}
					}
				}
				perPair := s.Rate
				s.Rate *= float64(s.Callers)
				s.Warmup = 2 * time.Minute
				r := soakOne(product, s, perPair, o.soak, seeds[0])
				all = append(all, r)
				if !o.json {
					r.print(out)
				}
			}
		}
	}
	if o.json {
		return encode(out, map[string]any{"set": setName(seeds[:1]), "soaks": all})
	}
	fmt.Fprintf(out, "seeds from %d on (%s); %d callers, %d endpoints; bounds are exact upper 95 %% Poisson bounds\n", seeds[0], setName(seeds[:1]), soakCallers, soakEndpoints)
	return nil
}

func soakOne(product world.Maker, s world.Scenario, perPair, hours float64, seed uint64) Soak {
	turns := int(math.Ceil(hours / (soakTurn.Hours() * float64(s.Endpoints))))
	turns = (turns + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0) * runtime.GOMAXPROCS(0)
	s.Length = time.Duration(hours / float64(turns) / float64(s.Endpoints) * float64(time.Hour))
	figures := make([]map[string]float64, turns)
	began, used := time.Now(), cputime.Used()
	each(turns, func(i int) { figures[i] = world.New(s, product, seed+uint64(i)).Run().Figures() })
	r := Soak{Product: product.Name, Base: s.Base, Rate: perPair, Hours: hours, Seconds: time.Since(began).Seconds(), CPU: (cputime.Used() - used).Seconds()}
	for _, e := range soaked {
		count := 0.0
		for _, f := range figures {
			count += f[e.figure]
		}
		per := hours
		if e.pair {
			per *= float64(s.Callers)
		}
		upper := poisson.Upper(int(count)) / per
		r.Events = append(r.Events, Rate{What: e.what, Count: int(count), Per: per, Month: upper * month, Week: upper * week})
	}
	return r
}

func (s Soak) print(out io.Writer) {
	fmt.Fprintf(out, "%s, base %g %%, %g/s per pair, %.0f endpoint-hours (%.0f s of CPU, %.0f endpoint-hours in each):\n",
		s.Product, 100*s.Base, s.Rate, s.Hours, s.CPU, s.Hours/max(s.CPU, 1e-3))
	for _, e := range s.Events {
		unit := "endpoint"
		if e.Per > s.Hours {
			unit = "pair"
		}
		fmt.Fprintf(out, "  %-28s %6d in %.0f %s-hours: at most %.3g per %s and month, %.3g per week\n", e.What, e.Count, e.Per, unit, e.Month, unit, e.Week)
	}
}
