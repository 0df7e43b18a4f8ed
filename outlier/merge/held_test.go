package merge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// holding are the guards that hold e back, by name.
func holding(t *testing.T, table *Table, k Key, now time.Duration) map[string]string {
	t.Helper()
	x, ok := table.Explain(k, now)
	if !ok {
		t.Fatalf("%s is not known", k)
	}
	held := map[string]string{}
	for _, g := range x.Guards {
		if !g.Pass {
			held[g.Name] = g.Detail
		}
	}
	return held
}

// until steps the fleet until something holds an endpoint back, and says what it says.
func (f *fleet) held(t *testing.T, target int, by string, limit time.Duration) string {
	t.Helper()
	var detail string
	k := f.targets[target].Key
	if !f.until(f.now+limit, func() bool {
		var ok bool
		detail, ok = holding(t, f.table, k, f.now)[by]
		return ok
	}) {
		t.Fatalf("nothing is held back by %s within %v: %v", by, limit, holding(t, f.table, k, f.now))
	}
	return detail
}

func wantText(t *testing.T, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("it says %q, want %q in it", got, part)
		}
	}
}

func TestEvidenceThatDoesNotSufficeYetIsJudgedAgain(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 6, 6)
	b.report("r0", "e1", server(1), 2*time.Second)
	b.report("r1", "e1", server(1), 2*time.Second)
	b.Step(2 * time.Second)
	x, ok := b.Explain(Key{"api", "e1"}, 2*time.Second)
	if !ok || x.Counts.K != 2 || x.T >= x.Threshold {
		t.Fatalf("got %+v, want two failures that do not suffice", x)
	}
	if want := "it is judged again with each report that speaks of it"; x.Next != want {
		t.Errorf("next is %q, want %q", x.Next, want)
	}
}

func TestWhatHoldsAVerdictBackIsSaidAsData(t *testing.T) {
	t.Run("one fault domain alone", func(t *testing.T) {
		b := newBench(t, DefaultPolicy(), 6, 6)
		b.report("r0", "e1", server(100), 2*time.Second)
		for i := range 5 {
			b.report(fmt.Sprintf("r%d", i+1), "e1", good(1), 2*time.Second)
		}
		b.Step(2 * time.Second)
		wantText(t, holding(t, b.Table, Key{"api", "e1"}, 2*time.Second)["leave_one_out"], "only 1 of the 6 machines with attempts on it saw it fail", "a verdict takes 2")
	})
	t.Run("a poll is out", func(t *testing.T) {
		f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: 200, base: 0.001, seed: 7})
		f.run(12 * time.Second)
		f.targets[2].fault = always(errs)
		wantText(t, f.held(t, 2, "poll", 5*time.Second), "asked what they have counted")
	})
	t.Run("the whole group suffers", func(t *testing.T) {
		f := newFleet(t, mesh{callers: 10, endpoints: 10, zones: twoZones, rate: 50, base: 0.001, seed: 7})
		f.run(12 * time.Second)
		for i := range f.targets {
			f.targets[i].fault = always(errs)
		}
		var by string
		f.until(f.now+10*time.Second, func() bool {
			for _, target := range f.targets {
				if detail := holding(t, f.table, target.Key, f.now)["group"]; detail != "" {
					by = detail
				}
			}
			return by != ""
		})
		wantText(t, by, "others fail at", "this one at")
	})
	t.Run("the cap", func(t *testing.T) {
		p := DefaultPolicy()
		p.Outlier.MaxOut = 0
		f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 7, policy: &p})
		f.run(12 * time.Second)
		f.targets[2].fault = always(errs)
		wantText(t, f.held(t, 2, "cap", 5*time.Second), "1 of 6 endpoints would be out", "at most 0 may be")
		i := slices.IndexFunc(f.changes, func(c Change) bool { return c.Refused == "cap" })
		if i < 0 {
			t.Fatal("the refusal is not told")
		}
		x := f.changes[i].Verdict.Explain
		if last := x.Guards[len(x.Guards)-1]; last.Name != "cap" || last.Pass || x.Next != "it is judged again, if it still fails" || x.ETA != Span(fullFor) {
			t.Errorf("the refusal says %+v", x)
		}
	})
	t.Run("shadow", func(t *testing.T) {
		p := DefaultPolicy()
		p.Outlier.Mode = outlier.Shadow
		f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 7, policy: &p})
		f.run(12 * time.Second)
		f.targets[2].fault = always(errs)
		wantText(t, f.held(t, 2, "shadow", 5*time.Second), "shadow mode")
	})
	t.Run("a broken caller is muted", func(t *testing.T) {
		f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 7})
		f.run(12 * time.Second)
		broken := f.callers[0]
		for i := range f.targets {
			f.targets[i].fault = func(c *caller, _ time.Duration) effect {
				if c == broken {
					return errs
				}
				return works
			}
		}
		wantText(t, f.held(t, 2, "mute", 20*time.Second), "what "+f.table.reporters[broken.ID].domain.name+" says against it is not counted", "fails towards many endpoints")
	})
	t.Run("a contradiction", func(t *testing.T) {
		f := quickstart(t, 50)
		f.run(12 * time.Second)
		broken := f.callers[0]
		f.targets[2].fault = func(c *caller, _ time.Duration) effect {
			if c == broken {
				return refuses
			}
			return works
		}
		wantText(t, f.held(t, 2, "contradiction", 5*time.Second), "began after the failure and went well")
		wantText(t, holding(t, f.table, f.targets[2].Key, f.now)["shut"], f.table.reporters[broken.ID].domain.name, "not believed when it cannot connect")
	})
	t.Run("an operator", func(t *testing.T) {
		f := quickstart(t, 50)
		f.run(12 * time.Second)
		if err := f.table.Override(f.targets[2].Key, Override{Kind: OverridePin, Reason: "the only copy"}, f.now); err != nil {
			t.Fatal(err)
		}
		wantText(t, holding(t, f.table, f.targets[2].Key, f.now)["pin"], "an operator keeps it in")
	})
	t.Run("nothing", func(t *testing.T) {
		f := quickstart(t, 50)
		f.run(12 * time.Second)
		if held := holding(t, f.table, f.targets[2].Key, f.now); len(held) != 0 {
			t.Errorf("a healthy endpoint is held back by %v", held)
		}
	})
}

func TestATestOnProbationIsExplainedWhileItGoesOnAndWhenItIsFailed(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	f.targets[2].fault = f.sometimes(0.5)
	k := f.targets[2].Key
	tested := func(enough func(*Explanation) bool) *Explanation {
		var x Explanation
		if !f.until(f.now+30*time.Second, func() bool { x, _ = f.table.Explain(k, f.now); return x.Trial != nil && enough(&x) }) {
			t.Fatalf("it is not tested as wanted: %+v", x)
		}
		n, failed := int64(0), int64(0)
		for _, r := range x.Trial.Reporters {
			n += r.N
			failed += r.K
		}
		if n != x.Trial.Counts.N || failed != x.Trial.Counts.K || x.Trial.P0 <= 0 || x.Trial.P1 <= x.Trial.P0 || x.Trial.Out != 8 {
			t.Errorf("a test that does not add up: %+v", x.Trial)
		}
		return &x
	}
	tested(func(x *Explanation) bool { return x.State == "probation" && x.Trial.Counts.N > 0 })
	x := tested(func(x *Explanation) bool { return x.State == "ejected" })
	if x.Trial.Score < x.Trial.Out || x.Trial.Counts.Server == 0 || x.Counts != x.Trial.Counts || x.P1 != x.Trial.P1 {
		t.Errorf("the test that it has failed: %+v, counts %+v", x.Trial, x.Counts)
	}
}
