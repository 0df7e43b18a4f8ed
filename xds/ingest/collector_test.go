package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	lrsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// sink notes what a collector hands on.
type sink struct {
	mu      sync.Mutex
	joined  []merge.Reporter
	reports []merge.Report
	left    []string
	refuse  error // by Join
}

func (k *sink) Join(s *Stream) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse != nil {
		return k.refuse
	}
	k.joined = append(k.joined, s.Reporter())
	return nil
}

func (k *sink) Evidence(_ *Stream, r merge.Report) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reports = append(k.reports, r)
}

func (k *sink) Leave(s *Stream) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left = append(k.left, s.Reporter().ID)
}

// world is a collector with its clients, in a bubble.
type world struct {
	t    *testing.T
	net  *pipenet.Network
	sink *sink
	log  strings.Builder // its lines; to be read when all is quiet
	*Collector
}

const collectorAt = "10.0.0.9:15010"

func newWorld(t *testing.T, most int) *world { return newWorldOf(t, DefaultConfig(), most) }

func newWorldOf(t *testing.T, cfg Config, most int) *world {
	w := &world{t: t, net: pipenet.New(1), sink: &sink{}}
	began := time.Now().Add(-time.Hour)
	w.Collector = NewCollector(cfg, most, w.sink, services(5), func() time.Duration { return time.Since(began) }, slog.New(slog.NewTextHandler(&w.log, nil)))
	serve(t, w.net, w)
	return w
}

// serve serves what streams are opened to, until the test ends.
func serve(t *testing.T, on *pipenet.Network, what interface {
	Register(r grpc.ServiceRegistrar)
	Wait()
}) {
	t.Helper()
	server := grpc.NewServer()
	what.Register(server)
	ln, err := on.Host("10.0.0.9").Listen(t.Context(), "tcp", ":15010")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() {
		server.Stop()
		what.Wait()
	})
}

// dial connects a host to what is served.
func dial(t *testing.T, on *pipenet.Network, ip string) *grpc.ClientConn {
	t.Helper()
	host := on.Host(ip)
	cc, err := grpc.NewClient("passthrough:///"+collectorAt,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return host.Dial(ctx, "tcp", addr) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// stream opens a stream from a host; it ends with the test.
func (w *world) stream(ip string) lrsv3.LoadReportingService_StreamLoadStatsClient {
	w.t.Helper()
	cc := dial(w.t, w.net, ip)
	ctx, cancel := context.WithCancel(w.t.Context())
	w.t.Cleanup(cancel)
	s, err := lrsv3.NewLoadReportingServiceClient(cc).StreamLoadStats(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// node is what an Envoy says of itself.
func node(id string) *corev3.Node {
	return &corev3.Node{Id: id, UserAgentName: "envoy", Locality: &corev3.Locality{Zone: "a"}}
}

func (w *world) envoy(ip, id string) lrsv3.LoadReportingService_StreamLoadStatsClient {
	w.t.Helper()
	s := w.stream(ip)
	w.send(s, &lrsv3.LoadStatsRequest{Node: node(id)})
	return s
}

func (w *world) send(s lrsv3.LoadReportingService_StreamLoadStatsClient, req *lrsv3.LoadStatsRequest) {
	w.t.Helper()
	if err := s.Send(req); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv says why
		w.t.Fatal(err)
	}
}

// ends is the code with which a stream ends.
func ends(s lrsv3.LoadReportingService_StreamLoadStatsClient) codes.Code {
	for {
		if _, err := s.Recv(); err != nil {
			return status.Code(err)
		}
	}
}

func TestAnEnvoyIsAskedForAllThatItHasAndBelongsToItsMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		s := w.stream("10.2.0.1")
		n := node("envoy-1")
		meta, err := structpb.NewStruct(map[string]any{"overhear": map[string]any{"node": "host-7"}})
		if err != nil {
			t.Fatal(err)
		}
		n.Metadata = meta
		w.send(s, &lrsv3.LoadStatsRequest{Node: n})
		answer, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if !answer.GetSendAllClusters() || !answer.GetReportEndpointGranularity() || answer.GetLoadReportingInterval().AsDuration() != ms(100) {
			t.Errorf("asked for %v, want all clusters by endpoint each 100ms", answer)
		}
		w.send(s, request(load("api", ms(100), row(1, sample{ok: 2, issued: 2}))))
		synctest.Wait()
		r := w.sink.joined[0]
		if r.ID != "envoy-1" || r.Zone != "a" || r.Node != "host-7" || r.Principal != "10.2.0.1" || r.Labels["client"] != "envoy" {
			t.Errorf("joined as %+v", r)
		}
		if len(w.sink.reports) != 1 || w.sink.reports[0].Reporter != "envoy-1" || cell(w.sink.reports[0], api1).Counts.N != 2 {
			t.Errorf("reports %+v, want one of two attempts", w.sink.reports)
		}
		if st := w.Stats(); st.Streams != 1 || st.Messages != 2 {
			t.Errorf("%d streams, %d messages, want 1 and 2", st.Streams, st.Messages)
		}
	})
}

func TestANewStreamOfAnEnvoyIsANewIncarnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		first := w.envoy("10.2.0.1", "envoy-1")
		synctest.Wait()
		time.Sleep(second)
		w.envoy("10.2.0.1", "envoy-1")
		synctest.Wait()
		if code := ends(first); code != codes.Aborted {
			t.Errorf("the older stream ended with %s, want Aborted", code)
		}
		j := w.sink.joined
		if len(j) != 2 || j[1].Incarnation <= j[0].Incarnation || len(w.sink.left) != 1 {
			t.Errorf("joined %+v, left %v, want a second one that is newer, and the first gone", j, w.sink.left)
		}
	})
}

func TestStreamsThatCannotBeTakenEndWithAReason(t *testing.T) {
	for _, tc := range []struct {
		name string
		say  func(w *world) lrsv3.LoadReportingService_StreamLoadStatsClient
		code codes.Code
		why  Refusal
	}{
		{"without a node", func(w *world) lrsv3.LoadReportingService_StreamLoadStatsClient {
			return w.envoy("10.2.0.1", "")
		}, codes.InvalidArgument, BadNode},
		{"with a node id without end", func(w *world) lrsv3.LoadReportingService_StreamLoadStatsClient {
			return w.envoy("10.2.0.1", strings.Repeat("x", 2049))
		}, codes.InvalidArgument, BadNode},
		{"that say nothing", func(w *world) lrsv3.LoadReportingService_StreamLoadStatsClient {
			return w.stream("10.2.0.1")
		}, codes.DeadlineExceeded, BadNode},
		{"of another's id", func(w *world) lrsv3.LoadReportingService_StreamLoadStatsClient {
			w.envoy("10.2.0.1", "envoy-1")
			synctest.Wait()
			return w.envoy("10.2.0.2", "envoy-1")
		}, codes.PermissionDenied, ForeignReporter},
		{"too many from one place", func(w *world) lrsv3.LoadReportingService_StreamLoadStatsClient {
			w.envoy("10.2.0.1", "envoy-1")
			w.envoy("10.2.0.1", "envoy-2")
			synctest.Wait()
			return w.envoy("10.2.0.1", "envoy-3")
		}, codes.ResourceExhausted, TooManyStreams},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2)
				if code := ends(tc.say(w)); code != tc.code {
					t.Errorf("it ended with %s, want %s", code, tc.code)
				}
				if n := w.Stats().Refused[tc.why]; n != 1 {
					t.Errorf("%d refused for %s, want 1", n, tc.why)
				}
			})
		})
	}
}

func TestAStreamThatTheTableRefusesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		w.sink.refuse = errors.New("the id is that of a sidecar")
		if code := ends(w.envoy("10.2.0.1", "envoy-1")); code != codes.FailedPrecondition {
			t.Errorf("it ended with %s, want FailedPrecondition", code)
		}
		w.sink.refuse = status.Error(codes.Unavailable, "closing")
		if code := ends(w.envoy("10.2.0.1", "envoy-1")); code != codes.Unavailable {
			t.Errorf("it ended with %s, want Unavailable", code)
		}
		synctest.Wait()
		if st := w.Stats(); len(w.sink.left) != 0 || st.Streams != 0 || st.Refused[ForeignReporter] != 1 {
			t.Errorf("left %v, %d streams, refused %v, want neither, and one of a foreign reporter", w.sink.left, st.Streams, st.Refused)
		}
		if n := w.Stats().Refused[ForeignReporter]; n != 1 {
			t.Errorf("%d refused, want 1: one that joins while we close is no fault", n)
		}
		wantLine(t, w.log.String(), "an envoy's stream was ended", "the id is that of a sidecar")
	})
}

func TestAClientThatIsNoEnvoyIsLeftInPeaceAndIsNoReporter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		s := w.stream("10.2.0.1")
		w.send(s, &lrsv3.LoadStatsRequest{Node: &corev3.Node{Id: "grpc-1", UserAgentName: "gRPC Go"}})
		answer, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if d := answer.GetLoadReportingInterval().AsDuration(); d != restInterval || len(answer.GetClusters()) > 0 || answer.GetSendAllClusters() {
			t.Errorf("asked for %v each %v, want nothing, seldom: an interval of 0 ends grpc-go", answer.GetClusters(), d)
		}
		w.send(s, request(load("api", second, row(1, sample{failed: 9}))))
		synctest.Wait()
		if len(w.sink.joined)+len(w.sink.reports) != 0 {
			t.Errorf("joined %v, told %v, want nothing", w.sink.joined, w.sink.reports)
		}
	})
}

func TestWhoSendsTooMuchIsReadMoreSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		s := w.envoy("10.2.0.1", "envoy-1")
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			w.send(s, request(load("api", ms(100), row(1, sample{ok: 1, issued: 1}))))
		}
		synctest.Wait()
		if st := w.Stats(); st.Messages > burst+3 || st.Throttled == 0 {
			t.Errorf("%d of 101 messages were read at once, want some %d", st.Messages, burst)
		}
		time.Sleep(10 * second)
		if st := w.Stats(); st.Messages != 101 {
			t.Errorf("%d messages were read in the end, want all 101", st.Messages)
		}
	})
}

func TestWithoutLoadReportsThereIsNoSuchService(t *testing.T) {
	c := NewCollector(Config{Interval: second}, 1, &sink{}, services(1), func() time.Duration { return 0 }, slog.New(slog.DiscardHandler))
	server := grpc.NewServer()
	c.Register(server)
	if n := len(server.GetServiceInfo()); n != 0 {
		t.Errorf("%d services are registered, want none", n)
	}
}

func TestTheConfigurationNamesWhatItCannotUse(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	for _, d := range []time.Duration{0, -second, ms(19), time.Minute + 1} {
		err := Config{LoadReports: true, Interval: d}.Validate()
		field, ok := errors.AsType[interface {
			error
			Field() string
		}](err)
		if !ok || field.Field() != "interval" {
			t.Errorf("interval %v: error %v, want one of the field", d, err)
		}
	}
}

// With an interval of 0 Envoy reports without a pause, and grpc-go panics.
func TestNobodyIsAskedToReportWithoutAPause(t *testing.T) {
	for _, interval := range []time.Duration{leastInterval, ms(100), mostInterval} {
		for _, agent := range []string{"envoy", "gRPC Go", "anything else"} {
			t.Run(fmt.Sprint(agent, " each ", interval), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg := DefaultConfig()
					cfg.Interval = interval
					w := newWorldOf(t, cfg, 64)
					s := w.stream("10.2.0.1")
					w.send(s, &lrsv3.LoadStatsRequest{Node: &corev3.Node{Id: "client-1", UserAgentName: agent}})
					answer, err := s.Recv()
					if err != nil {
						t.Fatal(err)
					}
					if got := answer.GetLoadReportingInterval().AsDuration(); got < leastInterval {
						t.Errorf("asked to report each %v, want no less than %v", got, leastInterval)
					}
				})
			})
		}
	}
}
