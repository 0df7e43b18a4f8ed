package ingest

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	lrsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
)

// Service is what must be known of a service to understand load reports on it.
type Service struct {
	// Instances are the endpoints by address. It must not change.
	Instances map[netip.AddrPort]string
	// Former are the addresses that left, and when, by the table's clock: for a while an
	// Envoy may still speak of them. It must not change.
	Former map[netip.AddrPort]time.Duration
	// Answers says that Envoy counts an answer when its headers come.
	// Where it counts it when it has ended, nobody can tell a long one from one that
	// does not come.
	Answers bool
}

// FormerFor is for how long an Envoy may speak of an endpoint that has left: its requests
// under way may take so long, and it is told and tells in turn.
const FormerFor = 30 * time.Second

// absent notes n words at an instant about an address that is no endpoint of a service.
func (s Service) absent(refused *report.Aside, at netip.AddrPort, now time.Duration, n int, format string, args ...any) {
	if left, was := s.Former[at]; was && now-left < FormerFor {
		refused.Usual(UnknownEndpoint, n)
		return
	}
	refused.Add(UnknownEndpoint, n, format, args...)
}

// Directory knows the services; ok is false for one that does not exist.
type Directory interface {
	Service(name string) (s Service, ok bool)
}

const (
	// mostRequests is how many requests per second to one endpoint are believed.
	mostRequests = 50_000
	// mostActive is how many requests under way to one endpoint are believed.
	mostActive = 1 << 20
	// mostClusters is of how many clusters the names are remembered.
	mostClusters = 20_000
	// mostUnknown is how many clusters that are no services are named to an operator, and
	// mostName how much of a name.
	mostUnknown = 10
	mostName    = 100
	// quiet is how long an Envoy that has nothing to tell is not heard of.
	quiet = time.Second
)

// observer turns the load reports of one Envoy into reports of evidence. It is the pure
// part of a stream.
type observer struct {
	directory Directory
	services  map[string]*service
	clock     report.ClockMap
	elapsed   time.Duration // by the Envoy's intervals
	seq       uint64
	told      time.Duration // when the last report was made
	refused   report.Aside
	unknown   []string          // clusters of the newest load report that are no services, the first, sorted
	logs      *logged           // nil: none
	clusters  map[string]string // services by the names that the Envoy has for them
}

// service is what an Envoy has told of one.
type service struct {
	known    bool // the newest load report spoke of it
	flows    map[merge.Key]*flow
	patience patience
	n, k     uint64
}

func (s *service) keys() []merge.Key {
	return slices.SortedFunc(maps.Keys(s.flows), func(a, b merge.Key) int { return cmp.Compare(a.Instance, b.Instance) })
}

// lose forgets what was under way: the newest interval is not told of.
func (s *service) lose() {
	s.known = false
	for _, f := range s.flows {
		f.lose()
	}
}

func newObserver(d Directory) *observer {
	return &observer{directory: d, services: map[string]*service{}, told: never, clusters: map[string]string{}}
}

// observe takes a load report that arrived at an instant of the table's clock, and gives
// what there is to tell. Nothing of what is left out is evidence of anything; it is
// counted in refused, which the next call clears.
func (o *observer) observe(req *lrsv3.LoadStatsRequest, received time.Duration) (r merge.Report, ok bool) {
	o.refused = report.Aside{}
	o.unknown = o.unknown[:0]
	covered, good := o.covered(req.GetClusterStats())
	if !good {
		for _, s := range o.services {
			s.lose()
		}
		return merge.Report{}, false
	}
	o.elapsed += covered
	o.clock.Observe(received, o.elapsed)
	offset, jitter := o.clock.At(received)
	iv := interval{to: min(o.elapsed+offset, received)}
	iv.from = max(iv.to-covered, 0)

	r = merge.Report{At: iv.to, Received: received, Jitter: jitter}
	rows := o.read(req.GetClusterStats(), covered, received)
	records := o.heard(received)
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		o.take(name, rows[name], records, iv, &r)
	}
	for _, name := range slices.Sorted(maps.Keys(o.services)) {
		if rows[name] == nil {
			o.unmentioned(name, &r)
		}
	}
	if len(r.Cells) == 0 && o.told != never && received-o.told < quiet {
		return merge.Report{}, false
	}
	o.seq++
	o.told, r.Seq = received, o.seq
	return r, true
}

// unmentioned forgets what was under way to a service of which a load report says nothing.
func (o *observer) unmentioned(name string, r *merge.Report) {
	s := o.services[name]
	if _, exists := o.directory.Service(name); !exists {
		delete(o.services, name)
		return
	}
	s.lose()
	for _, k := range s.keys() {
		if f := s.flows[k]; f.overdue > 0 {
			f.overdue = 0
			r.Cells = append(r.Cells, f.cell(k, outlier.PointAt(r.At, f.counts)))
		}
	}
}

// covered is the length of the interval that a load report is about. Envoy has one for
// each cluster; a cluster that is new has a shorter one.
func (o *observer) covered(stats []*endpointv3.ClusterStats) (time.Duration, bool) {
	longest := time.Duration(0)
	for _, c := range stats {
		d := c.GetLoadReportInterval()
		if d.CheckValid() != nil || d.AsDuration() < 0 || d.AsDuration() > time.Hour {
			o.refused.Add(BadInterval, 1, "load_report_interval of cluster %.100q is %v: want 0 to 1h", c.GetClusterName(), d.AsDuration())
			return 0, false
		}
		longest = max(longest, d.AsDuration())
	}
	if longest == 0 {
		if len(stats) > 0 {
			o.refused.Add(BadInterval, 1, "load_report_interval is 0 for all of %d clusters", len(stats))
		}
		return 0, false
	}
	return longest, true
}

// told is what a load report says of one service.
type told struct {
	Service
	samples    map[merge.Key]sample
	absurd     map[merge.Key]struct{} // endpoints with rows that cannot be
	turnedAway uint64
}

// read adds up the rows by service: two clusters may be fed by one.
func (o *observer) read(stats []*endpointv3.ClusterStats, covered, received time.Duration) map[string]*told {
	all := map[string]*told{}
	limit := uint64(mostRequests * (1 + covered.Seconds()))
	for _, c := range stats {
		name := cmp.Or(c.GetClusterServiceName(), c.GetClusterName())
		t := all[name]
		if t == nil {
			s, ok := o.directory.Service(name)
			if !ok {
				o.stranger(c.GetClusterName())
				continue
			}
			t = &told{Service: s, samples: map[merge.Key]sample{}, absurd: map[merge.Key]struct{}{}}
			all[name] = t
		}
		if len(o.clusters) >= mostClusters {
			clear(o.clusters)
		}
		o.clusters[c.GetClusterName()] = name
		t.turnedAway += min(c.GetTotalDroppedRequests(), limit)
		for _, l := range c.GetUpstreamLocalityStats() {
			for _, e := range l.GetUpstreamEndpointStats() {
				at := address(e.GetAddress())
				instance, known := t.Instances[at]
				if !known {
					t.absent(&o.refused, at, received, 1, "%s is no endpoint of service %q", at, name)
					continue
				}
				k := merge.Key{Service: name, Instance: instance}
				row := sample{e.GetTotalSuccessfulRequests(), e.GetTotalErrorRequests(), e.GetTotalIssuedRequests(), e.GetTotalRequestsInProgress()}
				if sum, can := t.samples[k].plus(row, limit); can {
					t.samples[k] = sum
				} else {
					t.absurd[k] = struct{}{}
					o.refused.Add(BadCounts, 1, "%s of service %q has counts that cannot be: want at most %d requests in %v", at, name, limit, covered)
				}
			}
		}
	}
	return all
}

// stranger notes a cluster that is no service.
func (o *observer) stranger(cluster string) {
	o.refused.Usual(UnknownCluster, 1)
	// A copy: a part would keep the whole alive.
	cluster = strings.ToValidUTF8(strings.Clone(cluster[:min(len(cluster), mostName)]), "")
	if at, known := slices.BinarySearch(o.unknown, cluster); !known && at < mostUnknown {
		o.unknown = slices.Insert(o.unknown, at, cluster)
		o.unknown = o.unknown[:min(len(o.unknown), mostUnknown)]
	}
}

func address(a *corev3.Address) netip.AddrPort {
	s := a.GetSocketAddress()
	ip, err := netip.ParseAddr(s.GetAddress())
	if err != nil || s.GetPortValue() > 65535 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(s.GetPortValue()))
}

// take adds what a load report says of a service, and records of its failures, and to the
// report what that makes.
func (o *observer) take(name string, t *told, records map[merge.Key]kinds, iv interval, r *merge.Report) {
	s := o.services[name]
	if s == nil {
		s = &service{flows: map[merge.Key]*flow{}}
		o.services[name] = s
	}
	there := map[string]struct{}{}
	for _, instance := range t.Instances {
		there[instance] = struct{}{}
	}
	maps.DeleteFunc(s.flows, func(k merge.Key, _ *flow) bool { _, ok := there[k.Instance]; return !ok })
	for k := range t.samples {
		if s.flows[k] == nil {
			s.flows[k] = newFlow()
			s.flows[k].known = s.known
		}
	}
	s.known = true
	keys := s.keys()
	before := make([]outlier.Counts, len(keys))
	for i, k := range keys {
		f := s.flows[k]
		before[i] = f.counts
		if _, absurd := t.absurd[k]; absurd {
			f.lose()
			continue
		}
		had := f.age(iv.from)
		// An endpoint of which there is no row has had no requests, and has none.
		if aside := f.take(t.samples[k], iv, t.turnedAway, records[k]); aside > 0 {
			o.refused.Add(NotCounted, int(aside), "a log has failures of %s that no load report counts", k)
		}
		d := f.counts.Sub(before[i])
		s.n, s.k = s.n+uint64(d.N), s.k+uint64(d.K())
		if d.N > 0 && d.K() == 0 && f.age(iv.to) < had {
			s.patience.note(had, iv.to)
		}
	}
	limit := s.patience.limit(s.n-s.k, iv.to)
	overdue := s.overdue(t.Answers, limit, iv.to)
	for i, k := range keys {
		f := s.flows[k]
		was := f.overdue
		f.overdue = int(overdue[k])
		if f.counts != before[i] || f.overdue > 0 || was > 0 {
			r.Cells = append(r.Cells, f.cell(k, outlier.PointAt(iv.from, before[i])))
		}
	}
	r.Clusters = append(r.Clusters, merge.ClusterTotals{Service: name, N: s.n, K: s.k, Overdue: limit})
}

// overdue counts the requests that wait too long, by endpoint. Where most endpoints in
// use have such, that is how requests are here.
func (s *service) overdue(tellable bool, limit, now time.Duration) map[merge.Key]uint64 {
	if !tellable {
		return nil
	}
	late, used := map[merge.Key]uint64{}, 0
	for k, f := range s.flows {
		if f.waiting > 0 || f.lastOK > now-memory {
			used++
		}
		if n := f.older(limit, now); n > 0 {
			late[k] = n
		}
	}
	if len(late) > 1 && 2*len(late) > used {
		return nil
	}
	return late
}
