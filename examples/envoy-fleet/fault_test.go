package main

import (
	"errors"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/xds/controlplane"
)

func TestAFaultIsJudgedByItsOwnVerdictAndFailures(t *testing.T) {
	began := time.Unix(1000, 0)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	lost := func(ms int, err error) request { return request{at(ms), at(ms + 1), err} }
	l := &ledger{}
	for _, q := range []request{
		lost(-50, errors.New("before it")),
		lost(10, &refused{"api-1", "500"}),
		lost(20, &refused{"", "503"}), // an Envoy had no answer
		lost(30, errors.New("reset")),
		lost(40, &refused{"api-2", "500"}), // another's
		lost(900, &refused{"api-1", "500"}),
		lost(950, nil),
	} {
		l.request(q)
	}
	l.verdict(controlplane.Event{Time: at(-10), Endpoint: "api-1", To: "ejected", Rule: "slow"})
	l.verdict(controlplane.Event{Time: at(100), Endpoint: "api-2", To: "ejected", Rule: "fast"})
	l.verdict(controlplane.Event{Time: at(200), Endpoint: "api-1", To: "ejected", Rule: "hard"})
	r := result{Endpoint: "api-1", OK: true, fault: fault{aimFound: time.Second, aimFailed: 10}, began: began, mended: at(1000)}
	r.judge(l)
	if !r.OK || r.Rule != "hard" || *r.DetectedMS != 200 || r.Failed != 3 || r.FailedTests != 1 {
		t.Errorf("judged %+v (found after %v ms), want hard after 200 ms, 3 failed and 1 test", r, *r.DetectedMS)
	}

	r.unexplained([]result{r}, l)
	if r.OK || r.Wrong != 1 {
		t.Errorf("%d wrong ejections, want that of api-2", r.Wrong)
	}
}

func TestAFaultThatIsNotFoundOrTooLateIsNotOK(t *testing.T) {
	began := time.Unix(1000, 0)
	for _, after := range []time.Duration{-time.Second, 31 * time.Second, 90 * time.Second} {
		l := &ledger{}
		l.verdict(controlplane.Event{Time: began.Add(after), Endpoint: "api-1", To: "ejected", Rule: "fast"})
		r := result{Endpoint: "api-1", OK: true, fault: fault{aimFound: time.Second, aimFailed: 10}, began: began, mended: began.Add(time.Minute)}
		if r.judge(l); r.OK {
			t.Errorf("a verdict %v after the fault is good enough", after)
		}
	}
}
