package outlier

import "testing"

func TestWhatTwoRulesAreRefusedIsToldOnceForEach(t *testing.T) {
	w := newWorld(t, 6, 1)
	m := w.d.members[0]
	told := func() int {
		var r Result
		for range 100 {
			w.d.refuse(m, Suspended, RuleStalled, refusedCap, w.now, &r)
			w.d.refuse(m, Ejected, RuleHard, refusedCap, w.now, &r)
		}
		return len(r.Changes)
	}
	if got := told(); got != 2 {
		t.Errorf("told %d times, want once for each rule", got)
	}
	w.now += refusalGap - 1
	if got := told(); got != 0 {
		t.Errorf("told %d times within %v, want 0", got, refusalGap)
	}
	w.now++
	if got := told(); got != 2 {
		t.Errorf("told %d times after %v, want once more for each rule", got, refusalGap)
	}
}
