package controlplane_test

import (
	"context"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	lrsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/client"
	"github.com/overhear-mesh/overhear/xds/controlplane"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/reportpb"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// sick is the instance whose health tests of Envoys are about, sickIP its address.
const sick, sickIP = "api-1", "10.1.0.1"

// loadReporter is a client that takes the endpoints of api as an Envoy does, sends each that is
// healthy twenty requests a second, or as many fewer as its weight is lower, and reports
// them.
type loadReporter struct {
	w       *world
	node    *corev3.Node
	refuses func() bool // whether the sick instance refuses connections
	idle    atomic.Bool // it has no requests to send

	mu   sync.Mutex
	lost int                               // requests that failed
	told map[string]*endpointv3.LbEndpoint // by address
	due  map[string]float64                // requests that are due
}

func (w *world) envoy(ip, id string, refuses func() bool) *loadReporter {
	w.t.Helper()
	meta, err := structpb.NewStruct(map[string]any{"overhear": map[string]any{"node": "host-" + id}})
	if err != nil {
		w.t.Fatal(err)
	}
	e := &loadReporter{
		w: w, refuses: refuses, told: map[string]*endpointv3.LbEndpoint{}, due: map[string]float64{},
		node: &corev3.Node{Id: id, UserAgentName: "envoy", Locality: &corev3.Locality{Zone: "a"}, Metadata: meta},
	}
	cc, err := client.Dial([]string{xdsAddr}, client.DialOptions{Dialer: w.net.Host(ip).Dial})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	w.t.Cleanup(func() { cancel(); running.Wait(); cc.Close() })
	running.Go(func() { e.discover(ctx, cc) })
	running.Go(func() { e.report(ctx, cc) })
	return e
}

// discover keeps the endpoints.
func (e *loadReporter) discover(ctx context.Context, cc *grpc.ClientConn) {
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(cc).StreamAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		return // the end of the test
	}
	e.w.assignments(stream, e.node, e.take)
}

func (e *loadReporter) take(m *endpointv3.ClusterLoadAssignment) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range m.Endpoints {
		for _, one := range l.LbEndpoints {
			e.told[one.GetEndpoint().GetAddress().GetSocketAddress().GetAddress()] = one
		}
	}
}

// report sends requests and tells of them, each time that it was asked to.
func (e *loadReporter) report(ctx context.Context, cc *grpc.ClientConn) {
	stream, err := lrsv3.NewLoadReportingServiceClient(cc).StreamLoadStats(ctx, grpc.WaitForReady(true))
	if err != nil || stream.Send(&lrsv3.LoadStatsRequest{Node: e.node}) != nil {
		return
	}
	asked, err := stream.Recv()
	if err != nil {
		return
	}
	every := asked.GetLoadReportingInterval()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every.AsDuration()):
		}
		stats := &endpointv3.ClusterStats{ClusterName: "api", LoadReportInterval: durationpb.New(every.AsDuration())}
		stats.UpstreamLocalityStats = []*endpointv3.UpstreamLocalityStats{{UpstreamEndpointStats: e.requests()}}
		if stream.Send(&lrsv3.LoadStatsRequest{ClusterStats: []*endpointv3.ClusterStats{stats}}) != nil {
			return
		}
	}
}

// requests are those of an interval.
func (e *loadReporter) requests() []*endpointv3.UpstreamEndpointStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	var rows []*endpointv3.UpstreamEndpointStats
	for ip, one := range e.told {
		if one.HealthStatus != corev3.HealthStatus_HEALTHY || e.idle.Load() {
			continue
		}
		e.due[ip] += 2 * float64(one.GetLoadBalancingWeight().GetValue()) / resource.WeightScale
		n := uint64(e.due[ip])
		e.due[ip] -= float64(n)
		row := &endpointv3.UpstreamEndpointStats{Address: one.GetEndpoint().GetAddress(), TotalSuccessfulRequests: n, TotalIssuedRequests: n}
		if ip == sickIP && e.refuses() {
			row.TotalSuccessfulRequests, row.TotalIssuedRequests, row.TotalErrorRequests = 0, 0, n
			e.lost += int(n)
		}
		rows = append(rows, row)
	}
	return rows
}

// health is what the Envoy was told last of the sick instance.
func (e *loadReporter) health() (corev3.HealthStatus, uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	one := e.told[sickIP]
	return one.GetHealthStatus(), one.GetLoadBalancingWeight().GetValue()
}

// until waits in the bubble's time.
func (w *world) until(what string, within time.Duration, holds func() bool) {
	w.t.Helper()
	for end := time.Now().Add(within); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not within %v: %s", within, what)
		}
	}
}

func TestEnvoysWithoutASidecarLoseACrashedEndpointAndGetItBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.opened()
		var down atomic.Bool
		var all []*loadReporter
		for _, n := range []string{"1", "2", "3", "4"} {
			all = append(all, w.envoy("10.3.0."+n, "envoy-"+n, down.Load))
		}
		time.Sleep(15 * time.Second) // new instances rise to their share
		if h, weight := all[0].health(); h != corev3.HealthStatus_HEALTHY || weight != resource.WeightScale {
			t.Fatalf("before anything happens it is %s with weight %d", h, weight)
		}

		down.Store(true)
		w.until("every Envoy was told to leave it", time.Second, func() bool {
			for _, e := range all {
				if h, _ := e.health(); h != corev3.HealthStatus_DRAINING {
					return false
				}
			}
			return true
		})
		var why controlplane.Why
		w.get("/api/v1/why?endpoint="+sick, &why)
		if why.Endpoint.State != outlier.Ejected || why.Endpoint.Rule != outlier.RuleHard || len(why.Explain.Witnesses) < 3 || why.Explain.Counts.Conn == 0 {
			t.Errorf("it is %s by %s, on the word of %+v, counts %+v: want ejected, hard, of three Envoys that were refused",
				why.Endpoint.State, why.Endpoint.Rule, why.Explain.Witnesses, why.Explain.Counts)
		}

		// Nobody can probe it: a few requests of the Envoys do, and send it back.
		trial := func() bool {
			h, weight := all[0].health()
			return h == corev3.HealthStatus_HEALTHY && weight < resource.WeightScale/5
		}
		w.until("it is tried by a few requests", 10*time.Second, trial)
		w.until("it is sent back", 10*time.Second, func() bool { h, _ := all[0].health(); return h == corev3.HealthStatus_DRAINING })

		down.Store(false)
		w.until("it is well again", time.Minute, func() bool {
			h, weight := all[0].health()
			return h == corev3.HealthStatus_HEALTHY && weight == resource.WeightScale && w.state(sick) == outlier.In
		})
	})
}

// onlyReporter is the one that there is.
func (w *world) onlyReporter() controlplane.ReporterStatus {
	w.t.Helper()
	var all controlplane.Reporters
	w.get("/api/v1/reporters", &all)
	if len(all.Reporters) != 1 {
		w.t.Fatalf("reporters %+v, want one", all.Reporters)
	}
	return all.Reporters[0]
}

func TestWhoReportsByLoadReportsIsSeenAsAnEnvoy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.opened()
		w.envoy("10.3.0.1", "envoy-1", func() bool { return false })
		time.Sleep(5 * time.Second)
		r := w.onlyReporter()
		if r.ID != "envoy-1" || r.Labels["client"] != "envoy" || r.Domain != "node:host-envoy-1" || !r.Live || r.Accepted == 0 || len(r.Refused) > 0 {
			t.Errorf("reporter %+v", r)
		}
		_, text := w.do(http.MethodGet, "/metrics", "", nil)
		for _, want := range []string{"overhear_load_report_streams 1\n", "overhear_load_reports_total ", "overhear_envoy_log_records_total 0\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("the metrics lack %q", want)
			}
		}
	})
}

func TestWhatIsSetAsideOfAnEnvoyIsShownWithItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.opened()
		cc, err := client.Dial([]string{xdsAddr}, client.DialOptions{Dialer: w.net.Host("10.3.0.1").Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		stream, err := lrsv3.NewLoadReportingServiceClient(cc).StreamLoadStats(t.Context(), grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		elsewhere := &endpointv3.UpstreamLocalityStats{UpstreamEndpointStats: []*endpointv3.UpstreamEndpointStats{
			{Address: resource.SocketAddress(netip.MustParseAddrPort("10.9.9.9:80")), TotalSuccessfulRequests: 1, TotalIssuedRequests: 1},
		}}
		for _, m := range []*lrsv3.LoadStatsRequest{
			{Node: &corev3.Node{Id: "envoy-1", UserAgentName: "envoy"}},
			{ClusterStats: []*endpointv3.ClusterStats{
				{ClusterName: "api", LoadReportInterval: durationpb.New(100 * time.Millisecond), UpstreamLocalityStats: []*endpointv3.UpstreamLocalityStats{elsewhere}},
				{ClusterName: "overhear", LoadReportInterval: durationpb.New(100 * time.Millisecond)},
			}},
		} {
			if err := stream.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		probes, err := healthv3.NewHealthDiscoveryServiceClient(cc).StreamHealthCheck(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // the load reports first
		for _, m := range []*healthv3.HealthCheckRequestOrEndpointHealthResponse{
			{RequestType: &healthv3.HealthCheckRequestOrEndpointHealthResponse_HealthCheckRequest{
				HealthCheckRequest: &healthv3.HealthCheckRequest{Node: &corev3.Node{Id: "envoy-1", UserAgentName: "envoy"}},
			}},
			{RequestType: &healthv3.HealthCheckRequestOrEndpointHealthResponse_EndpointHealthResponse{
				EndpointHealthResponse: &healthv3.EndpointHealthResponse{ClusterEndpointsHealth: []*healthv3.ClusterEndpointsHealth{{ClusterName: "mine"}}},
			}},
		} {
			if err := probes.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second)
		r := w.onlyReporter()
		if want := map[merge.Refusal]uint64{"unknown_endpoint": 1, "never_ordered": 1}; !maps.Equal(r.Refused, want) {
			t.Errorf("refused %v, want %v: of its load reports, and of its probes", r.Refused, want)
		}
		if r.LastRefusal != `never_ordered: a check "mine" that nobody asked for` || r.LastRefusedAt.IsZero() || !slices.Equal(r.UnknownClusters, []string{"overhear"}) {
			t.Errorf("reporter %+v, want the newest of what was refused, and an unknown cluster", r)
		}
	})
}

func TestWhatIsSetAsideOfASidecarIsShownWithItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.opened()
		cc, err := client.Dial([]string{xdsAddr}, client.DialOptions{Dialer: w.net.Host("10.2.0.1").Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		stream, err := reportpb.NewEvidenceServiceClient(cc).Stream(t.Context(), grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&reportpb.Up{MonoMs: 1, Hello: &reportpb.Hello{
			Version: &reportpb.Version{Major: 1}, NodeId: "sidecar-1", Own: []*reportpb.OwnInstance{{Key: &reportpb.EndpointKey{Service: "api", Instance: "api-2"}}},
		}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		r := w.onlyReporter()
		if r.Refused["not_owner"] != 1 || len(r.Refused) != 1 || !strings.HasPrefix(r.LastRefusal, "not_owner: ") || r.LastRefusedAt.IsZero() {
			t.Errorf("reporter %+v, want an instance refused that is not its own", r)
		}
	})
}

func TestAnEnvoyCannotTakeThePlaceOfASidecar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.opened()
		w.sidecar(1, "a")
		time.Sleep(time.Second)
		w.envoy("10.2.0.1", "caller-1", func() bool { return true }) // of the same address
		time.Sleep(time.Second)
		if r := w.onlyReporter(); r.Labels["client"] != "" || !r.Live {
			t.Errorf("reporter %+v, want the sidecar", r)
		}
	})
}

func TestAnIntervalOfReportsWithoutAPauseIsRefused(t *testing.T) {
	for _, interval := range []time.Duration{0, -time.Second, time.Nanosecond} {
		cfg := controlplane.DefaultConfig()
		cfg.Envoys.Interval = interval
		_, err := controlplane.New(cfg, controlplane.Options{Registry: registry.Static(&registry.Mesh{})})
		if err == nil || !strings.Contains(err.Error(), "envoys.interval") {
			t.Errorf("interval %v: error %v, want one of envoys.interval", interval, err)
		}
	}
}
