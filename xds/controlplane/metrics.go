package controlplane

import (
	"context"
	"maps"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/ingest"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/server"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("overhear_"+name, help, labels, nil)
}

var (
	descInfo      = desc("controlplane_info", "The version that runs; always 1.", "version")
	descReady     = desc("controlplane_ready", "Whether clients are answered: 0 while a restarted control plane waits for its reporters.")
	descUp        = desc("controlplane_start_time_seconds", "When the process began to serve, as Unix time.")
	descReloads   = desc("registry_reloads_total", "Mesh files by what became of them.", "result")
	descReloadOK  = desc("registry_in_sync", "Whether the mesh file on disk is the one in force.")
	descLoadedAt  = desc("registry_loaded_timestamp_seconds", "When the mesh in force was accepted, as Unix time.")
	descStateFail = desc("state_write_failures_total", "Times that the verdicts could not be written to the state directory.")

	descReporters = desc("reporters", "Reporters that the evidence table knows, by whether their stream is open.", "live")
	descStreams   = desc("report_streams", "Report streams that are open.")
	descMessages  = desc("report_messages_total", "Messages that reporters sent.")
	descThrottled = desc("report_messages_throttled_total", "Messages that were read late because their reporter sends too many.")
	descDropped   = desc("orders_dropped_total", "Orders that never left for a reporter, by reason.", "reason")
	descReports   = desc("reports_total", "Reports that reached the evidence table.")
	descCells     = desc("report_cells_total", "Readings of one endpoint by one reporter that the evidence table took over.")
	descUnheard   = desc("report_refused_total", "What of reporters' words was set aside, by reason; as unknown_order also the answers that come after their question is settled.", "stage", "reason")

	descEnvoys       = desc("load_report_streams", "Envoys whose load reports are evidence.")
	descLoads        = desc("load_reports_total", "Load reports that Envoys sent.")
	descLoadsLate    = desc("load_reports_throttled_total", "Load reports that were read late because their Envoy sends too many.")
	descLogRecords   = desc("envoy_log_records_total", "Records of attempts in Envoys' logs.")
	descPages        = desc("envoy_pages_total", "Admin pages that were read of Envoys that are polled.")
	descLoadsRefused = desc("load_report_refused_total", "What load reports, logs and admin pages of Envoys said and nobody believed, by reason.", "reason")

	descProbers        = desc("health_discovery_streams", "Envoys that probe what they are asked to.")
	descProbersHeard   = desc("health_discovery_messages_total", "Messages that Envoys sent about their checks.")
	descProbersLate    = desc("health_discovery_throttled_total", "Messages about checks that were read late because their Envoy sends too many.")
	descProbersRefused = desc("health_discovery_refused_total", "What Envoys said of checks and nobody believed, by reason.", "reason")
	descEnvoyProbes    = desc("envoy_probe_results_total", "Results of probes and idle pings that Envoys were asked for by health discovery.", "result")

	descSuspected = desc("suspicions_total", "Rounds of confirmation that were opened.", "service")
	descOrders    = desc("orders_total", "Orders to reporters, by kind.", "kind")
	descProbes    = desc("probe_results_total", "Results of ordered probes and of idle pings.", "result")
	descEvents    = desc("events_total", "Events of the evidence table that change no verdict, by kind.", "kind")
	descVerdicts  = desc("verdicts_total", "Changes of verdicts.", "service", "scope", "state", "rule")
	descHeldBack  = desc("verdicts_held_back_total", "Verdicts that a guard or a cap held back, by which.", "service", "by")
	descEndpoints = desc("endpoints", "Endpoints of the registry by the state that the fleet believes them in.", "service", "state")
	descSlow      = desc("slow_endpoints", "Endpoints that get a part of their weight, for being slow for all callers.", "service")
	descScoped    = desc("zone_verdicts", "Verdicts in force for single zones of observers.", "service")

	descClients   = desc("xds_streams", "xDS streams that are open.")
	descResponses = desc("xds_responses_total", "xDS responses sent.", "type")
	descACKs      = desc("xds_acks_total", "xDS responses that clients accepted.", "type")
	descNACKs     = desc("xds_nacks_total", "xDS responses that clients refused.", "type")
	descFaulty    = desc("xds_streams_refused_total", "xDS streams that were ended for what their client did, by reason.", "reason")
	descIgnored   = desc("xds_requests_ignored_total", "xDS requests that were ignored, or what was wrong in them, by reason; as stale_nonce also those that a newer response has overtaken.", "reason")
	descPushes    = desc("pushes_total", "Sets of resources that were handed over for publication.")
	descPush      = desc("push_duration_seconds", "Time from a decision to its being queued for the streams of all clients.")
	descStep      = desc("step_duration_seconds", "Time that one look at the evidence took.")
)

// collector turns our own numbers into metrics when they are asked for: counting
// them a second time in a library's counters would cost more than the work that
// they count.
type collector struct{ cp *ControlPlane }

// Describe sends nothing, which makes the collector an unchecked one: which
// labels there are depends on the mesh.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// picture is one consistent reading of the loop's numbers.
type picture struct {
	numbers   numbers
	ready     bool
	live      int
	known     int
	endpoints map[stateLabels]int
	scoped    map[string]int
	slow      map[string]int
}

// Collect reads the loop's numbers in one go. A loop that does not answer in time
// leaves its part out, which an alert on the absence of the metric sees.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	m := sender(out)
	m.gauge(descInfo, 1, c.cp.opts.Version)
	m.gauge(descUp, float64(c.cp.loop.begun.UnixNano())/1e9)
	m.registry(c.cp.opts.Registry.Status())
	m.counter(descStateFail, c.cp.store.failed.Load())
	m.reports(c.cp.collector.Stats())
	m.loads(c.cp.loads.Stats())
	m.probing(c.cp.probing.Stats())
	m.xds(c.cp.server.Stats())
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	var p picture
	if c.cp.loop.ask(ctx, func(l *loop) { p = l.picture() }) == nil {
		m.loop(p)
	}
}

func (l *loop) picture() picture {
	n := l.numbers // histograms are values; maps are shared and must be copied
	n.verdicts, n.refused, n.events = maps.Clone(n.verdicts), maps.Clone(n.refused), maps.Clone(n.events)
	n.suspected, n.orders = maps.Clone(n.suspected), maps.Clone(n.orders)
	n.probes, n.unheard = maps.Clone(n.probes), maps.Clone(n.unheard)
	n.envoyProbes = maps.Clone(n.envoyProbes)
	p := picture{numbers: n, ready: l.returns.over, endpoints: map[stateLabels]int{}, scoped: map[string]int{}, slow: map[string]int{}}
	for _, r := range l.table.Reporters(l.now()) {
		p.known++
		if r.Live {
			p.live++
		}
	}
	for _, s := range l.mesh.Services {
		p.scoped[s.Name], p.slow[s.Name] = 0, 0
		for _, e := range s.Endpoints {
			k := merge.Key{Service: s.Name, Instance: e.ID()}
			state := outlier.Draining
			fleet, judged := l.beliefs.in(k, merge.Fleet)
			if !e.Draining {
				state = fleet.State // in, if there is none
			}
			p.endpoints[stateLabels{s.Name, state}]++
			p.scoped[s.Name] += len(l.beliefs[k])
			if l.slow.share(k) < 1 {
				p.slow[s.Name]++
			}
			if judged {
				p.scoped[s.Name]--
			}
		}
	}
	return p
}

// sender writes metrics.
type sender chan<- prometheus.Metric

func (m sender) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (m sender) counter(d *prometheus.Desc, v uint64, labels ...string) {
	m <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (m sender) histogram(d *prometheus.Desc, h histogram) {
	m <- prometheus.MustNewConstHistogram(d, h.count, h.sum, h.cumulative())
}

func (m sender) claim(d *prometheus.Desc, holds bool) {
	v := 0.0
	if holds {
		v = 1
	}
	m.gauge(d, v)
}

func (m sender) registry(st registry.Status) {
	m.counter(descReloads, st.Loads, "accepted")
	m.counter(descReloads, st.Failures, "refused")
	m.claim(descReloadOK, st.LastError == "")
	m.gauge(descLoadedAt, float64(st.Loaded.UnixNano())/1e9)
}

func (m sender) reports(st report.Stats) {
	m.gauge(descStreams, float64(st.Streams))
	m.counter(descMessages, st.Messages)
	m.counter(descThrottled, st.Throttled)
	for why, n := range st.Dropped {
		m.counter(descDropped, n, string(why))
	}
	for why, n := range st.Refused {
		m.counter(descUnheard, n, "stream", string(why))
	}
}

func (m sender) loads(st ingest.Stats) {
	m.gauge(descEnvoys, float64(st.Streams))
	m.counter(descLoads, st.Messages)
	m.counter(descLogRecords, st.Records)
	m.counter(descPages, st.Pages)
	m.counter(descLoadsLate, st.Throttled)
	for why, n := range st.Refused {
		m.counter(descLoadsRefused, n, string(why))
	}
}

func (m sender) probing(st ingest.Stats) {
	m.gauge(descProbers, float64(st.Streams))
	m.counter(descProbersHeard, st.Messages)
	m.counter(descProbersLate, st.Throttled)
	for why, n := range st.Refused {
		m.counter(descProbersRefused, n, string(why))
	}
}

func (m sender) xds(st server.Stats) {
	m.gauge(descClients, float64(st.Streams))
	for typeURL, n := range st.Responses {
		m.counter(descResponses, n, typeURL)
	}
	for typeURL, n := range st.ACKs {
		m.counter(descACKs, n, typeURL)
	}
	for typeURL, n := range st.NACKs {
		m.counter(descNACKs, n, typeURL)
	}
	for fault, n := range st.Refused {
		m.counter(descFaulty, n, string(fault))
	}
	for fault, n := range st.Ignored {
		m.counter(descIgnored, n, string(fault))
	}
}

func (m sender) loop(p picture) {
	m.claim(descReady, p.ready)
	m.gauge(descReporters, float64(p.live), "true")
	m.gauge(descReporters, float64(p.known-p.live), "false")
	m.counter(descReports, p.numbers.reports)
	m.counter(descCells, p.numbers.cells)
	for why, n := range p.numbers.unheard {
		m.counter(descUnheard, n, "table", string(why))
	}
	for service, n := range p.numbers.suspected {
		m.counter(descSuspected, n, service)
	}
	for kind, n := range p.numbers.orders {
		m.counter(descOrders, n, kind)
	}
	for result, n := range p.numbers.probes {
		m.counter(descProbes, n, result.String())
	}
	for result, n := range p.numbers.envoyProbes {
		m.counter(descEnvoyProbes, n, result.String())
	}
	for kind, n := range p.numbers.events {
		m.counter(descEvents, n, string(kind))
	}
	for v, n := range p.numbers.verdicts {
		m.counter(descVerdicts, n, v.service, v.scope, v.state.String(), v.rule.String())
	}
	for v, n := range p.numbers.refused {
		m.counter(descHeldBack, n, v.service, v.why)
	}
	for e, n := range p.endpoints {
		m.gauge(descEndpoints, float64(n), e.service, e.state.String())
	}
	for service, n := range p.scoped {
		m.gauge(descScoped, float64(n), service)
	}
	for service, n := range p.slow {
		m.gauge(descSlow, float64(n), service)
	}
	m.counter(descPushes, p.numbers.pushes)
	m.histogram(descPush, p.numbers.push)
	m.histogram(descStep, p.numbers.step)
}
