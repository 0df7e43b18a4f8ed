package ingest

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/test/hdsmodel"
	"github.com/overhear-mesh/overhear/test/pipenet"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// Addresses of which each behaves in its way.
var (
	wellAt   = netip.MustParseAddrPort("10.1.0.1:80") // answers in a millisecond
	farAt    = netip.MustParseAddrPort("10.1.0.2:80") // and in a tenth of a second
	closedAt = netip.MustParseAddrPort("10.1.0.3:80") // refuses
	silentAt = netip.MustParseAddrPort("10.1.0.4:80") // drops what comes
	sickAt   = netip.MustParseAddrPort("10.1.0.5:80") // answers that it is sick
	hungAt   = netip.MustParseAddrPort("10.1.0.6:80") // takes connections and no more
	rudeAt   = netip.MustParseAddrPort("10.1.0.7:80") // takes them and closes them
	awayAt   = netip.MustParseAddrPort("10.1.0.8:80") // refuses, in a tenth of a second
)

func meet(at netip.AddrPort, how *corev3.HealthCheck) hdsmodel.Outcome {
	app := how.GetHttpHealthCheck() != nil
	switch at {
	case farAt:
		return hdsmodel.Outcome{After: ms(100), Well: true}
	case closedAt:
		return hdsmodel.Outcome{After: ms(1)}
	case awayAt:
		return hdsmodel.Outcome{After: ms(100)}
	case silentAt:
		return hdsmodel.Outcome{After: time.Hour}
	case sickAt:
		if app {
			return hdsmodel.Outcome{After: ms(1), Status: 503}
		}
	case hungAt:
		if app {
			return hdsmodel.Outcome{After: time.Hour}
		}
	case rudeAt:
		return hdsmodel.Outcome{After: ms(1), Well: !app}
	}
	return hdsmodel.Outcome{After: ms(1), Well: true}
}

// probeWorld is health discovery and its clients, in a bubble.
type probeWorld struct {
	t   *testing.T
	net *pipenet.Network
	log strings.Builder // its lines; to be read when all is quiet
	*Probing
	began time.Time

	mu      sync.Mutex
	here    map[string]*Prober
	answers []Answer
}

func newProbeWorld(t *testing.T, most int) *probeWorld {
	w := &probeWorld{t: t, net: pipenet.New(1), began: time.Now().Add(-time.Hour), here: map[string]*Prober{}}
	w.Probing = NewProbing(DefaultConfig(), most, w, func() time.Duration { return time.Since(w.began) }, slog.New(slog.NewTextHandler(&w.log, nil)))
	serve(t, w.net, w)
	return w
}

func (w *probeWorld) Arrive(p *Prober) { w.mu.Lock(); defer w.mu.Unlock(); w.here[p.ID()] = p }

func (w *probeWorld) Probed(_ *Prober, a Answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers = append(w.answers, a)
}

func (w *probeWorld) Depart(p *Prober) { w.mu.Lock(); defer w.mu.Unlock(); delete(w.here, p.ID()) }

// take is what was answered since the last call.
func (w *probeWorld) take() []Answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.answers
	w.answers = nil
	return all
}

func (w *probeWorld) prober(id string) *Prober {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.here[id]
}

// stream opens a stream from a host, which names a node.
func (w *probeWorld) stream(ip string, n *corev3.Node) healthv3.HealthDiscoveryService_StreamHealthCheckClient {
	w.t.Helper()
	s, err := healthv3.NewHealthDiscoveryServiceClient(dial(w.t, w.net, ip)).StreamHealthCheck(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.Send(&healthv3.HealthCheckRequestOrEndpointHealthResponse{
		RequestType: &healthv3.HealthCheckRequestOrEndpointHealthResponse_HealthCheckRequest{HealthCheckRequest: &healthv3.HealthCheckRequest{Node: n}},
	}); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// envoy runs the model of an Envoy; ended is why its stream ended.
func (w *probeWorld) envoy(ip, id string, seen func(*healthv3.HealthCheckSpecifier)) (ended <-chan error) {
	w.t.Helper()
	cc, why := dial(w.t, w.net, ip), make(chan error, 1)
	ctx, cancel := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	w.t.Cleanup(func() { cancel(); running.Wait() })
	e := &hdsmodel.Envoy{Node: node(id), Meet: meet, Seen: seen}
	running.Go(func() { why <- e.Run(ctx, cc) })
	synctest.Wait()
	return why
}

var app = Check{HTTP: true, Path: "/healthz"}

func TestAnEnvoyTellsWhatItsProbesMet(t *testing.T) {
	for _, tc := range []struct {
		name   string
		at     netip.AddrPort
		check  Check
		want   outlier.ProbeResult
		level  outlier.Level
		within time.Duration
	}{
		{"an open port", wellAt, Check{}, outlier.ProbeOK, outlier.LevelConnect, ms(60)},
		{"an open port far away", farAt, Check{}, outlier.ProbeOK, outlier.LevelConnect, ms(160)},
		{"a closed port", closedAt, Check{}, outlier.Refused, outlier.LevelConnect, ms(60)},
		{"a closed port far away", awayAt, Check{}, outlier.Refused, outlier.LevelConnect, ms(505)},
		{"nothing", silentAt, Check{}, outlier.TimedOut, outlier.LevelConnect, ms(505)},
		{"a port of a sick application", sickAt, Check{}, outlier.ProbeOK, outlier.LevelConnect, ms(60)},
		{"a well application", wellAt, app, outlier.ProbeOK, outlier.LevelApp, ms(60)},
		{"a well application far away", farAt, app, outlier.ProbeOK, outlier.LevelApp, ms(160)},
		{"no application", closedAt, app, outlier.Refused, outlier.LevelConnect, ms(60)},
		{"a sick application", sickAt, app, outlier.Unhealthy, outlier.LevelApp, ms(60)},
		{"a hung application", hungAt, app, outlier.TimedOut, outlier.LevelApp, ms(505)},
		// It may have been a reset, and it may have been nonsense.
		{"an application that closes", rudeAt, app, outlier.Unhealthy, outlier.LevelApp, ms(505)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newProbeWorld(t, 8)
				w.envoy("10.2.0.1", "envoy-1", nil)
				began := w.now()
				if !w.prober("envoy-1").Order(Probe{ID: 7, Address: tc.at, Check: tc.check, Timeout: ms(500)}) {
					t.Fatal("one probe is too many")
				}
				time.Sleep(tc.within)
				all := w.take()
				if len(all) != 1 || all[0].ID != 7 || all[0].Result != tc.want || all[0].Level != tc.level || all[0].Start != began {
					t.Errorf("answers %+v within %v, want %s at %s level of a probe that began at %v", all, tc.within, tc.want, tc.level, began)
				}
				time.Sleep(second)
				if more := w.take(); len(more) != 0 {
					t.Errorf("further answers %+v", more)
				}
			})
		})
	}
}

// Orders come when they come: between two reports, and while others are under way. An
// Envoy then says of what it has not tried yet what it says of what was refused.
func TestNoEnvoyIsTakenToRefuseForWhatItHasNotTriedYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newProbeWorld(t, 8)
		w.envoy("10.2.0.1", "envoy-1", nil)
		dice := rand.New(rand.NewPCG(1, 2))
		kinds := []struct {
			at    netip.AddrPort
			check Check
			want  outlier.ProbeResult
		}{
			{wellAt, Check{}, outlier.ProbeOK}, {farAt, Check{}, outlier.ProbeOK}, {closedAt, Check{}, outlier.Refused},
			{awayAt, Check{}, outlier.Refused}, {silentAt, Check{}, outlier.TimedOut}, {hungAt, app, outlier.TimedOut}, {farAt, app, outlier.ProbeOK},
		}
		asked := map[merge.OrderID]int{}
		p := w.prober("envoy-1")
		for id := merge.OrderID(1); id <= 500; id++ {
			n := dice.IntN(len(kinds))
			if p.Order(Probe{ID: id, Address: kinds[n].at, Check: kinds[n].check, Timeout: ms(300 + dice.IntN(700))}) {
				asked[id] = n
			}
			time.Sleep(ms(dice.IntN(200)))
		}
		time.Sleep(2 * second)
		if len(asked) < 400 {
			t.Fatalf("only %d probes were taken", len(asked))
		}
		for _, a := range w.take() {
			if k := kinds[asked[a.ID]]; a.Result != k.want {
				t.Errorf("a probe of %s ended %s, want %s", k.at, a.Result, k.want)
			}
			delete(asked, a.ID)
		}
		if len(asked) > 0 {
			t.Errorf("%d probes were never answered", len(asked))
		}
	})
}

func TestWhatIsAnsweredIsNotCheckedAgainAndAnEnvoyWithoutOrdersRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newProbeWorld(t, 8)
		var seen []*healthv3.HealthCheckSpecifier
		w.envoy("10.2.0.1", "envoy-1", func(m *healthv3.HealthCheckSpecifier) { seen = append(seen, m) })
		w.prober("envoy-1").Order(Probe{ID: 1, Address: wellAt, Timeout: second})
		synctest.Wait()
		time.Sleep(ms(60))
		w.prober("envoy-1").Order(Probe{ID: 2, Address: silentAt, Timeout: second})
		synctest.Wait()
		w.prober("envoy-1").Cancel(2)
		synctest.Wait()
		// Whatever checks it had from an earlier stream are dropped first.
		want := []struct {
			checks   int
			interval time.Duration
		}{{0, restEvery}, {2, tellEvery}, {0, restEvery}, {2, tellEvery}, {0, restEvery}}
		if len(seen) != len(want) {
			t.Fatalf("told %d times, want %d: %v", len(seen), len(want), seen)
		}
		names := map[string]int{}
		for i, m := range seen {
			if len(m.GetClusterHealthChecks()) != want[i].checks || m.GetInterval().AsDuration() != want[i].interval {
				t.Errorf("message %d asks for %d checks each %v, want %d each %v", i, len(m.GetClusterHealthChecks()), m.GetInterval().AsDuration(), want[i].checks, want[i].interval)
			}
			for _, c := range m.GetClusterHealthChecks() {
				names[c.GetClusterName()]++
				if len(c.GetLocalityEndpoints()) != 1 || len(c.GetLocalityEndpoints()[0].GetEndpoints()) != 1 {
					t.Errorf("%s has not one locality of one endpoint, of which an Envoy can tell", c.GetClusterName())
				}
			}
		}
		if len(names) != 4 {
			t.Errorf("%d names of clusters, want one for each check: %v", len(names), names)
		}
		time.Sleep(10 * second)
		if all := w.take(); len(all) != 1 || all[0].ID != 1 {
			t.Errorf("answers %+v, want the one of the order that was not withdrawn", all)
		}
		if n := w.Stats().Messages; n > 3 {
			t.Errorf("an Envoy at rest has sent %d messages", n)
		}
	})
}

func TestAnEnvoyPingsUnderALeaseUntilItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newProbeWorld(t, 8)
		w.envoy("10.2.0.1", "envoy-1", nil)
		p := w.prober("envoy-1")
		l := Lease{Probe: Probe{ID: 5, Address: wellAt, Timeout: second}, Every: 10 * second, Phase: 3 * second, Until: w.now() + 60*second}
		p.Lease(l)
		time.Sleep(25 * second)
		first := w.take()
		if len(first) != 3 || first[0].ID != 5 || first[0].Result != outlier.ProbeOK || first[1].Start-first[0].Start != 10*second {
			t.Errorf("answers %+v, want three of the lease, each 10s", first)
		}
		l.Until, l.Phase = w.now()+60*second, 0
		p.Lease(l) // a renewal moves no turn
		time.Sleep(second)
		if all := w.take(); len(all) != 0 {
			t.Errorf("answers %+v right after the renewal", all)
		}
		l.Until = w.now()
		p.Lease(l)
		time.Sleep(time.Minute)
		if all := w.take(); len(all) != 0 {
			t.Errorf("answers %+v after its end", all)
		}
		l.Until = w.now() + 12*second
		p.Lease(l) // and one that is not renewed lapses
		time.Sleep(time.Minute)
		if all := w.take(); len(all) != 2 {
			t.Errorf("%d answers, want the two turns until it lapsed", len(all))
		}
	})
}

func TestProbesAreBoundedByTheSecondAndAtATime(t *testing.T) {
	d := newDocket("d")
	now, taken := time.Hour, 0
	for range 1000 {
		if d.order(Probe{Address: silentAt, Timeout: time.Hour}, now) {
			taken++
		}
	}
	if taken > probeBurst+1 {
		t.Errorf("%d probes at once, want at most %d", taken, probeBurst+1)
	}
	for range 1000 {
		now += probeGap
		d.order(Probe{Address: silentAt, Timeout: time.Hour}, now)
	}
	if len(d.asked) != mostProbes {
		t.Errorf("%d probes are under way, want %d", len(d.asked), mostProbes)
	}
	for id := range merge.OrderID(2 * mostLeases) {
		d.lease(Lease{Probe: Probe{ID: id}, Until: now + second}, now)
	}
	if len(d.leases) != mostLeases {
		t.Errorf("%d leases, want %d", len(d.leases), mostLeases)
	}
}

// whoever is what a hostile client may send.
func whoever(cluster string, at netip.AddrPort, status corev3.HealthStatus) *healthv3.EndpointHealthResponse {
	e := &endpointv3.Endpoint{Address: resource.SocketAddress(at)}
	return &healthv3.EndpointHealthResponse{ClusterEndpointsHealth: []*healthv3.ClusterEndpointsHealth{{
		ClusterName: cluster, LocalityEndpointsHealth: []*healthv3.LocalityEndpointsHealth{{EndpointsHealth: []*healthv3.EndpointHealth{{Endpoint: e, HealthStatus: status}}}},
	}}}
}

func TestWhatNobodyHasAskedForIsCountedAndNoAnswer(t *testing.T) {
	const well = corev3.HealthStatus_HEALTHY
	doubled := whoever("d/1/door", closedAt, corev3.HealthStatus_UNHEALTHY)
	doubled.ClusterEndpointsHealth = append(doubled.ClusterEndpointsHealth, doubled.ClusterEndpointsHealth[0], doubled.ClusterEndpointsHealth[0])
	for _, tc := range []struct {
		name string
		m    *healthv3.EndpointHealthResponse
		want map[Refusal]int
	}{
		{"nothing", &healthv3.EndpointHealthResponse{}, nil},
		{"no message", nil, nil},
		{"a cluster of its own", whoever("api", closedAt, well), map[Refusal]int{NeverOrdered: 1}},
		{"a stream of another", whoever("e/1/deep", closedAt, well), map[Refusal]int{NeverOrdered: 1}},
		{"a stream of before", whoever(docketPrefix+"0123456789abcdef/1/deep", closedAt, well), nil},
		{"an order to come", whoever("d/2/deep", closedAt, well), map[Refusal]int{NeverOrdered: 1}},
		{"no number", whoever("d/one/deep", closedAt, well), map[Refusal]int{NeverOrdered: 1}},
		{"no such check", whoever("d/1/roof", closedAt, well), map[Refusal]int{NeverOrdered: 1}},
		{"another endpoint", whoever("d/1/deep", wellAt, well), map[Refusal]int{UnknownEndpoint: 1}},
		{"the same many times", doubled, map[Refusal]int{NeverOrdered: 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDocket("d")
			d.specifier()
			d.busy = true // so that one report is not enough
			d.order(Probe{ID: 1, Address: closedAt, Timeout: second}, time.Hour)
			d.specifier()
			var refused report.Aside
			if all := d.hear(tc.m, time.Hour+ms(1), &refused); len(all) != 0 {
				t.Errorf("it answers %+v", all)
			}
			if len(refused.Counts) != len(tc.want) {
				t.Errorf("refused %v, want %v", refused.Counts, tc.want)
			}
			for why, n := range tc.want {
				if refused.Counts[why] != n {
					t.Errorf("refused %v, want %v", refused.Counts, tc.want)
				}
			}
			if len(d.asked) != 1 {
				t.Error("the order is gone")
			}
		})
	}
}

func TestAnEnvoyThatComesBackWithTheChecksOfItsLastStreamIsAtNoFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newProbeWorld(t, 8)
		stream := w.stream("10.2.0.1", node("envoy-1"))
		synctest.Wait()
		w.prober("envoy-1").Order(Probe{ID: 3, Address: wellAt, Timeout: second})
		var name string
		for name == "" {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range m.GetClusterHealthChecks() {
				name = c.GetClusterName()
			}
		}
		again := w.stream("10.2.0.1", node("envoy-1")) // takes the place of the first
		if err := again.Send(&healthv3.HealthCheckRequestOrEndpointHealthResponse{
			RequestType: &healthv3.HealthCheckRequestOrEndpointHealthResponse_EndpointHealthResponse{
				EndpointHealthResponse: whoever(name, wellAt, corev3.HealthStatus_HEALTHY),
			},
		}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if st := w.Stats(); st.Messages != 1 || len(st.Refused) > 0 || len(w.take()) > 0 {
			t.Errorf("%d messages, refused %v, want one that is passed over", st.Messages, st.Refused)
		}
		if all := lines(w.log.String(), "WARN", ""); len(all) > 0 {
			t.Errorf("the log warns: %q", all)
		}
	})
}

func TestAnAnswerBeforeTheOrderHasLeftIsNone(t *testing.T) {
	d := newDocket("d")
	d.order(Probe{ID: 1, Address: wellAt, Timeout: second}, time.Hour)
	var refused report.Aside
	if all := d.hear(whoever("d/1/deep", wellAt, corev3.HealthStatus_HEALTHY), time.Hour, &refused); len(all) != 0 || refused.Counts[NeverOrdered] != 1 {
		t.Errorf("answers %+v, refused %v, want none and one", all, refused.Counts)
	}
}

func TestAnAnswerThatAsksForLessTrafficIsOne(t *testing.T) {
	d := newDocket("d")
	d.order(Probe{ID: 1, Address: netip.MustParseAddrPort("[::ffff:10.1.0.1]:80"), Timeout: second}, time.Hour) // of wellAt
	d.specifier()
	all := d.hear(whoever("d/1/deep", wellAt, corev3.HealthStatus_DEGRADED), time.Hour+ms(50), new(report.Aside))
	if len(all) != 1 || all[0].Result != outlier.ProbeOK {
		t.Errorf("answers %+v, want one that is ok", all)
	}
}

func TestAnEnvoyThatSaysNothingLeavesTheOrderUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newProbeWorld(t, 8)
		w.stream("10.2.0.1", node("envoy-1"))
		synctest.Wait()
		w.prober("envoy-1").Order(Probe{ID: 3, Address: wellAt, Timeout: ms(200)})
		time.Sleep(ms(200) + answerSlack)
		synctest.Wait()
		if all := w.take(); len(all) != 1 || all[0].ID != 3 || all[0].Result != outlier.NotRun {
			t.Errorf("answers %+v, want that nobody knows", all)
		}
	})
}

func TestAStreamOfHealthDiscoveryThatCannotBeTakenEndsWithAReason(t *testing.T) {
	for _, tc := range []struct {
		name string
		node *corev3.Node
		ip   string
		code codes.Code
		why  Refusal
	}{
		{"without a node", nil, "10.2.0.1", codes.InvalidArgument, BadNode},
		{"with a node id without end", node(strings.Repeat("x", 2049)), "10.2.0.1", codes.InvalidArgument, BadNode},
		{"of no Envoy", &corev3.Node{Id: "grpc-1", UserAgentName: "gRPC Go"}, "10.2.0.1", codes.PermissionDenied, NotEnvoy},
		{"of another's id", node("envoy-1"), "10.2.0.2", codes.PermissionDenied, ForeignReporter},
		{"too many from one place", node("envoy-3"), "10.2.0.1", codes.ResourceExhausted, TooManyStreams},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newProbeWorld(t, 2)
				w.envoy("10.2.0.1", "envoy-1", nil)
				w.envoy("10.2.0.1", "envoy-2", nil)
				if _, err := w.stream(tc.ip, tc.node).Recv(); status.Code(err) != tc.code {
					t.Errorf("it ended with %v, want %s", err, tc.code)
				}
				synctest.Wait()
				if st := w.Stats(); st.Refused[tc.why] != 1 || st.Streams != 2 || w.prober("envoy-1") == nil {
					t.Errorf("refused %v, %d streams, want one for %s, and those of before", st.Refused, st.Streams, tc.why)
				}
			})
		})
	}
}

func TestANewStreamOfAProberReplacesTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newProbeWorld(t, 8)
		first := w.envoy("10.2.0.1", "envoy-1", nil)
		old := w.prober("envoy-1")
		w.envoy("10.2.0.1", "envoy-1", nil)
		if code := status.Code(<-first); code != codes.Aborted {
			t.Errorf("the older stream ended with %s, want Aborted", code)
		}
		if p := w.prober("envoy-1"); p == nil || p == old {
			t.Error("the new stream does not probe")
		}
	})
}

func TestAFloodOfResponsesIsReadSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newProbeWorld(t, 8)
		stream := w.stream("10.2.0.1", node("envoy-1"))
		m := &healthv3.HealthCheckRequestOrEndpointHealthResponse{
			RequestType: &healthv3.HealthCheckRequestOrEndpointHealthResponse_EndpointHealthResponse{EndpointHealthResponse: whoever("api", wellAt, corev3.HealthStatus_UNHEALTHY)},
		}
		for range 200 {
			if err := stream.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if st := w.Stats(); st.Messages > burst+2 || st.Throttled == 0 || st.Refused[NeverOrdered] != st.Messages {
			t.Errorf("%+v, want some %d messages read and refused at once", st, burst)
		}
	})
}

func TestWithoutProbesThereIsNoHealthDiscovery(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Probes = false
	server := grpc.NewServer()
	NewProbing(cfg, 1, &probeWorld{}, func() time.Duration { return 0 }, slog.New(slog.DiscardHandler)).Register(server)
	if n := len(server.GetServiceInfo()); n != 0 {
		t.Errorf("%d services are registered, want none", n)
	}
}

// Whatever a client says, nothing is answered that was not asked, and nothing twice.
func FuzzWhatAnEnvoySaysOfItsChecks(f *testing.F) {
	for _, m := range []*healthv3.EndpointHealthResponse{
		whoever("d/1/door", wellAt, corev3.HealthStatus_HEALTHY), whoever("d/2/deep", sickAt, corev3.HealthStatus_TIMEOUT), {},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &healthv3.EndpointHealthResponse{}
		if proto.Unmarshal(b, m) != nil {
			return
		}
		d := newDocket("d")
		d.order(Probe{ID: 1, Address: wellAt, Timeout: second}, time.Hour)
		d.order(Probe{ID: 2, Address: sickAt, Check: app, Timeout: second}, time.Hour)
		d.specifier()
		answered := map[merge.OrderID]int{}
		for i := range 3 {
			for _, a := range d.hear(m, time.Hour+ms(i), new(report.Aside)) {
				if answered[a.ID]++; answered[a.ID] > 1 || a.ID < 1 || a.ID > 2 || a.Result == outlier.NotRun {
					t.Errorf("answer %+v", a)
				}
			}
		}
		if len(answered)+len(d.asked) != 2 {
			t.Errorf("%d answered and %d open, want 2", len(answered), len(d.asked))
		}
	})
}
