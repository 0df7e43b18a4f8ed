package main

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/trial"
)

func TestEverySideIsMeasuredByWhatTheEnvoysSayAndUsersLose(t *testing.T) {
	began := time.Unix(1000, 0)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	l, out := &trial.Ledger{}, &lookout{}
	for _, ms := range []int{-10, 20, 90, 300, 600} {
		l.Request(trial.Outcome{Began: at(ms), Ended: at(ms + 5), Err: errors.New("reset")})
	}
	for _, s := range []sighting{
		{at(-50), 0, "api-1"}, // of an earlier fault
		{at(100), 1, "api-1"},
		{at(150), 1, "api-1"}, // again
		{at(250), 0, "api-1"},
		{at(260), 0, "api-2"}, // had a fault, and is on its way back
		{at(270), 1, "api-3"},
		{at(280), 0, "api-3"},
		{at(1100), 0, "api-4"}, // after it
	} {
		out.note(s)
	}
	r := result{Finding: trial.Finding{Name: "crash", Endpoint: "api-1", Began: began, Mended: at(1000)}}
	m := measure(ours, r, 2, []string{"api-2"}, out, l)
	if *m.FirstMS != 100 || *m.FoundMS != 250 || m.Found != 2 || m.Failed != 2 || m.Later != 2 || m.Wrong != 2 {
		t.Errorf("measured %+v (first %v, all %v), want 100 ms, 250 ms, 2 failed, 2 later, 2 wrong", m, *m.FirstMS, *m.FoundMS)
	}
	if m := measure(ours, r, 3, []string{"api-2"}, out, l); m.FoundMS != nil || m.Found != 2 || m.Failed != 4 {
		t.Errorf("measured %+v, want a fault that one of three Envoys never found", m)
	}
	r.Endpoint = ""
	if m := measure(ours, r, 2, nil, out, l); m.Wrong != 6 || m.Failed != 0 {
		t.Errorf("measured %+v, want 6 wrong ejections where nobody may go, and failures that are nobody's", m)
	}
}

func TestAnEndpointIsOutWhoeverSaidSo(t *testing.T) {
	var page hosts
	host := func(port, health, weight string) string {
		return `{"address": {"socket_address": {"address": "127.0.0.1", "port_value": ` + port + `}}, "health_status": {` + health + `}, "weight": ` + weight + `}`
	}
	text := `{"cluster_statuses": [{"name": "overhear", "host_statuses": [` + host("9", `"eds_health_status": "DRAINING"`, "1") + `]},
		{"name": "api", "host_statuses": [` + strings.Join([]string{
		host("1", `"eds_health_status": "HEALTHY"`, "100"),
		host("2", `"eds_health_status": "DRAINING"`, "100"),
		host("3", `"eds_health_status": "HEALTHY", "failed_outlier_check": true`, "100"),
		host("4", `"eds_health_status": "HEALTHY"`, "2"),
	}, ",") + `]}]}`
	if err := json.Unmarshal([]byte(text), &page); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"127.0.0.1:1": false, "127.0.0.1:2": true, "127.0.0.1:3": true, "127.0.0.1:4": true}
	if got := page.out(); !maps.Equal(got, want) {
		t.Errorf("out %v, want %v", got, want)
	}
}

func TestAnEnvoyAloneHasTheSameBootstrapButForWhoDecides(t *testing.T) {
	text, err := alone(os.Expand(bootstrap, func(string) string { return "1" }), map[string]any{"interval": "1s"}, []string{"127.0.0.1:7001"})
	if err != nil {
		t.Fatal(err)
	}
	for _, has := range []string{`"timeout":"1"`, `"outlier_detection":{"interval":"1s"}`, `"type":"STATIC"`, `"port_value":7001`, `"lb_policy":"ROUND_ROBIN"`} {
		if !strings.Contains(strings.ReplaceAll(text, `"timeout":1`, `"timeout":"1"`), has) {
			t.Errorf("it lacks %s:\n%s", has, text)
		}
	}
	for _, not := range []string{"load_stats", "eds_", `"overhear"}`, "DELTA_GRPC"} {
		if strings.Contains(text, not) {
			t.Errorf("it has %s:\n%s", not, text)
		}
	}
}
