package main

import (
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/trial"
)

// told is what a narrator prints of events while f lasts, a line each, without clocks.
func told(f fault, tell func(*narrator, func(ms int, e controlEvent))) []string {
	var out strings.Builder
	n := newNarrator(&out)
	began := time.Now()
	n.begin(began)
	n.opens(f, time.Second)
	tell(n, func(ms int, e controlEvent) {
		e.Time = began.Add(time.Second + time.Duration(ms)*ms1)
		n.control(e)
	})
	n.line("end")
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimSpace(line[strings.Index(line, "s  ")+1:]))
	}
	return lines[1 : len(lines)-1]
}

func TestTheNarratorLeavesOutWhatWouldBeMisread(t *testing.T) {
	type event struct {
		ms int
		e  controlEvent
	}
	verdict := func(endpoint, to string) controlEvent {
		return controlEvent{Kind: "verdict", Scope: "fleet", Endpoint: endpoint, To: to, Text: endpoint + " " + to}
	}
	held := controlEvent{Kind: "refused", Endpoint: "a", To: "ejected", Text: "a held back"}
	joins := func(who string) controlEvent {
		return controlEvent{Kind: "reporter", Reporter: who, Text: who + " reports from zone a"}
	}
	hangs := controlEvent{Kind: "suspicion", Endpoint: "a", Text: "caller-1 waits too long"}
	for _, tc := range []struct {
		name   string
		events []event
		want   string
	}{
		{"held back, and ejected at once", []event{{5, held}, {5, verdict("a", "ejected")}}, "+5 ms a ejected"},
		{"held back, and ejected later", []event{{5, held}, {105, verdict("a", "ejected")}}, "+5 ms a held back|+105 ms a ejected"},
		{"held back, and another ejected", []event{{5, held}, {5, verdict("b", "ejected")}}, "+5 ms a held back|b ejected"},
		{"held back, and that is all", []event{{5, held}}, "+5 ms a held back"},
		{"one reports", []event{{1, joins("x")}, {2, verdict("b", "in")}}, "x reports from zone a|b in"},
		{"three report", []event{{1, joins("x")}, {2, joins("y")}, {3, joins("z")}}, "3 sidecars have begun to report"},
		{
			"a hang beyond the suspension",
			[]event{{250, hangs}, {300, verdict("a", "suspended")}, {1300, hangs}, {5000, verdict("a", "in")}, {6000, hangs}},
			"+250 ms caller-1 waits too long|+300 ms a suspended|+5000 ms a in|+6000 ms caller-1 waits too long",
		},
	} {
		got := told(fault{name: "f", targets: []string{"a"}}, func(_ *narrator, tell func(int, controlEvent)) {
			for _, e := range tc.events {
				tell(e.ms, e.e)
			}
		})
		if got := strings.Join(got, "|"); got != tc.want {
			t.Errorf("%s: printed %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestCallersThatLeaveAloneAreToldOnceWhereThatIsAllThereIs(t *testing.T) {
	out := outlier.Change{ID: "a", From: outlier.In, To: outlier.Ejected, Rule: outlier.RuleHard, Explain: outlier.Explanation{Reason: "no answer"}}
	fleet, back, other := out, out, out
	fleet.Fleet, back.To, other.ID = true, outlier.Probing, "b"
	for _, local := range []bool{true, false} {
		got := told(fault{name: "f", targets: []string{"a"}, local: local}, func(n *narrator, _ func(int, controlEvent)) {
			for _, c := range []outlier.Change{fleet, back, other, out, out} {
				n.believes(1100*ms1, "caller-1", c)
			}
		})
		want := ""
		if local {
			want = "+100 ms api/a: caller-1 takes it out by itself (ejected), rule hard: no answer"
		}
		if got := strings.Join(got, "|"); got != want {
			t.Errorf("without a control plane %t: printed %q, want %q", local, got, want)
		}
	}
}

func TestAnOutcomeSaysWhatItCounts(t *testing.T) {
	hit := []string{"a"}
	for want, r := range map[string]result{
		"counted from the first attempt that hung: noticed after 6 ms, last attempt of the fleet begun after 2 ms; failed attempts 7, users lost 0; fair share again 12.0 s after its end: ok": {
			fault: fault{targets: hit}, from: firstHung, DetectedMS: trial.MS(6 * ms1), FleetOffMS: trial.MS(2 * ms1), FailedAttempts: 7, RecoveredMS: trial.MS(12 * time.Second), OK: true,
		},
		"counted from its beginning: noticed by c itself after 6 ms, believed by nobody else; failed attempts 9, users lost 5 (of which 3 not repeatable): ok": {
			fault: fault{suspect: "c", unseen: true}, from: onset, DetectedMS: trial.MS(6 * ms1), FailedAttempts: 9, FailedRequests: 2, FailedUnrepeatable: 3, OK: true,
		},
		"there is nothing to find, for old connections answer; failed attempts 1, users lost 1; fair share again – after its end: NOT OK: p; q": {
			fault: fault{targets: hit, unseen: true}, FailedAttempts: 1, FailedRequests: 1, Problems: []string{"p", "q"},
		},
	} {
		if got := outcome(r); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

func TestTheSummarySaysWhichRequestsFailedOnPurpose(t *testing.T) {
	var out strings.Builder
	results := []result{
		{Name: "x", fault: fault{targets: []string{"a"}}, FailedRequests: 1, RecoveredMS: trial.MS(time.Second)},
		{Name: "y", fault: fault{suspect: "c"}, FailedRequests: 2, FailedUnrepeatable: 3, OK: true},
	}
	if err := printSummary(&out, options{rate: 300, repeat: 1}, results, 100, 8, 0); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"x – – 0 1 0 0 1000 ms (≤ 25.0 s) NOT OK", "y – – 0 5 3 0 – ok",
		"users sent 100 requests, 8 failed, 5 of them those of c while its own network was broken on purpose",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("summary %q, want %q in it", text, want)
		}
	}
}

func TestAFaultCountsFromItsBeginningIfNoAttemptFailed(t *testing.T) {
	f := fault{targets: []string{"a"}, origin: firstFailed}
	l := &ledger{}
	l.addAttempt(attempt{at: 12 * ms1, ended: 13 * ms1, endpoint: "a"})
	if got := judge(f, 10*ms1, 50*ms1, 60*ms1, l).from; got != onset {
		t.Errorf("without a failed attempt it counts from %s, want %s", got, onset)
	}
	l.addAttempt(attempt{at: 14 * ms1, ended: 15 * ms1, endpoint: "a", failed: true})
	if got := judge(f, 10*ms1, 50*ms1, 60*ms1, l).from; got != firstFailed {
		t.Errorf("with a failed attempt it counts from %s, want %s", got, firstFailed)
	}
}
