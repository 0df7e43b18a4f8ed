package controlplane_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/test/pipenet"
	"github.com/overhear-mesh/overhear/xds/client"
	"github.com/overhear-mesh/overhear/xds/controlplane"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
	"github.com/overhear-mesh/overhear/xds/resource"
)

const (
	host    = "10.0.0.1" // of the control plane
	xdsAddr = host + ":15010"
	apiAddr = host + ":15014"
	token   = "a-token-of-some-length"
)

// mesh is six instances of api in two zones.
func mesh() *registry.Mesh {
	s := registry.NewService("api")
	for i := range 6 {
		s.Endpoints = append(s.Endpoints, registry.Endpoint{
			Address: netip.MustParseAddrPort(fmt.Sprintf("10.1.0.%d:8080", i+1)), Instance: fmt.Sprintf("api-%d", i+1),
			Zone: string(rune('a' + i%2)), Node: fmt.Sprintf("node-api-%d", i+1), Weight: 1,
		})
	}
	return &registry.Mesh{Services: []registry.Service{s}}
}

// world is a control plane with its clients, in a bubble.
type world struct {
	t        *testing.T
	net      *pipenet.Network
	registry *registry.Registry
	cfg      controlplane.Config
	log      bytes.Buffer
	cp       *controlplane.ControlPlane
	stop     func()
}

func newWorld(t *testing.T, edit func(*controlplane.Config)) *world {
	return newWorldOf(t, mesh(), edit)
}

func newWorldOf(t *testing.T, m *registry.Mesh, edit func(*controlplane.Config)) *world {
	w := &world{t: t, net: pipenet.New(1), registry: registry.Static(m), cfg: controlplane.DefaultConfig()}
	w.cfg.XDS, w.cfg.HTTP, w.cfg.Insecure, w.cfg.APIToken = xdsAddr, apiAddr, true, token
	if edit != nil {
		edit(&w.cfg)
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start runs a control plane; another one may have run before.
func (w *world) start() {
	w.t.Helper()
	cp, err := controlplane.New(w.cfg, controlplane.Options{
		Registry: w.registry, Listen: w.net.Host(host).Listen, Seed: 1, Version: "test",
		Log: slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.cp = cp
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cp.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
}

// opened waits for the gate, and until the loop has said that it is open.
func (w *world) opened() {
	w.t.Helper()
	select {
	case <-w.cp.Opened():
	case <-time.After(time.Minute):
		w.t.Fatal("the gate did not open")
	}
	synctest.Wait()
}

// do sends a request from an operator's host.
func (w *world) do(method, path, body string, header http.Header) (status int, text string) {
	w.t.Helper()
	operator := w.net.Host("10.9.0.1")
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return operator.Dial(ctx, network, addr)
		},
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://"+apiAddr+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(all)
}

func (w *world) get(path string, into any) {
	w.t.Helper()
	status, text := w.do(http.MethodGet, path, "", nil)
	if status != http.StatusOK {
		w.t.Fatalf("GET %s: %d: %s", path, status, text)
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		w.t.Fatalf("GET %s: %v in %s", path, err, text)
	}
}

// order carries out an operator's order.
func (w *world) order(verb, body string) controlplane.Why {
	w.t.Helper()
	status, text := w.do(http.MethodPost, "/api/v1/"+verb, body, http.Header{"Authorization": {"Bearer " + token}})
	var why controlplane.Why
	if err := json.Unmarshal([]byte(text), &why); status != http.StatusOK || err != nil {
		w.t.Fatalf("%s: got %d %s", verb, status, text)
	}
	return why
}

// state is what status says of an endpoint.
func (w *world) state(instance string) outlier.State {
	w.t.Helper()
	var st controlplane.Status
	w.get("/api/v1/status", &st)
	for _, e := range st.Services[0].Endpoints {
		if e.Instance == instance {
			return e.State
		}
	}
	w.t.Fatalf("status does not know %s", instance)
	return 0
}

// sidecar is a client of both streams, which has no data path: the test says what
// it counts and how its probes end.
type sidecar struct {
	w     *world
	id    string
	began time.Time
	cc    *grpc.ClientConn
	stop  func()

	mu        sync.Mutex
	told      map[string]resource.Endpoints
	cells     map[string]*merge.Cell // by instance
	trials    map[merge.Key]*cadence.Trial
	down      map[string]outlier.ProbeResult
	probes    []report.Probed
	polls     []merge.PollAnswer
	dirty     bool
	ordered   []merge.ProbeOrder
	leases    []merge.PingLease
	ready     chan struct{}
	unhealthy map[string]time.Time // when an endpoint was first told to be out
	pushes    []resource.Endpoints // all that it was told, in order
	weights   []merge.Weight       // that were ordered
	settings  []merge.Settings
	latency   map[int]uint32 // cumulative answers by bucket, which it reports
}

func (w *world) sidecar(i int, zone string) *sidecar {
	w.t.Helper()
	s := &sidecar{
		w: w, id: fmt.Sprintf("caller-%d", i), began: time.Now(), told: map[string]resource.Endpoints{},
		cells: map[string]*merge.Cell{}, trials: map[merge.Key]*cadence.Trial{}, down: map[string]outlier.ProbeResult{}, ready: make(chan struct{}, 1), unhealthy: map[string]time.Time{},
	}
	from := w.net.Host(fmt.Sprintf("10.2.0.%d", i))
	cc, err := client.Dial([]string{xdsAddr}, client.DialOptions{Dialer: from.Dial})
	if err != nil {
		w.t.Fatal(err)
	}
	s.cc = cc
	cfg := client.DefaultConfig()
	cfg.Node = client.Node{ID: s.id, Zone: zone}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	ads := client.New(cc, cfg, s, slog.New(slog.DiscardHandler))
	reports := report.NewClient(cc, report.ClientConfig{Incarnation: 1, Now: s.now}, source{s, zone})
	running.Go(func() { _ = ads.Run(ctx) })
	running.Go(func() { _ = reports.Run(ctx) })
	s.stop = sync.OnceFunc(func() { cancel(); running.Wait(); cc.Close() })
	w.t.Cleanup(s.stop)
	return s
}

// foreign is a client that is none of ours, on a state-of-the-world stream for
// the endpoints of api.
type foreign struct {
	mu   sync.Mutex
	told []*endpointv3.LbEndpoint // all that it was told of the watched instance
}

func (w *world) foreign(ip, agent, zone string, watched netip.AddrPort) *foreign {
	w.t.Helper()
	cc, err := client.Dial([]string{xdsAddr}, client.DialOptions{Dialer: w.net.Host(ip).Dial})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(cc).StreamAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		w.t.Fatal(err)
	}
	f := &foreign{}
	done := make(chan struct{})
	w.t.Cleanup(func() { cancel(); <-done; cc.Close() })
	go func() {
		defer close(done)
		node := &corev3.Node{Id: agent, UserAgentName: agent, Locality: &corev3.Locality{Zone: zone}}
		w.assignments(stream, node, func(m *endpointv3.ClusterLoadAssignment) { f.note(m, watched) })
	}()
	return f
}

// assignments subscribes to the endpoints of api, and passes on what comes until the stream
// ends.
func (w *world) assignments(stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient, node *corev3.Node, take func(*endpointv3.ClusterLoadAssignment)) {
	names := []string{"api"}
	request := &discoveryv3.DiscoveryRequest{Node: node, TypeUrl: resource.TypeEndpoints, ResourceNames: names}
	for stream.Send(request) == nil {
		r, err := stream.Recv()
		if err != nil {
			return
		}
		request = &discoveryv3.DiscoveryRequest{TypeUrl: r.TypeUrl, ResourceNames: names, VersionInfo: r.VersionInfo, ResponseNonce: r.Nonce}
		for _, any := range r.Resources {
			var m endpointv3.ClusterLoadAssignment
			if err := any.UnmarshalTo(&m); err != nil {
				w.t.Error(err)
				return
			}
			take(&m)
		}
	}
}

func (f *foreign) note(m *endpointv3.ClusterLoadAssignment, watched netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range m.Endpoints {
		for _, e := range l.LbEndpoints {
			if a := e.GetEndpoint().GetAddress().GetSocketAddress(); a.GetAddress() == watched.Addr().String() {
				f.told = append(f.told, e)
			}
		}
	}
}

func (s *sidecar) now() time.Duration { return time.Since(s.began) + time.Second }

// The client.Handler.

func (s *sidecar) Listeners([]*listenerv3.Listener, []string) client.Refused     { return nil }
func (s *sidecar) Routes([]*routev3.RouteConfiguration, []string) client.Refused { return nil }
func (s *sidecar) RouteNames() []string                                          { return nil }
func (s *sidecar) Answered(string, error)                                        {}

func (s *sidecar) Clusters(_ []*clusterv3.Cluster, removed []string) client.Refused {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range removed {
		delete(s.told, name)
	}
	return nil
}

func (s *sidecar) Endpoints(changed []*endpointv3.ClusterLoadAssignment, removed []string) client.Refused {
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := client.Refused{}
	for _, m := range changed {
		e, err := resource.DecodeEndpoints(m)
		if err != nil {
			refused[m.GetClusterName()] = err
			continue
		}
		s.told[e.Service] = e
		s.pushes = append(s.pushes, e)
		for _, one := range e.Endpoints {
			if _, out := s.unhealthy[one.ID()]; !out && one.Verdict.State.Out() {
				s.unhealthy[one.ID()] = time.Now()
			}
		}
	}
	for _, name := range removed {
		delete(s.told, name)
	}
	s.pokeLocked()
	return refused
}

func (s *sidecar) Stream(bool, error) {}

// endpoint is what the sidecar was told of an instance.
func (s *sidecar) endpoint(instance string) (resource.Endpoint, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.told["api"].Endpoints {
		if e.ID() == instance {
			return e, true
		}
	}
	return resource.Endpoint{}, false
}

func (s *sidecar) instances() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, e := range s.told["api"].Endpoints {
		all = append(all, e.ID())
	}
	slices.Sort(all)
	return all
}

// attempts counts n attempts on an instance of which k fail in the class.
func (s *sidecar) attempts(instance string, n, k uint32, class outlier.Class) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cellLocked(instance)
	now := s.now()
	c.Counts.N += n
	if k < n {
		c.LastOK, c.LastOKStart = now, now
	}
	switch class {
	case outlier.Conn:
		c.Counts.Conn += k
		c.LastHard, c.LastHardStart, c.Witness = now, now, outlier.LevelConnect
	case outlier.Server:
		c.Counts.Server += k
	}
	s.pokeLocked()
}

// answers counts n good attempts on an instance of which some take longer than nine in
// ten usually do, and some longer than 99 in 100.
func (s *sidecar) answers(instance string, n, often, tail uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cellLocked(instance)
	now := s.now()
	c.Counts.N += n
	c.Counts.N90 += often
	c.Counts.N99 += tail
	c.LastOK, c.LastOKStart = now, now
	s.pokeLocked()
}

func (s *sidecar) cellLocked(instance string) *merge.Cell {
	c := s.cells[instance]
	if c == nil {
		c = &merge.Cell{Key: merge.Key{Service: "api", Instance: instance}, LastOK: -1, LastOKStart: -1, LastHard: -1, LastHardStart: -1}
		s.cells[instance] = c
	}
	return c
}

// broken makes the sidecar's probes of an instance fail.
func (s *sidecar) broken(instance string, how outlier.ProbeResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down[instance] = how
}

func (s *sidecar) pokeLocked() {
	s.dirty = true
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// source is the sidecar as a report.Source.
type source struct {
	s    *sidecar
	zone string
}

func (o source) Hello() report.Hello {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.s.dirty = true
	h := report.Hello{Node: o.s.id, Zone: o.zone, Labels: map[string]string{"node": "node-" + o.s.id}}
	for _, e := range o.s.told["api"].Endpoints {
		if e.Verdict.State != outlier.In {
			h.Held = append(h.Held, merge.Verdict{Key: merge.Key{Service: "api", Instance: e.ID()}, State: e.Verdict.State, Epoch: e.Verdict.Epoch, Rule: e.Verdict.Rule})
		}
	}
	return h
}

func (o source) Ready() <-chan struct{} { return o.s.ready }

func (o source) Build() report.Message {
	s := o.s
	s.mu.Lock()
	defer s.mu.Unlock()
	var m report.Message
	for _, e := range s.told["api"].Endpoints {
		m.Known = append(m.Known, merge.Key{Service: "api", Instance: e.ID()})
	}
	m.Probes, s.probes = s.probes, nil
	m.Polls, s.polls = s.polls, nil
	turn := cadence.Turn{Now: s.now()}
	for k, trial := range s.trials {
		stands := cadence.Standing{Epoch: trial.Epoch, Counts: s.countsLocked(k.Instance)}
		if since, news, _ := trial.Count(&turn, stands); news {
			m.Probations = append(m.Probations, report.Probation{Key: k, Epoch: trial.Epoch, Counts: since})
		}
	}
	if s.dirty {
		s.dirty = false
		m.Report = &merge.Report{}
		for _, c := range s.cells {
			m.Report.Cells = append(m.Report.Cells, *c)
		}
		if len(s.latency) > 0 {
			totals := merge.ClusterTotals{Service: "api"}
			for _, bucket := range slices.Sorted(maps.Keys(s.latency)) {
				totals.Latency = append(totals.Latency, outlier.LatencyCount{Bucket: bucket, Count: s.latency[bucket]})
			}
			m.Report.Clusters = append(m.Report.Clusters, totals)
		}
	}
	return m
}

func (o source) Handle(orders report.Orders) {
	s := o.s
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, p := range orders.Probes {
		s.ordered = append(s.ordered, p)
		result := outlier.ProbeOK
		if how, ok := s.down[p.Key.Instance]; ok {
			result = how
		}
		s.probes = append(s.probes, report.Probed{ID: p.ID, Key: p.Key, Level: outlier.LevelConnect, Result: result, Start: now, End: now, Epoch: p.Epoch})
	}
	for _, p := range orders.Polls {
		cell := merge.Cell{Key: p.Key, LastOK: -1, LastOKStart: -1, LastHard: -1, LastHardStart: -1}
		if c := s.cells[p.Key.Instance]; c != nil {
			cell = *c
		}
		s.polls = append(s.polls, merge.PollAnswer{ID: p.ID, At: now, Cell: cell})
	}
	for _, sh := range orders.Shares {
		trial := cadence.Lend(s.trials[sh.Key], sh, now, func() outlier.Counts { return s.countsLocked(sh.Key.Instance) })
		if trial != nil {
			s.trials[sh.Key] = trial
		}
	}
	s.leases = append(s.leases, orders.Leases...)
	s.weights = append(s.weights, orders.Weights...)
	s.settings = append(s.settings, orders.Settings...)
	if len(s.probes)+len(s.polls) > 0 {
		select {
		case s.ready <- struct{}{}:
		default:
		}
	}
}

func (o source) Link(bool) {}

func (s *sidecar) countsLocked(instance string) outlier.Counts {
	if c := s.cells[instance]; c != nil {
		return c.Counts
	}
	return outlier.Counts{}
}

// callers are n sidecars, in zones a and b by turns, that were told the endpoints
// and have joined.
func (w *world) callers(n int) []*sidecar {
	w.t.Helper()
	all := make([]*sidecar, n)
	for i := range all {
		all[i] = w.sidecar(i+1, string(rune('a'+i%2)))
	}
	w.opened()
	time.Sleep(3 * time.Second)
	for _, s := range all {
		if got := len(s.instances()); got == 0 {
			w.t.Fatalf("%s was told of no endpoint", s.id)
		}
	}
	return all
}

// busy lets the sidecars make good attempts for a while.
func busy(all []*sidecar, d time.Duration) {
	for range d / (100 * time.Millisecond) {
		for _, s := range all {
			for _, instance := range s.instances() {
				s.attempts(instance, 5, 0, outlier.OK)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}
