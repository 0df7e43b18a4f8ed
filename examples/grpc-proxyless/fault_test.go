package main

import (
	"errors"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/trial"
	"github.com/overhear-mesh/overhear/xds/controlplane"
)

func TestTooManyFailedCallsAreNotOK(t *testing.T) {
	began := time.Unix(1000, 0)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	l := &trial.Ledger{}
	for range trial.Slack*10 + 1 {
		l.Request(trial.Outcome{Began: at(10), Ended: at(11), Err: errors.New("lost")})
	}
	l.Verdict(controlplane.Event{Time: at(500), Endpoint: "api-1", To: "ejected", Rule: "fast"})
	r := result{Finding: trial.Finding{Endpoint: "api-1", OK: true, Began: began, Mended: at(1000)}}
	if r.judge(l, fault{aimFound: time.Second, aimFailed: 10}); r.OK || r.Failed != trial.Slack*10+1 {
		t.Errorf("%d failed calls are good enough", r.Failed)
	}
}
