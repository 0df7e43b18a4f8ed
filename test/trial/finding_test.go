package trial

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/xds/controlplane"
)

var (
	began   = time.Unix(1000, 0)
	errLost = errors.New("lost")
)

func at(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }

// crash is a fault of api-1 that lasted a second.
func crash() *Finding { return &Finding{Endpoint: "api-1", OK: true, Began: began, Mended: at(1000)} }

func TestAFaultIsJudgedByItsOwnVerdictAndFailures(t *testing.T) {
	l := &Ledger{}
	for _, ms := range []int{-50, 10, 20, 30, 900, 1001} {
		l.Request(Outcome{at(ms), at(ms + 1), errLost})
	}
	l.Request(Outcome{at(-20), at(5), errLost}) // on its way when the fault began
	l.Request(Outcome{at(40), at(41), nil})
	l.Verdict(controlplane.Event{Time: at(-10), Endpoint: "api-1", To: "ejected", Rule: "slow"})
	l.Verdict(controlplane.Event{Time: at(100), Endpoint: "api-2", To: "ejected", Rule: "fast"})
	l.Verdict(controlplane.Event{Time: at(150), Endpoint: "api-1", To: "in"})
	l.Verdict(controlplane.Event{Time: at(200), Endpoint: "api-1", To: "suspended", Rule: "stalled"})
	f := crash()
	failed := f.Judge(l, time.Second, f.During)
	if !f.OK || f.Rule != "stalled" || *f.DetectedMS != 200 || failed != 4 || f.FailedTests != 1 || l.Sent() != 8 {
		t.Errorf("judged %+v (found after %v ms, %d failed), want stalled after 200 ms, 4 failed and 1 test of 8 requests", f, *f.DetectedMS, failed)
	}

	if Conclude(l, []*Finding{f}) || f.OK || f.Wrong != 1 {
		t.Errorf("%d wrong ejections, want that of api-2", f.Wrong)
	}
}

func TestAnEjectionAfterTheEndpointsOwnFaultIsNotWrong(t *testing.T) {
	l := &Ledger{}
	l.Verdict(controlplane.Event{Time: at(2500), Endpoint: "api-1", To: "ejected"})
	first, second := crash(), crash()
	second.Endpoint, second.Began, second.Mended = "api-2", at(2000), at(3000)
	if !Conclude(l, []*Finding{first, second}) || !second.OK {
		t.Errorf("problems %v, want none: api-1 fails its tests", second.Problems)
	}
}

func TestAFaultThatIsNotFoundOrTooLateIsNotOK(t *testing.T) {
	for _, after := range []time.Duration{-time.Second, 31 * time.Second, 61 * time.Second, 90 * time.Second} {
		l := &Ledger{}
		l.Verdict(controlplane.Event{Time: began.Add(after), Endpoint: "api-1", To: "ejected", Rule: "fast"})
		f := crash()
		f.Mended = began.Add(70 * time.Second)
		if f.Judge(l, time.Second, f.During); f.OK {
			t.Errorf("a verdict %v after the fault is good enough", after)
		}
	}
}

func TestAnEndpointIsBackWhenItMayHaveTrafficAfterItsFault(t *testing.T) {
	l := &Ledger{}
	f := crash()
	if !f.back(l) {
		t.Error("what was never out is not back")
	}
	l.Verdict(controlplane.Event{Time: at(500), Endpoint: "api-1", To: "ejected"})
	l.Verdict(controlplane.Event{Time: at(600), Endpoint: "api-1", To: "ramp"}) // a mistake: it still fails
	l.Verdict(controlplane.Event{Time: at(1500), Endpoint: "api-2", To: "ramp"})
	f.Judge(l, time.Second, f.During)
	if f.back(l) {
		t.Error("it is back though only another is")
	}
	l.Verdict(controlplane.Event{Time: at(4000), Endpoint: "api-1", To: "ramp"})
	if !f.back(l) || *f.BackMS != 3000 {
		t.Errorf("back after %v ms, want 3000", f.BackMS)
	}
}

func TestAnEndpointThatStaysOutIsAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Ledger{}
		l.Verdict(controlplane.Event{Time: at(500), Endpoint: "api-1", To: "ejected"})
		f, never := crash(), crash()
		f.Judge(l, time.Second, f.During)
		began := time.Now()
		if err := Recovered(t.Context(), l, time.Minute, []*Finding{never, f}); err != nil {
			t.Fatal(err)
		}
		if f.OK || !never.OK || time.Since(began) < time.Minute {
			t.Errorf("after %v problems %v of one that is out, %v of one that never was", time.Since(began), f.Problems, never.Problems)
		}
	})
}
