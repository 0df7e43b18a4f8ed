package ingest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// newTable is an evidence table that knows the services, and so many Envoys.
func newTable(d directory, envoys int) *merge.Table {
	table := merge.NewTable(merge.DefaultConfig(), 1)
	for name, s := range d {
		var all []merge.Endpoint
		for _, instance := range slices.Sorted(maps.Values(s.Instances)) {
			all = append(all, merge.Endpoint{Key: merge.Key{Service: name, Instance: instance}, Weight: 1})
		}
		table.SetService(name, merge.DefaultPolicy(), all, 0)
	}
	for i := range envoys {
		id := fmt.Sprintf("envoy-%d", i)
		if err := table.Join(merge.Reporter{ID: id, Incarnation: 1, Node: id, Observes: true}, []string{"api", "calls"}, 0); err != nil {
			panic(err) // they have nothing in common
		}
	}
	return table
}

// fleet is Envoys in virtual time that send requests round robin to what they believe to
// be well, and report their load; a table hears of it. What the world would add, the way
// of messages, is given here.
type fleet struct {
	dice    *rand.Rand
	table   *merge.Table
	envoys  []*envoy
	rate    float64 // of all, per second
	out     map[string]outlier.State
	offAt   time.Duration // when the Envoys hear of what is out
	off     map[int]bool
	changes []merge.Change
	fails   func(endpoint int) outcome
	lost    map[int]int // failed requests, by endpoint
	now     time.Duration
	stepAt  time.Duration
}

type outcome int

const (
	answers outcome = iota
	fails
	refuses
	hangs
)

type envoy struct {
	*observer
	id      string
	next    int
	rows    map[int]*sample
	reports time.Duration
	ends    []ending
}

// ending is a request under way.
type ending struct {
	at       time.Duration
	endpoint int
	ok       bool
}

const (
	endpoints = 20
	envoys    = 5
	push      = 15 // ms from a verdict to the last Envoy that acts by it
)

func newFleet(seed uint64, fails func(dice *rand.Rand, endpoint int) outcome) *fleet {
	d := services(endpoints)
	f := &fleet{
		dice: rand.New(rand.NewPCG(seed, 0)), table: newTable(d, envoys), rate: 1000,
		out: map[string]outlier.State{}, off: map[int]bool{}, lost: map[int]int{}, now: 60 * second,
	}
	f.fails = func(e int) outcome { return fails(f.dice, e) }
	for i := range envoys {
		f.envoys = append(f.envoys, &envoy{
			observer: newObserver(d), id: fmt.Sprintf("envoy-%d", i), next: f.dice.IntN(endpoints), rows: map[int]*sample{},
			reports: f.now + ms(f.dice.IntN(100)),
		})
	}
	return f
}

// run lets time pass, by the millisecond.
func (f *fleet) run(d time.Duration) {
	for end := f.now + d; f.now < end; f.now += ms(1) {
		for _, e := range f.envoys {
			if f.dice.Float64() < f.rate/envoys/1000 {
				f.send(e)
			}
			f.end(e)
			if f.now >= e.reports {
				f.report(e)
			}
		}
		if f.now >= f.stepAt {
			f.step()
		}
		if f.offAt != never && f.now >= f.offAt {
			f.offAt = never
			for i := range endpoints {
				f.off[i] = f.out[fmt.Sprint(i)].Out()
			}
		}
	}
}

func (e *envoy) row(endpoint int) *sample {
	if e.rows[endpoint] == nil {
		e.rows[endpoint] = &sample{}
	}
	return e.rows[endpoint]
}

func (f *fleet) send(e *envoy) {
	for {
		e.next = (e.next + 1) % endpoints
		if !f.off[e.next] {
			break
		}
	}
	s := e.row(e.next)
	switch f.fails(e.next) {
	case refuses:
		s.failed++
		f.lost[e.next]++
		return
	case hangs:
		e.ends = append(e.ends, ending{f.now + 3*second, e.next, false})
	case fails:
		e.ends = append(e.ends, ending{f.now + ms(2), e.next, false})
	case answers:
		e.ends = append(e.ends, ending{f.now + ms(2), e.next, true})
	}
	s.issued++
	s.active++
}

func (f *fleet) end(e *envoy) {
	left := e.ends[:0]
	for _, one := range e.ends {
		if one.at > f.now {
			left = append(left, one)
			continue
		}
		s := e.row(one.endpoint)
		s.active--
		if one.ok {
			s.ok++
		} else {
			s.failed++
			f.lost[one.endpoint]++
		}
	}
	e.ends = left
}

func (f *fleet) report(e *envoy) {
	var rows []*endpointv3.UpstreamEndpointStats
	for i := range endpoints {
		if s := e.rows[i]; s != nil {
			rows = append(rows, row(i, *s))
			*s = sample{active: s.active}
		}
	}
	e.reports = f.now + ms(100)
	r, ok := e.observe(request(load("api", ms(100), rows...)), f.now)
	if !ok {
		return
	}
	r.Reporter, r.Incarnation = e.id, 1
	if f.table.Apply(r, f.now).Urgent {
		f.stepAt = f.now
	}
}

func (f *fleet) step() {
	r := f.table.Step(f.now)
	f.stepAt = max(r.Next, f.now+ms(1))
	for _, o := range r.Orders {
		f.table.Probed(o.ID, o.Reporter, o.Level, outlier.NotRun, f.now, f.now, f.now)
		f.stepAt = f.now + ms(1)
	}
	for _, c := range r.Changes {
		if c.Refused == "" {
			f.changes = append(f.changes, c)
			f.out[c.Verdict.Key.Instance] = c.To
			f.offAt = f.now + ms(push)
		}
	}
}

// found is how long after an instant an endpoint was taken out, by which rule, and what
// was lost until nobody used it.
func (f *fleet) found(endpoint int, within time.Duration) (after time.Duration, rule outlier.Rule, ok bool) {
	began, seen := f.now, len(f.changes)
	for f.now < began+within {
		f.run(ms(1))
		for _, c := range f.changes[seen:] {
			if c.Verdict.Key.Instance == fmt.Sprint(endpoint) && c.To.Out() {
				after = c.At - began
				f.run(ms(push))
				return after, c.Verdict.Rule, true
			}
		}
		seen = len(f.changes)
	}
	return 0, outlier.RuleNone, false
}

func TestAFleetOfEnvoysFindsFaultsByItsLoadReports(t *testing.T) {
	const sick, runs = 7, 9
	for _, tc := range []struct {
		name  string
		fails func(dice *rand.Rand) outcome
		rules []outlier.Rule
		// Medians of so many runs, whose dice are thrown the same each time.
		within time.Duration
		lost   int
	}{
		{"crash", func(*rand.Rand) outcome { return refuses }, []outlier.Rule{outlier.RuleHard, outlier.RuleFast}, ms(300), 12},
		{"hang", func(*rand.Rand) outcome { return hangs }, []outlier.Rule{outlier.RuleStalled}, ms(800), 0},
		{"half of the answers are errors", func(d *rand.Rand) outcome { return outcome(d.IntN(2)) }, []outlier.Rule{outlier.RuleFast}, ms(1200), 25},
		{"a fifth of the answers are errors", func(d *rand.Rand) outcome {
			if d.IntN(5) == 0 {
				return fails
			}
			return answers
		}, []outlier.Rule{outlier.RuleFast, outlier.RuleSlow}, 3 * second, 35},
	} {
		var times []time.Duration
		var lost []int
		for seed := range uint64(runs) {
			broken := false
			f := newFleet(seed, func(dice *rand.Rand, e int) outcome {
				if broken && e == sick {
					return tc.fails(dice)
				}
				return answers
			})
			f.run(15 * second) // new instances rise to their share
			broken = true
			after, rule, ok := f.found(sick, 20*second)
			if !ok {
				t.Errorf("%s, run %d: not found", tc.name, seed)
				continue
			}
			if rule != tc.rules[0] && rule != tc.rules[len(tc.rules)-1] {
				t.Errorf("%s, run %d: found by %s, want %v", tc.name, seed, rule, tc.rules)
			}
			times, lost = append(times, after), append(lost, f.lost[sick])
			for _, c := range f.changes {
				if c.To == outlier.Ejected && c.Verdict.Key.Instance != fmt.Sprint(sick) {
					t.Errorf("%s, run %d: %s was ejected as well", tc.name, seed, c.Verdict.Key)
				}
			}
		}
		at, gone := median(times), median(lost)
		t.Logf("%s: median of %d runs %v, %d requests lost; worst %v, %d", tc.name, runs, at, gone, worst(times), worst(lost))
		if at > tc.within || gone > tc.lost {
			t.Errorf("%s: found after %v with %d requests lost, want %v and %d at most", tc.name, at, gone, tc.within, tc.lost)
		}
	}
}

func TestAHealthyFleetLosesNobody(t *testing.T) {
	for _, share := range []float64{0, 0.01, 0.03} {
		f := newFleet(1, func(dice *rand.Rand, _ int) outcome {
			if dice.Float64() < share {
				return fails
			}
			return answers
		})
		f.run(30 * second)
		for _, c := range f.changes {
			if c.To == outlier.Ejected || c.To == outlier.Suspended {
				t.Errorf("at %v errors %s is %s by %s: %s", share, c.Verdict.Key, c.To, c.Verdict.Rule, c.Verdict.Explain.Reason)
			}
		}
	}
}

func TestOneEnvoyThatFailsEverywhereConvincesNobody(t *testing.T) {
	f := newFleet(1, func(*rand.Rand, int) outcome { return answers })
	f.run(15 * second)
	liar := f.envoys[0]
	for range 100 {
		f.run(ms(100))
		for i := range endpoints {
			s := liar.row(i)
			s.failed += 3 // none of its connections is taken
		}
	}
	for _, c := range f.changes {
		if c.To.Out() {
			t.Errorf("%s is %s on one Envoy's word: %s", c.Verdict.Key, c.To, c.Verdict.Explain.Reason)
		}
	}
	told := false
	for _, r := range f.table.Reporters(f.now) {
		told = told || r.ID == liar.id && r.Muted
	}
	if !told {
		t.Error("it is not muted")
	}
}

func TestWhoCrashedIsTestedByRealRequestsWhereNobodyCanProbe(t *testing.T) {
	const sick = 7
	broken := false
	f := newFleet(1, func(_ *rand.Rand, e int) outcome {
		if broken && e == sick {
			return refuses
		}
		return answers
	})
	f.run(15 * second)
	broken = true
	if _, _, ok := f.found(sick, 10*second); !ok {
		t.Fatal("the crash was not found")
	}
	f.run(5 * second)
	var states []outlier.State
	for _, c := range f.changes {
		if c.Verdict.Key.Instance == fmt.Sprint(sick) && c.To.Out() {
			states = append(states, c.To)
		}
	}
	if len(states) < 3 || states[0] != outlier.Ejected || states[1] != outlier.Probing || states[2] != outlier.Probation {
		t.Errorf("it went through %v, want ejected, probing, probation", states)
	}
}

func median[T int | time.Duration](all []T) T { return slices.Sorted(slices.Values(all))[len(all)/2] }

func worst[T int | time.Duration](all []T) T { return slices.Max(all) }
