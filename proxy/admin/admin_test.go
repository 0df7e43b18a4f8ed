package admin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/admin"
	"github.com/overhear-mesh/overhear/proxy/cluster"
)

// sidecar is one that is shown.
type sidecar struct {
	admin.Source
	ready   string
	status  admin.Status
	config  error
	drained int
}

func newSidecar() *sidecar {
	s := &sidecar{status: admin.Status{Node: "pod-7", Zone: "a", Version: "v1", Uptime: "1m3s", UptimeMS: 63000}}
	metrics := prometheus.NewRegistry()
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests_total"}, []string{"route"})
	requests.WithLabelValues("all").Add(3)
	open := prometheus.NewGauge(prometheus.GaugeOpts{Name: "open"})
	open.Set(1.5)
	latency := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "latency"})
	latency.Observe(2)
	pauses := prometheus.NewSummary(prometheus.SummaryOpts{Name: "pauses"})
	pauses.Observe(4)
	metrics.MustRegister(requests, open, latency, pauses)
	s.Source = admin.Source{
		Ready: func() string { return s.ready }, Status: func() admin.Status { return s.status },
		Clusters: clusters, Metrics: metrics, Token: "secret", Level: new(slog.LevelVar),
		Config: func() ([]byte, error) { return []byte("node: {id: pod-7}\n"), s.config },
		Drain:  func() { s.drained++ },
	}
	return s
}

func clusters() []*cluster.Snapshot {
	return []*cluster.Snapshot{{
		Name: "api", Overdue: 250 * time.Millisecond,
		Endpoints: []cluster.EndpointStatus{
			{
				Spec:   cluster.Spec{ID: "api-1", Address: "10.0.0.1:80", Zone: "a", Weight: 1, Inbound: true},
				Share:  1,
				Counts: outlier.Counts{N: 100, Server: 2},
				Refused: outlier.Change{
					At: 3 * time.Second, To: outlier.Ejected, Rule: outlier.RuleFast, Refused: "cap",
					Explain: outlier.Explanation{Checks: []outlier.Check{{Name: "cap", Detail: "3 of 6 are out, 3 may be"}}},
				},
			},
			{
				Spec: cluster.Spec{
					ID: "api-2", Address: "10.0.0.2:80", Weight: 1,
					Verdict: outlier.Verdict{State: outlier.Ejected, Epoch: 7, Rule: outlier.RuleHard, Reason: "three cannot reach it"},
				},
				State: outlier.Ejected, Counts: outlier.Counts{N: 9, Conn: 3, Timeout: 1},
			},
			{
				Spec:  cluster.Spec{ID: "api-3", Address: "10.0.0.3:80", Weight: 1},
				State: outlier.Suspended, Share: 0.02, Inflight: 4,
				Change: outlier.Change{
					From: outlier.In, To: outlier.Suspended, Rule: outlier.RuleStalled, At: 61500 * time.Millisecond,
					Explain: outlier.Explanation{Overdue: 5, OverdueAfter: 250 * time.Millisecond, Silence: -1, Next: "the first answer ends it"},
				},
			},
			{
				Spec:  cluster.Spec{ID: "api-4", Address: "10.0.0.4:80", Weight: 1, Verdict: outlier.Verdict{State: outlier.Probing, Epoch: 8, Rule: outlier.RuleHard}},
				State: outlier.Probing, Change: outlier.Change{From: outlier.Ejected, To: outlier.Probing, Fleet: true, Rule: outlier.RuleHard, At: 2 * time.Second},
			},
		},
	}, {Name: "empty", Protocol: cluster.TCP, Panic: true}}
}

// ask makes a request of the handler, as a local operator.
func (s *sidecar) ask(method, path string, edit func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:15000"
	if edit != nil {
		edit(r)
	}
	w := httptest.NewRecorder()
	admin.Handler(s.Source).ServeHTTP(w, r)
	return w
}

func bearing(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

func TestEachPageAnswers(t *testing.T) {
	for _, tt := range []struct {
		method, path string
		edit         func(*http.Request)
		prepare      func(*sidecar)
		status       int
		body         string // a part of it
	}{
		{method: "GET", path: "/live", status: 200, body: "live\n"},
		{method: "GET", path: "/ready", status: 200, body: "ready\n"},
		{method: "GET", path: "/ready", prepare: func(s *sidecar) { s.ready = "draining" }, status: 503, body: "draining\n"},
		{method: "GET", path: "/metrics", status: 200, body: `requests_total{route="all"} 3`},
		{method: "GET", path: "/stats", status: 200, body: "requests_total.all: 3\n"},
		{method: "GET", path: "/stats", status: 200, body: "latency: count 1, sum 2\nopen: 1.5\npauses: count 1, sum 4\n"},
		{method: "GET", path: "/stats?filter=[", status: 400, body: "filter: "},
		{method: "GET", path: "/config_dump", status: 200, body: "node: {id: pod-7}\n"},
		{method: "GET", path: "/config_dump", prepare: func(s *sidecar) { s.config = errors.New("no form") }, status: 500, body: "no form"},
		{method: "GET", path: "/clusters", status: 200, body: `"node": "pod-7"`},
		{method: "GET", path: "/logging", status: 200, body: "INFO\n"},
		{method: "GET", path: "/debug/pprof/cmdline", status: 200},
		{method: "GET", path: "/", status: 404},
		{method: "POST", path: "/clusters", status: 405},

		{method: "POST", path: "/logging?level=debug", edit: bearing("secret"), status: 200, body: "DEBUG\n"},
		{method: "POST", path: "/logging?level=loud", edit: bearing("secret"), status: 400, body: `level "loud": want debug, info, warn or error`},
		{method: "POST", path: "/logging?level=debug", status: 401},
		{method: "POST", path: "/logging?level=debug", prepare: func(s *sidecar) { s.Token = "" }, edit: bearing(""), status: 403, body: "set admin.token in the sidecar's file, or OVERHEAR_ADMIN_TOKEN\n"},
		{method: "GET", path: "/logging", prepare: func(s *sidecar) { s.Level = nil }, status: 404},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			s := newSidecar()
			if tt.prepare != nil {
				tt.prepare(s)
			}
			got := s.ask(tt.method, tt.path, tt.edit)
			if got.Code != tt.status || !strings.Contains(got.Body.String(), tt.body) {
				t.Errorf("got %d %s, want %d with %q", got.Code, got.Body, tt.status, tt.body)
			}
		})
	}
}

func TestOnlyWhoMayDrains(t *testing.T) {
	for _, tt := range []struct {
		name   string
		method string
		edit   func(*http.Request)
		token  string
		status int
	}{
		{"who bears the token", "POST", bearing("secret"), "secret", 200},
		{"not by a link", "GET", bearing("secret"), "secret", 405},
		{"not without a token", "POST", nil, "secret", 401},
		{"not with another one", "POST", bearing("guess"), "secret", 401},
		{"not under a name that is not ours", "POST", func(r *http.Request) { bearing("secret")(r); r.Host = "rebound.example" }, "secret", 421},
		{"not from another site", "POST", func(r *http.Request) { bearing("secret")(r); r.Header.Set("Sec-Fetch-Site", "cross-site") }, "secret", 403},
		{"nobody, if there is no token", "POST", bearing(""), "", 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSidecar()
			s.Token = tt.token
			got := s.ask(tt.method, "/drain", tt.edit)
			if drained := s.drained == 1; got.Code != tt.status || drained != (tt.status == 200) {
				t.Errorf("got %d, drained %v; want %d", got.Code, drained, tt.status)
			}
		})
	}
}

func TestALogLevelThatIsSetIsInForce(t *testing.T) {
	s := newSidecar()
	s.ask("POST", "/logging?level=warn", bearing("secret"))
	if got := s.Level.Level(); got != slog.LevelWarn {
		t.Errorf("level: got %v, want %v", got, slog.LevelWarn)
	}
	s.ask("POST", "/logging?level=loud", bearing("secret"))
	if got := s.Level.Level(); got != slog.LevelWarn {
		t.Errorf("level after a wrong one: got %v, want %v", got, slog.LevelWarn)
	}
}

func TestStatsCanBeFiltered(t *testing.T) {
	got := newSidecar().ask("GET", "/stats?filter=^(open|requests)", nil).Body.String()
	if want := "open: 1.5\nrequests_total.all: 3\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestClustersAreDescribedInWords(t *testing.T) {
	var got struct {
		Sidecar  map[string]any
		Clusters []struct {
			Name, Protocol string
			Panic          bool
			OverdueMS      float64 `json:"overdue_ms"`
			Endpoints      []map[string]any
		}
	}
	if err := json.Unmarshal(newSidecar().ask("GET", "/clusters", nil).Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	api := got.Clusters[0]
	if api.Name != "api" || api.Protocol != "http1" || api.OverdueMS != 250 || api.Panic {
		t.Errorf("cluster: got %+v", api)
	}
	if empty := got.Clusters[1]; empty.Endpoints == nil || !empty.Panic || empty.Protocol != "tcp" {
		t.Errorf("empty cluster: got %+v, want an empty list, panic, tcp", empty)
	}
	for i, want := range []map[string]any{
		{"id": "api-1", "state": "in", "share": 1.0, "inbound": true, "central": nil, "last_change": nil},
		{"id": "api-2", "state": "ejected", "share": 0.0, "central": map[string]any{"state": "ejected", "epoch": 7.0, "rule": "hard", "reason": "three cannot reach it"}},
		{"id": "api-3", "state": "suspended", "share": 0.02, "inflight": 4.0},
	} {
		for key, want := range want {
			if diff := cmp.Diff(want, api.Endpoints[i][key]); diff != "" {
				t.Errorf("%s of endpoint %d (-want +got):\n%s", key, i, diff)
			}
		}
	}
	change, _ := api.Endpoints[2]["last_change"].(map[string]any)
	delete(change, "why")
	if diff := cmp.Diff(map[string]any{
		"at_ms": 61500.0, "from": "in", "to": "suspended", "rule": "stalled", "fleet": false,
		"text": "5 attempts wait for longer than 250ms, and it has never answered",
	}, change); diff != "" {
		t.Errorf("last change (-want +got):\n%s", diff)
	}
	refused, _ := api.Endpoints[0]["held_back"].(map[string]any)
	if refused["held_back_by"] != "cap" || refused["to"] != "ejected" || refused["why"] == nil {
		t.Errorf("held back: got %v, want an ejection, by the cap, and why", refused)
	}
}

func TestStatusPrintsWhatASidecarBelieves(t *testing.T) {
	s := newSidecar()
	server := httptest.NewServer(admin.Handler(s.Source))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	print := func(asJSON bool) string {
		t.Helper()
		var out bytes.Buffer
		if err := admin.PrintStatus(t.Context(), &out, address, asJSON); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	const table = `
CLUSTER  ENDPOINT  ADDRESS      STATE      SINCE  SHARE  ATTEMPTS  FAILED  INFLIGHT  NOTE
api      api-1     10.0.0.1:80  in         -      100%   100       2       0         -
api      api-2     10.0.0.2:80  ejected    -      0%     9         4       0         hard, fleet: three cannot reach it
api      api-3     10.0.0.3:80  suspended  1.5s   2%     0         0       4         stalled: 5 attempts wait for longer than 250ms, and it has never answered
api      api-4     10.0.0.4:80  probing    1m1s   0%     0         0       0         hard, fleet
`
	for _, tt := range []struct {
		name   string
		change func(*admin.Status)
		want   string
	}{
		{"alone", func(*admin.Status) {}, "sidecar pod-7, v1, up 1m3s, zone a\ncontrol plane: none configured\n"},
		{"connected", func(s *admin.Status) {
			s.ControlPlane = &admin.ControlPlane{Connected: true, Reporting: true, Source: "control plane"}
		}, "sidecar pod-7, v1, up 1m3s, zone a\ncontrol plane: connected, reporting\n"},
		{"connected to one that is not ours", func(s *admin.Status) {
			s.ControlPlane = &admin.ControlPlane{Connected: true, Deaf: true, Source: "control plane"}
		}, "sidecar pod-7, v1, up 1m3s, zone a\ncontrol plane: connected, it takes no reports: this sidecar decides alone\n"},
		{"without the listeners that it asks for", func(s *admin.Status) {
			s.ControlPlane = &admin.ControlPlane{Connected: true, Reporting: true, NoListeners: []string{"in", "out"}}
		}, "sidecar pod-7, v1, up 1m3s, zone a\ncontrol plane: connected, reporting\nNO LISTENER COMES FROM THE CONTROL PLANE, though control_plane.listeners asks for in, out: " +
			"Overhear's own brings clusters alone, and listeners stand in outbound of this sidecar's file\n"},
		{"silent", func(s *admin.Status) {
			s.ControlPlane = &admin.ControlPlane{Connected: true, Source: "control plane"}
		}, "sidecar pod-7, v1, up 1m3s, zone a\ncontrol plane: connected, NOT REPORTING\n"},
		{"in trouble", func(s *admin.Status) {
			s.Draining, s.ReloadError = true, "f.yaml:1: nonsense"
			s.ControlPlane = &admin.ControlPlane{Source: "state", Age: "1h0m0s"}
		}, "sidecar pod-7, v1, up 1m3s, zone a, DRAINING\ncontrol plane: NOT CONNECTED, resources from state, 1h0m0s old\nLAST RELOAD REFUSED: f.yaml:1: nonsense\n"},
	} {
		status := s.status
		tt.change(&s.status)
		if diff := cmp.Diff(tt.want+table, print(false)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		s.status = status
	}
	var shown admin.Clusters
	if err := json.Unmarshal([]byte(print(true)), &shown); err != nil || shown.Sidecar.Node != "pod-7" {
		t.Errorf("as JSON: got %+v, %v", shown, err)
	}
}

func TestStatusSaysWhyItCannot(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	garbage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer garbage.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, tt := range []struct{ address, want string }{
		{other.Listener.Addr().String(), "it answered 404"},
		{garbage.Listener.Addr().String(), "invalid character"},
		{gone.Listener.Addr().String(), "connection refused"},
		{"no address", `address "no address"`},
	} {
		err := admin.PrintStatus(t.Context(), io.Discard, tt.address, false)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.address, err, tt.want)
		}
	}
}
