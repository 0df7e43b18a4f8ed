package outlier

import "testing"

func TestStatesAndRulesAreReadAsTheyAreWritten(t *testing.T) {
	for want := In; want <= Draining; want++ {
		text, err := want.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got State
		if err := got.UnmarshalText(text); err != nil || got != want {
			t.Errorf("state %q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for want := RuleNone; want <= RuleManual; want++ {
		text, err := want.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Rule
		if err := got.UnmarshalText(text); err != nil || got != want {
			t.Errorf("rule %q: got %v, %v, want %v", text, got, err, want)
		}
	}
	var s State
	if err := s.UnmarshalText([]byte("state(9)")); err == nil {
		t.Errorf("an unknown state was read as %v", s)
	}
}
