package main

import (
	"errors"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/xds/controlplane"
)

var began = time.Unix(1000, 0)

func at(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }

// crash is a fault of api-1 that lasted a second.
func crash() result {
	return result{Endpoint: "api-1", OK: true, fault: fault{aimFound: time.Second, aimFailed: 10}, began: began, mended: at(1000)}
}

func TestAFaultIsJudgedByItsOwnVerdictAndFailures(t *testing.T) {
	l := &ledger{}
	lost := errors.New("lost")
	for _, ms := range []int{-50, 10, 20, 30, 900, 1001} {
		l.call(outcome{at(ms), at(ms + 1), lost})
	}
	l.call(outcome{at(-20), at(5), lost}) // on its way when the fault began
	l.call(outcome{at(40), at(41), nil})
	l.verdict(controlplane.Event{Time: at(-10), Endpoint: "api-1", To: "ejected", Rule: "slow"})
	l.verdict(controlplane.Event{Time: at(100), Endpoint: "api-2", To: "ejected", Rule: "fast"})
	l.verdict(controlplane.Event{Time: at(150), Endpoint: "api-1", To: "in"})
	l.verdict(controlplane.Event{Time: at(200), Endpoint: "api-1", To: "suspended", Rule: "stalled"})
	r := crash()
	r.judge(l)
	if !r.OK || r.Rule != "stalled" || *r.DetectedMS != 200 || r.Failed != 4 || r.FailedTests != 1 || l.sentAll() != 8 {
		t.Errorf("judged %+v (found after %v ms), want stalled after 200 ms, 4 failed and 1 test of 8 calls", r, *r.DetectedMS)
	}

	r.unexplained([]result{r}, l)
	if r.OK || r.Wrong != 1 {
		t.Errorf("%d wrong ejections, want that of api-2", r.Wrong)
	}
}

func TestAnEjectionAfterTheServersOwnFaultIsNotWrong(t *testing.T) {
	l := &ledger{}
	l.verdict(controlplane.Event{Time: at(2500), Endpoint: "api-1", To: "ejected"})
	first, second := crash(), crash()
	second.Endpoint, second.began, second.mended = "api-2", at(2000), at(3000)
	if second.unexplained([]result{first, second}, l); !second.OK {
		t.Errorf("problems %v, want none: api-1 fails its tests", second.Problems)
	}
}

func TestAFaultThatIsNotFoundOrTooLateIsNotOK(t *testing.T) {
	for _, after := range []time.Duration{-time.Second, 61 * time.Second, 90 * time.Second} {
		l := &ledger{}
		l.verdict(controlplane.Event{Time: began.Add(after), Endpoint: "api-1", To: "ejected", Rule: "fast"})
		r := crash()
		r.mended = began.Add(70 * time.Second)
		if r.judge(l); r.OK {
			t.Errorf("a verdict %v after the fault is good enough", after)
		}
	}
}

func TestTooManyFailedCallsAreNotOK(t *testing.T) {
	l := &ledger{}
	for range slack*10 + 1 {
		l.call(outcome{at(10), at(11), errors.New("lost")})
	}
	l.verdict(controlplane.Event{Time: at(500), Endpoint: "api-1", To: "ejected", Rule: "fast"})
	r := crash()
	if r.judge(l); r.OK || r.Failed != slack*10+1 {
		t.Errorf("%d failed calls are good enough", r.Failed)
	}
}

func TestAServerIsBackWhenItMayHaveTrafficAfterItsFault(t *testing.T) {
	l := &ledger{}
	r := crash()
	if !r.back(l) {
		t.Error("what was never out is not back")
	}
	l.verdict(controlplane.Event{Time: at(500), Endpoint: "api-1", To: "ejected"})
	l.verdict(controlplane.Event{Time: at(600), Endpoint: "api-1", To: "ramp"}) // a mistake: it still fails
	l.verdict(controlplane.Event{Time: at(1500), Endpoint: "api-2", To: "ramp"})
	r.judge(l)
	if r.back(l) {
		t.Error("it is back though only another is")
	}
	l.verdict(controlplane.Event{Time: at(4000), Endpoint: "api-1", To: "ramp"})
	if !r.back(l) || *r.BackMS != 3000 {
		t.Errorf("back after %v ms, want 3000", r.BackMS)
	}
}
