package ingest

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	lrsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// directory is a mesh of services by name.
type directory map[string]Service

func (d directory) Service(name string) (Service, bool) { s, ok := d[name]; return s, ok }

// services has api, over HTTP, and calls, over gRPC, of so many endpoints each.
func services(endpoints int) directory {
	d := directory{"api": {Instances: map[netip.AddrPort]string{}, Answers: true}, "calls": {Instances: map[netip.AddrPort]string{}}}
	for i := range endpoints {
		for _, s := range d {
			s.Instances[netip.AddrPortFrom(netip.MustParseAddr(host(i)), 80)] = fmt.Sprint(i)
		}
	}
	return d
}

func host(i int) string { return fmt.Sprintf("10.0.%d.%d", i/250, i%250+1) }

var api1 = merge.Key{Service: "api", Instance: "1"}

func row(i int, s sample) *endpointv3.UpstreamEndpointStats {
	return &endpointv3.UpstreamEndpointStats{
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: host(i), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 80},
		}}},
		TotalSuccessfulRequests: s.ok, TotalErrorRequests: s.failed, TotalIssuedRequests: s.issued, TotalRequestsInProgress: s.active,
	}
}

// load is what Envoy says of a cluster.
func load(cluster string, covered time.Duration, rows ...*endpointv3.UpstreamEndpointStats) *endpointv3.ClusterStats {
	return &endpointv3.ClusterStats{
		ClusterName: cluster, LoadReportInterval: durationpb.New(covered),
		UpstreamLocalityStats: []*endpointv3.UpstreamLocalityStats{{UpstreamEndpointStats: rows}},
	}
}

func request(stats ...*endpointv3.ClusterStats) *lrsv3.LoadStatsRequest {
	return &lrsv3.LoadStatsRequest{ClusterStats: stats}
}

// talk is an observer whose reports come without a delay.
type talk struct {
	t *testing.T
	*observer
	now time.Duration
}

func newTalk(t *testing.T, d Directory) *talk { return &talk{t, newObserver(d), 10 * second} }

// say lets 100 ms pass and reports them.
func (k *talk) say(stats ...*endpointv3.ClusterStats) merge.Report {
	k.now += ms(100)
	r, _ := k.observe(request(stats...), k.now)
	return r
}

func (k *talk) api(rows ...*endpointv3.UpstreamEndpointStats) merge.Report {
	return k.say(load("api", ms(100), rows...))
}

// cell is what a report says of an endpoint.
func cell(r merge.Report, k merge.Key) merge.Cell {
	for _, c := range r.Cells {
		if c.Key == k {
			return c
		}
	}
	return merge.Cell{}
}

func TestDeltasAddUp(t *testing.T) {
	k := newTalk(t, services(3))
	k.api(row(1, sample{ok: 2, issued: 2}))
	k.api(row(1, sample{ok: 1, failed: 1, issued: 2}), row(2, sample{ok: 7, issued: 7}))
	r := k.api(row(1, sample{failed: 2}))
	want := merge.Cell{
		Key: api1, Counts: outlier.Counts{N: 6, Conn: 2, Server: 1}, Score: cell(r, api1).Score,
		LastOK: k.now - ms(100), LastOKStart: k.now - ms(200), LastHard: k.now, LastHardStart: k.now - ms(100),
		Witness: outlier.LevelConnect, History: []outlier.Point{outlier.PointAt(k.now-ms(100), outlier.Counts{N: 4, Server: 1})},
	}
	if diff := cmp.Diff([]merge.Cell{want}, r.Cells); diff != "" {
		t.Errorf("cells (-want +got):\n%s", diff)
	}
	if r.Seq != 3 || r.At != k.now {
		t.Errorf("report %d of %v, want 3 of %v", r.Seq, r.At, k.now)
	}
	if want := []merge.ClusterTotals{{Service: "api", N: 13, K: 3, Overdue: patienceUnknown}}; !cmp.Equal(want, r.Clusters) {
		t.Errorf("totals %+v, want %+v", r.Clusters, want)
	}
}

func TestTwoClustersOfOneServiceAreOne(t *testing.T) {
	k := newTalk(t, services(3))
	other := load("api-canary", ms(100), row(1, sample{ok: 1, issued: 1}))
	other.ClusterServiceName = "api"
	r := k.say(load("api", ms(100), row(1, sample{ok: 2, issued: 2})), other)
	if got := cell(r, api1).Counts.N; got != 3 {
		t.Errorf("%d attempts, want the 3 of both clusters", got)
	}
}

func TestAMissedIntervalIsPartOfTheNext(t *testing.T) {
	k := newTalk(t, services(3))
	k.api()
	k.now += ms(400)
	r := k.say(load("api", ms(500), row(1, sample{ok: 5, issued: 5})))
	c := cell(r, api1)
	if c.Counts.N != 5 || c.LastOKStart != k.now-ms(500) || c.History[0].At != k.now-ms(500) {
		t.Errorf("5 answers since %v, history %v, want since %v", c.LastOKStart, c.History, k.now-ms(500))
	}
}

func TestAReportThatHadToWaitIsOld(t *testing.T) {
	k := newTalk(t, services(3))
	for range 3 {
		k.api(row(1, sample{ok: 1, issued: 1}))
	}
	k.now += ms(250)
	if r := k.api(row(1, sample{ok: 1, issued: 1})); r.At != k.now-ms(250) || r.Received != k.now {
		t.Errorf("a report that was 250ms under way is of %v, received at %v; it is %v", r.At, r.Received, k.now)
	}
}

func TestWhatMakesNoSenseIsCountedAndLeftOut(t *testing.T) {
	good := row(1, sample{ok: 1, issued: 1})
	odd := row(1, sample{ok: 1})
	odd.Address.GetSocketAddress().Address = "pipe"
	for _, tc := range []struct {
		name  string
		stats []*endpointv3.ClusterStats
		want  map[Refusal]int
		n     uint32 // attempts on api/1 taken over
	}{
		{"a cluster of nobody's", []*endpointv3.ClusterStats{load("other", ms(100), good)}, map[Refusal]int{UnknownCluster: 1}, 0},
		{"an endpoint of nobody's", []*endpointv3.ClusterStats{load("api", ms(100), good, row(9, sample{ok: 1}), odd)}, map[Refusal]int{UnknownEndpoint: 2}, 1},
		{"2^63 requests", []*endpointv3.ClusterStats{load("api", ms(100), row(1, sample{ok: 1 << 63, issued: 1 << 63}))}, map[Refusal]int{BadCounts: 1}, 0},
		{"as many as fit", []*endpointv3.ClusterStats{load("api", ms(100), row(1, sample{failed: math.MaxUint64, active: math.MaxUint64}))}, map[Refusal]int{BadCounts: 1}, 0},
		{"no interval", []*endpointv3.ClusterStats{load("api", 0, good)}, map[Refusal]int{BadInterval: 1}, 0},
		{"a negative interval", []*endpointv3.ClusterStats{load("api", -second, good)}, map[Refusal]int{BadInterval: 1}, 0},
		{"a year", []*endpointv3.ClusterStats{load("api", 365*24*time.Hour, good)}, map[Refusal]int{BadInterval: 1}, 0},
		{"nothing at all", nil, nil, 0},
	} {
		k := newTalk(t, services(3))
		r := k.say(tc.stats...)
		if diff := cmp.Diff(tc.want, k.refused.Counts); diff != "" {
			t.Errorf("%s: refused (-want +got):\n%s", tc.name, diff)
		}
		if c := cell(r, api1); c.Counts.N != tc.n || c.Counts.K() != 0 {
			t.Errorf("%s: counts %+v, want %d attempts and no failure", tc.name, c.Counts, tc.n)
		}
	}
}

func TestManyBoundedRowsDoNotAddUpToAnAbsurdOne(t *testing.T) {
	k := newTalk(t, services(3))
	var rows []*endpointv3.UpstreamEndpointStats
	for range 10 {
		rows = append(rows, row(1, sample{ok: mostRequests, issued: mostRequests}))
	}
	k.api(rows...)
	if k.refused.Counts[BadCounts] != 9 {
		t.Errorf("%d rows refused, want all but the first", k.refused.Counts[BadCounts])
	}
}

func TestAfterAnAbsurdRowNothingIsKnownOfWhatWasUnderWay(t *testing.T) {
	k := newTalk(t, services(3))
	k.api(row(1, sample{issued: 5, active: 5}))
	k.api(row(1, sample{ok: 1 << 40}))
	if c := cell(k.api(row(1, sample{failed: 5})), api1); c.Counts.Conn != 0 {
		t.Errorf("%d hard failures, want none: they may have been under way", c.Counts.Conn)
	}
}

func TestAfterALoadReportThatIsLostNothingIsKnownOfWhatWasUnderWay(t *testing.T) {
	k := newTalk(t, services(3))
	k.api(row(1, sample{}))
	k.say(load("api", 0, row(1, sample{issued: 5, active: 5})))
	if c := cell(k.api(row(1, sample{failed: 5})), api1); c.Counts.Conn != 0 || c.Counts.Server != 5 {
		t.Errorf("counts %+v, want 5 failures that are not hard: they may have been under way", c.Counts)
	}
}

func TestAServiceThatHasGoneIsForgotten(t *testing.T) {
	d := services(3)
	k := newTalk(t, d)
	k.api(row(1, sample{ok: 5, issued: 5}))
	delete(d, "api")
	k.say(load("calls", ms(100)), load("api", ms(100), row(1, sample{failed: 5})))
	if len(k.services) != 1 || k.refused.Counts[UnknownCluster] != 1 {
		t.Errorf("%d services are remembered, %v refused, want that of calls alone", len(k.services), k.refused.Counts)
	}
}

// hang reports that endpoint 1 takes a request each 100 ms and answers none while the
// others answer, for so long; then the last report.
func (k *talk) hang(cluster string, d time.Duration) (r merge.Report) {
	for i := range int(d / ms(100)) {
		rows := []*endpointv3.UpstreamEndpointStats{row(1, sample{issued: 1, active: uint64(i + 1)})}
		for j := 2; j < 5; j++ {
			rows = append(rows, row(j, sample{ok: 2, issued: 2}))
		}
		r = k.say(load(cluster, ms(100), rows...))
	}
	return r
}

func (k *talk) warm(cluster string) {
	for range 30 {
		var rows []*endpointv3.UpstreamEndpointStats
		for j := 1; j < 5; j++ {
			rows = append(rows, row(j, sample{ok: 2, issued: 2}))
		}
		k.say(load(cluster, ms(100), rows...))
	}
}

func TestAHangIsOverdueAsSoonAsItIsUnusual(t *testing.T) {
	k := newTalk(t, services(5))
	k.warm("api")
	if r := k.hang("api", ms(300)); cell(r, api1).Overdue != 0 {
		t.Errorf("%d requests are overdue after 300ms, want none yet", cell(r, api1).Overdue)
	}
	k = newTalk(t, services(5))
	k.warm("api")
	r := k.hang("api", ms(600))
	if got := cell(r, api1).Overdue; got != 3 {
		t.Errorf("%d requests are overdue, want the 3 of the first 300ms", got)
	}
	if r = k.api(row(1, sample{ok: 6, issued: 1, active: 1})); cell(r, api1).Overdue != 0 {
		t.Error("it is overdue though it has answered")
	}
	if len(r.Cells) == 0 {
		t.Error("that nothing is overdue any more is not told")
	}
}

func TestAPauseThatEndedWellIsWaitedForTheNextTime(t *testing.T) {
	k := newTalk(t, services(5))
	k.warm("api")
	k.hang("api", ms(700))
	k.api(row(1, sample{ok: 7}))
	if r := k.hang("api", ms(800)); cell(r, api1).Overdue != 0 {
		t.Error("a pause like the one before is overdue")
	}
}

func TestLongRequestsEverywhereAreNoHang(t *testing.T) {
	k := newTalk(t, services(5))
	k.warm("api")
	for i := range 20 {
		var rows []*endpointv3.UpstreamEndpointStats
		for j := 1; j < 5; j++ {
			rows = append(rows, row(j, sample{issued: 1, active: uint64(i + 1)}))
		}
		r := k.api(rows...)
		for _, c := range r.Cells {
			if c.Overdue > 0 {
				t.Fatalf("%s has %d overdue requests, as all have", c.Key, c.Overdue)
			}
		}
	}
}

func TestAStreamOfCallsThatIsOpenForLongIsNoHang(t *testing.T) {
	k := newTalk(t, services(5))
	k.warm("calls")
	if r := k.hang("calls", 3*second); cell(r, merge.Key{Service: "calls", Instance: "1"}).Overdue != 0 {
		t.Error("a call without an end is overdue, though nobody knows whether it was answered")
	}
}

func TestAServiceOfWhichNothingIsToldAnyMoreIsNotWaitedFor(t *testing.T) {
	k := newTalk(t, services(5))
	k.warm("api")
	k.hang("api", second)
	r := k.say(load("calls", ms(100), row(1, sample{ok: 1, issued: 1})))
	if c := cell(r, api1); c.Key != api1 || c.Overdue != 0 {
		t.Errorf("told %+v, want that nothing is overdue", c)
	}
	if c := cell(k.api(row(1, sample{failed: 1})), api1); c.Counts.Conn != 0 || c.Counts.Server != 1 {
		t.Errorf("counts %+v after the gap, want one failure that is not hard: it may have been under way", c.Counts)
	}
}

func TestAnEndpointThatHasGoneIsForgotten(t *testing.T) {
	d := services(3)
	k := newTalk(t, d)
	k.api(row(1, sample{ok: 5, issued: 5}))
	all := d["api"]
	d["api"] = Service{Instances: map[netip.AddrPort]string{netip.MustParseAddrPort("10.0.0.1:80"): "0"}, Answers: true}
	k.api()
	if n := len(k.services["api"].flows); n != 0 {
		t.Errorf("%d endpoints are remembered, want none", n)
	}
	d["api"] = all
	if c := cell(k.api(row(1, sample{ok: 1, issued: 1})), api1); c.Counts.N != 1 {
		t.Errorf("%d attempts, want 1: another life of it begins at zero", c.Counts.N)
	}
}

func TestAnEnvoyWithoutTrafficIsHeardOfOnceASecond(t *testing.T) {
	k := newTalk(t, services(3))
	n := 0
	for range 50 {
		k.now += ms(100)
		if _, ok := k.observe(request(load("api", ms(100))), k.now); ok {
			n++
		}
	}
	if n != 5 {
		t.Errorf("%d reports in 5 s, want 5", n)
	}
}

// FuzzObserve checks, for whatever an Envoy may say, that the table can take what becomes
// of it.
func FuzzObserve(f *testing.F) {
	seed := func(all ...*lrsv3.LoadStatsRequest) {
		var data []byte
		for _, r := range all {
			b, err := proto.Marshal(r)
			if err != nil {
				f.Fatal(err)
			}
			data = append(append(data, byte(len(b))), b...)
		}
		f.Add(data)
	}
	seed(request(load("api", ms(100), row(1, sample{ok: 1, issued: 2, active: 1}))), request(load("api", ms(100), row(1, sample{failed: 3}))))
	seed(request(load("api", ms(1), row(1, sample{failed: 1 << 63}))), request(load("calls", second)), request())
	f.Fuzz(func(t *testing.T, data []byte) {
		table := newTable(services(3), 1)
		o := newObserver(services(3))
		now := 100 * second
		last := map[merge.Key]merge.Cell{}
		for len(data) > 0 {
			n := min(int(data[0]), len(data)-1)
			req := new(lrsv3.LoadStatsRequest)
			if proto.Unmarshal(data[1:1+n], req) != nil {
				return
			}
			data = data[1+n:]
			now += ms(n)
			r, ok := o.observe(req, now)
			if !ok {
				continue
			}
			for _, c := range r.Cells {
				if d := c.Counts.Sub(last[c.Key].Counts); d.K() > d.N || d.N > 1<<31 || c.Overdue < 0 || c.LastOKStart > c.LastOK || c.LastHardStart > c.LastHard || c.LastOK > now || c.LastHard > now {
					t.Fatalf("%+v after %+v, at %v", c, last[c.Key], now)
				}
				last[c.Key] = c
			}
			r.Reporter, r.Incarnation = "envoy-0", 1
			if done := table.Apply(r, now); done.Refused[merge.BadCounts]+done.Refused[merge.Backwards]+done.Refused[merge.OldReport] > 0 {
				t.Fatalf("the table refuses %v", done.Refused)
			}
			table.Step(now)
		}
	})
}
