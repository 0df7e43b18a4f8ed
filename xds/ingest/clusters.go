package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	lrsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/overhear-mesh/overhear/xds/report"
)

const (
	// mostPage is how long an answer of an admin page may be: some 10 000 endpoints.
	mostPage = 16 << 20
	// mostFailures is after how many questions without an answer in a row an Envoy counts
	// as gone: its counters may be others when it is back.
	mostFailures = 3
	// lifeSlack is how far apart the begin of a process, which it tells in whole seconds,
	// may seem to be from one question to the next, beside the time of the answer.
	lifeSlack = 2 * time.Second
)

// Poll asks the admin pages of the Envoys that the configuration names, until ctx ends.
func (c *Collector) Poll(ctx context.Context) error {
	var all sync.WaitGroup
	for _, at := range c.cfg.Poll {
		all.Go(func() { c.pollOne(ctx, at) })
	}
	all.Wait()
	return nil
}

// admin is the admin page of one Envoy.
type admin struct {
	at     string
	client *http.Client
}

func (a *admin) get(ctx context.Context, path string, into proto.Message) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.at+path, nil)
	if err != nil {
		return err
	}
	res, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // what was read is checked
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, mostPage+1))
	if err != nil {
		return err
	}
	if len(body) > mostPage {
		return &badPage{fmt.Errorf("%s is longer than %d bytes", path, mostPage)}
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, into); err != nil {
		return &badPage{fmt.Errorf("%s: %w", path, err)}
	}
	return nil
}

// badPage is an answer that is none of an Envoy's.
type badPage struct{ error }

// pollOne asks one Envoy. What it says adds up as load reports do; while it is silent
// nothing is known.
func (c *Collector) pollOne(ctx context.Context, at string) {
	transport := &http.Transport{DialContext: c.dial, MaxIdleConns: 1, ResponseHeaderTimeout: c.cfg.PollInterval}
	defer transport.CloseIdleConnections()
	a := &admin{at, &http.Client{
		Transport: transport, Timeout: c.cfg.PollInterval,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	tick := time.NewTicker(c.cfg.PollInterval)
	defer tick.Stop()
	said := ""
	for {
		// A session lasts as long as its counters do.
		why, err := c.polled(ctx, a, tick.C)
		if ctx.Err() != nil {
			return
		}
		c.faults.Count(why, 1)
		if err.Error() != said { // else each second
			said = err.Error()
			c.log.LogAttrs(ctx, slog.LevelWarn, "envoy cannot be polled", slog.String("admin", at), slog.String("reason", string(why)), slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// polled makes the Envoy a reporter, for as long as it is the same and answers.
func (c *Collector) polled(ctx context.Context, a *admin, tick <-chan time.Time) (Refusal, error) {
	info := new(adminv3.ServerInfo)
	if err := a.get(ctx, "/server_info", info); err != nil {
		return unanswered(err), err
	}
	life := began(info, c.now())
	id := info.GetNode().GetId()
	if id == "" {
		return BadNode, errors.New("the Envoy has no node id: give it one, the one that it gets endpoints by")
	}
	if c.live.get(id) != nil {
		return ReportsItself, fmt.Errorf("%q sends load reports, which know more", id)
	}
	if c.polls.get(id) != nil {
		return ForeignReporter, fmt.Errorf("%q is polled at another address", id)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	host, _, _ := net.SplitHostPort(a.at) // checked with the configuration
	seat, taken, err := c.seats.Take(ctx, report.Sitter{ID: id, Principal: host, End: cancel})
	if err != nil {
		return cmp.Or(taken, ForeignReporter), err
	}
	defer seat.Leave()
	s := &Stream{reporter: reporterOf(info.GetNode(), host, c.now()), seat: seat}
	if err := c.sink.Join(s); err != nil {
		return ForeignReporter, err
	}
	defer c.sink.Leave(s)
	defer c.polls.set(id, s)()
	c.log.LogAttrs(ctx, slog.LevelInfo, "envoy is polled", slog.String("reporter", id), slog.String("admin", a.at))
	return c.read(ctx, s, a, life, tick)
}

// read reads the counters of one life of an Envoy.
func (c *Collector) read(ctx context.Context, s *Stream, a *admin, life time.Duration, tick <-chan time.Time) (Refusal, error) {
	o := newObserver(c.directory)
	o.logs = &s.logs
	p := page{}
	for failures := 0; ; {
		clusters, info := new(adminv3.Clusters), new(adminv3.ServerInfo)
		err := a.get(ctx, "/clusters?format=json", clusters)
		now := c.now()
		if err == nil { // asked after it, so that the page is not that of a later life
			err = a.get(ctx, "/server_info", info)
		}
		switch {
		case ctx.Err() != nil:
			return ReportsItself, context.Cause(ctx)
		case err != nil:
			if failures++; failures == mostFailures {
				return unanswered(err), err
			}
			var aside report.Aside
			aside.Add(unanswered(err), 1, "%v", err)
			c.faults.SetAside(ctx, s.seat, &aside)
		case info.GetNode().GetId() != s.reporter.ID || (began(info, now)-life).Abs() > lifeSlack+c.cfg.PollInterval:
			return Restarted, fmt.Errorf("%q is not the process that it was", s.reporter.ID)
		default:
			failures = 0
			req, failed := p.take(clusters, now)
			s.logs.kinds = failed
			c.metrics.add(func(s *Stats) { s.Pages++ })
			c.tell(ctx, s, o, req, now)
		}
		select {
		case <-ctx.Done():
			return ReportsItself, context.Cause(ctx)
		case <-tick:
		}
	}
}

// began is when an Envoy began to run.
func began(info *adminv3.ServerInfo, now time.Duration) time.Duration {
	return now - info.GetUptimeCurrentEpoch().AsDuration()
}

func unanswered(err error) Refusal {
	if _, bad := errors.AsType[*badPage](err); bad {
		return BadPage
	}
	return NoAnswer
}

// counters are those of an endpoint, since it was added.
type counters struct {
	sample
	timeout, unconnected uint64
}

// countersOf reads what Envoy says of a host; what it leaves out is zero.
func countersOf(h *adminv3.HostStatus) counters {
	var c counters
	for _, m := range h.GetStats() {
		switch m.GetName() {
		case "rq_success":
			c.ok = m.GetValue()
		case "rq_error":
			c.failed = m.GetValue()
		case "rq_total":
			c.issued = m.GetValue()
		case "rq_active":
			c.active = m.GetValue()
		case "rq_timeout":
			c.timeout = m.GetValue()
		case "cx_connect_fail":
			c.unconnected = m.GetValue()
		}
	}
	return c
}

// since is what happened since an earlier reading. Counters that fell are those of an
// endpoint that was removed and added again.
func (c counters) since(o counters) (d counters, fell bool) {
	if c.ok < o.ok || c.failed < o.failed || c.issued < o.issued || c.timeout < o.timeout || c.unconnected < o.unconnected {
		return counters{}, true
	}
	return counters{
		sample:  sample{c.ok - o.ok, c.failed - o.failed, c.issued - o.issued, c.active},
		timeout: c.timeout - o.timeout, unconnected: c.unconnected - o.unconnected,
	}, false
}

// kinds are those of the failures: no more of them than failed. Several requests may wait
// for one connection, and one may have had several.
func (c counters) kinds() kinds {
	conn := min(c.unconnected, c.failed)
	return kinds{conn: conn, timeout: min(c.timeout, c.failed-conn)}
}

// page makes load reports of one page after the other.
type page struct {
	before map[attempted]counters // of the page before; nil: there was none
	read   time.Duration          // when it was
}

// take says what happened since the page before. Of an endpoint that is new only what is
// under way is told: when its counters began is not known.
func (p *page) take(clusters *adminv3.Clusters, now time.Duration) (*lrsv3.LoadStatsRequest, map[attempted]kinds) {
	covered := now - p.read
	if p.before == nil {
		covered = time.Millisecond // nothing is told of it
	}
	after := map[attempted]counters{}
	failed := map[attempted]kinds{}
	req := new(lrsv3.LoadStatsRequest)
	for _, c := range clusters.GetClusterStatuses() {
		var rows []*endpointv3.UpstreamEndpointStats
		for _, h := range c.GetHostStatuses() {
			at := attempted{c.GetName(), address(h.GetAddress())}
			if !at.at.IsValid() || len(after) >= mostKinds {
				continue
			}
			have := countersOf(h)
			d := counters{sample: sample{active: have.active}}
			fell := false
			if before, known := p.before[at]; known {
				d, fell = have.since(before)
			}
			if fell {
				d.ok = math.MaxUint64 // cannot be, and so is nothing that is left out
			}
			after[at] = have
			if k := d.kinds(); k.all() > 0 {
				failed[at] = k
			}
			rows = append(rows, &endpointv3.UpstreamEndpointStats{
				Address: h.GetAddress(), TotalSuccessfulRequests: d.ok, TotalErrorRequests: d.failed,
				TotalIssuedRequests: d.issued, TotalRequestsInProgress: d.active,
			})
		}
		req.ClusterStats = append(req.ClusterStats, &endpointv3.ClusterStats{
			ClusterName: c.GetName(), ClusterServiceName: c.GetEdsServiceName(),
			LoadReportInterval:    durationpb.New(covered),
			UpstreamLocalityStats: []*endpointv3.UpstreamLocalityStats{{UpstreamEndpointStats: rows}},
		})
	}
	p.before, p.read = after, now
	return req, failed
}
