package mesh

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/xds/controlplane"
)

// get asks the control plane's API.
func (m *Mesh) get(path string, into any) {
	m.t.Helper()
	body := m.fetch(path)
	if err := json.Unmarshal(body, into); err != nil {
		m.t.Fatalf("GET %s: %v in %s", path, err, body)
	}
}

// Events is what the control plane has to tell, with that of its earlier lives.
func (m *Mesh) Events() []controlplane.Event {
	m.t.Helper()
	all := slices.Clone(m.past)
	if m.control == nil {
		return all
	}
	lines := json.NewDecoder(bytes.NewReader(m.fetch("/api/v1/events")))
	for lines.More() {
		var e controlplane.Event
		if err := lines.Decode(&e); err != nil {
			m.t.Fatalf("an event: %v", err)
		}
		all = append(all, e)
	}
	return all
}

func (m *Mesh) fetch(path string) []byte {
	m.t.Helper()
	transport := &http.Transport{DialContext: m.Net.Host("10.0.0.9").Dial, DisableKeepAlives: true}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+controlHost+apiPort+path, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		m.t.Fatalf("GET %s: %v", path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		m.t.Fatalf("GET %s: %s: %v: %s", path, res.Status, err, body)
	}
	return body
}

// Why is what the control plane has to say about an endpoint.
func (m *Mesh) Why(endpoint int) controlplane.Why {
	m.t.Helper()
	var w controlplane.Why
	m.get("/api/v1/why?endpoint="+m.Endpoints[endpoint].Instance, &w)
	return w
}

// Reporters are those that the control plane hears.
func (m *Mesh) Reporters() controlplane.Reporters {
	m.t.Helper()
	var r controlplane.Reporters
	m.get("/api/v1/reporters", &r)
	return r
}

// Whole says whether the control plane hears every sidecar and has been told by each,
// in this life, what it has counted.
func (m *Mesh) Whole() bool {
	m.t.Helper()
	want := len(m.Callers)
	if m.cfg.Inbound {
		want += len(m.Endpoints)
	}
	for _, r := range m.Reporters().Reporters {
		if r.Live && r.Accepted > 0 {
			want--
		}
	}
	return want == 0
}

// EventAt is when an event was, since the mesh began.
func (m *Mesh) EventAt(e controlplane.Event) time.Duration { return e.Time.Sub(m.began.Round(0)) }

// Verdict is a change in what the control plane holds of an endpoint, in a scope.
type Verdict struct {
	At       time.Duration
	Endpoint int
	Scope    string // "fleet" or "zone NAME"
	From, To string
	Rule     string
	Text     string
}

// Out says whether the verdict takes an endpoint out that was in use.
func (v Verdict) Out() bool {
	return v.To == outlier.Ejected.String() || v.To == outlier.Suspended.String()
}

// Verdicts are the changes that keep accepts, over all lives of the control plane.
func (m *Mesh) Verdicts(keep func(Verdict) bool) []Verdict {
	m.t.Helper()
	var all []Verdict
	for _, e := range m.Events() {
		if e.Kind != "verdict" || e.HeldBack != "" {
			continue
		}
		all = append(all, Verdict{
			At: m.EventAt(e), Endpoint: m.indexOf(e.Endpoint), Scope: e.Scope, From: e.From, To: e.To, Rule: e.Rule, Text: e.Text,
		})
	}
	return filter(all, keep)
}
