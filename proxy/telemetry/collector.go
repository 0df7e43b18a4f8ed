package telemetry

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/tcp"
)

// Listener is one listener's numbers.
type Listener struct {
	Recorder *Recorder
	HTTP     *exchange.Metrics // nil for a TCP listener
	TCP      func() tcp.Stats  // nil for an HTTP listener
	Accepted func() uint64     // connections since the start
}

// Source is where a Collector reads. Its functions are called on the goroutine
// of whoever scrapes.
type Source struct {
	Version   string
	Listeners func() []Listener
	Clusters  func() []*cluster.Cluster
	// AccessLog may be nil.
	AccessLog *AccessLog
	// Spans are the totals of tracing; nil without it.
	Spans func() SpanStats
	// ControlPlane says whether there should be a control plane, and whether it
	// is heard, as resources and as a report stream.
	ControlPlane func() (wanted, resources, reports bool)
	// Reports are the report stream's totals by name; may be nil.
	Reports func() map[string]uint64
	// Refused are the control plane's responses that were refused, by kind of resource.
	Refused func() map[string]uint64
	// Reloads are the accepted and the refused ones.
	Reloads func() (accepted, refused uint64)
	// Draining says whether the sidecar is on its way out.
	Draining func() bool
}

// Collector implements prometheus.Collector.
type Collector struct{ source Source }

// NewCollector returns a collector to be registered once.
func NewCollector(s Source) *Collector { return &Collector{s} }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("overhear_"+name, help, labels, nil)
}

var (
	buildInfo = desc("build_info", "The sidecar's version, always 1.", "version")
	draining  = desc("draining", "1 while the sidecar is on its way out.")

	requests     = desc("http_server_requests_total", "Requests by the status that the client got; 0 is none.", "listener", "direction", "http_route", "cluster", "http_response_status_code")
	duration     = desc("http_server_request_duration_seconds", "From the end of a request's head to the last byte of its answer.", "listener", "direction")
	connDuration = desc("tcp_connection_duration_seconds", "From accepting a connection to its end.", "listener", "direction")
	flags        = desc("response_flags_total", "Requests and connections by response flag, as in the access log.", "listener", "direction", "flag")
	accepted     = desc("downstream_connections_total", "Connections that were accepted.", "listener", "direction")
	active       = desc("downstream_connections", "Connections that are open.", "listener", "direction")
	tunnels      = desc("tunnels", "Connections and streams that have changed their protocol, and are open.", "listener", "direction")
	retries      = desc("retries_total", "Attempts beyond a request's first.", "listener")
	hedges       = desc("hedges_total", "Attempts that began while another of their request was overdue, by what became of them.", "listener", "result")
	mirrored     = desc("mirrored_requests_total", "Requests of which a copy was to be sent, by whether it was.", "listener", "result")
	malformed    = desc("malformed_requests_total", "Requests that were refused for their form, and connections of HTTP/2 that were ended for it.", "listener", "direction")
	badAnswers   = desc("malformed_responses_total", "Responses that were refused for their form.", "listener", "direction")
	tcpBytes     = desc("tcp_bytes_total", "Bytes of connections that have ended.", "listener", "direction", "from")
	tcpFailed    = desc("tcp_failed_connections_total", "Connections that no endpoint took.", "listener", "direction")
	logDropped   = desc("access_log_dropped_lines_total", "Access log lines that could not be written in time.")
	spans        = desc("spans_total", "Spans by what became of them; those that wait are in none.", "result")

	attempts  = desc("endpoint_attempts_total", "Attempts by outcome, as the detector counts them.", "cluster", "endpoint", "outcome")
	state     = desc("endpoint_state", "1 for the state in which the endpoint is.", "cluster", "endpoint", "state")
	share     = desc("endpoint_share", "Part of its base weight that the endpoint gets.", "cluster", "endpoint")
	inflight  = desc("endpoint_inflight_attempts", "Attempts that have not ended.", "cluster", "endpoint")
	openConns = desc("endpoint_connections", "Connections to the endpoint.", "cluster", "endpoint", "state")
	panicking = desc("cluster_panic", "1 while so few endpoints are believed to be well that all are used.", "cluster")
	overdue   = desc("cluster_overdue_seconds", "Age from which an attempt without an answer is overdue.", "cluster")
	changes   = desc("belief_changes_total", "Changes of belief, by the state they led to and the rule.", "cluster", "to", "rule")
	refusals  = desc("belief_refusals_total", "Changes of belief that a guard or a cap refused.", "cluster", "to", "rule", "reason")
	probes    = desc("suspicion_probes_total", "Probes that confirm a suspicion, by result.", "cluster", "result")
	hints     = desc("idle_close_hints_total", "Idle connections that an endpoint closed as one does that dies.", "cluster")
	hinted    = desc("idle_close_probes_total", "Such hints that were looked into, by the result of the last probe.", "cluster", "result")
	pings     = desc("idle_pings_total", "Pings of endpoints without traffic, by result.", "cluster", "result")
	badPaths  = desc("ping_path_invalid_total", "How often a ping path was found not to be answered by a healthy endpoint.", "cluster")

	connected = desc("control_plane_connected", "1 while the control plane is heard.", "stream")
	nacks     = desc("control_plane_refused_responses_total", "Responses of the control plane that were refused, by what they brought.", "kind")
	reports   = desc("report_stream_total", "Messages on the report stream, by kind.", "kind")
	reloads   = desc("config_reloads_total", "Reloads of the configuration.", "result")
)

// Describe implements prometheus.Collector. It sends nothing, which makes the
// collector unchecked: the set of series changes with clusters and endpoints.
func (c *Collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	e := emitter{ch}
	s := c.source
	e.gauge(buildInfo, 1, s.Version)
	e.gauge(draining, boolean(s.Draining()))
	for _, l := range s.Listeners() {
		e.listener(l)
	}
	for _, cl := range s.Clusters() {
		e.cluster(cl)
	}
	if s.AccessLog != nil {
		e.counter(logDropped, s.AccessLog.Dropped())
	}
	if s.Spans != nil {
		st := s.Spans()
		e.counter(spans, st.Sent, "sent")
		e.counter(spans, st.Failed, "failed")
		e.counter(spans, st.Dropped, "dropped")
	}
	if wanted, resources, reporting := s.ControlPlane(); wanted {
		e.gauge(connected, boolean(resources), "ads")
		e.gauge(connected, boolean(reporting), "report")
	}
	if s.Reports != nil {
		for kind, n := range s.Reports() {
			e.counter(reports, n, kind)
		}
	}
	if s.Refused != nil {
		for kind, n := range s.Refused() {
			e.counter(nacks, n, kind)
		}
	}
	ok, refused := s.Reloads()
	e.counter(reloads, ok, "accepted")
	e.counter(reloads, refused, "refused")
}

type emitter struct{ ch chan<- prometheus.Metric }

func (e emitter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (e emitter) counter(d *prometheus.Desc, v uint64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

// some emits a counter that is not zero: most combinations of labels never are.
func (e emitter) some(d *prometheus.Desc, v uint64, labels ...string) {
	if v > 0 {
		e.counter(d, v, labels...)
	}
}

func (e emitter) listener(l Listener) {
	r := l.Recorder
	name, way := r.listener, direction(r.inbound)
	e.counter(accepted, l.Accepted(), name, way)
	// A listener that finds out what is spoken has connections of both kinds.
	open, raised := int64(0), map[string]uint64{}
	for bit := range r.tcpFlags {
		raised[tcp.Flags(1<<bit).String()] += r.tcpFlags[bit].Load()
	}
	if l.TCP != nil {
		t := l.TCP()
		open += t.Active
		e.counter(tcpFailed, uint64(t.Failed), name, way)
		e.counter(tcpBytes, uint64(t.Sent), name, way, "client")
		e.counter(tcpBytes, uint64(t.Received), name, way, "server")
		e.histogram(connDuration, &r.tcpDuration, name, way)
	}
	if m := l.HTTP; m != nil {
		open += m.Connections.Load()
		e.counter(malformed, m.Malformed.Load(), name, way)
		e.counter(badAnswers, m.BadAnswers.Load(), name, way)
		e.gauge(tunnels, float64(m.Tunnels.Load()), name, way)
		if !r.inbound {
			e.counter(retries, m.Retries.Load(), name)
			won := m.HedgesWon.Load()
			e.counter(hedges, won, name, "won")
			e.counter(mirrored, m.Mirrored.Load(), name, "sent")
			e.counter(mirrored, m.Unmirrored.Load(), name, "dropped")
			e.counter(hedges, max(won, m.Hedges.Load())-won, name, "lost")
		}
		for _, route := range *r.routes.Load() {
			for status := range route.status {
				e.some(requests, route.status[status].Load(), name, way, route.name, route.cluster, strconv.Itoa(status))
			}
		}
		for bit := range r.flags {
			raised[exchange.Flags(1<<bit).String()] += r.flags[bit].Load()
		}
		e.histogram(duration, &r.duration, name, way)
	}
	e.gauge(active, float64(open), name, way)
	for flag, n := range raised {
		e.some(flags, n, name, way, flag)
	}
}

func (e emitter) histogram(d *prometheus.Desc, h *histogram, labels ...string) {
	cumulative, total, sum := h.read()
	e.ch <- prometheus.MustNewConstHistogram(d, total, sum, cumulative, labels...)
}

func (e emitter) cluster(c *cluster.Cluster) {
	snapshot := c.Snapshot()
	if snapshot == nil {
		return
	}
	name := c.Name()
	e.gauge(panicking, boolean(snapshot.Panic), name)
	e.gauge(overdue, snapshot.Overdue.Seconds(), name)
	for _, ep := range snapshot.Endpoints {
		n := ep.Counts
		for _, of := range []struct {
			class outlier.Class
			n     uint32
		}{
			{outlier.OK, n.N - n.Conn - n.Timeout - n.Server}, {outlier.Conn, n.Conn}, {outlier.Timeout, n.Timeout},
			{outlier.Server, n.Server}, {outlier.Overload, n.Over}, {outlier.Censored, n.Cens},
		} {
			e.counter(attempts, uint64(of.n), name, ep.ID, of.class.String())
		}
		e.gauge(state, 1, name, ep.ID, ep.State.String())
		e.gauge(share, ep.Share, name, ep.ID)
		e.gauge(inflight, float64(ep.Inflight), name, ep.ID)
		e.gauge(openConns, float64(ep.Idle), name, ep.ID, "idle")
		e.gauge(openConns, float64(ep.Open-ep.Idle), name, ep.ID, "busy")
	}
	stats := c.Stats()
	for kind, n := range stats.Changes {
		if kind.Refused == "" {
			e.counter(changes, n, name, kind.To.String(), kind.Rule.String())
		} else {
			e.counter(refusals, n, name, kind.To.String(), kind.Rule.String(), kind.Refused)
		}
	}
	for result, n := range stats.Probes {
		e.counter(probes, n, name, result.String())
	}
	e.some(hints, stats.Hints, name)
	for result, n := range stats.HintProbes {
		e.counter(hinted, n, name, result.String())
	}
	for result, n := range stats.Pings {
		e.counter(pings, n, name, result.String())
	}
	e.some(badPaths, stats.InvalidPaths, name)
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
