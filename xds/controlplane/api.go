package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/overhear-mesh/overhear/internal/httpguard"
	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

const (
	// askTimeout bounds how long an operator waits for the loop.
	askTimeout = 5 * time.Second
	// maxFollowers bounds how many may follow the events at once.
	maxFollowers = 64
	// followWrite bounds one write to a follower, and followIdle is how often one
	// hears that there is nothing.
	followWrite = 10 * time.Second
	followIdle  = 15 * time.Second
	// page is how many events are written between two looks at the ring.
	page = 256
	// maxOverride bounds how long an operator's order stands; so does a release.
	maxOverride = 30 * 24 * time.Hour
)

// handler is the operator's API, the probes and the metrics.
func (cp *ControlPlane) handler() http.Handler {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(&collector{cp}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", cp.live)
	mux.HandleFunc("GET /ready", cp.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /api/v1/status", cp.getStatus)
	mux.HandleFunc("GET /api/v1/why", cp.getWhy)
	mux.HandleFunc("GET /api/v1/reporters", cp.getReporters)
	mux.HandleFunc("GET /api/v1/clients", cp.getClients)
	mux.HandleFunc("GET /api/v1/events", cp.getEvents)
	for _, verb := range []string{"eject", "pin", "release"} {
		mux.Handle("/api/v1/"+verb, httpguard.Guard(cp.cfg.APIToken, "control_plane.api_token in the mesh file, or OVERHEAR_API_TOKEN where it runs",
			cp.cfg.APIHosts, failWith, cp.change(verb)))
	}
	return mux
}

// State is what a probe of the process itself is told.
type State struct {
	State string `json:"state"` // live or ready
}

// live says that the loop turns.
func (cp *ControlPlane) live(w http.ResponseWriter, r *http.Request) {
	if cp.ask(w, r, func(*loop) {}) {
		answer(w, http.StatusOK, State{"live"})
	}
}

// ready says that clients are answered.
func (cp *ControlPlane) ready(w http.ResponseWriter, _ *http.Request) {
	select {
	case <-cp.loop.opened:
		answer(w, http.StatusOK, State{"ready"})
	default:
		fail(w, http.StatusServiceUnavailable, "not ready: waiting for those who reported before the restart")
	}
}

// ask runs f on the loop and answers the request if that fails.
func (cp *ControlPlane) ask(w http.ResponseWriter, r *http.Request, f func(*loop)) bool {
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	if err := cp.loop.ask(ctx, f); err != nil {
		fail(w, http.StatusServiceUnavailable, "the control plane does not answer: %v", err)
		return false
	}
	return true
}

func (cp *ControlPlane) getStatus(w http.ResponseWriter, r *http.Request) {
	var st Status
	wanted, endpoint := r.URL.Query().Get("service"), r.URL.Query().Get("endpoint")
	if wanted == "" && endpoint != "" {
		fail(w, http.StatusBadRequest, "service is missing: want that of endpoint %q", endpoint)
		return
	}
	if !cp.ask(w, r, func(l *loop) { st = l.status(wanted, cp.opts.Version) }) {
		return
	}
	if wanted != "" && len(st.Services) == 0 {
		var names []string
		for _, s := range cp.opts.Registry.Current().Services {
			names = append(names, s.Name)
		}
		fail(w, http.StatusNotFound, "there is no service %q%s", wanted, strictyaml.DidYouMean(wanted, names))
		return
	}
	if endpoint != "" {
		if err := st.only(endpoint); err != nil {
			fail(w, http.StatusNotFound, "%v", err)
			return
		}
	}
	answer(w, http.StatusOK, st)
}

func (cp *ControlPlane) getReporters(w http.ResponseWriter, r *http.Request) {
	all := Reporters{Now: time.Now(), Reporters: []ReporterStatus{}}
	var known []merge.ReporterStatus
	if !cp.ask(w, r, func(l *loop) { known = l.table.Reporters(l.now()) }) {
		return
	}
	for _, of := range known {
		one := ReporterStatus{ReporterStatus: of}
		one.hear(cp.collector.Refusals(of.ID))
		one.hear(cp.loads.Refusals(of.ID))
		one.hear(cp.probing.Refusals(of.ID))
		one.UnknownClusters = cp.loads.UnknownClusters(of.ID)
		all.Reporters = append(all.Reporters, one)
	}
	answer(w, http.StatusOK, all)
}

func (cp *ControlPlane) getClients(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, Clients{Now: time.Now(), Clients: cp.server.Clients()})
}

// one finds the endpoint that a request names, or answers it.
func (cp *ControlPlane) one(w http.ResponseWriter, name string) (merge.Key, bool) {
	if name == "" {
		fail(w, http.StatusBadRequest, "endpoint is missing: want an instance, an address, or SERVICE/INSTANCE")
		return merge.Key{}, false
	}
	found := find(cp.opts.Registry.Current(), name)
	switch len(found) {
	case 1:
		return found[0], true
	case 0:
		fail(w, http.StatusNotFound, "there is no endpoint %q%s", name, meant(cp.opts.Registry.Current(), name))
	default:
		var names []string
		for _, k := range found {
			names = append(names, k.String())
		}
		fail(w, http.StatusConflict, "%q may be any of %s", name, strings.Join(names, ", "))
	}
	return merge.Key{}, false
}

func (cp *ControlPlane) getWhy(w http.ResponseWriter, r *http.Request) {
	k, ok := cp.one(w, r.URL.Query().Get("endpoint"))
	if !ok {
		return
	}
	cp.answerWhy(w, r, k)
}

func (cp *ControlPlane) answerWhy(w http.ResponseWriter, r *http.Request, k merge.Key) {
	var why Why
	var ok bool
	if !cp.ask(w, r, func(l *loop) { why, ok = l.why(k, cp.opts.Version) }) {
		return
	}
	if !ok { // removed since it was looked up
		fail(w, http.StatusNotFound, "there is no endpoint %q", k)
		return
	}
	answer(w, http.StatusOK, why)
}

// Order is an operator's order about one endpoint, as the body of a POST.
type Order struct {
	Endpoint string     `json:"endpoint"`
	For      merge.Span `json:"for,omitempty"` // 0: until released
	Reason   string     `json:"reason"`
	By       string     `json:"by,omitempty"` // who says so, for the record: it is not checked
}

// change carries out eject, pin or release, and answers with the endpoint as it
// then is.
func (cp *ControlPlane) change(verb string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var order Order
		body := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
		body.DisallowUnknownFields()
		if err := body.Decode(&order); err != nil {
			fail(w, http.StatusBadRequest, "the body is no order: %v", err)
			return
		}
		if _, err := body.Token(); !errors.Is(err, io.EOF) {
			fail(w, http.StatusBadRequest, "the body goes on after the order")
			return
		}
		order.Reason = strings.TrimSpace(order.Reason)
		switch {
		case len(order.Reason) > 500 || len(order.By) > 100:
			fail(w, http.StatusBadRequest, "reason or by is too long: want at most 500 and 100 bytes")
			return
		case verb != "release" && order.Reason == "":
			fail(w, http.StatusBadRequest, "reason is missing: the next person on call will ask")
			return
		case order.For < 0 || time.Duration(order.For) > maxOverride:
			fail(w, http.StatusBadRequest, "for is %s: want 0s (until released) to %s", order.For, maxOverride)
			return
		}
		k, ok := cp.one(w, order.Endpoint)
		if !ok {
			return
		}
		if order.By == "" {
			order.By = r.RemoteAddr
		}
		var err error
		if !cp.ask(w, r, func(l *loop) { err = l.override(verb, k, order) }) {
			return
		}
		if err != nil {
			fail(w, http.StatusConflict, "%v", err)
			return
		}
		cp.answerWhy(w, r, k)
	})
}

// override gives the table an operator's order.
func (l *loop) override(verb string, k merge.Key, order Order) error {
	now := l.now()
	text := fmt.Sprintf("%s: %s by %s", k, verb, order.By)
	if order.Reason != "" {
		text += ": " + order.Reason
	}
	if verb == "release" {
		if err := l.table.Release(k, now); err != nil {
			return err
		}
	} else {
		o := merge.Override{Kind: merge.OverrideKind(verb), Reason: order.Reason, By: order.By}
		if order.For > 0 {
			o.Until = now + time.Duration(order.For)
			text += fmt.Sprintf(" (for %s)", order.For)
		}
		if err := l.table.Override(k, o, now); err != nil {
			return err
		}
	}
	l.history.add(Event{Time: l.wall(now), Kind: "operator", Service: k.Service, Endpoint: k.Instance, Text: text})
	l.log.Info("operator", "verb", verb, "service", k.Service, "endpoint", k.Instance, "by", order.By, "reason", order.Reason, "for", order.For.String())
	// Decided and published before anybody can ask what became of it.
	l.urgent = true
	l.turn()
	return nil
}

// RunHeader is the field of an answer with events that names the process: their cursors
// are its own. Who comes back with a cursor gives it as "run", and gets all events if the
// process is another.
const RunHeader = "Overhear-Run"

// getEvents writes the events after a cursor, as JSON lines or as a stream of
// server-sent events, and goes on with those to come if it is to follow.
func (cp *ControlPlane) getEvents(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	sse := strings.Contains(r.Header.Get("Accept"), "text/event-stream")
	follow := sse
	var cursor uint64
	var err error
	if v := query.Get("follow"); v != "" {
		if follow, err = strconv.ParseBool(v); err != nil {
			fail(w, http.StatusBadRequest, "follow is %q: want true or false", v)
			return
		}
	}
	after := query.Get("after")
	if v := r.Header.Get("Last-Event-ID"); v != "" && after == "" {
		after = v
	}
	if after != "" {
		if cursor, err = strconv.ParseUint(after, 10, 64); err != nil {
			fail(w, http.StatusBadRequest, "after is %q: want the cursor of an event", after)
			return
		}
	}
	run := strconv.FormatInt(cp.loop.begun.UnixNano(), 36)
	if v := query.Get("run"); v != "" && v != run {
		cursor = 0
	}
	if follow {
		select {
		case cp.followers <- struct{}{}:
			defer func() { <-cp.followers }()
		default:
			fail(w, http.StatusServiceUnavailable, "%d follow the events already", maxFollowers)
			return
		}
	}

	w.Header().Set(RunHeader, run)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if sse {
		w.Header().Set("Content-Type", "text/event-stream")
	} else {
		w.Header().Set("Content-Type", "application/x-ndjson")
	}
	out := &eventWriter{w: w, control: http.NewResponseController(w), sse: sse}
	// The server's deadline for reading a request would end a long answer as well.
	if err := out.control.SetReadDeadline(time.Time{}); err != nil {
		fail(w, http.StatusInternalServerError, "%v", err)
		return
	}
	idle := time.NewTicker(followIdle)
	defer idle.Stop()
	for {
		events, lost, more := cp.history.after(cursor, page)
		if lost > 0 {
			out.write(Event{Cursor: cursor, Time: time.Now(), Kind: "lost", Text: fmt.Sprintf("%d events are no longer kept", lost)})
		}
		for _, e := range events {
			out.write(e)
			cursor = e.Cursor
		}
		if out.flush(); out.err != nil || len(events) == 0 && !follow {
			return
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-more:
		case <-idle.C:
			out.nothing()
		case <-r.Context().Done():
			return
		}
	}
}

// eventWriter writes events until the first error.
type eventWriter struct {
	w       io.Writer
	control *http.ResponseController
	sse     bool
	err     error
}

func (o *eventWriter) write(e Event) {
	text, err := json.Marshal(e)
	if err != nil {
		o.err = err
		return
	}
	if o.sse {
		o.printf("id: %d\nevent: %s\ndata: %s\n\n", e.Cursor, e.Kind, text)
	} else {
		o.printf("%s\n", text)
	}
}

// nothing tells a follower that the connection lives, and this side that the
// follower does.
func (o *eventWriter) nothing() {
	if o.sse {
		o.printf(": nothing new\n\n")
	} else {
		o.printf("\n")
	}
	o.flush()
}

func (o *eventWriter) printf(format string, args ...any) {
	if o.err != nil {
		return
	}
	if o.err = o.control.SetWriteDeadline(time.Now().Add(followWrite)); o.err == nil {
		_, o.err = fmt.Fprintf(o.w, format, args...)
	}
}

func (o *eventWriter) flush() {
	if o.err == nil {
		o.err = o.control.Flush()
	}
}
