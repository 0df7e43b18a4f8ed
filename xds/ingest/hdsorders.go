package ingest

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/resource"
)

const (
	// tellEvery is how often an Envoy tells how its checks stand while it has any,
	// restEvery while it has none: it cannot be told to be silent.
	tellEvery = 50 * time.Millisecond
	restEvery = time.Minute
	// doorTimeout is shorter than tellEvery, so that a check which has not succeeded by
	// the end of one whole interval, and not timed out either, has been refused.
	doorTimeout = 40 * time.Millisecond
	// answerSlack is what an answer may take beyond the timeout of its order: less than
	// the table waits.
	answerSlack = 20 * time.Millisecond
	// docketPrefix begins the names of dockets, also of those that streams of before had,
	// perhaps with another control plane.
	docketPrefix = "overhear-"
	// once is when Envoy would check again what it has checked: an order asks once.
	once = time.Hour
	// mostProbes are under way at one Envoy at a time, mostLeases kept for it.
	mostProbes = 64
	mostLeases = 1024
	// probeGap is earned per probe, and probeBurst of them are lent: what a sidecar
	// makes at most, whatever it is told.
	probeGap   = 100 * time.Millisecond
	probeBurst = 10
)

// Check is what a probe asks of an endpoint. The zero Check asks whether a connection
// opens.
type Check struct {
	HTTP  bool   // ask the application, by GET
	HTTP2 bool   // in HTTP/2
	Path  string // empty: /
	Host  string // the authority; empty: the address
}

// Probe is one that an Envoy is to make.
type Probe struct {
	ID      merge.OrderID
	Address netip.AddrPort
	Check   Check
	Timeout time.Duration
}

// Lease has an Envoy make a probe again and again.
type Lease struct {
	Probe
	Every, Phase time.Duration
	Until        time.Duration // by the table's clock
}

// Answer is what came of a probe; the ID of one made under a lease is that of the lease.
type Answer struct {
	ID         merge.OrderID
	Level      outlier.Level // that was reached
	Result     outlier.ProbeResult
	Start, End time.Duration // by the table's clock: Start is when the order left
}

// docket is what one Envoy has been asked to probe. It is the pure part of a stream.
//
// An Envoy is told what to check and says at intervals how each check stands. It does not
// say whether it has made it: what it has not come to yet is UNHEALTHY, and so is what was
// refused. So each probe has checks of its own, of a name that no other has, and two of
// them: the deep one is the order's, and the one of the door only opens a connection, with
// a timeout so short that after one whole interval it must have ended. What then is still
// neither HEALTHY nor TIMEOUT was refused.
type docket struct {
	name   string // of the stream, unlike that of any other
	serial uint64
	asked  map[uint64]*asked
	leases map[merge.OrderID]*leased
	busy   bool // the newest specifier asked for something
	dirty  bool
	earned time.Duration // when all probes that were made are earned
}

// asked is a probe under way.
type asked struct {
	Probe
	lease      bool
	began      time.Duration
	told       bool // it was in a specifier
	door, deep check
}

// check is what the Envoy says of a check.
type check struct {
	timeout time.Duration
	needed  int // reports after which a check that has not succeeded has ended
	heard   int // reports that spoke of it
	status  corev3.HealthStatus
	code    bool // it had an HTTP response
}

type leased struct {
	Lease
	next time.Duration
}

func newDocket(name string) *docket {
	return &docket{
		name: name, asked: map[uint64]*asked{}, leases: map[merge.OrderID]*leased{},
		dirty: true, // an Envoy that comes again still has the checks of its last stream
	}
}

// order takes in a probe to be made now, unless there are too many.
func (d *docket) order(p Probe, now time.Duration) bool {
	if len(d.asked) >= mostProbes || d.earned > now+probeBurst*probeGap {
		return false
	}
	d.earned = max(d.earned, now) + probeGap
	p.Address = netip.AddrPortFrom(p.Address.Addr().Unmap(), p.Address.Port()) // as an Envoy tells it
	d.serial++
	d.asked[d.serial] = &asked{
		Probe: p, began: now, door: check{timeout: doorTimeout},
		// Its end must be told of within the order's own timeout.
		deep: check{timeout: max(p.Timeout-2*tellEvery, doorTimeout)},
	}
	d.dirty = true
	return true
}

// cancel withdraws a probe.
func (d *docket) cancel(id merge.OrderID) {
	n := len(d.asked)
	maps.DeleteFunc(d.asked, func(_ uint64, a *asked) bool { return a.ID == id && !a.lease })
	d.dirty = d.dirty || len(d.asked) < n
}

// lease takes in, renews or, with an end that has come, ends a lease. It says whether
// there was room for it.
func (d *docket) lease(l Lease, now time.Duration) bool {
	have := d.leases[l.ID]
	switch {
	case l.Until <= now:
		delete(d.leases, l.ID)
	case have != nil: // a renewal moves no turn
		have.Lease = l
	case len(d.leases) >= mostLeases:
		return false
	default:
		d.leases[l.ID] = &leased{l, now + l.Phase}
	}
	return true
}

// tick does what is due: turns of leases, and probes of which there was no answer in
// time.
func (d *docket) tick(now time.Duration) []Answer {
	var late []Answer
	for _, n := range slices.Sorted(maps.Keys(d.asked)) {
		if a := d.asked[n]; now >= a.ends() {
			late = append(late, Answer{ID: a.ID, Result: outlier.NotRun, Start: a.began, End: now})
			d.end(n)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(d.leases)) {
		l := d.leases[id]
		switch {
		case now >= l.Until:
			delete(d.leases, id)
		case now >= l.next:
			if d.order(l.Probe, now) { // else the turn is let go by
				d.asked[d.serial].lease = true
			}
			every := max(l.Every, time.Second)
			l.next += every * ((now-l.next)/every + 1)
		}
	}
	return late
}

func (a *asked) ends() time.Duration { return a.began + a.Timeout + answerSlack }

// next is when tick has something to do.
func (d *docket) next() time.Duration {
	next := forever
	for _, a := range d.asked {
		next = min(next, a.ends())
	}
	for _, l := range d.leases {
		next = min(next, l.next, l.Until)
	}
	return next
}

// end takes a probe away. Its checks go with the next specifier.
func (d *docket) end(serial uint64) {
	delete(d.asked, serial)
	d.dirty = true
}

// specifier is what the Envoy must be told, if that is news.
func (d *docket) specifier() (*healthv3.HealthCheckSpecifier, bool) {
	if !d.dirty {
		return nil, false
	}
	was := d.busy
	d.dirty, d.busy = false, len(d.asked) > 0
	all := &healthv3.HealthCheckSpecifier{Interval: durationpb.New(restEvery)}
	if d.busy {
		all.Interval = durationpb.New(tellEvery)
	}
	for _, n := range slices.Sorted(maps.Keys(d.asked)) {
		a := d.asked[n]
		if !a.told {
			// An Envoy whose interval changes counts it from then on; else the next report
			// may come right away.
			a.told = true
			a.door.need(!was)
			a.deep.need(!was)
		}
		all.ClusterHealthChecks = append(all.ClusterHealthChecks,
			d.cluster(n, "door", a.Address, connects(a.door.timeout)), d.cluster(n, "deep", a.Address, a.Check.healthCheck(a.Address, a.deep.timeout)))
	}
	return all, true
}

// need sets how many reports must speak of a check until it has ended. anew says that the
// first comes a whole interval after the check has begun.
func (c *check) need(anew bool) {
	c.needed = int(c.timeout/tellEvery) + 1
	if !anew {
		c.needed++
	}
}

func (d *docket) cluster(serial uint64, which string, at netip.AddrPort, how *corev3.HealthCheck) *healthv3.ClusterHealthCheck {
	return &healthv3.ClusterHealthCheck{
		ClusterName: fmt.Sprintf("%s/%d/%s", d.name, serial, which), HealthChecks: []*corev3.HealthCheck{how},
		// A locality, and one that has an endpoint: an Envoy ends when it has to tell of
		// one that has none.
		LocalityEndpoints: []*healthv3.LocalityEndpoints{{
			Locality: &corev3.Locality{}, Endpoints: []*endpointv3.Endpoint{{Address: resource.SocketAddress(at)}},
		}},
	}
}

// connects is a check whether a connection opens, made once.
func connects(timeout time.Duration) *corev3.HealthCheck {
	return &corev3.HealthCheck{
		Timeout: durationpb.New(timeout), Interval: durationpb.New(once), NoTrafficInterval: durationpb.New(once),
		UnhealthyThreshold: wrapperspb.UInt32(1), HealthyThreshold: wrapperspb.UInt32(1), ReuseConnection: wrapperspb.Bool(false),
		HealthChecker: &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}},
	}
}

func (c Check) healthCheck(at netip.AddrPort, timeout time.Duration) *corev3.HealthCheck {
	one := connects(timeout)
	if c.HTTP {
		how := &corev3.HealthCheck_HttpHealthCheck{
			Host: cmp.Or(c.Host, at.String()), Path: cmp.Or(c.Path, "/"), ExpectedStatuses: []*typev3.Int64Range{{Start: 200, End: 400}},
		}
		if c.HTTP2 {
			how.CodecClientType = typev3.CodecClientType_HTTP2
		}
		one.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: how}
	}
	return one
}

// hear takes in how the checks stand, and gives what that answers. What speaks of nothing
// that was ever asked is counted in refused; what comes late is usual, and is not.
func (d *docket) hear(m *healthv3.EndpointHealthResponse, now time.Duration, refused *report.Aside) []Answer {
	touched := map[uint64]struct{}{}
	spoken := map[*check]struct{}{}
	for _, cluster := range m.GetClusterEndpointsHealth() {
		name := cluster.GetClusterName()
		n, which, known := d.parse(name)
		switch {
		case known:
		case strings.HasPrefix(name, docketPrefix) && !strings.HasPrefix(name, d.name):
			continue // of its last stream: it has those checks until it is told of others
		default:
			refused.Add(NeverOrdered, 1, "a check %.100q that nobody asked for", name)
			continue
		}
		a := d.asked[n]
		if a == nil {
			continue
		}
		c := &a.deep
		if which == "door" {
			c = &a.door
		}
		for _, l := range cluster.GetLocalityEndpointsHealth() {
			for _, e := range l.GetEndpointsHealth() {
				if address(e.GetEndpoint().GetAddress()) != a.Address {
					refused.Add(UnknownEndpoint, 1, "a check of %s speaks of %s", a.Address, address(e.GetEndpoint().GetAddress()))
					continue
				}
				if _, doubled := spoken[c]; doubled || !a.told {
					refused.Add(NeverOrdered, 1, "a check of %s that it was not told of, or twice", a.Address) // once in a report, and only what it was told
					continue
				}
				spoken[c] = struct{}{}
				touched[n] = struct{}{}
				c.heard++
				c.status = e.GetHealthStatus()
				_, c.code = e.GetHealthMetadata().GetFields()["http_status_code"]
			}
		}
	}
	var answers []Answer
	for _, n := range slices.Sorted(maps.Keys(touched)) {
		a := d.asked[n]
		if res, level := a.result(); res != outlier.NotRun {
			answer := Answer{ID: a.ID, Level: level, Result: res, Start: a.began, End: now}
			if res == outlier.Refused {
				// When that was is not told. Whatever may have come later outweighs it.
				answer.End = a.began
			}
			answers = append(answers, answer)
			d.end(n)
		}
	}
	return answers
}

func (d *docket) parse(cluster string) (serial uint64, which string, known bool) {
	rest, mine := strings.CutPrefix(cluster, d.name+"/")
	number, which, _ := strings.Cut(rest, "/")
	serial, err := strconv.ParseUint(number, 10, 64)
	return serial, which, mine && err == nil && serial > 0 && serial <= d.serial && (which == "door" || which == "deep")
}

// result is what is certain by now; NotRun: nothing.
func (a *asked) result() (outlier.ProbeResult, outlier.Level) {
	depth := outlier.LevelConnect
	if a.Check.HTTP {
		depth = outlier.LevelApp
	}
	switch {
	case a.deep.well(), depth == outlier.LevelConnect && a.door.well():
		return outlier.ProbeOK, depth
	case a.deep.code:
		return outlier.Unhealthy, depth
	case a.door.failed():
		return outlier.Refused, outlier.LevelConnect
	case a.deep.status == corev3.HealthStatus_TIMEOUT:
		return outlier.TimedOut, depth
	case a.deep.failed() && depth == outlier.LevelConnect:
		return outlier.Refused, outlier.LevelConnect
	case a.deep.failed():
		// Closed without an answer, or a bad one: it does not say.
		return outlier.Unhealthy, depth
	}
	return outlier.NotRun, outlier.LevelNone
}

// well says whether a check has succeeded; an answer that asks for less traffic is one.
func (c *check) well() bool {
	return c.status == corev3.HealthStatus_HEALTHY || c.status == corev3.HealthStatus_DEGRADED
}

// failed says whether a check has ended, and neither well nor by its timeout.
func (c *check) failed() bool {
	return c.heard >= c.needed && c.status == corev3.HealthStatus_UNHEALTHY
}
