package ingest

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc/codes"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// Logs is Envoy's access log service (ALS) for the log of upstream attempts. It is no
// reporter of its own: what it says of the kind of a failure is added to the load reports
// of the same Envoy, which have the number of failures. The log may lose records, and load
// reports may not.
type Logs struct {
	alsv3.UnimplementedAccessLogServiceServer
	c *Collector
}

const (
	// logsPerReporter is how many streams one Envoy may have: each of its worker threads
	// has one for each log.
	logsPerReporter = 256
	// logEvery and logBurst are the pace at which a stream is read. Each message holds
	// what was logged within the Envoy's own buffer_flush_interval.
	logEvery, logBurst = 5 * time.Millisecond, 200
	// mostKinds is how many endpoints a log may speak of between two load reports.
	mostKinds = 20_000
)

// kinds counts failed attempts by what a log says of them.
type kinds struct{ conn, timeout, server uint64 }

func (k kinds) all() uint64 { return k.conn + k.timeout + k.server }

func (k kinds) plus(o kinds) kinds {
	return kinds{k.conn + o.conn, k.timeout + o.timeout, k.server + o.server}
}

// kindOf says how an attempt failed. It is nobody's failure if the Envoy itself ended it or
// did not begin it. A route's timeout and a client that went away look the same, without a
// flag and without a code: of these the load reports know more.
func kindOf(e *accesslogv3.HTTPAccessLogEntry) kinds {
	flags, code := e.GetCommonProperties().GetResponseFlags(), e.GetResponse().GetResponseCode().GetValue()
	switch {
	case flags.GetUpstreamConnectionFailure():
		return kinds{conn: 1}
	case flags.GetUpstreamConnectionTermination() && code == 0:
		return kinds{conn: 1}
	case flags.GetUpstreamConnectionTermination(), flags.GetUpstreamRemoteReset():
		return kinds{server: 1} // an answer that broke off, or one stream of many
	case flags.GetUpstreamRequestTimeout():
		return kinds{timeout: 1}
	case code >= 500 && code <= 599:
		return kinds{server: 1}
	}
	return kinds{}
}

// attempted is an endpoint as a log names it.
type attempted struct {
	cluster string
	at      netip.AddrPort
}

// logged is what logs have said of one Envoy's attempts until its next load report.
type logged struct {
	mu    sync.Mutex // guards what follows
	open  int        // streams
	kinds map[attempted]kinds
}

// add takes in records; it gives how many say nothing, and how many there was no room for.
func (l *logged) add(entries []*accesslogv3.HTTPAccessLogEntry) (silent, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		p := e.GetCommonProperties()
		at := attempted{p.GetUpstreamCluster(), address(p.GetUpstreamRemoteAddress())}
		k := kindOf(e)
		have, known := l.kinds[at]
		switch {
		case k.all() == 0 || !at.at.IsValid():
			silent++
		case !known && len(l.kinds) >= mostKinds:
			dropped++
		default:
			if l.kinds == nil {
				l.kinds = map[attempted]kinds{}
			}
			l.kinds[at] = have.plus(k)
		}
	}
	return silent, dropped
}

// drain gives what was added since.
func (l *logged) drain() map[attempted]kinds {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.kinds
	l.kinds = nil
	return all
}

// enter takes one of the Envoy's places for a stream.
func (l *logged) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= logsPerReporter {
		return false
	}
	l.open++
	return true
}

func (l *logged) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
}

// live are Envoys that are heard, by id.
type live[S any] struct {
	mu   sync.Mutex // guards what follows
	byID map[string]*S
}

func (l *live[S]) set(id string, s *S) (unset func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID == nil {
		l.byID = map[string]*S{}
	}
	l.byID[id] = s
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.byID, id)
	}
}

func (l *live[S]) get(id string) *S {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byID[id]
}

// heard is what the logs said since the last load report, by endpoint.
func (o *observer) heard(now time.Duration) map[merge.Key]kinds {
	if o.logs == nil {
		return nil
	}
	all := map[merge.Key]kinds{}
	for at, k := range o.logs.drain() {
		name, known := o.clusters[at.cluster]
		s, exists := o.directory.Service(name)
		if !known || !exists {
			o.refused.Usual(UnknownCluster, int(k.all()))
			continue
		}
		instance, known := s.Instances[at.at]
		if !known {
			s.absent(&o.refused, at.at, now, int(k.all()), "a log names %s, which is no endpoint of service %q", at.at, name)
			continue
		}
		key := merge.Key{Service: name, Instance: instance}
		all[key] = all[key].plus(k)
	}
	return all
}

// StreamAccessLogs serves one stream; gRPC calls it.
func (g *Logs) StreamAccessLogs(srv alsv3.AccessLogService_StreamAccessLogsServer) error {
	return g.c.run(srv.Context(), func(ctx context.Context, end context.CancelCauseFunc) error { return g.receive(ctx, end, srv) })
}

func (g *Logs) receive(ctx context.Context, end context.CancelCauseFunc, srv alsv3.AccessLogService_StreamAccessLogsServer) error {
	c := g.c
	m, node, err := firstOf(ctx, &c.streams, end, srv.Recv, func(m *alsv3.StreamAccessLogsMessage) *corev3.Node { return m.GetIdentifier().GetNode() })
	if err != nil {
		return err
	}
	if resource.KindOf(node) != resource.Envoy {
		return c.faults.Refuse(codes.PermissionDenied, NotEnvoy, "%q is no Envoy", node.GetId())
	}
	principal, _ := report.Identify(ctx)
	bucket := report.NewBucket(logEvery, logBurst)
	began, lone := c.now(), false
	var in *Stream // the load reports that this belongs to
	leave := func() {
		if in != nil {
			in.logs.leave()
		}
	}
	defer func() { leave() }()
	for {
		if now := c.live.get(node.GetId()); now != in {
			leave()
			if in = now; in != nil && !in.logs.enter() {
				in = nil
				return c.faults.Refuse(codes.ResourceExhausted, TooManyStreams, "%q has %d logs already", node.GetId(), logsPerReporter)
			}
		}
		switch records := m.GetHttpLogs().GetLogEntry(); {
		case in == nil:
			c.faults.Count(NoLoadReports, len(records))
			if !lone && c.now()-began > nodeWithin { // else the load reports may be about to begin
				lone = true
				c.faults.Tell(ctx, slog.LevelWarn, node.GetId(), NoLoadReports, "an envoy sends logs and no load reports, without which they say nothing",
					slog.String("principal", principal))
			}
		case in.reporter.Principal != principal:
			return c.faults.Refuse(codes.PermissionDenied, ForeignReporter, "%q reports from elsewhere", node.GetId())
		default:
			silent, dropped := in.logs.add(records)
			c.metrics.add(func(s *Stats) { s.Records += uint64(len(records)) })
			var aside report.Aside
			aside.Usual(SaysNothing, silent)
			aside.Add(TooManyEndpoints, dropped, "a log speaks of more than %d endpoints between two load reports", mostKinds)
			c.faults.SetAside(ctx, in.seat, &aside)
		}
		if err := c.pace(ctx, bucket, c.now()); err != nil {
			return err
		}
		if m, err = srv.Recv(); err != nil {
			return err
		}
	}
}

// unexplained are failures that a load report has counted, of a kind that it does not say.
type unexplained struct {
	interval
	n uint64
}

// explanation is for how long a failure that was counted may find its record: Envoy keeps
// records back for a moment, and counts each 100 ms.
const explanation = time.Second

// explain gives each record to a failure that was counted, the oldest first, and gives the
// kinds of those of the newest interval. A record that finds none waits for one more load
// report; then it is set aside, since nobody but a liar has failures that are not counted.
func (f *flow) explain(records kinds, failed uint64, iv interval) (newest kinds, aside uint64) {
	waited := f.records
	records = records.plus(waited)
	if failed > 0 {
		f.unexplained = append(f.unexplained, unexplained{iv, failed})
	}
	for len(f.unexplained) > 0 && f.unexplained[0].to < iv.to-explanation {
		f.unexplained = f.unexplained[1:]
	}
	for i := range f.unexplained {
		u := &f.unexplained[i]
		got := records.take(u.n)
		u.n -= got.all()
		if got.conn > 0 && u.to > f.lastHard {
			f.lastHard, f.hardStart = u.to, u.from
		}
		if u.interval == iv {
			newest = got
		}
	}
	for len(f.unexplained) > 0 && f.unexplained[0].n == 0 {
		f.unexplained = f.unexplained[1:]
	}
	aside = min(waited.all(), records.all()) // those that have waited are not told from the others
	records.take(aside)
	f.records = records
	return newest, aside
}

// take takes so many at most.
func (k *kinds) take(n uint64) kinds {
	got := kinds{conn: min(n, k.conn)}
	got.timeout = min(n-got.conn, k.timeout)
	got.server = min(n-got.conn-got.timeout, k.server)
	*k = kinds{k.conn - got.conn, k.timeout - got.timeout, k.server - got.server}
	return got
}
