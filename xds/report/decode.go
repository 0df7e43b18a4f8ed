package report

import (
	"net/netip"
	"time"
	"unique"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

// Authority knows what a reporter may speak of. Its methods are called from many
// goroutines.
type Authority interface {
	// Sent says whether endpoints of the service were sent to this xDS node, which
	// acknowledged them.
	Sent(node, service string) bool
	// Owner says to whom the registry binds an instance: a node id, else the address
	// from which its sidecar comes. Both empty: to nobody.
	Owner(instance merge.Key) (node string, addr netip.Addr)
	// Named is the endpoint that a client of xDS means who knows of its service only the
	// target that it dials and of its instance the address, ADDRESS:PORT. Without an
	// instance it is the service that is asked for. False: there is none.
	Named(known merge.Key) (merge.Key, bool)
}

// decoder reads the messages of one stream. It is pure: the time comes in, and what
// to believe and what was refused go out. Whether counters can follow those of before
// is not asked here but by the table, which has them.
type decoder struct {
	authority Authority
	node      string
	addr      netip.Addr // of the peer

	clock ClockMap
	names []unique.Handle[merge.Key] // by ref - 1; the zero Handle: not declared
	seen  map[uint32]*sighting       // by ref; nil: the reporter's names are ours
	heard map[string]struct{}        // services of which it was believed
	began map[merge.Key]start        // own instances
}

// start is when an instance began to run, by both clocks.
type start struct{ stamp, table time.Duration }

// decoded is what a message says, in the table's time.
type decoded struct {
	received   time.Duration // table's clock
	offset     time.Duration // table's clock - reporter's
	declared   map[unique.Handle[merge.Key]]uint32
	report     *merge.Report
	probes     []Probed
	polls      []merge.PollAnswer
	probations []Probation

	aside Aside
}

// moment is the time of one message.
type moment struct {
	received time.Duration // table's clock
	stamp    time.Duration // reporter's clock
	offset   time.Duration // table's - reporter's
	jitter   time.Duration
	out      *decoded
}

// instant maps an instant of the reporter's. One that is later than the message
// itself cannot be.
func (m moment) instant(ms int64) time.Duration {
	t := instant(ms)
	if t < 0 {
		return never
	}
	if t > m.stamp {
		m.out.aside.Add(BadTime, 1, "an instant is %v later than the message that tells of it", t-m.stamp)
		t = m.stamp
	}
	return max(never, t+m.offset)
}

// decode reads one message. What is refused leaves no trace but its count.
func (d *decoder) decode(up *reportpb.Up, received time.Duration) decoded {
	out := decoded{received: received}
	if up.GetHello() != nil {
		out.aside.Add(BadHello, 1, "a second hello") // the first one was taken before
	}
	stamp := instant(up.GetMonoMs())
	if stamp < 0 {
		out.aside.Add(BadTime, 1, "a message of no time")
		out.offset, _ = d.clock.At(received)
		return out
	}
	d.clock.Observe(received, stamp)
	m := moment{received: received, stamp: stamp, out: &out}
	m.offset, m.jitter = d.clock.At(received)
	out.offset = m.offset

	d.declare(up.GetDeclare(), &out)
	for _, p := range up.GetProbeResults() {
		if k, ok := d.target(p.GetRef(), &out); ok {
			out.probes = append(out.probes, Probed{
				ID: merge.OrderID(p.GetOrder()), Key: k, Level: decodeLevel(p.GetLevel()), Result: decodeResult(p.GetOutcome()),
				Start: m.instant(p.GetStartMs()), End: m.instant(p.GetEndMs()), Epoch: p.GetEpoch(),
			})
		}
	}
	for _, a := range up.GetPollAnswers() {
		d.poll(a, m)
	}
	for _, p := range up.GetProbationResults() {
		k, ok := d.target(p.GetRef(), &out)
		if !ok {
			continue
		}
		counts := decodeCounts(p.GetCounts())
		if !whole(counts) {
			out.aside.Add(BadCounts, 1, "more failures than attempts on a share of %s", k)
			continue
		}
		out.probations = append(out.probations, Probation{Key: k, Epoch: p.GetEpoch(), Counts: counts})
	}
	if r := up.GetReport(); r != nil {
		d.report(r, m)
	}
	return out
}

// declare takes up new names.
func (d *decoder) declare(list []*reportpb.Declare, out *decoded) {
	for _, p := range list {
		k, ok := decodeKey(p.GetKey())
		i := int(p.GetRef()) - 1
		switch {
		case !ok:
			out.aside.Add(TooLarge, 1, "an endpoint is declared without a service or an instance, or with one longer than %d bytes", maxName)
		case i < 0, i >= maxRefs, i < len(d.names) && d.names[i] != unique.Handle[merge.Key]{}:
			out.aside.Add(BadRef, 1, "name %d is declared twice, or is not one of 1 to %d", p.GetRef(), maxRefs)
		default:
			for len(d.names) <= i {
				d.names = append(d.names, unique.Handle[merge.Key]{})
			}
			// Thousands of streams name the same endpoints: unique keeps one copy.
			d.names[i] = unique.Make(k)
			if out.declared == nil {
				out.declared = map[unique.Handle[merge.Key]]uint32{}
			}
			out.declared[d.names[i]] = p.GetRef()
			d.sight(p.GetRef(), out)
		}
	}
}

// target is the endpoint behind a name, if the reporter may speak of it.
func (d *decoder) target(ref uint32, out *decoded) (merge.Key, bool) {
	i := int(ref) - 1
	if i < 0 || i >= len(d.names) || d.names[i] == (unique.Handle[merge.Key]{}) {
		out.aside.Add(UnknownRef, 1, "name %d is not declared", ref)
		return merge.Key{}, false
	}
	k := d.names[i].Value()
	if s := d.sight(ref, out); s != nil {
		if s.key == (merge.Key{}) {
			out.aside.Add(NotSent, 1, "the mesh has no endpoint %s", k)
			return merge.Key{}, false
		}
		k = s.key
	}
	return k, d.sent(k.Service, k.Service, out)
}

// sent says whether the reporter may speak of a service, which it may know by another name.
func (d *decoder) sent(service, known string, out *decoded) bool {
	if !d.authority.Sent(d.node, service) {
		if _, gone := d.heard[service]; gone { // its last counts come after that
			out.aside.Usual(NotSent, 1)
		} else {
			out.aside.Add(NotSent, 1, "xDS has sent it no service %.100q", known)
		}
		return false
	}
	if d.heard == nil {
		d.heard = map[string]struct{}{}
	}
	d.heard[service] = struct{}{}
	return true
}

func (d *decoder) poll(a *reportpb.PollAnswer, m moment) {
	cell, ok := d.cell(a.GetEndpoint(), m)
	if !ok {
		return
	}
	then := m.point(a.GetThen())
	if s := d.seen[a.GetEndpoint().GetRef()]; s != nil {
		then = s.point(then)
	}
	m.out.polls = append(m.out.polls, merge.PollAnswer{
		ID: merge.OrderID(a.GetPoll()), Reporter: d.node, At: m.stamp + m.offset, Seq: a.GetSeq(),
		Cell: cell, Then: then,
	})
}

func (d *decoder) report(p *reportpb.Report, m moment) {
	r := &merge.Report{
		Reporter: d.node, Seq: p.GetSeq(), At: m.stamp + m.offset, Received: m.received, Jitter: m.jitter,
		LHM: int(min(p.GetLhm(), 7)),
	}
	for _, e := range p.GetEndpoints() {
		if cell, ok := d.cell(e, m); ok {
			r.Cells = append(r.Cells, cell)
		}
	}
	for _, c := range p.GetClusters() {
		service := d.service(c.GetService())
		switch {
		case !d.sent(service, c.GetService(), m.out):
		case c.GetK() > c.GetN():
			m.out.aside.Add(BadCounts, 1, "more failures than attempts to service %q", service)
		default:
			r.Clusters = append(r.Clusters, merge.ClusterTotals{
				Service: service, N: c.GetN(), K: c.GetK(), Overdue: unspan(c.GetOverdueMs()),
				Slower: min(float64(c.GetSlowerPercent())/100, maxSlower), Latency: m.latency(c.GetLatency()),
			})
		}
	}
	for _, o := range p.GetOwn() {
		if c, why := d.own(o, m); why != "" {
			m.out.aside.Add(why, 1, "of the instance beside it, which it says is %.100q of service %.100q", o.GetKey().GetInstance(), o.GetKey().GetService())
		} else {
			r.Own = append(r.Own, c)
		}
	}
	m.out.report = r
}

// latency reads a histogram: each bucket once, in order.
func (m moment) latency(list []*reportpb.LatencyCount) []outlier.LatencyCount {
	var counts []outlier.LatencyCount
	for _, c := range list {
		bucket := int(c.GetBucket())
		if bucket >= outlier.LatencyBuckets || len(counts) > 0 && bucket <= counts[len(counts)-1].Bucket {
			m.out.aside.Add(BadCounts, 1, "latencies in buckets that are out of order")
			return nil
		}
		counts = append(counts, outlier.LatencyCount{Bucket: bucket, Count: c.GetCount()})
	}
	return counts
}

// cell is what is said of an endpoint, if the reporter may speak of it.
func (d *decoder) cell(e *reportpb.EndpointReport, m moment) (merge.Cell, bool) {
	k, ok := d.target(e.GetRef(), m.out)
	if !ok {
		return merge.Cell{}, false
	}
	c := m.cell(k, e)
	if s := d.seen[e.GetRef()]; s != nil {
		s.rebase(&c)
	}
	return c, true
}

func (m moment) cell(k merge.Key, e *reportpb.EndpointReport) merge.Cell {
	c := merge.Cell{
		Key: k, Counts: decodeCounts(e.GetCounts()), Overdue: int(min(e.GetOverdue(), 1<<20)),
		LastOK: m.instant(e.GetLastOkMs()), LastOKStart: m.instant(e.GetLastOkStartMs()),
		LastHard: m.instant(e.GetLastHardMs()), LastHardStart: m.instant(e.GetLastHardStartMs()),
		State: decodeState(e.GetState()), Witness: decodeLevel(e.GetWitness()), Score: e.GetScore(),
	}
	c.LastOKStart, c.LastHardStart = min(c.LastOKStart, c.LastOK), min(c.LastHardStart, c.LastHard)
	history := e.GetHistory()
	for _, p := range history[max(0, len(history)-maxHistory):] {
		c.History = append(c.History, m.point(p))
	}
	return c
}

// own reads what a sidecar says of the instance beside it.
func (d *decoder) own(o *reportpb.OwnReport, m moment) (merge.OwnCell, Refusal) {
	k, ok := decodeKey(o.GetKey())
	switch {
	case !ok:
		return merge.OwnCell{}, TooLarge
	case !d.owns(k):
		return merge.OwnCell{}, NotOwner
	case o.GetK() > o.GetN() && o.GetK()-o.GetN() < 1<<31, o.GetKRelayed() > o.GetK() && o.GetKRelayed()-o.GetK() < 1<<31:
		return merge.OwnCell{}, BadCounts
	}
	c := merge.OwnCell{
		Key: k, N: o.GetN(), K: o.GetK(), Relayed: o.GetKRelayed(), Draining: o.GetDraining(),
		LastOK: m.instant(o.GetLastOkMs()), Refused: m.instant(o.GetAppRefusedMs()),
	}
	if ms := o.GetStartAgeMs(); ms > 0 {
		c.Started = d.started(k, m.stamp-age(ms), m.offset)
	}
	return c, ""
}

// owns says whether the registry binds the instance to this reporter: by its node
// id, or where it names none, by its address.
func (d *decoder) owns(k merge.Key) bool {
	node, addr := d.authority.Owner(k)
	if node != "" {
		return node == d.node
	}
	return addr.IsValid() && addr.Unmap() == d.addr
}

// started maps the start of an own instance, once for each start: a better estimate of
// the clocks must not look like a restart.
func (d *decoder) started(k merge.Key, stamp, offset time.Duration) time.Duration {
	s, ok := d.began[k]
	if !ok || (stamp-s.stamp).Abs() > time.Second {
		s = start{stamp: stamp, table: stamp + offset}
		if d.began == nil {
			d.began = map[merge.Key]start{}
		}
		d.began[k] = s
	}
	return s.table
}

// whole says whether the failures are among the attempts, for counters that have not
// wrapped.
func whole(c outlier.Counts) bool {
	return uint64(c.Conn)+uint64(c.Timeout)+uint64(c.Server) <= uint64(c.N)
}

// point maps a point of the history.
func (m moment) point(p *reportpb.Point) merge.Point {
	return merge.Point{
		At: m.instant(p.GetMonoMs()), N: p.GetN(), K: p.GetK(),
		N90: p.GetN90(), N99: p.GetN99(), Paced: p != nil && p.N90 != nil && p.N99 != nil,
	}
}
