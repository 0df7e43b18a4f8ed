package report

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

// The version of the protocol that this code speaks. Another major is refused.
const (
	versionMajor = 1
	versionMinor = 0
)

// Bounds of one message and one stream.
const (
	maxMessage = 1 << 20
	maxRefs    = 20_000
	maxName    = 512 // bytes of a service, an instance, a node id, a label
	maxLabels  = 64
	maxOwn     = 64
	maxHistory = 3
	maxSlower  = 1e6
	// fullMessage is the size beyond which the sidecar begins another message.
	fullMessage = maxMessage / 2
	// partSize is what one part takes on the wire at most, besides its names.
	partSize = 256
	// latencySize is what one bucket of a histogram takes at most.
	latencySize = 12
)

// observes is the capability of who only tells: [Hello.Observes].
const observes = "observes"

// never is an instant before everything.
const never time.Duration = -1

func version() *reportpb.Version {
	return &reportpb.Version{Major: versionMajor, Minor: versionMinor}
}

// millis puts an instant on the wire. 0 means never there, so that what happened in
// the first millisecond is told as 1.
func millis(t time.Duration) int64 {
	if t < 0 {
		return 0
	}
	return max(1, t.Milliseconds())
}

// span puts a length of time on the wire: whole milliseconds, rounded up so that a
// short one does not become none.
func span(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min(int64((d+time.Millisecond-1)/time.Millisecond), 1<<32-1))
}

func unspan(ms uint32) time.Duration { return time.Duration(ms) * time.Millisecond }

func encodeKey(k merge.Key) *reportpb.EndpointKey {
	return &reportpb.EndpointKey{Service: k.Service, Instance: k.Instance}
}

// decodeKey refuses a key that names nothing or too much.
func decodeKey(p *reportpb.EndpointKey) (merge.Key, bool) {
	k := merge.Key{Service: p.GetService(), Instance: p.GetInstance()}
	return k, k.Service != "" && k.Instance != "" && len(k.Service) <= maxName && len(k.Instance) <= maxName
}

func encodeCounts(c outlier.Counts) *reportpb.Counts {
	return &reportpb.Counts{
		N: c.N, Conn: c.Conn, Timeout: c.Timeout, Server: c.Server,
		Over: c.Over, Cens: c.Cens, N90: c.N90, N99: c.N99,
	}
}

func decodeCounts(p *reportpb.Counts) outlier.Counts {
	return outlier.Counts{
		N: p.GetN(), Conn: p.GetConn(), Timeout: p.GetTimeout(), Server: p.GetServer(),
		Over: p.GetOver(), Cens: p.GetCens(), N90: p.GetN90(), N99: p.GetN99(),
	}
}

func encodePoint(p merge.Point) *reportpb.Point {
	out := &reportpb.Point{MonoMs: millis(p.At), N: p.N, K: p.K}
	if p.Paced {
		out.N90, out.N99 = &p.N90, &p.N99
	}
	return out
}

// The enumerations of the wire are those of outlier, shifted by one where the wire
// needs 0 for "unspecified". A value that this version does not know becomes the one
// that claims nothing.

func encodeState(s outlier.State) reportpb.State { return reportpb.State(s) + 1 }

func decodeState(s reportpb.State) outlier.State {
	if s < reportpb.State_STATE_IN || s > reportpb.State_STATE_DRAINING {
		return outlier.In
	}
	return outlier.State(s - 1)
}

func encodeRule(r outlier.Rule) reportpb.Rule { return reportpb.Rule(r) }

func decodeRule(r reportpb.Rule) outlier.Rule {
	if r < 0 || r > reportpb.Rule_RULE_MANUAL {
		return outlier.RuleNone
	}
	return outlier.Rule(r)
}

func encodeLevel(l outlier.Level) reportpb.Level { return reportpb.Level(l) }

func decodeLevel(l reportpb.Level) outlier.Level {
	if l < 0 || l > reportpb.Level_LEVEL_APP {
		return outlier.LevelNone
	}
	return outlier.Level(l)
}

func encodeResult(r outlier.ProbeResult) reportpb.ProbeOutcome { return reportpb.ProbeOutcome(r) + 1 }

func decodeResult(o reportpb.ProbeOutcome) outlier.ProbeResult {
	if o < reportpb.ProbeOutcome_PROBE_OUTCOME_NOT_RUN || o > reportpb.ProbeOutcome_PROBE_OUTCOME_UNHEALTHY {
		return outlier.NotRun
	}
	return outlier.ProbeResult(o - 1)
}

var pings = [...]merge.PingKind{
	reportpb.Ping_PING_UNSPECIFIED: merge.PingOff,
	reportpb.Ping_PING_TCP:         merge.PingTCP,
	reportpb.Ping_PING_HTTP:        merge.PingHTTP,
	reportpb.Ping_PING_GRPC:        merge.PingGRPC,
}

func encodePing(k merge.PingKind) reportpb.Ping {
	for p, kind := range pings {
		if kind == k {
			return reportpb.Ping(p)
		}
	}
	return reportpb.Ping_PING_UNSPECIFIED
}

func decodePing(p reportpb.Ping) merge.PingKind {
	if p < 0 || int(p) >= len(pings) {
		return merge.PingOff
	}
	return pings[p]
}

// names gives endpoints their short names, at the sidecar's end of one stream.
type names struct {
	mu   sync.Mutex
	refs map[merge.Key]uint32
	keys []merge.Key // by ref - 1
}

func newNames() *names { return &names{refs: map[merge.Key]uint32{}} }

// ref names an endpoint; 0: the stream can name no more. fresh: it has to be
// declared.
func (n *names) ref(k merge.Key) (ref uint32, fresh bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ref := n.refs[k]; ref != 0 {
		return ref, false
	}
	if len(n.keys) >= maxRefs {
		return 0, false
	}
	n.keys = append(n.keys, k)
	ref = uint32(len(n.keys))
	n.refs[k] = ref
	return ref, true
}

// key is the endpoint behind a name.
func (n *names) key(ref uint32) (merge.Key, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ref == 0 || int(ref) > len(n.keys) {
		return merge.Key{}, false
	}
	return n.keys[ref-1], true
}

// encodeHello is the first message of a stream. It has to fit into one: verdicts
// beyond that are left out, from the end.
func encodeHello(h Hello, incarnation uint64, now time.Duration) *reportpb.Up {
	p := &reportpb.Hello{
		Version: version(), NodeId: h.Node, Incarnation: incarnation,
		Region: h.Region, Zone: h.Zone, Labels: h.Labels,
	}
	if h.Observes {
		p.Capabilities = []string{observes}
	}
	for _, o := range h.Own {
		p.Own = append(p.Own, &reportpb.OwnInstance{Key: encodeKey(o.Key), StartAgeMs: uint64(max(0, o.Age.Milliseconds()))})
	}
	size := 0
	for _, v := range h.Held {
		if size += partSize + len(v.Key.Service) + len(v.Key.Instance); size > fullMessage {
			break
		}
		p.Held = append(p.Held, &reportpb.HeldVerdict{
			Key: encodeKey(v.Key), Epoch: v.Epoch, State: encodeState(v.State), Rule: encodeRule(v.Rule), RampFrom: v.RampFrom,
		})
	}
	return &reportpb.Up{Hello: p, MonoMs: millis(now)}
}

// decodeHello checks who introduces itself. Lists beyond their bounds are cut short;
// what cannot be read of them is left out.
func decodeHello(p *reportpb.Hello) (h Hello, incarnation uint64, why Refusal) {
	switch {
	case p == nil, p.GetNodeId() == "":
		return h, 0, BadHello
	case p.GetVersion().GetMajor() != versionMajor:
		return h, 0, BadVersion
	case len(p.GetNodeId()) > maxName, len(p.GetZone()) > maxName, len(p.GetRegion()) > maxName,
		len(p.GetLabels()) > maxLabels, len(p.GetOwn()) > maxOwn, len(p.GetHeld()) > maxRefs:
		return h, 0, TooLarge
	}
	for k, v := range p.GetLabels() {
		if len(k) > maxName || len(v) > maxName {
			return h, 0, TooLarge
		}
	}
	h = Hello{
		Node: p.GetNodeId(), Region: p.GetRegion(), Zone: p.GetZone(), Labels: p.GetLabels(),
		Observes: slices.Contains(p.GetCapabilities(), observes),
	}
	for _, o := range p.GetOwn() {
		if k, ok := decodeKey(o.GetKey()); ok {
			h.Own = append(h.Own, Own{Key: k, Age: age(o.GetStartAgeMs())})
		}
	}
	for _, v := range p.GetHeld() {
		k, ok := decodeKey(v.GetKey())
		ramp := v.GetRampFrom()
		if !ok || !(ramp >= 0 && ramp <= 1) { // not: NaN as well
			continue
		}
		h.Held = append(h.Held, merge.Verdict{
			Key: k, Epoch: v.GetEpoch(), State: decodeState(v.GetState()), Rule: decodeRule(v.GetRule()), RampFrom: ramp,
		})
	}
	return h, p.GetIncarnation(), ""
}

// age reads an age, of at most a century: beyond, a Duration would turn over.
func age(ms uint64) time.Duration {
	const century = 100 * 365 * 24 * time.Hour
	return time.Duration(min(ms, uint64(century.Milliseconds()))) * time.Millisecond
}

// encoder turns messages into the wire form, at the sidecar's end of one stream.
type encoder struct {
	names   *names
	seq     *uint64 // of the incarnation, which outlives the stream
	unnamed int     // endpoints that this stream could not name
	now     time.Duration
	ups     []*reportpb.Up // begun; the last one has room
	size    int            // of the last one, at most
}

// encode puts a message into as many as its size asks for, the most important parts
// first.
func (e *encoder) encode(m Message, now time.Duration) []*reportpb.Up {
	e.now, e.ups = now, nil
	for _, p := range m.Probes {
		if up, r := e.partOn(p.Key); r != 0 {
			up.ProbeResults = append(up.ProbeResults, &reportpb.ProbeResult{
				Order: uint64(p.ID), Ref: r, Level: encodeLevel(p.Level), Outcome: encodeResult(p.Result),
				StartMs: millis(p.Start), EndMs: millis(p.End), Epoch: p.Epoch,
			})
		}
	}
	for _, a := range m.Polls {
		if up, r := e.partOn(a.Cell.Key); r != 0 {
			up.PollAnswers = append(up.PollAnswers, &reportpb.PollAnswer{
				Poll: uint64(a.ID), Seq: e.next(), Endpoint: encodeCell(&a.Cell, r), Then: encodePoint(a.Then),
			})
		}
	}
	for _, p := range m.Probations {
		if up, r := e.partOn(p.Key); r != 0 {
			up.ProbationResults = append(up.ProbationResults, &reportpb.ProbationResult{Ref: r, Epoch: p.Epoch, Counts: encodeCounts(p.Counts)})
		}
	}
	if m.Report != nil {
		e.encodeReport(m.Report)
	}
	for _, k := range m.Known {
		e.partOn(k)
	}
	return e.ups
}

func (e *encoder) encodeReport(r *merge.Report) {
	e.report(e.part(0), r) // also one without any parts: it says that we live
	for _, o := range r.Own {
		p := e.report(e.part(len(o.Key.Service)+len(o.Key.Instance)), r)
		p.Own = append(p.Own, encodeOwn(o, e.now))
	}
	for i := range r.Cells {
		if up, ref := e.partOn(r.Cells[i].Key); ref != 0 {
			p := e.report(up, r)
			p.Endpoints = append(p.Endpoints, encodeCell(&r.Cells[i], ref))
		}
	}
	for _, c := range r.Clusters {
		p := e.report(e.part(len(c.Service)+latencySize*len(c.Latency)), r)
		p.Clusters = append(p.Clusters, encodeTotals(c))
	}
}

// report is the part of up that carries cells and totals.
func (e *encoder) report(up *reportpb.Up, r *merge.Report) *reportpb.Report {
	if up.Report == nil {
		up.Report = &reportpb.Report{Seq: e.next(), Lhm: uint32(max(0, r.LHM))}
	}
	return up.Report
}

// part is a message with room for one more part with names of this length.
func (e *encoder) part(names int) *reportpb.Up {
	size := partSize + names
	if len(e.ups) == 0 || e.size+size > fullMessage {
		e.ups = append(e.ups, &reportpb.Up{MonoMs: millis(e.now)})
		e.size = 0
	}
	e.size += size
	return e.ups[len(e.ups)-1]
}

// partOn is a message with room for one more part on an endpoint, and the endpoint's
// name there; 0: it can have none.
func (e *encoder) partOn(k merge.Key) (*reportpb.Up, uint32) {
	ref, fresh := e.names.ref(k)
	switch {
	case ref == 0:
		e.unnamed++
		return nil, 0
	case fresh:
		up := e.part(len(k.Service) + len(k.Instance))
		up.Declare = append(up.Declare, &reportpb.Declare{Ref: ref, Key: encodeKey(k)})
		return up, ref
	default:
		return e.part(0), ref
	}
}

func (e *encoder) next() uint64 {
	*e.seq++
	return *e.seq
}

func encodeCell(c *merge.Cell, ref uint32) *reportpb.EndpointReport {
	p := &reportpb.EndpointReport{
		Ref: ref, Counts: encodeCounts(c.Counts), Overdue: uint32(max(0, c.Overdue)),
		LastOkMs: millis(c.LastOK), LastOkStartMs: millis(c.LastOKStart),
		LastHardMs: millis(c.LastHard), LastHardStartMs: millis(c.LastHardStart),
		State: encodeState(c.State), Witness: encodeLevel(c.Witness), Score: c.Score,
	}
	for _, h := range c.History[max(0, len(c.History)-maxHistory):] {
		p.History = append(p.History, encodePoint(h))
	}
	return p
}

func encodeTotals(c merge.ClusterTotals) *reportpb.ClusterReport {
	return &reportpb.ClusterReport{
		Service: c.Service, N: c.N, K: c.K, OverdueMs: span(c.Overdue),
		SlowerPercent: uint32(math.Round(100 * outlier.Clamp(c.Slower, 0, maxSlower))), Latency: encodeLatency(c.Latency),
	}
}

func encodeLatency(counts []outlier.LatencyCount) []*reportpb.LatencyCount {
	var list []*reportpb.LatencyCount
	for _, c := range counts {
		list = append(list, &reportpb.LatencyCount{Bucket: uint32(c.Bucket), Count: c.Count})
	}
	return list
}

func encodeOwn(o merge.OwnCell, now time.Duration) *reportpb.OwnReport {
	p := &reportpb.OwnReport{
		Key: encodeKey(o.Key), N: o.N, K: o.K, KRelayed: o.Relayed, Draining: o.Draining,
		LastOkMs: millis(o.LastOK), AppRefusedMs: millis(o.Refused),
	}
	if o.Started != 0 {
		p.StartAgeMs = uint64(max(1, (now - o.Started).Milliseconds()))
	}
	return p
}

// decodeOrders reads one message of the control plane, at the sidecar's end. What
// names an endpoint that this stream has not declared is left out: a sidecar never
// acts on an address that somebody else brings.
func decodeOrders(p *reportpb.Down, n *names, now time.Duration) Orders {
	var o Orders
	for _, p := range p.GetProbes() {
		if k, ok := n.key(p.GetRef()); ok {
			o.Probes = append(o.Probes, merge.ProbeOrder{
				ID: merge.OrderID(p.GetOrder()), Key: k, Level: decodeLevel(p.GetLevel()), Ping: decodePing(p.GetPing()),
				Timeout: unspan(p.GetTimeoutMs()), Epoch: p.GetEpoch(), Reason: p.GetReason(),
			})
		}
	}
	for _, id := range p.GetCancels() {
		o.Cancels = append(o.Cancels, merge.OrderID(id))
	}
	for _, p := range p.GetPolls() {
		if k, ok := n.key(p.GetRef()); ok {
			o.Polls = append(o.Polls, merge.Poll{ID: merge.OrderID(p.GetPoll()), Key: k, At: instant(p.GetThenMs())})
		}
	}
	for _, l := range p.GetLeases() {
		if k, ok := n.key(l.GetRef()); ok {
			o.Leases = append(o.Leases, merge.PingLease{
				ID: merge.OrderID(l.GetLease()), Key: k, Kind: decodePing(l.GetPing()),
				Every: unspan(l.GetEveryMs()), Phase: unspan(l.GetPhaseMs()), Timeout: unspan(l.GetTimeoutMs()),
				Until: now + unspan(l.GetForMs()),
			})
		}
	}
	for _, w := range p.GetWatches() {
		if k, ok := n.key(w.GetRef()); ok {
			o.Watches = append(o.Watches, merge.Watch{Key: k, For: unspan(w.GetForMs())})
		}
	}
	for _, s := range p.GetShares() {
		w := s.GetWeight()
		if k, ok := n.key(s.GetRef()); ok && w >= 0 && w <= 1 {
			o.Shares = append(o.Shares, merge.Share{
				Key: k, Epoch: s.GetEpoch(), Weight: w, Trickle: unspan(s.GetTrickleMs()), For: unspan(s.GetForMs()),
			})
		}
	}
	for _, w := range p.GetWeights() {
		weight := w.GetWeight()
		if k, ok := n.key(w.GetRef()); ok && weight > 0 && weight <= 1 {
			o.Weights = append(o.Weights, merge.Weight{Key: k, Weight: weight, For: unspan(w.GetForMs()), Reason: w.GetReason()})
		}
	}
	for _, s := range p.GetSettings() {
		l := outlier.Percentiles{P50: micros(s.GetP50Us()), P90: micros(s.GetP90Us()), P99: micros(s.GetP99Us())}
		if l.P50 > 0 && l.P50 <= l.P90 && l.P90 <= l.P99 {
			o.Settings = append(o.Settings, merge.Settings{Service: s.GetService(), Latency: l})
		}
	}
	if m := p.GetMute(); m != nil {
		o.Mute = &merge.Mute{Reason: m.GetReason()}
		if m.GetForMs() > 0 {
			o.Mute.Until = now + unspan(m.GetForMs())
		}
	}
	return o
}

// micros reads a latency.
func micros(us uint32) time.Duration { return time.Duration(us) * time.Microsecond }

// inMicros puts one on the wire.
func inMicros(d time.Duration) uint32 {
	return uint32(min(max(0, d.Microseconds()), 1<<32-1))
}

// instant reads an instant of the wire; one that would turn over is never.
func instant(ms int64) time.Duration {
	if ms <= 0 || ms > int64(1<<62/time.Millisecond) {
		return never
	}
	return time.Duration(ms) * time.Millisecond
}
