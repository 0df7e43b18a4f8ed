package main

import (
	"errors"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/trial"
	"github.com/overhear-mesh/overhear/xds/controlplane"
)

func TestAFaultIsJudgedByItsOwnVerdictAndFailures(t *testing.T) {
	began := time.Unix(1000, 0)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	lost := func(ms int, err error) trial.Outcome {
		return trial.Outcome{Began: at(ms), Ended: at(ms + 1), Err: err}
	}
	l := &trial.Ledger{}
	for _, q := range []trial.Outcome{
		lost(-50, errors.New("before it")),
		lost(10, &refused{"api-1", "500"}),
		lost(20, &refused{"", "503"}), // an Envoy had no answer
		lost(30, errors.New("reset")),
		lost(40, &refused{"api-2", "500"}), // another's
		lost(900, &refused{"api-1", "500"}),
		lost(950, nil),
	} {
		l.Request(q)
	}
	l.Verdict(controlplane.Event{Time: at(-10), Endpoint: "api-1", To: "ejected", Rule: "slow"})
	l.Verdict(controlplane.Event{Time: at(100), Endpoint: "api-2", To: "ejected", Rule: "fast"})
	l.Verdict(controlplane.Event{Time: at(200), Endpoint: "api-1", To: "ejected", Rule: "hard"})
	r := result{Finding: trial.Finding{Endpoint: "api-1", OK: true, Began: began, Mended: at(1000)}}
	r.judge(l, fault{aimFound: time.Second, aimFailed: 10})
	if !r.OK || r.Rule != "hard" || *r.DetectedMS != 200 || r.Failed != 3 || r.FailedTests != 1 {
		t.Errorf("judged %+v (found after %v ms), want hard after 200 ms, 3 failed and 1 test", r, *r.DetectedMS)
	}

	if trial.Conclude(l, []*trial.Finding{&r.Finding}) || r.OK || r.Wrong != 1 {
		t.Errorf("%d wrong ejections, want that of api-2", r.Wrong)
	}
}

func TestRequestsHaveRunOutWhenThereIsALull(t *testing.T) {
	told := time.Unix(1000, 0)
	at := func(ms int, ping bool) fakeupstream.Arrival {
		return fakeupstream.Arrival{At: told.Add(time.Duration(ms) * time.Millisecond), Ping: ping}
	}
	for _, tc := range []struct {
		name     string
		arrivals []fakeupstream.Arrival
		want     time.Duration
	}{
		{"none", nil, 0},
		{"two on their way, then a test", []fakeupstream.Arrival{at(3, false), at(12, false), at(262, false)}, 12 * time.Millisecond},
		{"a probe is no request", []fakeupstream.Arrival{at(3, false), at(200, true), at(260, false)}, 3 * time.Millisecond},
		{"only a test", []fakeupstream.Arrival{at(251, false), at(255, false)}, 0},
		{"they go on", []fakeupstream.Arrival{at(100, false), at(300, false), at(500, false)}, 500 * time.Millisecond},
	} {
		if got := runOut(told, tc.arrivals); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
