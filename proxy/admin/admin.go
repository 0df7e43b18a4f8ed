// Package admin shows an operator what this sidecar believes, over HTTP.
//
//	GET  /live         200 while the process works
//	GET  /ready        200 when traffic can be served, else 503 with the reason
//	GET  /metrics      Prometheus
//	GET  /stats        the same numbers, one a line, ?filter=REGEXP
//	GET  /clusters     every endpoint with its state, share, counts and reason; JSON
//	GET  /config_dump  the configuration in use, without secrets; YAML
//	GET  /logging      the log level
//	POST /logging?level=debug
//	POST /drain        begin to drain, as on SIGTERM, and then end
//	GET  /debug/pprof/ profiles
//
// The POST calls work only where a token is configured; see internal/httpguard.
package admin

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/overhear-mesh/overhear/internal/httpguard"
	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/cluster"
)

// Source is the sidecar that is shown. Its functions are called on the goroutine
// of each request.
type Source struct {
	// Ready returns "" or the reason for which the sidecar is not ready.
	Ready func() string
	// Status is the sidecar as a whole.
	Status func() Status
	// Clusters are all clusters that run.
	Clusters func() []*cluster.Snapshot
	// Config is the configuration in use as YAML, without secrets, and what the control
	// plane has told.
	Config func() ([]byte, error)
	// Drain begins to drain.
	Drain func()
	// Level may be nil: the log level cannot be changed then.
	Level *slog.LevelVar
	// Metrics are gathered for /metrics and /stats.
	Metrics prometheus.Gatherer
	// Token permits the calls that change something; "": nobody may make them.
	Token string
}

// Status is the sidecar as a whole.
type Status struct {
	Node         string        `json:"node"`
	Zone         string        `json:"zone,omitempty"`
	Version      string        `json:"version"`
	Uptime       string        `json:"uptime"`
	UptimeMS     float64       `json:"uptime_ms"` // now, where at_ms of a change is then
	Draining     bool          `json:"draining"`
	ControlPlane *ControlPlane `json:"control_plane,omitempty"` // nil: none is configured
	ReloadError  string        `json:"reload_error,omitempty"`  // why the last reload was refused
}

// ControlPlane is how this sidecar stands with its control plane.
type ControlPlane struct {
	Connected bool   `json:"connected"`
	Reporting bool   `json:"reporting"`
	Deaf      bool   `json:"takes_no_reports,omitempty"` // as one that is not ours
	Source    string `json:"resources_from"`             // none, state or control plane
	Age       string `json:"resources_age,omitempty"`    // if they are from the state directory
	// Listeners are those that the control plane tells of.
	Listeners []ToldListener `json:"listeners,omitempty"`
	// NoListeners are those that are asked for, if it tells of none at all.
	NoListeners []string `json:"no_listeners,omitempty"`
	// Refused says of which kinds the last response was refused, and why.
	Refused []Refused `json:"refused,omitempty"`
}

// ToldListener is a listener that the control plane tells of.
type ToldListener struct {
	Name    string `json:"name"`
	Open    bool   `json:"open"`              // as it was told last, or before that
	Problem string `json:"problem,omitempty"` // why what was told last is not in use
}

// Refused is a response of the control plane that was not accepted; what was in use
// before still is.
type Refused struct {
	Kind   string `json:"kind"` // listener, route configuration, cluster, endpoints
	Reason string `json:"reason"`
}

// Clusters is the answer of /clusters.
type Clusters struct {
	Sidecar  Status    `json:"sidecar"`
	Clusters []Cluster `json:"clusters"`
}

// Cluster is one cluster in the answer of /clusters.
type Cluster struct {
	Name      string     `json:"name"`
	Protocol  string     `json:"protocol"`
	Panic     bool       `json:"panic"`
	OverdueMS float64    `json:"overdue_ms"` // age from which an attempt without an answer is overdue
	Endpoints []Endpoint `json:"endpoints"`
}

// Endpoint is one endpoint in the answer of /clusters.
type Endpoint struct {
	ID       string            `json:"id"`
	Address  string            `json:"address"`
	Zone     string            `json:"zone,omitempty"`
	Priority uint32            `json:"priority"`
	Weight   uint32            `json:"weight"`
	Inbound  bool              `json:"inbound"`
	Labels   map[string]string `json:"labels,omitempty"`
	State    outlier.State     `json:"state"`
	Share    float64           `json:"share"`
	Inflight int               `json:"inflight"`
	Open     int               `json:"connections"`
	Idle     int               `json:"idle_connections"`
	Counts   outlier.Counts    `json:"counts"`
	Central  *Verdict          `json:"central,omitempty"` // the control plane's verdict, if any
	Change   *Change           `json:"last_change,omitempty"`
	Refused  *Change           `json:"held_back,omitempty"` // the latest since then that was decided and not made
}

// Verdict is what the control plane believes of an endpoint.
type Verdict struct {
	State  outlier.State `json:"state"`
	Epoch  uint64        `json:"epoch"`
	Rule   outlier.Rule  `json:"rule"`
	Reason string        `json:"reason,omitempty"`
}

// Change is the latest change of belief.
type Change struct {
	AtMS   float64             `json:"at_ms"` // since the sidecar started
	From   outlier.State       `json:"from"`
	To     outlier.State       `json:"to"`
	Rule   outlier.Rule        `json:"rule"`
	Fleet  bool                `json:"fleet"`                  // it is the control plane's
	Shadow bool                `json:"shadow,omitempty"`       // believed, not acted upon
	By     string              `json:"held_back_by,omitempty"` // what kept it from being made
	Text   string              `json:"text"`                   // why, in words
	Why    outlier.Explanation `json:"why"`
}

// told is a change as it is shown; nil if there is none.
func told(c outlier.Change) *Change {
	if c.At == 0 {
		return nil
	}
	said := c
	said.Explain.Next = "" // it counts from the change, and may be over
	return &Change{
		AtMS: ms(c.At), From: c.From, To: c.To, Rule: c.Rule, Fleet: c.Fleet, Shadow: c.Shadow, By: c.Refused,
		Text: said.Sentence(), Why: c.Explain,
	}
}

func describe(s Source) Clusters {
	out := Clusters{Sidecar: s.Status(), Clusters: []Cluster{}}
	for _, c := range s.Clusters() {
		shown := Cluster{
			Name: c.Name, Protocol: c.Protocol.String(), Panic: c.Panic,
			OverdueMS: ms(c.Overdue), Endpoints: []Endpoint{},
		}
		for _, e := range c.Endpoints {
			ep := Endpoint{
				ID: e.ID, Address: e.Address, Zone: e.Zone, Priority: e.Priority, Weight: e.Weight, Inbound: e.Inbound, Labels: e.Labels,
				State: e.State, Share: e.Share, Inflight: e.Inflight, Open: e.Open, Idle: e.Idle, Counts: e.Counts,
			}
			if v := e.Verdict; v.State != outlier.In || v.Epoch != 0 {
				ep.Central = &Verdict{State: v.State, Epoch: v.Epoch, Rule: v.Rule, Reason: v.Reason}
			}
			ep.Change, ep.Refused = told(e.Change), told(e.Refused)
			shown.Endpoints = append(shown.Endpoints, ep)
		}
		out.Clusters = append(out.Clusters, shown)
	}
	return out
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// Handler serves the operator.
func Handler(s Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "live") })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if why := s.Ready(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /stats", s.stats)
	mux.HandleFunc("GET /clusters", func(w http.ResponseWriter, _ *http.Request) { answer(w, describe(s)) })
	mux.HandleFunc("GET /config_dump", func(w http.ResponseWriter, _ *http.Request) {
		dump, err := s.Config()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(dump) // whoever asked has left
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	if s.Level != nil {
		mux.HandleFunc("GET /logging", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, s.Level.Level()) })
	}
	guarded := func(f http.HandlerFunc) http.Handler {
		return httpguard.Guard(s.Token, "admin.token in the sidecar's file, or OVERHEAR_ADMIN_TOKEN", nil, func(w http.ResponseWriter, status int, message string) {
			http.Error(w, message, status)
		}, f)
	}
	mux.Handle("/drain", guarded(func(w http.ResponseWriter, _ *http.Request) {
		s.Drain()
		fmt.Fprintln(w, "draining")
	}))
	if s.Level != nil {
		mux.Handle("POST /logging", guarded(s.setLevel))
	}
	return mux
}

func (s Source) setLevel(w http.ResponseWriter, r *http.Request) {
	level := r.URL.Query().Get("level")
	if err := s.Level.UnmarshalText([]byte(level)); err != nil {
		http.Error(w, fmt.Sprintf("level %q: want debug, info, warn or error", level), http.StatusBadRequest)
		return
	}
	fmt.Fprintln(w, s.Level.Level())
}

// stats prints the metrics for people.
func (s Source) stats(w http.ResponseWriter, r *http.Request) {
	filter, err := regexp.Compile(r.URL.Query().Get("filter"))
	if err != nil {
		http.Error(w, fmt.Sprintf("filter: %v", err), http.StatusBadRequest)
		return
	}
	families, err := s.Metrics.Gather()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += "." + l.GetValue()
			}
			if !filter.MatchString(name) {
				continue
			}
			switch {
			case m.GetCounter() != nil:
				fmt.Fprintf(w, "%s: %g\n", name, m.GetCounter().GetValue())
			case m.GetGauge() != nil:
				fmt.Fprintf(w, "%s: %g\n", name, m.GetGauge().GetValue())
			case m.GetHistogram() != nil:
				h := m.GetHistogram()
				fmt.Fprintf(w, "%s: count %d, sum %g\n", name, h.GetSampleCount(), h.GetSampleSum())
			case m.GetSummary() != nil:
				s := m.GetSummary()
				fmt.Fprintf(w, "%s: count %d, sum %g\n", name, s.GetSampleCount(), s.GetSampleSum())
			}
		}
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // whoever asked has left
}

// Timeouts of the operator's server: nobody holds it open for long.
const (
	ReadHeaderTimeout = 5 * time.Second
	IdleTimeout       = time.Minute
)
