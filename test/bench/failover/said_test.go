package main

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// telling is the address of a process whose metrics are these.
func telling(t *testing.T, path, text string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestWhatAProductSaysOfItself(t *testing.T) {
	sidecar := telling(t, "/metrics", `# TYPE overhear_belief_changes_total counter
overhear_belief_changes_total{cluster="api",rule="hard",to="ejected"} 2
overhear_belief_changes_total{cluster="api",rule="stalled",to="suspended"} 3
overhear_belief_changes_total{cluster="api",rule="probe",to="probation"} 100
# TYPE overhear_suspicion_probes_total counter
overhear_suspicion_probes_total{cluster="api",result="timeout"} 5
overhear_suspicion_probes_total{cluster="api",result="ok"} 100
overhear_suspicion_probes_total{cluster="api",result="not_run"} 100
# TYPE overhear_idle_pings_total counter
overhear_idle_pings_total{cluster="api",result="unhealthy"} 6
# TYPE overhear_idle_close_probes_total counter
overhear_idle_close_probes_total{cluster="api",result="refused"} 7
`)
	control := telling(t, "/metrics", `# TYPE overhear_verdicts_total counter
overhear_verdicts_total{rule="hard",scope="fleet",service="api",state="ejected"} 1
overhear_verdicts_total{rule="hard",scope="zone a",service="api",state="ejected"} 10
overhear_verdicts_total{rule="hard",scope="fleet",service="api",state="in"} 100
`)
	envoy := telling(t, "/stats/prometheus", `# TYPE envoy_cluster_outlier_detection_ejections_enforced_total counter
envoy_cluster_outlier_detection_ejections_enforced_total{envoy_cluster_name="api"} 4
# TYPE envoy_cluster_health_check_failure counter
envoy_cluster_health_check_failure{envoy_cluster_name="api"} 2

`)
	haproxy := telling(t, "/stats;csv", `# pxname,svname,chkfail,chkdown,type,hanafail,last_chk,
admin,FRONTEND,,,0,,,
api,api-0,9,3,2,2,"Detected 5 consecutive errors, last one was: Wrong http response",
api,api-1,1,1,2,1,HTTP status check returned code <3C>200<3E>,
api,BACKEND,,100,1,,,
all,api-0,,,2,,,
`)
	none := number(math.NaN())
	for _, c := range []struct {
		name  string
		fleet fleet
		want  said
	}{
		{"sidecars and a control plane", fleet{counts: sidecarSays, admins: []string{sidecar, sidecar}, api: control}, said{10, 1, 36}},
		{"Envoys", fleet{counts: envoySays, admins: []string{envoy, envoy, envoy}}, said{12, none, 6}},
		{"HAProxys", fleet{counts: haproxySays, admins: []string{haproxy, haproxy}}, said{8, none, 14}},
		{"a product without such a count", fleet{admins: []string{"127.0.0.1:1"}}, said{none, none, none}},
	} {
		got, err := c.fleet.say(t.Context())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) { // no number is not equal to itself
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if _, err := (&fleet{counts: envoySays, admins: []string{sidecar}}).say(t.Context()); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a page that is not there: %v, want an error with its status", err)
	}
	for text, want := range map[string]string{
		"": "an empty page", "<html>\n": "no column", "chkfail,chkdown,hanafail\n": "no type", "type,chkfail,chkdown,hanafail\n2,many,0,0\n": "chkfail",
	} {
		if _, err := (&fleet{counts: haproxySays, admins: []string{telling(t, "/stats;csv", text)}}).say(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("statistics of %q: %v, want an error with %q", text, err, want)
		}
	}
	if got := (said{7, 3, 9}).since(said{5, 3, 8}); got != (said{2, 0, 1}) {
		t.Errorf("since: %v, want 2, 0 and 1", got)
	}
}
