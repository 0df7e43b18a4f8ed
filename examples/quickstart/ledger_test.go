package main

import (
	"testing"
	"time"
)

const ms1 = time.Millisecond

func at(endpoint string, times ...time.Duration) []attempt {
	var list []attempt
	for _, t := range times {
		list = append(list, attempt{at: t, ended: t, endpoint: endpoint})
	}
	return list
}

func TestTheFleetIsOffAnEndpointAfterTheAttemptThatCalmFollows(t *testing.T) {
	for _, tc := range []struct {
		name string
		list []attempt
		want time.Duration
		ok   bool
	}{
		{"no attempt at all", nil, 10 * ms1, true},
		{"attempts that stop", at("a", 20*ms1, 30*ms1, 45*ms1), 45 * ms1, true},
		{"a trickle of one at a time", at("a", 20*ms1, 30*ms1, 700*ms1, 1700*ms1, 2700*ms1), 30 * ms1, true},
		{"attempts that never stop", at("a", 100*ms1, 300*ms1, 500*ms1, 900*ms1, 1300*ms1, 1700*ms1, 2100*ms1, 2500*ms1, 2900*ms1), 0, false},
		{"another endpoint's", at("b", 100*ms1, 200*ms1), 10 * ms1, true},
		{"those after the fault was mended", at("a", 20*ms1, 3100*ms1, 3200*ms1, 3300*ms1), 20 * ms1, true},
	} {
		got, ok := lastBefore(tc.list, []string{"a"}, 10*ms1, 3000*ms1)
		if ok != tc.ok || ok && got != tc.want {
			t.Errorf("%s: off at %v, %t, want %v, %t", tc.name, got, ok, tc.want, tc.ok)
		}
	}
}

func TestAnAttemptUnderWayWhenAFaultBeginsIsOfItsWindow(t *testing.T) {
	l := &ledger{}
	l.addAttempt(attempt{at: 5 * ms1, ended: 9 * ms1, endpoint: "before"})
	l.addAttempt(attempt{at: 8 * ms1, ended: 12 * ms1, endpoint: "under way"})
	l.addAttempt(attempt{at: 15 * ms1, ended: 16 * ms1, endpoint: "within"})
	l.addAttempt(attempt{at: 20 * ms1, ended: 21 * ms1, endpoint: "after"})
	got := l.window(10*ms1, 20*ms1).attempts
	if len(got) != 2 || got[0].endpoint != "under way" || got[1].endpoint != "within" {
		t.Errorf("window holds %+v, want the two that were under way or began within", got)
	}
}

func TestAFairShareIsFoundOnceASecondOfTrafficHasIt(t *testing.T) {
	var list []attempt
	for i := range 4000 { // one a millisecond; "a" gets its sixth from 2 s on
		name := "b"
		if i >= 2000 && i%6 == 0 {
			name = "a"
		}
		list = append(list, attempt{at: time.Duration(i) * ms1, endpoint: name})
	}
	got, ok := fairAgain(list, "a", 6, 0.9, 500*ms1)
	if !ok || got < 2800*ms1 || got > 3000*ms1 {
		t.Errorf("fair at %v, %t, want after 0.9 of the second that begins at 2s", got, ok)
	}
	if _, ok := fairAgain(list[:2000], "a", 6, 0.9, 500*ms1); ok {
		t.Error("fair without a single attempt")
	}
}

func TestAFaultExplainsWhatWasUnderWayWhenItBegan(t *testing.T) {
	results := []result{
		{Name: "errors-20", began: 10 * ms1, over: 50 * ms1, fault: fault{targets: []string{"api-6"}}},
		{Name: "broken-caller", began: 100 * ms1, over: 200 * ms1, fault: fault{suspect: "caller-5"}},
	}
	for _, tc := range []struct {
		name, endpoint, caller string
		at, ended              time.Duration
		want                   string
	}{
		{"a request that the fault cut off", "api-1", "caller-5", 99 * ms1, 101 * ms1, ""},
		{"one that was over before", "api-1", "caller-5", 95 * ms1, 99 * ms1, "errors-20"},
		{"one that began after the fault was over", "api-1", "caller-5", 201 * ms1, 202 * ms1, "broken-caller"},
		{"another caller's", "api-1", "caller-1", 99 * ms1, 101 * ms1, "errors-20"},
		{"one at the endpoint of the fault", "api-6", "caller-1", 9 * ms1, 11 * ms1, ""},
		{"one before all faults", "api-1", "caller-1", 1 * ms1, 2 * ms1, ""},
	} {
		got := ""
		if r := blame(results, tc.at, tc.ended, tc.endpoint, tc.caller); r != nil {
			got = r.Name
		}
		if got != tc.want {
			t.Errorf("%s: blamed on %q, want %q", tc.name, got, tc.want)
		}
	}
}
