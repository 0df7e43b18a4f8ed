package outlier

import (
	"testing"
	"time"
)

func TestAChangeIsExplainedInASentence(t *testing.T) {
	for want, c := range map[string]Change{
		"9 of 18 attempts failed within 105ms (server error 9): score 15.1, a verdict takes 14.4; next: it is probed, in 1s": {
			From: In, To: Ejected, Rule: RuleFast, At: time.Minute, Explain: Explanation{
				Counts: Counts{N: 18, Server: 9}, Window: 105 * time.Millisecond, Score: 15100, Threshold: 14400, Next: "it is probed", NextAt: 61 * time.Second,
			},
		},
		"connections to it fail, and so did 2 of 3 probes from here; held back by cap: 2 of 4 endpoints are out without it, and 2 may be; next: it goes when there is room, unless it recovers": {
			From: In, To: Ejected, Rule: RuleHard, Refused: refusedCap, Explain: Explanation{
				ProbesBack: 3, ProbesFailed: 2, Next: "it goes when there is room, unless it recovers",
				Checks: []Check{{Name: refusedCap, Detail: "2 of 4 endpoints are out without it, and 2 may be"}},
			},
		},
		"it closed idle connections and a new one failed, and so did 2 of 2 probes from here": {
			From: In, To: Ejected, Rule: RuleHard, Explain: Explanation{ProbesBack: 2, ProbesFailed: 2, Hinted: true},
		},
		"3 attempts wait for longer than 250ms, and it has answered nothing for 1.2s; next: the first answer ends it": {
			From: In, To: Suspended, Rule: RuleStalled, Explain: Explanation{Overdue: 3, OverdueAfter: 250 * time.Millisecond, Silence: 1200 * time.Millisecond, Next: "the first answer ends it"},
		},
		"1 attempt waits for longer than 1.5s, and it has never answered": {
			From: In, To: Suspended, Rule: RuleStalled, Explain: Explanation{Overdue: 1, OverdueAfter: 1500 * time.Millisecond, Silence: -1},
		},
		"it is slower than its group and gets 40 % of its share": {From: In, To: In, Rule: RuleLatency, Explain: Explanation{Weight: 0.4}},
		"it is slower than its group and gets 40 % of its share; in shadow mode, so that it keeps its traffic": {
			From: In, To: In, Rule: RuleLatency, Shadow: true, Explain: Explanation{Weight: 0.4},
		},
		"it is as fast as its group again": {From: In, To: In, Rule: RuleLatency, Shadow: true, Explain: Explanation{Weight: 1}},
		"5 attempts came to no answer in a row; in shadow mode, so that it keeps its traffic": {
			From: In, To: Ejected, Rule: RuleRun, Shadow: true, Explain: Explanation{Run: &Run{Kind: "local", Failures: 5}},
		},
		"the control plane says: it has its full share again": {From: Ramp, To: In, Fleet: true, Explain: Explanation{Reason: "it has its full share again"}},
		"it answers a probe": {From: Probing, To: Probation, Rule: RuleHard},
	} {
		if got := c.Sentence(); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}
