package grpcstats

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/test/pipenet"
	"github.com/overhear-mesh/overhear/xds/report"
)

const (
	controlHost, controlAddr = "10.0.0.9", "10.0.0.9:15010"
	serverHost, serverAddr   = "10.1.0.1", "10.1.0.1:50051"
)

var api1 = merge.Key{Service: "api", Instance: "api-1"}

// world is a control plane, a server and a client that reports, in a bubble.
type world struct {
	t        *testing.T
	net      *pipenet.Network
	reporter *Reporter
	sink     *sink
	control  *grpc.Server
	collects *report.Collector
	server   *grpc.Server
}

// sink is what the control plane hears.
type sink struct {
	mu      sync.Mutex
	streams []*report.Stream
	cells   map[merge.Key]merge.Cell
	probes  []report.Probed
	polls   []merge.PollAnswer
	totals  uint64 // of attempts
}

func (s *sink) Join(st *report.Stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams = append(s.streams, st)
	return nil
}
func (s *sink) Leave(*report.Stream) {}
func (s *sink) Evidence(_ *report.Stream, r merge.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range r.Cells {
		s.cells[c.Key] = c
	}
	for _, c := range r.Clusters {
		s.totals = c.N
	}
}
func (s *sink) Probed(_ *report.Stream, p report.Probed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probes = append(s.probes, p)
}
func (s *sink) Polled(_ *report.Stream, p merge.PollAnswer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polls = append(s.polls, p)
}
func (s *sink) Probation(*report.Stream, report.Probation) {}

func (s *sink) cell() merge.Cell {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cells[api1]
}

// stream is the newest.
func (s *sink) stream() *report.Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[len(s.streams)-1]
}

// registry knows the server.
type registry struct{}

func (registry) Sent(_, service string) bool          { return service == "api" }
func (registry) Owner(merge.Key) (string, netip.Addr) { return "", netip.Addr{} }
func (registry) Named(k merge.Key) (merge.Key, bool) {
	switch {
	case k.Service != "api.mesh:80":
		return merge.Key{}, false
	case k.Instance == serverAddr:
		return api1, true
	}
	return merge.Key{Service: "api"}, k.Instance == ""
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, net: pipenet.New(1), sink: &sink{cells: map[merge.Key]merge.Cell{}}}
	w.startControl()
	conn := w.dial(controlAddr, patience)
	id := identity{}
	id.Node.ID = "client-1"
	w.reporter = start(Config{Node: "host-1", Labels: map[string]string{"version": "v1"}}, id, conn, func() { conn.Close() })
	w.reporter.mu.Lock()
	w.reporter.prober.dial = w.net.Host("10.2.0.1").Dial
	w.reporter.mu.Unlock()
	t.Cleanup(func() {
		w.reporter.Close()
		w.stopControl()
	})
	synctest.Wait()
	return w
}

func (w *world) startControl() {
	epoch := time.Now().Add(-time.Hour)
	w.collects = report.NewCollector(report.DefaultCollectorConfig(), w.sink, registry{}, func() time.Duration { return time.Since(epoch) }, nil)
	w.control = grpc.NewServer()
	w.collects.Register(w.control)
	lis := w.listen(controlHost, ":15010")
	go func(g *grpc.Server) { _ = g.Serve(lis) }(w.control)
}

func (w *world) stopControl() {
	w.control.Stop()
	w.collects.Wait()
}

func (w *world) listen(host, address string) net.Listener {
	w.t.Helper()
	lis, err := w.net.Host(host).Listen(context.Background(), "tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	return lis
}

func (w *world) dial(address string, options ...grpc.DialOption) *grpc.ClientConn {
	w.t.Helper()
	host := w.net.Host("10.2.0.1")
	cc, err := grpc.NewClient("passthrough:///"+address, append(options,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return host.Dial(ctx, "tcp", address) }))...)
	if err != nil {
		w.t.Fatal(err)
	}
	return cc
}

// health answers as a test wants.
type health struct {
	healthpb.UnimplementedHealthServer
	check func(ctx context.Context) error
}

func (h health) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, h.check(ctx)
}

func (w *world) serve(check func(ctx context.Context) error) {
	w.server = grpc.NewServer()
	healthpb.RegisterHealthServer(w.server, health{check: check})
	lis := w.listen(serverHost, ":50051")
	go func(g *grpc.Server) { _ = g.Serve(lis) }(w.server)
	w.t.Cleanup(w.server.Stop)
}

// channel dials the server as a client that reports.
func (w *world) channel() (*grpc.ClientConn, healthpb.HealthClient) {
	cc := w.dial(serverAddr, grpc.WithStatsHandler(w.reporter.Handler("xds:///api.mesh:80")))
	w.t.Cleanup(func() { cc.Close() })
	return cc, healthpb.NewHealthClient(cc)
}

func check(ctx context.Context, c healthpb.HealthClient, options ...grpc.CallOption) error {
	_, err := c.Check(ctx, &healthpb.HealthCheckRequest{}, options...)
	return err
}

func never(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func says(code codes.Code) func(context.Context) error {
	return func(context.Context) error { return status.Error(code, "as the test wants") }
}

// The table of a sidecar, with what a real client makes of each ending.
func TestWhatACallCameToIsToldInClasses(t *testing.T) {
	within := func(d time.Duration) func(*world, *grpc.ClientConn, healthpb.HealthClient) {
		return func(w *world, _ *grpc.ClientConn, c healthpb.HealthClient) {
			ctx, cancel := context.WithTimeout(w.t.Context(), d)
			defer cancel()
			_ = check(ctx, c)
		}
	}
	leave := func(after time.Duration) func(*world, *grpc.ClientConn, healthpb.HealthClient) {
		return func(w *world, _ *grpc.ClientConn, c healthpb.HealthClient) {
			ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
			time.AfterFunc(after, cancel)
			_ = check(ctx, c)
		}
	}
	once := within(time.Minute)
	for _, tc := range []struct {
		name  string
		check func(ctx context.Context) error
		call  func(*world, *grpc.ClientConn, healthpb.HealthClient)
		want  outlier.Counts
	}{
		{"ok", says(codes.OK), once, outlier.Counts{N: 1}},
		{"the caller's mistake", says(codes.NotFound), once, outlier.Counts{N: 1}},
		{"internal", says(codes.Internal), once, outlier.Counts{N: 1, Server: 1}},
		{"unavailable", says(codes.Unavailable), once, outlier.Counts{N: 1, Server: 1}},
		{"unasked cancellation", says(codes.Canceled), once, outlier.Counts{N: 1, Server: 1}},
		{"too much to do", says(codes.ResourceExhausted), once, outlier.Counts{Over: 1}},
		{"unavailable, come again later", func(ctx context.Context) error {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "100"))
			return status.Error(codes.Unavailable, "later")
		}, once, outlier.Counts{Over: 1}},
		{"no answer until the deadline", never, within(5 * time.Second), outlier.Counts{N: 1, Timeout: 1}},
		{"a deadline before an answer was due", never, within(50 * time.Millisecond), outlier.Counts{}},
		{"the caller leaves at once", never, leave(50 * time.Millisecond), outlier.Counts{}},
		{"the caller leaves when an answer was due", never, leave(3 * time.Second), outlier.Counts{Cens: 1}},
		{"the connection is lost", never, func(w *world, cc *grpc.ClientConn, c healthpb.HealthClient) {
			time.AfterFunc(time.Second, func() { w.server.Stop() })
			once(w, cc, c)
		}, outlier.Counts{N: 1, Conn: 1}},
		{"the channel is closed by ourselves", never, func(w *world, cc *grpc.ClientConn, c healthpb.HealthClient) {
			time.AfterFunc(50*time.Millisecond, func() { cc.Close() })
			once(w, cc, c)
		}, outlier.Counts{}},
		{"an answer that is larger than the caller takes", says(codes.OK), func(w *world, _ *grpc.ClientConn, c healthpb.HealthClient) {
			if err := check(w.t.Context(), c, grpc.MaxCallRecvMsgSize(1)); status.Code(err) != codes.ResourceExhausted {
				w.t.Errorf("too large an answer: %v", err)
			}
		}, outlier.Counts{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.serve(tc.check)
				cc, c := w.channel()
				tc.call(w, cc, c)
				w.reporter.Close()
				got := w.sink.cell().Counts
				got.N90, got.N99 = 0, 0
				// A server that stops refuses the probes that follow.
				if tc.want.Conn > 0 && got.Conn > 0 {
					got.N, got.Conn = tc.want.N, tc.want.Conn
				}
				if got != tc.want {
					t.Errorf("told %+v, want %+v", got, tc.want)
				}
			})
		})
	}
}

func TestAStreamThatTheServerResetsIsToldByItsCode(t *testing.T) {
	for code, want := range map[http2.ErrCode]outlier.Counts{
		http2.ErrCodeRefusedStream:      {Over: 2}, // gRPC tries once more by itself
		http2.ErrCodeEnhanceYourCalm:    {Over: 1},
		http2.ErrCodeHTTP11Required:     {},
		http2.ErrCodeCancel:             {N: 1, Server: 1},
		http2.ErrCodeInternal:           {N: 1, Server: 1},
		http2.ErrCodeInadequateSecurity: {N: 1, Server: 1},
	} {
		t.Run(code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				lis := w.listen(serverHost, ":50051")
				defer lis.Close()
				go resetAll(lis, code)
				_, c := w.channel()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := check(ctx, c); err == nil {
					t.Error("the call succeeds")
				}
				w.reporter.Close()
				if got := w.sink.cell().Counts; got != want {
					t.Errorf("told %+v, want %+v", got, want)
				}
			})
		})
	}
}

// resetAll answers each request by a reset.
func resetAll(lis net.Listener, code http2.ErrCode) {
	for {
		conn, err := lis.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
				return
			}
			f := http2.NewFramer(conn, conn)
			if f.WriteSettings() != nil {
				return
			}
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					return
				}
				switch frame := frame.(type) {
				case *http2.SettingsFrame:
					if !frame.IsAck() {
						err = f.WriteSettingsAck()
					}
				case *http2.DataFrame:
					if frame.StreamEnded() { // sooner, and gRPC would not say how the stream ended
						err = f.WriteRSTStream(frame.StreamID, code)
					}
				}
				if err != nil {
					return
				}
			}
		}()
	}
}

func TestWhoReportsSaysThatItOnlyObserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.sink.stream()
		r := s.Reporter()
		if !r.Observes || r.ID != "client-1" || r.Node != "host-1" || r.Labels["client"] != "grpc" || r.Labels["version"] != "v1" {
			t.Errorf("reporter %+v", r)
		}
	})
}

func TestHardNewsAreToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(never)
		_, c := w.channel()
		go func() { _ = check(t.Context(), c) }()
		time.Sleep(time.Second)
		w.server.Stop()
		time.Sleep(50 * time.Millisecond)
		if got := w.sink.cell(); got.Counts.Conn == 0 || got.Witness == outlier.LevelNone {
			t.Errorf("50 ms after the server went: %+v, want a hard failure and its witness", got)
		}
	})
}

func TestCallsThatHangAreToldWhileTheyDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(never)
		_, c := w.channel()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for range 3 {
			go func() { _ = check(ctx, c) }()
		}
		time.Sleep(2 * time.Second)
		if got := w.sink.cell(); got.Overdue != 3 || got.Counts.N != 0 {
			t.Errorf("after 2 s %d are overdue and %d counted, want 3 and none", got.Overdue, got.Counts.N)
		}
	})
}

// The client has nothing to do there, and learns all the same that the server is gone.
func TestAnIdleConnectionThatIsLostIsLookedInto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(says(codes.OK))
		_, c := w.channel()
		if err := check(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		w.server.Stop()
		time.Sleep(100 * time.Millisecond)
		if got := w.sink.cell(); got.Counts.Conn == 0 || got.Witness != outlier.LevelConnect {
			t.Errorf("told %+v, want that it refuses connections", got)
		}
	})
}

func TestWithoutAControlPlaneCallsGoOnAndAreToldLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(says(codes.Internal))
		_, c := w.channel()
		_ = check(t.Context(), c)
		w.stopControl()
		began := time.Now()
		for range 10_000 {
			_ = check(t.Context(), c)
		}
		if took := time.Since(began); took > 0 { // in the bubble only waiting takes time
			t.Errorf("without a control plane calls waited for %v", took)
		}
		time.Sleep(time.Minute)
		w.startControl()
		time.Sleep(20 * time.Second)
		if got := w.sink.cell().Counts; got.N != 10_001 || got.Server != 10_001 {
			t.Errorf("when it is back it is told %+v, want 10 001 failures", got)
		}
	})
}

func TestCloseTellsWhatWasNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(says(codes.OK))
		_, c := w.channel()
		time.Sleep(11 * time.Second) // of a summary
		for range 7 {
			if err := check(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		w.reporter.Close()
		w.reporter.Close() // is one too many, and does nothing
		if took := time.Since(began); took >= closeWithin {
			t.Errorf("it took %v", took)
		}
		w.sink.mu.Lock()
		totals := w.sink.totals
		w.sink.mu.Unlock()
		if got := w.sink.cell().Counts.N; got != 7 || totals != 7 {
			t.Errorf("told of %d attempts there and %d in all, want 7", got, totals)
		}
		if err := check(t.Context(), c); err != nil {
			t.Errorf("after it a call fails: %v", err)
		}
	})
}

func TestCloseDoesNotWaitForAControlPlaneThatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.stopControl()
		synctest.Wait()
		began := time.Now()
		w.reporter.Close()
		if took := time.Since(began); took > 0 {
			t.Errorf("it waited for %v", took)
		}
		w.startControl()
	})
}

func TestOrdersAreCarriedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(says(codes.OK))
		_, c := w.channel()
		if err := check(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		s := w.sink.stream()
		s.Order(merge.ProbeOrder{ID: 1, Key: api1, Level: outlier.LevelApp, Timeout: time.Second})
		s.Poll(merge.Poll{ID: 2, Key: api1, At: time.Hour})
		s.Lease(merge.PingLease{ID: 3, Key: api1, Every: 10 * time.Second, Until: time.Hour + time.Minute})
		time.Sleep(35 * time.Second)
		w.sink.mu.Lock()
		defer w.sink.mu.Unlock()
		pings := 0
		for _, p := range w.sink.probes {
			if p.Result != outlier.ProbeOK || p.Level != outlier.LevelConnect || p.Key != api1 {
				t.Errorf("answer %+v, want that it accepts connections", p)
			}
			if p.ID == 3 {
				pings++
			}
		}
		if len(w.sink.probes) != pings+1 || pings < 3 {
			t.Errorf("%d probes of which %d pings, want one and at least three", len(w.sink.probes)-pings, pings)
		}
		if len(w.sink.polls) != 1 || w.sink.polls[0].Cell.Counts.N != 1 {
			t.Errorf("polls %+v, want one that tells of one attempt", w.sink.polls)
		}
	})
}

func TestEndpointsThatAreNotUsedAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(says(codes.OK))
		cc, c := w.channel()
		if err := check(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		cc.Close()
		known := func() int {
			return len(*w.reporter.channels["api.mesh:80"].known.Load())
		}
		time.Sleep(forgetAfter - time.Minute)
		if got := known(); got != 1 {
			t.Errorf("%d endpoints before %v, want 1", got, forgetAfter)
		}
		time.Sleep(2*time.Minute + time.Second)
		if got := known(); got != 0 {
			t.Errorf("%d endpoints after %v, want none", got, forgetAfter)
		}
	})
}

func TestABootstrapThatSaysTooLittleIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		``:   "no xDS bootstrap: want GRPC_XDS_BOOTSTRAP, GRPC_XDS_BOOTSTRAP_CONFIG or Config.Bootstrap",
		`{`:  "bootstrap: unexpected end of JSON input",
		`{}`: "bootstrap: node.id: want the name of this process, have none\nbootstrap: xds_servers: want one with a server_uri, have none",
		`{"node":{"id":"a"},"xds_servers":[{"server_uri":"127.0.0.1:1","channel_creds":[{"type":"magic"}]}]}`: `xds_servers: channel_creds: want a type that is registered, as by importing google.golang.org/grpc/xds; have ["magic"]`,
	} {
		t.Setenv(bootstrapFile, "")
		t.Setenv(bootstrapContent, "")
		r, err := Start(Config{Bootstrap: []byte(text)})
		if err == nil {
			r.Close()
		}
		if got := fmt.Sprint(err); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestTheBootstrapOfGRPCIsRead(t *testing.T) {
	t.Setenv(bootstrapFile, "")
	t.Setenv(bootstrapContent, `{"node":{"id":"a","locality":{"zone":"z"}},"xds_servers":[{"server_uri":"127.0.0.1:1","channel_creds":[{"type":"insecure"}]}]}`)
	r, err := Start(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.id.Node.ID != "a" || r.id.Node.Locality.Zone != "z" {
		t.Errorf("it reports as %+v", r.id.Node)
	}
}
