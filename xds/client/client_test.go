package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/overhear-mesh/overhear/test/pipenet"
	"github.com/overhear-mesh/overhear/xds/client"
	"github.com/overhear-mesh/overhear/xds/resource"
)

const (
	cds = resource.TypeCluster
	eds = resource.TypeEndpoints
)

// controlPlane is a server that says what the test tells it.
type controlPlane struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	t       *testing.T
	net     *pipenet.Network
	address string
	grpc    *grpc.Server
	streams chan *adsStream
	refuse  atomic.Bool // every stream
	nonce   int
}

// adsStream is one stream as the server sees it.
type adsStream struct {
	t    *testing.T
	grpc discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	got  chan *discoveryv3.DeltaDiscoveryRequest
	end  chan error
	cp   *controlPlane
}

func newControlPlane(t *testing.T, n *pipenet.Network, address string) *controlPlane {
	t.Helper()
	cp := &controlPlane{t: t, net: n, address: address, streams: make(chan *adsStream, 1000)}
	cp.start()
	t.Cleanup(func() { cp.grpc.Stop() })
	return cp
}

func (cp *controlPlane) start() {
	cp.t.Helper()
	host, _, _ := strings.Cut(cp.address, ":")
	ln, err := cp.net.Host(host).Listen(cp.t.Context(), "tcp", cp.address)
	if err != nil {
		cp.t.Fatal(err)
	}
	cp.grpc = grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(cp.grpc, cp)
	go func() { _ = cp.grpc.Serve(ln) }()
}

// crash ends everything; start brings it back.
func (cp *controlPlane) crash() { cp.grpc.Stop() }

func (cp *controlPlane) DeltaAggregatedResources(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	if cp.refuse.Load() {
		cp.streams <- nil
		return status.Error(codes.PermissionDenied, "who are you")
	}
	s := &adsStream{t: cp.t, grpc: st, got: make(chan *discoveryv3.DeltaDiscoveryRequest, 1000), end: make(chan error, 1), cp: cp}
	cp.streams <- s
	go func() {
		defer close(s.got)
		for {
			r, err := st.Recv()
			if err != nil {
				return
			}
			s.got <- r
		}
	}()
	select {
	case err := <-s.end:
		return err
	case <-st.Context().Done():
		return nil
	}
}

// stream is the stream that the client has opened.
func (cp *controlPlane) stream() *adsStream {
	cp.t.Helper()
	synctest.Wait()
	select {
	case s := <-cp.streams:
		return s
	default:
		cp.t.Fatal("the client has opened no stream")
		return nil
	}
}

// request is what the client has sent.
func (s *adsStream) request() *discoveryv3.DeltaDiscoveryRequest {
	s.t.Helper()
	synctest.Wait()
	select {
	case r := <-s.got:
		return r
	default:
		s.t.Fatal("the client has sent nothing")
		return nil
	}
}

func (s *adsStream) quiet(when string) {
	s.t.Helper()
	synctest.Wait()
	select {
	case r := <-s.got:
		s.t.Fatalf("%s: the client sent %v", when, r)
	default:
	}
}

// send says something and returns the client's answer to it.
func (s *adsStream) send(url string, removed []string, resources ...*discoveryv3.Resource) *discoveryv3.DeltaDiscoveryRequest {
	s.t.Helper()
	s.cp.nonce++
	nonce := fmt.Sprint(s.cp.nonce)
	if err := s.grpc.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: nonce, Resources: resources, RemovedResources: removed}); err != nil {
		s.t.Fatal(err)
	}
	r := s.request()
	if r.GetResponseNonce() != nonce || r.GetTypeUrl() != url {
		s.t.Fatalf("the client answered %v, want nonce %s of %s", r, nonce, url)
	}
	return r
}

func (s *adsStream) acked(r *discoveryv3.DeltaDiscoveryRequest) {
	s.t.Helper()
	if r.GetErrorDetail() != nil {
		s.t.Errorf("NACK: %s", r.GetErrorDetail().GetMessage())
	}
}

func res(name, version string, m proto.Message) *discoveryv3.Resource {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return &discoveryv3.Resource{Name: name, Version: version, Resource: a}
}

func cluster(name, version string) *discoveryv3.Resource {
	return res(name, version, resource.EncodeCluster(resource.Cluster{Name: name, Policy: resource.DefaultPolicy()}, resource.Overhear))
}

func assignment(name, version string, port uint16) *discoveryv3.Resource {
	e := resource.Endpoints{Service: name, Endpoints: []resource.Endpoint{{Address: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port)}}}
	return res(name, version, resource.EncodeEndpoints(e, resource.Overhear))
}

// sidecar is a handler that writes down what it is told.
type sidecar struct {
	mu     sync.Mutex // guards the rest
	events []string
	refuse string // the name of a resource to refuse
	nacks  int

	routeNames map[string]string // by listener
}

func (s *sidecar) Listeners(changed []*listenerv3.Listener, removed []string) client.Refused {
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := client.Refused{}
	for _, l := range changed {
		refused[l.GetName()] = s.noteLocked("listener " + l.GetName())
		if s.routeNames == nil {
			s.routeNames = map[string]string{}
		}
		s.routeNames[l.GetName()] = l.GetStatPrefix() // in place of a whole connection manager
	}
	for _, name := range removed {
		delete(s.routeNames, name)
	}
	s.goneLocked("listener", removed)
	return refused
}

func (s *sidecar) Routes(changed []*routev3.RouteConfiguration, removed []string) client.Refused {
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := client.Refused{}
	for _, r := range changed {
		refused[r.GetName()] = s.noteLocked("routes " + r.GetName())
	}
	s.goneLocked("routes", removed)
	return refused
}

func (s *sidecar) RouteNames() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.routeNames))
}

func (s *sidecar) Answered(url string, refused error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if refused != nil {
		s.nacks++
	}
}

// Clusters refuses also what resource cannot read.
func (s *sidecar) Clusters(changed []*clusterv3.Cluster, removed []string) client.Refused {
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := client.Refused{}
	for _, c := range changed {
		if _, refused[c.GetName()] = resource.DecodeCluster(c); refused[c.GetName()] == nil {
			refused[c.GetName()] = s.noteLocked("cluster " + c.GetName())
		}
	}
	s.goneLocked("cluster", removed)
	return refused
}

func (s *sidecar) Endpoints(changed []*endpointv3.ClusterLoadAssignment, removed []string) client.Refused {
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := client.Refused{}
	for _, m := range changed {
		e, err := resource.DecodeEndpoints(m)
		if err == nil {
			err = s.noteLocked(fmt.Sprint("endpoints ", e.Service, " ", e.Endpoints[0].Address.Port()))
		}
		refused[m.GetClusterName()] = err
	}
	s.goneLocked("endpoints", removed)
	return refused
}

func (s *sidecar) noteLocked(event string) error {
	s.events = append(s.events, event)
	if s.refuse != "" && strings.Contains(event, s.refuse) {
		return errors.New("no " + s.refuse + " here")
	}
	return nil
}

func (s *sidecar) goneLocked(what string, removed []string) {
	for _, name := range removed {
		s.events = append(s.events, what+" -"+name)
	}
}

func (s *sidecar) Stream(up bool, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case up:
		s.events = append(s.events, "up")
	case why == nil:
		s.events = append(s.events, "down without a reason")
	default:
		s.events = append(s.events, "down")
	}
}

func (s *sidecar) refusing(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = what
}

// told is what was told since the last call.
func (s *sidecar) told() string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := strings.Join(s.events, ", ")
	s.events = nil
	return t
}

func (s *sidecar) want(t *testing.T, want string) {
	t.Helper()
	if got := s.told(); got != want {
		t.Errorf("the handler was told %q, want %q", got, want)
	}
}

func config() client.Config {
	cfg := client.DefaultConfig()
	cfg.Node = client.Node{ID: "sidecar-1", Cluster: "callers", Region: "r", Zone: "z", Version: "1.2.3", Labels: map[string]string{"node": "host-7"}}
	return cfg
}

// connected runs a client against a control plane in a bubble.
func connected(t *testing.T, cfg client.Config, f func(cp *controlPlane, s *sidecar)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := pipenet.New(1)
		cp := newControlPlane(t, n, "10.0.0.9:15010")
		s := &sidecar{}
		run(t, n, cfg, s, cp.address)
		f(cp, s)
	})
}

// run starts a client that ends with the test.
func run(t *testing.T, n *pipenet.Network, cfg client.Config, h client.Handler, addresses ...string) {
	t.Helper()
	cc, err := client.Dial(addresses, client.DialOptions{Dialer: n.Host("10.0.0.1").Dial})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- client.New(cc, cfg, h, slog.New(slog.DiscardHandler)).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
		cc.Close()
	})
}

func TestAClientSubscribesToClustersAndThenToTheirEndpoints(t *testing.T) {
	connected(t, config(), func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		first := st.request()
		if got := fmt.Sprint(first.GetTypeUrl(), first.GetResourceNamesSubscribe()); got != cds+"[*]" {
			t.Errorf("the first request is %s, want an explicit wildcard for clusters", got)
		}
		n := first.GetNode()
		if n.GetId() != "sidecar-1" || resource.KindOf(n) != resource.Overhear || n.GetLocality().GetZone() != "z" || n.GetUserAgentVersion() != "1.2.3" ||
			n.GetMetadata().GetFields()["overhear"].GetStructValue().GetFields()["labels"].GetStructValue().GetFields()["node"].GetStringValue() != "host-7" {
			t.Errorf("node %v", n)
		}
		st.quiet("nothing is known to ask for")
		s.want(t, "")

		st.acked(st.send(cds, nil, cluster("api", "1"), cluster("web", "1")))
		s.want(t, "up, cluster api, cluster web")
		next := st.request()
		if next.GetNode() != nil {
			t.Error("the node is sent again")
		}
		if got := fmt.Sprint(next.GetTypeUrl(), next.GetResourceNamesSubscribe()); got != eds+"[api web]" {
			t.Errorf("after the clusters it asks for %s", got)
		}
		st.acked(st.send(eds, nil, assignment("api", "1", 1), assignment("web", "1", 2)))
		s.want(t, "endpoints api 1, endpoints web 2")
		st.acked(st.send(eds, nil, assignment("api", "2", 3)))
		s.want(t, "endpoints api 3")

		st.acked(st.send(cds, []string{"web"}, cluster("db", "1")))
		s.want(t, "cluster db, cluster -web")
		next = st.request()
		if got := fmt.Sprint(next.GetResourceNamesSubscribe(), next.GetResourceNamesUnsubscribe()); got != "[db] [web]" {
			t.Errorf("then it changes its subscription by %s", got)
		}
		st.quiet("all is said")
	})
}

func TestTwoClustersMayShareAService(t *testing.T) {
	connected(t, config(), func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		st.request()
		one := res("one", "1", resource.EncodeCluster(resource.Cluster{Name: "one", Service: "svc", Policy: resource.DefaultPolicy()}, resource.Overhear))
		two := res("two", "1", resource.EncodeCluster(resource.Cluster{Name: "two", Service: "svc", Policy: resource.DefaultPolicy()}, resource.Overhear))
		st.send(cds, nil, one, two)
		if got := fmt.Sprint(st.request().GetResourceNamesSubscribe()); got != "[svc]" {
			t.Errorf("it asks for %s, want svc once", got)
		}
		st.send(cds, []string{"one"})
		st.quiet("the other cluster still wants it")
		st.send(cds, []string{"two"})
		if got := fmt.Sprint(st.request().GetResourceNamesUnsubscribe()); got != "[svc]" {
			t.Errorf("it lets go of %s, want svc", got)
		}
	})
}

func TestWhoNeedsFewClustersAsksForFew(t *testing.T) {
	cfg := config()
	cfg.Clusters = []string{"web", "api"}
	connected(t, cfg, func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		if got := fmt.Sprint(st.request().GetResourceNamesSubscribe()); got != "[api web]" {
			t.Errorf("it asks for %s", got)
		}
		st.acked(st.send(cds, []string{"web"}, cluster("api", "1"), cluster("pushy", "1")))
		s.want(t, "up, cluster api, cluster -web")
	})
}

func TestWhatIsBadIsRefusedWithItsReasonAndTheRestIsTaken(t *testing.T) {
	connected(t, config(), func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		st.request()
		garbage := cluster("garbage", "1")
		garbage.Resource.Value = []byte{0xff}
		static := resource.EncodeCluster(resource.Cluster{Name: "static"}, resource.Envoy)
		static.ClusterDiscoveryType = nil
		other := cluster("other", "1")
		other.Resource.TypeUrl = eds
		r := st.send(cds, nil, garbage, cluster("good", "1"), res("static", "1", static), res("alias", "1", resource.EncodeCluster(resource.Cluster{Name: "real"}, resource.Envoy)), other)
		if codes.Code(r.GetErrorDetail().GetCode()) != codes.InvalidArgument {
			t.Errorf("answer %v, want a NACK with InvalidArgument", r)
		}
		for _, want := range []string{`resource "garbage"`, `cluster "static": type: `, `resource "alias": calls itself "real"`, `resource "other"`} {
			if !strings.Contains(r.GetErrorDetail().GetMessage(), want) {
				t.Errorf("the NACK lacks %s:\n%s", want, r.GetErrorDetail().GetMessage())
			}
		}
		s.want(t, "up, cluster good")
		if got := fmt.Sprint(st.request().GetResourceNamesSubscribe()); got != "[good]" {
			t.Errorf("it asks for %s, want good", got)
		}
	})
}

func TestWhatTheHandlerRefusesIsNotHeld(t *testing.T) {
	connected(t, config(), func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		st.request()
		st.acked(st.send(cds, nil, cluster("api", "1")))
		st.request()
		s.told()
		s.refusing("endpoints api 666")
		r := st.send(eds, nil, assignment("api", "1", 666))
		if got := r.GetErrorDetail().GetMessage(); got != "no endpoints api 666 here" {
			t.Errorf("NACK %q, want the handler's words", got)
		}
		s.refusing("")
		st.end <- nil
		time.Sleep(time.Second)
		again := cp.stream()
		if got := again.request().GetInitialResourceVersions(); !maps.Equal(got, map[string]string{"api": "1"}) {
			t.Errorf("clusters held: %v", got)
		}
		if got := again.request().GetInitialResourceVersions(); len(got) != 0 {
			t.Errorf("endpoints held: %v, want none: they were refused", got)
		}
	})
}

func TestARefusedClusterChangesNoSubscription(t *testing.T) {
	connected(t, config(), func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		st.request()
		s.refusing("cluster api")
		if r := st.send(cds, nil, cluster("api", "1")); r.GetErrorDetail() == nil {
			t.Error("ACK, want a NACK")
		}
		st.quiet("the handler does not have the cluster")
	})
}

func TestAfterAReconnectOnlyDifferencesAreAskedFor(t *testing.T) {
	connected(t, config(), func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		st.request()
		st.send(cds, nil, cluster("api", "c1"), cluster("web", "c2"))
		st.request()
		st.send(eds, nil, assignment("api", "e1", 1), assignment("web", "e2", 2))
		st.send(eds, []string{"web"})
		s.told()

		cp.crash()
		s.want(t, "down")
		time.Sleep(time.Minute)
		s.want(t, "") // state stays, and nobody is told a hundred times
		cp.start()
		time.Sleep(1500 * time.Millisecond)
		st = cp.stream()
		first, second := st.request(), st.request()
		if first.GetNode().GetId() != "sidecar-1" || second.GetNode() != nil {
			t.Error("want the node in the first request of the new stream, and only there")
		}
		if got := fmt.Sprint(first.GetTypeUrl(), first.GetResourceNamesSubscribe(), first.GetInitialResourceVersions()); got != cds+"[*] map[api:c1 web:c2]" {
			t.Errorf("clusters: %s", got)
		}
		if got := fmt.Sprint(second.GetTypeUrl(), second.GetResourceNamesSubscribe(), second.GetInitialResourceVersions()); got != eds+"[api web] map[api:e1]" {
			t.Errorf("endpoints: %s", got)
		}
		s.want(t, "") // connected is not yet answered
		st.send(cds, []string{"web"})
		s.want(t, "up, cluster -web")
	})
}

func TestANameWithoutAnAnswerDoesNotExistAfter15Seconds(t *testing.T) {
	connected(t, config(), func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		st.request()
		st.send(cds, nil, cluster("a", "1"), cluster("b", "1"), cluster("c", "1"))
		st.request()
		st.send(eds, []string{"c"}, assignment("a", "1", 1))
		s.want(t, "up, cluster a, cluster b, cluster c, endpoints a 1, endpoints -c")
		time.Sleep(14 * time.Second)
		s.want(t, "")
		time.Sleep(2 * time.Second)
		s.want(t, "endpoints -b") // a was answered, c was said not to exist
		time.Sleep(time.Minute)
		s.want(t, "")
		st.send(eds, nil, assignment("b", "1", 2)) // it does after all
		s.want(t, "endpoints b 2")
	})
}

func TestWhatIsHeldDoesNotVanishBecauseAServerIsSilent(t *testing.T) {
	connected(t, config(), func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		st.request()
		st.send(cds, nil, cluster("a", "1"))
		st.request()
		st.send(eds, nil, assignment("a", "1", 1))
		st.end <- nil
		s.told()
		time.Sleep(time.Second)
		cp.stream() // accepts, and says nothing
		time.Sleep(time.Hour)
		s.want(t, "")
	})
}

func TestUnknownTypesAndForeignNamesAreIgnored(t *testing.T) {
	connected(t, config(), func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		st.request()
		if err := st.grpc.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: resource.TypeListener, Nonce: "x"}); err != nil {
			t.Fatal(err)
		}
		st.quiet("nobody asked for listeners")
		st.send(cds, []string{"never heard of it"}, cluster("a", "1"))
		st.request()
		st.acked(st.send(eds, []string{"nobody"}, assignment("stranger", "1", 1)))
		s.want(t, "up, cluster a")
	})
}

func TestAServerThatRefusesIsAskedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pipenet.New(1)
		cp := newControlPlane(t, n, "10.0.0.9:15010")
		cp.refuse.Store(true)
		s := &sidecar{}
		run(t, n, config(), s, cp.address)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := len(cp.streams); got < 10 || got > 30 {
			t.Errorf("%d streams in 2 minutes, want 10 to 30", got)
		}
		s.want(t, "down") // once
		cp.refuse.Store(false)
		for len(cp.streams) > 0 {
			<-cp.streams
		}
		time.Sleep(16 * time.Second)
		st := cp.stream()
		st.request()
		st.send(cds, nil)
		s.want(t, "up")
		// A good response: the next wait is short again.
		st.end <- status.Error(codes.PermissionDenied, "go away")
		time.Sleep(200 * time.Millisecond)
		cp.stream()
	})
}

func TestAControlPlaneThatIsBackIsFoundWithinLittleMoreThanASecond(t *testing.T) {
	connected(t, config(), func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		st.request()
		cp.crash()
		time.Sleep(10 * time.Minute)
		cp.start()
		time.Sleep(1250 * time.Millisecond) // the wait of the connection, with its jitter, and none of ours
		cp.stream()
	})
}

func TestAddressesAreTriedInOrderAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pipenet.New(1)
		second := newControlPlane(t, n, "10.0.0.2:15010")
		third := newControlPlane(t, n, "10.0.0.3:15010")
		s := &sidecar{}
		run(t, n, config(), s, "10.0.0.1:15010", second.address, third.address)
		second.stream().request()

		first := newControlPlane(t, n, "10.0.0.1:15010")
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(first.streams) != 0 {
			t.Error("it left a control plane that works for one further in front")
		}
		second.crash()
		time.Sleep(2 * time.Second)
		first.stream().request() // from the front again
		first.crash()
		time.Sleep(2 * time.Second)
		third.stream().request()
	})
}

func TestADeadConnectionIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pipenet.New(1)
		cp := newControlPlane(t, n, "10.0.0.9:15010")
		s := &sidecar{}
		run(t, n, config(), s, cp.address)
		st := cp.stream()
		st.request()
		st.send(cds, nil)
		s.want(t, "up")
		n.Cut("10.0.0.9", "10.0.0.1")
		time.Sleep(41 * time.Second) // keep-alive: 30 s and 10 s
		s.want(t, "down")
		n.Heal("10.0.0.9", "10.0.0.1")
	})
}

func TestAConfigurationIsChecked(t *testing.T) {
	if err := config().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	for want, edit := range map[string]func(*client.Config){
		"node.id": func(c *client.Config) { c.Node.ID = "" },
		"missing": func(c *client.Config) { c.Missing = 0 },
		"backoff": func(c *client.Config) { c.BackoffMax = c.BackoffMin - 1 },
	} {
		c := config()
		edit(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want a problem with %s", err, want)
		}
	}
	for _, addresses := range [][]string{nil, {"nowhere"}} {
		if cc, err := client.Dial(addresses, client.DialOptions{}); err == nil {
			cc.Close()
			t.Errorf("dial %q: no error", addresses)
		}
	}
}
