package merge

import (
	"math"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

func TestTheScoreOfAnExcursionIsToldUpToItsVerdict(t *testing.T) {
	f := quickstart(t, 50)
	f.run(30 * time.Second)
	healthy := len(f.samples)
	if perSecond := float64(healthy) / 30; perSecond > 20 {
		t.Errorf("%.0f samples a second of six healthy endpoints, want few", perSecond)
	}
	for _, s := range f.samples {
		if 4*s.Sum < s.Threshold {
			t.Fatalf("sample %+v: want none below a quarter of the threshold", s)
		}
	}
	f.samples = nil
	key := f.targets[2].Key
	f.targets[2].fault = always(errs)
	if _, ok := f.ejected(2, 10*time.Second); !ok {
		t.Fatalf("no verdict: %v", f.events)
	}
	verdict := f.verdicts(outlier.Ejected)[0]
	var fast []Sample
	for _, s := range f.samples {
		if s.Key == key && s.Rule == outlier.RuleFast && s.Scope == Fleet {
			fast = append(fast, s)
		}
	}
	if len(fast) < 2 {
		t.Fatalf("got %d samples on the way to the verdict, want some", len(fast))
	}
	last := fast[len(fast)-1]
	if last.At != verdict.At || last.T < last.Threshold || math.Abs(last.Sum-last.Largest-last.T) > 1e-9 {
		t.Errorf("the last sample is %+v, want one at the verdict of %v, T over its threshold and Sum without Largest", last, verdict.At)
	}
	if first := fast[0]; first.T >= last.T || first.Since != last.Since {
		t.Errorf("the first sample is %+v, want one of the same excursion below the last, %+v", first, last)
	}
}
