package grpcstats

import (
	"context"
	"hash/maphash"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/stats"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
)

const (
	maxEndpoints = 10_000           // remembered of one channel
	forgetAfter  = 10 * time.Minute // without a connection
	routes       = 64               // that a detector keeps apart
	// leastDeadline is that of the shortest calls by which it is told when an answer is
	// overdue: half of it is as soon as an attempt is ever called overdue.
	leastDeadline = 500 * time.Millisecond
)

// channel is the stats.Handler of the channels to one target. What calls do in it is to
// count; the rest is done under the reporter's lock, by connections that come and go and by
// the reporter's own goroutines.
type channel struct {
	reporter *Reporter
	service  string
	known    atomic.Pointer[map[netip.AddrPort]*outlier.Endpoint]
	shortest atomic.Int64 // deadline of a call; 0: none had any
	look     atomic.Bool  // a call has seen something

	// under Reporter.mu
	detector *outlier.Detector
	members  map[netip.AddrPort]*member
	next     time.Duration // when to step at the latest
	timeout  time.Duration // the detector knows
	topic    cadence.Topic
	memory   cadence.Memory
}

// member is an endpoint to which there is, or was, a connection.
type member struct {
	connections int
	lost        time.Duration // the last of them
}

// policy is what the detector goes by. It counts and tells, and takes nobody out: the
// balancer goes on using whom xDS lets it use.
func policy(timeout time.Duration) outlier.Config {
	cfg := outlier.DefaultConfig()
	cfg.MaxOut, cfg.Headroom = 0, 0
	cfg.Timeout = timeout
	return cfg
}

func newChannel(r *Reporter, service string) *channel {
	c := &channel{
		reporter: r, service: service, detector: outlier.New(policy(0), dice()),
		members: map[netip.AddrPort]*member{},
	}
	c.detector.ShareSelf(r.self)
	c.known.Store(&map[netip.AddrPort]*outlier.Endpoint{})
	return c
}

// connection is what the context of one has.
type connection struct{ at netip.AddrPort }

type connectionKey struct{}

// TagConn remembers to whom a connection leads.
func (c *channel) TagConn(ctx context.Context, info *stats.ConnTagInfo) context.Context {
	at, ok := addressOf(info.RemoteAddr)
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, connectionKey{}, &connection{at})
}

// HandleConn learns from connections which endpoints there are.
func (c *channel) HandleConn(ctx context.Context, s stats.ConnStats) {
	conn, ok := ctx.Value(connectionKey{}).(*connection)
	if !ok || !s.IsClient() {
		return
	}
	switch s.(type) {
	case *stats.ConnBegin:
		c.connected(conn.at)
	case *stats.ConnEnd:
		c.disconnected(conn.at)
	}
}

func (c *channel) connected(at netip.AddrPort) {
	r := c.reporter
	r.mu.Lock()
	defer r.mu.Unlock()
	m := c.members[at]
	if m == nil {
		if len(c.members) >= maxEndpoints {
			return
		}
		m = &member{}
		c.members[at] = m
		c.renewLocked(r.now())
	}
	m.connections++
}

// disconnected asks an endpoint to which the last connection was lost if it accepts new
// ones: a process that dies closes its idle connections first.
func (c *channel) disconnected(at netip.AddrPort) {
	r := c.reporter
	r.mu.Lock()
	defer r.mu.Unlock()
	m := c.members[at]
	if m == nil {
		return
	}
	m.connections--
	if m.connections > 0 || r.closing {
		return
	}
	m.lost = r.now()
	if id := at.String(); !c.detector.Suspects(id) {
		r.runLocked(at, probeTimeout, func(p probe) {
			c.detector.Hinted(id, outlier.LevelConnect, p.result, p.start, p.end)
			c.next = 0
		})
	}
}

// renewLocked has the detector know the members.
func (c *channel) renewLocked(now time.Duration) {
	all := slices.SortedFunc(maps.Keys(c.members), netip.AddrPort.Compare)
	members := make([]outlier.Member, len(all))
	for i, at := range all {
		members[i] = outlier.Member{ID: at.String()}
	}
	c.detector.SetMembers(members, now)
	known := make(map[netip.AddrPort]*outlier.Endpoint, len(all))
	for i, at := range all {
		known[at] = c.detector.Endpoint(members[i].ID)
	}
	c.known.Store(&known)
	c.topic.Rename()
	c.next = 0
	c.reporter.wake()
}

// sweepLocked forgets endpoints that are not used any more.
func (c *channel) sweepLocked(now time.Duration) {
	before := len(c.members)
	maps.DeleteFunc(c.members, func(_ netip.AddrPort, m *member) bool { return m.connections == 0 && now >= m.lost+forgetAfter })
	if len(c.members) < before {
		c.renewLocked(now)
	}
}

// stepLocked takes a step of the detector if one is due, and says when the next one is.
func (c *channel) stepLocked(now time.Duration) (next time.Duration) {
	if !c.look.Swap(false) && now < c.next {
		return c.next
	}
	if t := time.Duration(c.shortest.Load()); t != c.timeout {
		c.timeout = t
		c.detector.SetConfig(policy(t))
	}
	step := c.detector.Step(now)
	c.next = step.Next
	for _, p := range step.Probes {
		at := netip.MustParseAddrPort(p.ID) // String has written it
		if !c.reporter.runLocked(at, p.Timeout, func(got probe) { c.probedLocked(p.ID, got) }) {
			c.probedLocked(p.ID, probe{result: outlier.NotRun, start: now, end: now})
		}
	}
	c.reporter.schedule.Hear(&c.topic, step.Urgency, now)
	return c.next
}

// probedLocked takes in the result of a probe that the detector or the control plane wanted.
func (c *channel) probedLocked(id string, p probe) {
	c.detector.Probed(id, outlier.LevelConnect, p.result, p.start, p.end)
	c.next = 0
}

// deadlined takes in how long a call may take.
func (c *channel) deadlined(d time.Duration) {
	if d < leastDeadline {
		return
	}
	for {
		was := c.shortest.Load()
		if was != 0 && was <= int64(d) || c.shortest.CompareAndSwap(was, int64(d)) {
			return
		}
	}
}

// due is the age at which the end of an attempt counts. A client that distrusts itself, as
// one on a busy machine does, calls attempts overdue later, at 1.75 s in the end; if calls
// have a deadline before that, none of a hung endpoint's would ever count. Who has waited
// for half of the shortest deadline has waited long enough; the distrust is told, and the
// control plane gives the evidence less weight.
func (c *channel) due(overdue time.Duration) time.Duration {
	if shortest := time.Duration(c.shortest.Load()); shortest > 0 {
		return min(overdue, shortest/2)
	}
	return overdue
}

// route is where the detector keeps a method. Two may share one: they are then judged as
// one route.
func (c *channel) route(method string) uint16 {
	return uint16(maphash.String(c.reporter.seed, method) % routes)
}

// addressOf is the address of a peer; false for what is none of TCP.
func addressOf(a net.Addr) (netip.AddrPort, bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), at.IsValid()
}
