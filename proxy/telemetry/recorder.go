package telemetry

import (
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/tcp"
)

// Recorder is told each request of one listener: it counts them and hands them
// to the access log. It implements exchange.Logger and tcp.Logger.
type Recorder struct {
	listener string
	inbound  bool
	log      *AccessLog // nil: none
	observe  func(*exchange.Record)

	duration    histogram         // of requests
	tcpDuration histogram         // of connections
	flags       [32]atomic.Uint64 // by bit of exchange.Flags
	tcpFlags    [16]atomic.Uint64 // by bit of tcp.Flags

	routes atomic.Pointer[map[uint16]*routeCounts] // by route ID; copied on write
	mu     sync.Mutex                              // for the writers of routes
}

// routeCounts are the requests of one route by status. A route keeps its ID, and
// so its counts, over a reload.
type routeCounts struct {
	name, cluster string
	status        [600]atomic.Uint64 // 0: the client got no answer
}

// NewRecorder returns the recorder of a listener. log may be nil. observe, if
// not nil, is called with each record on the request's goroutine; it must not
// keep it.
func NewRecorder(listener string, inbound bool, log *AccessLog, observe func(*exchange.Record)) *Recorder {
	r := &Recorder{listener: listener, inbound: inbound, log: log, observe: observe}
	r.routes.Store(&map[uint16]*routeCounts{})
	return r
}

// Log implements exchange.Logger.
func (r *Recorder) Log(record *exchange.Record) {
	status := record.Status
	if status < 0 || status >= len(routeCounts{}.status) {
		status = 0
	}
	r.route(record.Route).status[status].Add(1)
	r.duration.add(record.Duration)
	for bit, flags := 0, uint32(record.Flags); flags != 0; bit, flags = bit+1, flags>>1 {
		if flags&1 != 0 {
			r.flags[bit].Add(1)
		}
	}
	if r.log != nil {
		r.log.http(r.listener, record)
	}
	if r.observe != nil {
		r.observe(record)
	}
}

// LogTCP implements tcp.Logger.
func (r *Recorder) LogTCP(record *tcp.Record) {
	r.tcpDuration.add(record.End - record.Start)
	for bit, flags := 0, uint16(record.Flags); flags != 0; bit, flags = bit+1, flags>>1 {
		if flags&1 != 0 {
			r.tcpFlags[bit].Add(1)
		}
	}
	if r.log != nil {
		r.log.tcp(r.listener, r.inbound, record)
	}
}

// route returns the counts of a route; nil is no route, whose ID is 0.
func (r *Recorder) route(route *router.Route) *routeCounts {
	var id uint16
	if route != nil {
		id = route.ID
	}
	if c := (*r.routes.Load())[id]; c != nil {
		return c
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := (*r.routes.Load())[id]; c != nil {
		return c
	}
	next := maps.Clone(*r.routes.Load())
	c := &routeCounts{}
	if route != nil {
		c.name, c.cluster = route.Name, route.ClusterName
	}
	next[id] = c
	r.routes.Store(&next)
	return c
}

// buckets are the upper bounds of the duration histogram in seconds, those that
// OpenTelemetry's semantic conventions for HTTP advise, with finer ones below
// 5 ms, where a mesh lives.
var buckets = [...]float64{.0005, .001, .0025, .005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}

// histogram counts durations. Writers only add, each to one bucket.
type histogram struct {
	counts [len(buckets) + 1]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

func (h *histogram) add(d time.Duration) {
	seconds := d.Seconds()
	i := 0
	for i < len(buckets) && seconds > buckets[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

// read returns the cumulative counts by upper bound, their total, and the sum in
// seconds.
func (h *histogram) read() (cumulative map[float64]uint64, total uint64, sum float64) {
	cumulative = make(map[float64]uint64, len(buckets))
	for i, bound := range buckets {
		total += h.counts[i].Load()
		cumulative[bound] = total
	}
	total += h.counts[len(buckets)].Load()
	return cumulative, total, math.Max(0, float64(h.sum.Load())/1e9)
}
