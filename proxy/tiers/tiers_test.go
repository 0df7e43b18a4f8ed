package tiers

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
)

// set is endpoints with the states, priorities and zones of one letter each: i in, s
// suspended, e ejected, p probation, d draining; a digit is the priority, z another
// zone.
func set(t *testing.T, words ...string) []Choice {
	t.Helper()
	d := outlier.New(outlier.DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
	var members []outlier.Member
	for i := range words {
		members = append(members, outlier.Member{ID: string(rune('a' + i)), Weight: 1})
	}
	d.SetMembers(members, 0)
	var all []Choice
	for i, w := range words {
		id := string(rune('a' + i))
		c := Choice{Stats: d.Endpoint(id), Gate: balancer.NewGate(0, false), Weight: 1, Admission: outlier.Admission{ID: id, Weight: 1}}
		for _, letter := range w {
			switch letter {
			case 'i':
			case 's':
				c.Admission.State, c.Admission.Weight, c.Admission.Trickle = outlier.Suspended, 0, time.Second
			case 'e':
				c.Admission.State, c.Admission.Weight = outlier.Ejected, 0
			case 'p':
				c.Admission.State, c.Admission.Weight = outlier.Probation, 0.1
			case 'd':
				c.Admission.State, c.Admission.Weight = outlier.Draining, 0
			case 'z':
				c.Away = true
			default:
				c.Priority = uint32(letter - '0')
			}
		}
		all = append(all, c)
	}
	return all
}

// places are how often each endpoint was picked out of a thousand first tries.
func places(p *Picker, n int) []int {
	rng := rand.New(rand.NewPCG(2, 2))
	got := make([]int, n)
	for range 1000 {
		if i := p.Pick(rng.Uint64(), time.Minute, nil); i >= 0 {
			got[i]++
		}
	}
	return got
}

func TestFirstThingsFirst(t *testing.T) {
	cfg := balancer.DefaultConfig()
	cfg.Policy = balancer.Random
	zone := cfg
	zone.PreferZone = true
	for name, c := range map[string]struct {
		words []string
		cfg   balancer.Config
		used  string // of those that first tries go to, their letters
		panic bool
	}{
		"all are well":                             {[]string{"i", "i"}, cfg, "ab", false},
		"the ejected are left out":                 {[]string{"i", "e"}, cfg, "a", false},
		"the second priority waits":                {[]string{"i0", "i0", "i1"}, cfg, "ab", false},
		"the second priority serves":               {[]string{"e0", "e0", "i1"}, cfg, "c", false},
		"one's own zone is preferred where wanted": {[]string{"iz", "i"}, zone, "b", false},
		"and else not":                             {[]string{"iz", "i"}, cfg, "ab", false},
		"those that drain are the last resort":     {[]string{"e", "d"}, cfg, "b", true},
		"the ejected are better than nothing":      {[]string{"e", "e"}, cfg, "ab", true},
	} {
		all := set(t, c.words...)
		p := New(all, c.cfg, nil)
		used := ""
		for i, n := range places(p, len(all)) {
			if n > 0 {
				used += string(rune('a' + i))
			}
		}
		if used != c.used || p.Panicking() != c.panic {
			t.Errorf("%s: %q serve, panic %v; want %q, %v", name, used, p.Panicking(), c.used, c.panic)
		}
	}
}

func TestTheBalancerIsToldWhoIsSlow(t *testing.T) {
	for _, tt := range []struct {
		name string
		a    outlier.Admission
		want balancer.Entry
	}{
		{"in full service", outlier.Admission{Weight: 1}, balancer.Entry{Weight: 3}},
		{"slow", outlier.Admission{Weight: 0.25}, balancer.Entry{Weight: 0.75, Held: true, Slow: 0.25}},
		{"a ramp is a promise", outlier.Admission{State: outlier.Ramp, Weight: 0.25}, balancer.Entry{Weight: 0.75, Held: true}},
		{"a probation, too", outlier.Admission{State: outlier.Probation, Weight: 0.25}, balancer.Entry{Weight: 0.75, Held: true}},
		{"a panic knows no slow ones", outlier.Admission{Weight: 0.25, Panic: true}, balancer.Entry{Weight: 0.75, Held: true}},
	} {
		c := Choice{Weight: 3, Admission: tt.a, Gate: balancer.NewGate(0, false)}
		if got := c.entry(); got.Weight != tt.want.Weight || got.Held != tt.want.Held || got.Slow != tt.want.Slow {
			t.Errorf("%s: weight %v, held %v, slow %v; want %v, %v, %v", tt.name, got.Weight, got.Held, got.Slow, tt.want.Weight, tt.want.Held, tt.want.Slow)
		}
	}
}

func TestARetryGoesWhereSomethingIsNew(t *testing.T) {
	all := set(t, "i0", "i1")
	p := New(all, balancer.DefaultConfig(), nil)
	var tried balancer.Tried
	tried.Add(all[0].Stats)
	for range 100 {
		if got := p.Pick(rand.Uint64(), 0, &tried); got != 1 {
			t.Fatalf("a request that has been to the only one of its priority goes to %d, want 1", got)
		}
	}
}

func TestASpareIsTheLeastBadThatIsOutAndDoesNotHang(t *testing.T) {
	all := set(t, "i", "s", "e", "d", "e")
	p := New(all, balancer.DefaultConfig(), nil)
	var tried balancer.Tried
	tried.Add(all[0].Stats)
	for i, want := range []string{"d", "ce", "ce", ""} {
		place := p.Spare(rand.Uint64(), &tried)
		if place < 0 {
			if want != "" {
				t.Errorf("spare %d: got none, want one of %q", i, want)
			}
			continue
		}
		if got := all[place].Admission.ID; !strings.Contains(want, got) {
			t.Errorf("spare %d: got %s, want one of %q", i, got, want)
		}
		tried.Add(all[place].Stats)
	}
}

func TestATierInWhichNothingHasChangedStays(t *testing.T) {
	cfg := balancer.DefaultConfig()
	before := New(set(t, "i", "i"), cfg, nil)
	all := set(t, "i", "i")
	for i := range all {
		all[i].Stats, all[i].Gate = before.tiers[0].choices[i].Stats, before.tiers[0].choices[i].Gate
	}
	same := New(all, cfg, before)
	if same.tiers[0].set != before.tiers[0].set {
		t.Error("a set was built anew although nothing has changed")
	}
	all[1].Admission.Weight = 0.5
	if changed := New(all, cfg, same); changed.tiers[0].set == same.tiers[0].set {
		t.Error("a set stayed although a weight has changed")
	}
}

func TestAPickAllocatesNothing(t *testing.T) {
	p := New(set(t, "i", "i", "i", "s", "e", "i1"), balancer.DefaultConfig(), nil)
	var tried balancer.Tried
	if n := testing.AllocsPerRun(1000, func() { p.Pick(7, 0, nil); p.Pick(9, 0, &tried) }); n != 0 {
		t.Errorf("%v allocations for two picks", n)
	}
}
