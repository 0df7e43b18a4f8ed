package merge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// slowFor has reports of the first callers say that answers take ten times as long as
// usual, and those of the others that they do not.
func slowFor(callers int) func(Report) []Report {
	return func(r Report) []Report {
		slower := 1.0
		for i := range callers {
			if r.Reporter == fmt.Sprintf("caller%03d", i) {
				slower = 10
			}
		}
		r.Clusters = append(r.Clusters, ClusterTotals{Service: "api", Slower: slower})
		return []Report{r}
	}
}

func TestAnEndpointThatFailsWhileAllQueueIsNotSingledOut(t *testing.T) {
	for _, tt := range []struct {
		name   string
		slow   int // of ten callers
		errors float64
		within time.Duration
		out    bool
	}{
		{"nobody finds the group slow", 0, 0.4, 10 * time.Second, true},
		{"a few do", 3, 0.4, 10 * time.Second, true},
		{"most do", 8, 0.4, 20 * time.Second, false},
		{"most do, for a long time in which nobody else fails", 8, 0.4, 33 * time.Second, true},
		{"most do, and it fails little", 8, 0.15, time.Minute, false},
		{"most do, and it answers nothing any more", 8, 1, 10 * time.Second, true},
	} {
		f := newFleet(t, mesh{callers: 10, endpoints: 10, zones: twoZones, rate: 50, base: 0.001, seed: 7})
		f.tamper = slowFor(tt.slow)
		f.run(60 * time.Second)
		f.targets[3].fault = f.sometimes(tt.errors)
		_, out := f.ejected(3, tt.within)
		if out != tt.out {
			t.Errorf("%s: ejected %v, want %v\n%v", tt.name, out, tt.out, describe(f.changes))
		}
		told := slices.ContainsFunc(f.changes, func(c Change) bool {
			return c.Refused == "group" && slices.ContainsFunc(c.Verdict.Explain.Guards, func(g Guard) bool {
				return g.Name == "group" && strings.Contains(g.Detail, "10.0 times as long")
			})
		})
		if want := tt.slow > 5; tt.errors < 1 && told != want {
			t.Errorf("%s: a refusal that says why: %v, want %v", tt.name, told, want)
		}
	}
}

func TestAFaultYoungerThanHalfASecondIsNotSharedOutOverAll(t *testing.T) {
	var took []time.Duration
	for seed := range uint64(15) {
		f := newFleet(t, mesh{callers: 50, endpoints: 10, zones: twoZones, rate: 500, base: 0.01, seed: 1 + seed})
		f.run(40 * time.Second)
		began := f.now
		f.targets[3].fault = f.sometimes(0.2)
		if _, out := f.ejected(3, 5*time.Second); !out {
			t.Fatalf("seed %d: not ejected in 5 s\n%v", seed, describe(f.changes))
		}
		took = append(took, f.now-began)
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > 330*time.Millisecond {
		t.Errorf("a fault of 20 %% was found after %v in the median of %v, wanted 0.33 s", median, took)
	}
}

func TestAGroupThatFailsTogetherIsHardlyPolled(t *testing.T) {
	f := newFleet(t, mesh{callers: 10, endpoints: 10, zones: twoZones, rate: 50, base: 0.001, seed: 7})
	f.run(12 * time.Second)
	for _, e := range f.targets {
		e.fault = f.sometimes(1)
	}
	f.run(2 * time.Second)
	before := f.polls
	f.run(10 * time.Second)
	if n := f.polls - before; n > 40 {
		t.Errorf("%d polls about ten endpoints in 10 s, want at most one each in 5 s and a few: that nobody answers is plain", n)
	}
	if !slices.ContainsFunc(f.changes, func(c Change) bool { return c.Refused == "group" }) {
		t.Error("nobody was told that the group fails")
	}
}
