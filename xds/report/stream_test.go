package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/test/pipenet"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

const controlPlane = "10.0.0.9:15010"

// world is a control plane that takes reports, in a bubble.
type world struct {
	t         *testing.T
	net       *pipenet.Network
	epoch     time.Time
	sink      *recorder
	collector *Collector
	server    *grpc.Server
	log       *slog.Logger    // of clients; nil: none
	lines     strings.Builder // of the collector; to be read when all is quiet
}

// headStart is what the table's clock shows when the world begins.
const headStart = time.Hour

func newWorld(t *testing.T, edit func(*CollectorConfig)) *world {
	w := &world{t: t, net: pipenet.New(1), epoch: time.Now().Add(-headStart), sink: &recorder{}}
	cfg := DefaultCollectorConfig()
	if edit != nil {
		edit(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	reg := openRegistry()
	reg.addrs = map[merge.Key]netip.Addr{api2: netip.MustParseAddr("10.0.0.2")}
	w.collector = NewCollector(cfg, w.sink, reg, func() time.Duration { return time.Since(w.epoch) }, slog.New(slog.NewTextHandler(&w.lines, nil)))
	w.start()
	t.Cleanup(func() {
		w.server.Stop()
		w.collector.Wait()
	})
	return w
}

func (w *world) start() {
	server := grpc.NewServer()
	w.collector.Register(server)
	w.serve(server)
}

func (w *world) serve(server *grpc.Server) {
	w.server = server
	ln, err := w.net.Host("10.0.0.9").Listen(w.t.Context(), "tcp", ":15010")
	if err != nil {
		w.t.Fatal(err)
	}
	go func() { _ = server.Serve(ln) }()
}

// dial connects a host; the connection is closed when the test ends.
func (w *world) dial(ip string) *grpc.ClientConn {
	host := w.net.Host(ip)
	cc, err := grpc.NewClient("passthrough:///"+controlPlane,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return host.Dial(ctx, "tcp", addr) }))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { cc.Close() })
	return cc
}

// raw is a stream whose messages the test makes itself.
func (w *world) raw(ip string) reportpb.EvidenceService_StreamClient {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.t.Cleanup(cancel)
	s, err := reportpb.NewEvidenceServiceClient(w.dial(ip)).Stream(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func hello(node string, incarnation uint64) *reportpb.Up {
	return encodeHello(Hello{Node: node}, incarnation, ms(1))
}

func say(t *testing.T, s reportpb.EvidenceService_StreamClient, up *reportpb.Up) {
	t.Helper()
	if err := s.Send(up); err != nil {
		t.Fatal(err)
	}
}

// join opens a raw stream and waits for its welcome.
func (w *world) join(ip, node string, incarnation uint64) reportpb.EvidenceService_StreamClient {
	w.t.Helper()
	s := w.raw(ip)
	say(w.t, s, hello(node, incarnation))
	down, err := s.Recv()
	if err != nil || down.GetWelcome() == nil {
		w.t.Fatalf("joining as %q: got %v, %v; want a welcome", node, down, err)
	}
	return s
}

// wantEnd reads a stream until it ends.
func wantEnd(t *testing.T, s reportpb.EvidenceService_StreamClient, want codes.Code) {
	t.Helper()
	for {
		_, err := s.Recv()
		if err == nil {
			continue
		}
		if got := status.Code(err); got != want {
			t.Errorf("the stream ended with %v (%v), want %v", got, err, want)
		}
		return
	}
}

// recorder is a Sink that remembers.
type recorder struct {
	mu      sync.Mutex
	refuse  error
	log     []string
	reports []merge.Report
	newest  *Stream
}

func (r *recorder) note(s *Stream, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, fmt.Sprintf("%s/%d ", s.Reporter().ID, s.Reporter().Incarnation)+fmt.Sprintf(format, args...))
}

func (r *recorder) Join(s *Stream) error {
	r.mu.Lock()
	if r.refuse != nil {
		defer r.mu.Unlock()
		return r.refuse
	}
	r.newest = s
	r.mu.Unlock()
	r.note(s, "join")
	return nil
}

func (r *recorder) Evidence(s *Stream, rep merge.Report) {
	r.mu.Lock()
	r.reports = append(r.reports, rep)
	r.mu.Unlock()
	r.note(s, "report of %d", len(rep.Cells))
}

func (r *recorder) Probed(s *Stream, p Probed) { r.note(s, "probed %d %v %v", p.ID, p.Key, p.Result) }

func (r *recorder) Polled(s *Stream, p merge.PollAnswer) { r.note(s, "polled %d %v", p.ID, p.Cell.Key) }

func (r *recorder) Probation(s *Stream, p Probation) { r.note(s, "probation %v %d", p.Key, p.Epoch) }

func (r *recorder) Leave(s *Stream) { r.note(s, "leave") }

// stream is the newest one that joined.
func (r *recorder) stream() *Stream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newest
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.log...)
}

func wantLog(t *testing.T, r *recorder, want ...string) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, r.all()); diff != "" {
		t.Errorf("what the sink saw (-want +got):\n%s", diff)
	}
}

func wantRefused(t *testing.T, w *world, want map[Refusal]uint64) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, w.collector.Stats().Refused); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
}

// sidecar is a Source whose messages the test puts in.
type sidecar struct {
	hello Hello
	ready chan struct{}

	mu     sync.Mutex
	out    Message
	orders []Orders
	links  []bool
	hellos int
}

func newSidecar(h Hello) *sidecar { return &sidecar{hello: h, ready: make(chan struct{}, 1)} }

func (s *sidecar) say(m Message) {
	s.mu.Lock()
	s.out = m
	s.mu.Unlock()
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *sidecar) Hello() Hello {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hellos++
	return s.hello
}

func (s *sidecar) Ready() <-chan struct{} { return s.ready }

func (s *sidecar) Build() Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.out
	s.out = Message{}
	return m
}

func (s *sidecar) Handle(o Orders) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.orders = append(s.orders, o)
}

func (s *sidecar) Link(up bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links = append(s.links, up)
}

func (s *sidecar) seen() (links []bool, orders []Orders, hellos int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]bool(nil), s.links...), append([]Orders(nil), s.orders...), s.hellos
}

// run starts a client that ends with the test.
func (w *world) run(s *sidecar, incarnation uint64) {
	began := time.Now()
	c := NewClient(w.dial("10.0.0.1"), ClientConfig{Incarnation: incarnation, Now: func() time.Duration { return time.Since(began) + ms(1) }, Log: w.log}, s)
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			w.t.Errorf("client: %v", err)
		}
	})
	w.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func bubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }

func TestEvidenceGoesUpAndOrdersComeDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.net.Delay("*", "*", 2*time.Millisecond, time.Millisecond)
		s := newSidecar(Hello{
			Node: "sidecar-1", Zone: "a", Region: "r", Labels: map[string]string{"node": "n1"},
			Own:  []Own{{Key: api1, Age: time.Minute}, {Key: api2}},
			Held: []merge.Verdict{{Key: db1, State: outlier.Ejected, Epoch: 4, Rule: outlier.RuleFast}},
		})
		s.say(Message{Known: []merge.Key{api1, db1}})
		w.run(s, 7)
		time.Sleep(time.Second)

		st := w.sink.stream()
		if st == nil {
			t.Fatal("nobody joined")
		}
		wantReporter := merge.Reporter{
			ID: "sidecar-1", Incarnation: 7, Principal: "10.0.0.1", Node: "n1", Zone: "a", Region: "r",
			Labels: map[string]string{"node": "n1"},
		}
		if diff := cmp.Diff(wantReporter, st.Reporter()); diff != "" {
			t.Errorf("reporter (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(s.hello.Held, st.Held()); diff != "" {
			t.Errorf("held verdicts (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]Own{{Key: api1, Age: time.Minute}}, st.Own()); diff != "" {
			t.Errorf("own instances, without the one that belongs to somebody else (-want +got):\n%s", diff)
		}

		s.say(Message{
			Report: &merge.Report{Cells: []merge.Cell{{Key: api1, Counts: outlier.Counts{N: 5, Conn: 1}, LastOK: never, LastHard: ms(900)}}},
			Probes: []Probed{{ID: 3, Key: db1, Result: outlier.Refused, Start: ms(990), End: ms(991)}},
		})
		time.Sleep(time.Second)
		wantLog(t, w.sink, "sidecar-1/7 join", "sidecar-1/7 probed 3 db/10.0.0.7:5432 refused", "sidecar-1/7 report of 1")
		r := w.sink.reports[0]
		if r.Incarnation != 7 || r.Reporter != "sidecar-1" {
			t.Errorf("report of %s/%d, want sidecar-1/7", r.Reporter, r.Incarnation)
		}
		// The failure was 100 ms before the report, whatever the clocks show.
		if got, want := r.At-r.Cells[0].LastHard, ms(101); got != want {
			t.Errorf("age of the failure: got %v, want %v", got, want)
		}
		if late := r.Received - r.At; late < 0 || late > ms(1) {
			t.Errorf("received %v after it was built by the table's clock, want at most the jitter", late)
		}

		st.Order(merge.ProbeOrder{ID: 9, Key: api1, Level: outlier.LevelConnect, Ping: merge.PingTCP, Timeout: time.Second, Reason: "suspicion"})
		st.Order(merge.ProbeOrder{ID: 10, Key: api2}) // not named by this sidecar
		st.Cancel(2)
		now := time.Since(w.epoch)
		st.Poll(merge.Poll{ID: 12, Key: db1, At: now - time.Second})
		st.Lease(merge.PingLease{ID: 13, Key: db1, Kind: merge.PingTCP, Every: 10 * time.Second, Timeout: time.Second, Until: now + time.Minute})
		st.Watch(merge.Watch{Key: api1, For: 2 * time.Second})
		st.Share(merge.Share{Key: db1, Epoch: 4, Weight: 0.1, For: 5 * time.Second})
		st.Share(merge.Share{Key: db1, Epoch: 4, Weight: 0.2, For: 5 * time.Second}) // the newest counts
		st.Weight(merge.Weight{Key: api1, Weight: 0.1, For: 30 * time.Second, Reason: "slow"})
		st.Settings(merge.Settings{Service: "api", Latency: outlier.Percentiles{P50: ms(1), P90: ms(2), P99: ms(5)}})
		st.Mute(merge.Mute{Reason: "alone", Until: now + time.Minute})
		synctest.Wait()
		time.Sleep(ms(3)) // the longest way
		synctest.Wait()
		_, orders, _ := s.seen()
		var got Orders
		for _, o := range orders { // in how many messages they came does not matter
			got.Probes = append(got.Probes, o.Probes...)
			got.Cancels = append(got.Cancels, o.Cancels...)
			got.Polls = append(got.Polls, o.Polls...)
			got.Leases = append(got.Leases, o.Leases...)
			got.Watches = append(got.Watches, o.Watches...)
			got.Shares = append(got.Shares, o.Shares...)
			got.Weights = append(got.Weights, o.Weights...)
			got.Settings = append(got.Settings, o.Settings...)
			if o.Mute != nil {
				got.Mute = o.Mute
			}
		}
		if n := len(got.Shares); n > 0 {
			got.Shares = got.Shares[n-1:]
		}
		want := Orders{
			Probes:  []merge.ProbeOrder{{ID: 9, Key: api1, Level: outlier.LevelConnect, Ping: merge.PingTCP, Timeout: time.Second, Reason: "suspicion"}},
			Cancels: []merge.OrderID{2},
			Polls:   []merge.Poll{{ID: 12, Key: db1}},
			Leases:  []merge.PingLease{{ID: 13, Key: db1, Kind: merge.PingTCP, Every: 10 * time.Second, Timeout: time.Second}},
			Watches: []merge.Watch{{Key: api1, For: 2 * time.Second}},
			Shares:  []merge.Share{{Key: db1, Epoch: 4, Weight: 0.2, For: 5 * time.Second}},
			Weights: []merge.Weight{{Key: api1, Weight: 0.1, For: 30 * time.Second, Reason: "slow"}},
			Settings: []merge.Settings{
				{Service: "api", Latency: outlier.Percentiles{P50: ms(1), P90: ms(2), P99: ms(5)}},
			},
			Mute: &merge.Mute{Reason: "alone"},
		}
		mine := time.Since(w.epoch) - headStart + ms(1) // the sidecar's clock began with the world's
		for _, at := range []struct {
			what      string
			got       *time.Duration
			want, off time.Duration
		}{
			{"polled instant", &got.Polls[0].At, mine - time.Second, ms(8)},
			{"end of the lease", &got.Leases[0].Until, mine + time.Minute, ms(8)},
			{"end of the mute", &got.Mute.Until, mine + time.Minute, ms(8)},
		} {
			if (*at.got - at.want).Abs() > at.off {
				t.Errorf("%s: got %v by the sidecar's clock, want about %v", at.what, *at.got, at.want)
			}
			*at.got = 0
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("orders (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[Dropped]uint64{NotNamed: 1}, w.collector.Stats().Dropped); diff != "" {
			t.Errorf("dropped orders (-want +got):\n%s", diff)
		}
	})
}

func TestTheClientComesBackWhenTheControlPlaneDoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := newSidecar(Hello{Node: "sidecar-1"})
		w.run(s, 7)
		time.Sleep(time.Minute)
		w.server.Stop()
		time.Sleep(10 * time.Second)
		if links, _, _ := s.seen(); len(links) == 0 || links[len(links)-1] {
			t.Errorf("links while the control plane is away: got %v, want the last to be down", links)
		}
		w.start()
		time.Sleep(time.Minute)
		links, _, hellos := s.seen()
		if !links[len(links)-1] {
			t.Errorf("links: got %v, want the last to be up", links)
		}
		if hellos != 2 {
			t.Errorf("hellos: got %d, want one for each life of the control plane", hellos)
		}
		wantLog(t, w.sink, "sidecar-1/7 join", "sidecar-1/7 leave", "sidecar-1/7 join")
	})
}

func TestAControlPlaneThatTakesNoReportsIsLeftAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		synctest.Wait()
		w.server.Stop()
		var asked atomic.Int32
		w.serve(grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
			asked.Add(1)
			return status.Error(codes.Unimplemented, "unknown service")
		})))
		var log strings.Builder
		w.log = slog.New(slog.NewTextHandler(&log, nil))
		s := newSidecar(Hello{Node: "sidecar-1"})
		w.run(s, 7)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := asked.Load(); n < 60 || n > 121 {
			t.Errorf("asked %d times in an hour, want once or twice a minute", n)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "takes no reports") {
			t.Errorf("log: got %s, want one line that says so", log.String())
		}
		w.server.Stop()
		w.start()
		time.Sleep(2 * time.Minute)
		if links, _, _ := s.seen(); len(links) == 0 || !links[len(links)-1] {
			t.Errorf("links: got %v, want the last to be up once it takes reports", links)
		}
	})
}

func TestAClientToldToReincarnateComesAsAnother(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := newSidecar(Hello{Node: "sidecar-1"})
		w.run(s, 7)
		time.Sleep(time.Second)
		w.sink.stream().Reincarnate("a counter fell")
		time.Sleep(time.Second)
		wantLog(t, w.sink, "sidecar-1/7 join", "sidecar-1/7 leave", "sidecar-1/8 join")
	})
}

func TestACloseWithAReasonEndsTheStream(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := w.join("10.0.0.1", "sidecar-1", 1)
		w.sink.stream().Close("leaving")
		_, err := s.Recv()
		if st, _ := status.FromError(err); st.Code() != codes.Unavailable || st.Message() != "leaving" {
			t.Errorf("got %v, want unavailable: leaving", err)
		}
		wantLog(t, w.sink, "sidecar-1/1 join", "sidecar-1/1 leave")
		w.sink.stream().Cancel(1) // an order to a stream that has ended harms nobody
	})
}

func TestAPeerThatEndsItsStreamLeaves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := w.join("10.0.0.1", "sidecar-1", 1)
		s.CloseSend()
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want the regular end", err)
		}
		wantLog(t, w.sink, "sidecar-1/1 join", "sidecar-1/1 leave")
		if got := w.collector.Stats().Streams; got != 0 {
			t.Errorf("live streams: got %d, want 0", got)
		}
	})
}

func TestOneLiveStreamForEachReporter(t *testing.T) {
	for _, tc := range []struct {
		name        string
		ip          string
		incarnation uint64
		want        codes.Code // of the second stream
		refused     map[Refusal]uint64
		log         []string
	}{
		{"the same one again replaces the first", "10.0.0.1", 5, codes.OK, nil,
			[]string{"sidecar-1/5 join", "sidecar-1/5 leave", "sidecar-1/5 join"}},
		{"a newer incarnation replaces the first", "10.0.0.1", 6, codes.OK, nil,
			[]string{"sidecar-1/5 join", "sidecar-1/5 leave", "sidecar-1/6 join"}},
		{"an older incarnation is refused", "10.0.0.1", 4, codes.AlreadyExists, map[Refusal]uint64{OldIncarnation: 1},
			[]string{"sidecar-1/5 join"}},
		{"another principal is refused, even if newer", "10.0.0.66", 6, codes.PermissionDenied, map[Refusal]uint64{ForeignReporter: 1},
			[]string{"sidecar-1/5 join"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, nil)
				first := w.join("10.0.0.1", "sidecar-1", 5)
				if tc.want == codes.OK {
					w.join(tc.ip, "sidecar-1", tc.incarnation)
					wantEnd(t, first, codes.Aborted)
				} else {
					second := w.raw(tc.ip)
					say(t, second, hello("sidecar-1", tc.incarnation))
					wantEnd(t, second, tc.want)
				}
				wantLog(t, w.sink, tc.log...)
				wantRefused(t, w, tc.refused)
				if got := w.collector.Stats().Streams; got != 1 {
					t.Errorf("live streams: got %d, want 1", got)
				}
			})
		})
	}
}

func TestAReporterThatIsCutOffIsReplacedAllTheSame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.join("10.0.0.1", "sidecar-1", 1)
		w.net.Cut("10.0.0.9", "10.0.0.1") // its old connection hears nothing any more
		synctest.Wait()
		w.net.Heal("10.0.0.9", "10.0.0.1")
		w.join("10.0.0.1", "sidecar-1", 2)
		wantLog(t, w.sink, "sidecar-1/1 join", "sidecar-1/1 leave", "sidecar-1/2 join")
	})
}

func TestAPrincipalHasABoundedNumberOfReporters(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(c *CollectorConfig) { c.ReportersPerPrincipal = 2 })
		w.join("10.0.0.1", "a", 1)
		b := w.join("10.0.0.1", "b", 1)
		w.join("10.0.0.2", "d", 1) // another principal
		third := w.raw("10.0.0.1")
		say(t, third, hello("c", 1))
		wantEnd(t, third, codes.ResourceExhausted)
		wantRefused(t, w, map[Refusal]uint64{TooManyStreams: 1})
		b.CloseSend()
		if _, err := b.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want the regular end", err)
		}
		w.join("10.0.0.1", "c", 1)
	})
}

func TestStreamsThatDoNotIntroduceThemselves(t *testing.T) {
	for _, tc := range []struct {
		name string
		say  *reportpb.Up
		want codes.Code
		why  Refusal
	}{
		{"nothing said in ten seconds", nil, codes.DeadlineExceeded, BadHello},
		{"no hello", &reportpb.Up{MonoMs: 1, Report: &reportpb.Report{}}, codes.InvalidArgument, BadHello},
		{"another major version", &reportpb.Up{Hello: &reportpb.Hello{NodeId: "n", Version: &reportpb.Version{Major: 2}}}, codes.Unimplemented, BadVersion},
		{"a name beyond the bound", &reportpb.Up{Hello: &reportpb.Hello{NodeId: strings.Repeat("n", 600), Version: version()}}, codes.InvalidArgument, TooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, nil)
				s := w.raw("10.0.0.1")
				if tc.say != nil {
					say(t, s, tc.say)
				}
				wantEnd(t, s, tc.want)
				wantRefused(t, w, map[Refusal]uint64{tc.why: 1})
				wantLog(t, w.sink)
			})
		})
	}
}

func TestASinkCanRefuseAReporter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.sink.refuse = errors.New("not while loading")
		s := w.raw("10.0.0.1")
		say(t, s, hello("sidecar-1", 1))
		_, err := s.Recv()
		if st, _ := status.FromError(err); st.Code() != codes.FailedPrecondition || st.Message() != "not while loading" {
			t.Errorf("got %v, want the sink's reason", err)
		}
		wantLog(t, w.sink)
		if got := w.collector.Stats().Streams; got != 0 {
			t.Errorf("live streams: got %d, want 0", got)
		}
	})
}

func TestAMessageBeyondTheBoundEndsTheStream(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := w.join("10.0.0.1", "sidecar-1", 1)
		say(t, s, &reportpb.Up{MonoMs: 1, Report: &reportpb.Report{Clusters: []*reportpb.ClusterReport{{Service: strings.Repeat("x", maxMessage)}}}})
		wantEnd(t, s, codes.ResourceExhausted)
		wantRefused(t, w, map[Refusal]uint64{TooLarge: 1})
	})
}

func TestAReporterThatSendsTooFastIsReadMoreSlowly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := w.join("10.0.0.1", "sidecar-1", 1)
		for range 140 {
			say(t, s, &reportpb.Up{MonoMs: 1, Report: &reportpb.Report{}})
		}
		synctest.Wait()
		if got, want := w.collector.Stats().Messages, uint64(41); got != want {
			t.Errorf("messages read at once: got %d, want %d: the hello and the burst", got, want)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got, want := w.collector.Stats().Messages, uint64(61); got != want {
			t.Errorf("messages read after one second: got %d, want %d", got, want)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got, want := w.collector.Stats().Messages, uint64(141); got != want {
			t.Errorf("messages read in the end: got %d, want all %d", got, want)
		}
	})
}

func TestAReporterThatDoesNotReadItsOrdersIsDropped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := w.join("10.0.0.1", "sidecar-1", 1)
		say(t, s, &reportpb.Up{MonoMs: 1, Declare: []*reportpb.Declare{{Ref: 1, Key: encodeKey(api1)}}})
		synctest.Wait()
		w.net.Cut("10.0.0.9", "10.0.0.1")
		st := w.sink.stream()
		for range 1000 {
			for range ringSize {
				st.Order(merge.ProbeOrder{Key: api1, Reason: strings.Repeat("r", 100)})
			}
			synctest.Wait()
		}
		time.Sleep(3 * time.Second)
		wantRefused(t, w, map[Refusal]uint64{SlowReader: 1})
		log := w.sink.all()
		if got := log[len(log)-1]; got != "sidecar-1/1 leave" {
			t.Errorf("the last thing the sink saw: got %q, want it to leave", got)
		}
		if w.collector.Stats().Dropped[Overrun] == 0 {
			t.Error("no order was overtaken by newer ones, want most")
		}
		w.net.Heal("10.0.0.9", "10.0.0.1")
	})
}

func TestAClientThatCannotSendStartsAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := newSidecar(Hello{Node: "sidecar-1"})
		w.run(s, 1)
		time.Sleep(10 * time.Second)
		w.net.Cut("10.0.0.1", "10.0.0.9")
		big := &merge.Report{Clusters: make([]merge.ClusterTotals, 2000)}
		for i := range big.Clusters {
			big.Clusters[i].Service = strings.Repeat("x", 100)
		}
		for range 20 {
			s.say(Message{Report: big})
			time.Sleep(200 * time.Millisecond)
		}
		if links, _, _ := s.seen(); links[len(links)-1] {
			t.Errorf("links during the cut: got %v, want the last to be down", links)
		}
		w.net.Heal("10.0.0.1", "10.0.0.9")
		time.Sleep(30 * time.Second)
		if links, _, _ := s.seen(); !links[len(links)-1] {
			t.Errorf("links after it: got %v, want the last to be up", links)
		}
	})
}

func TestTheRingKeepsTheNewestOrders(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := NewCollector(DefaultCollectorConfig(), nil, nil, func() time.Duration { return 0 }, nil)
		s := &Stream{c: c, outbox: newOutbox()}
		for id := range merge.OrderID(ringSize + 10) {
			s.Cancel(id)
		}
		if got := s.outbox.take(); got != nil {
			t.Errorf("before the welcome: got %v, want nothing", got)
		}
		s.outbox.welcome()
		down := s.outbox.take()
		if got, want := len(down.GetCancels()), ringSize; got != want {
			t.Fatalf("got %d orders, want %d", got, want)
		}
		if got := down.GetCancels()[0]; got != 10 {
			t.Errorf("the oldest that is left: got %d, want 10", got)
		}
		if got := c.Stats().Dropped[Overrun]; got != 10 {
			t.Errorf("overtaken: got %d, want 10", got)
		}
		if got := s.outbox.take(); got != nil {
			t.Errorf("afterwards: got %v, want nothing", got)
		}
	})
}

func TestALargeSetOfLeasesIsSentInParts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := newSidecar(Hello{Node: "sidecar-1"})
		var m Message
		for i := range 5000 {
			m.Known = append(m.Known, merge.Key{Service: "api", Instance: fmt.Sprint(i)})
		}
		s.say(m)
		w.run(s, 1)
		time.Sleep(5 * time.Second)
		st := w.sink.stream()
		for i, k := range m.Known {
			st.Lease(merge.PingLease{ID: merge.OrderID(i), Key: k, Kind: merge.PingTCP, Until: 2 * time.Hour})
		}
		time.Sleep(time.Second)
		_, orders, _ := s.seen()
		got := 0
		for _, o := range orders {
			got += len(o.Leases)
		}
		if got != len(m.Known) {
			t.Errorf("leases: got %d, want %d", got, len(m.Known))
		}
	})
}

func TestConfigurationNamesTheFieldThatIsWrong(t *testing.T) {
	cfg := CollectorConfig{Rate: 0, Burst: -1, ReportersPerPrincipal: 1}
	err := cfg.Validate()
	for _, want := range []string{"rate: want 1 to 10000, have 0", "burst: want 0 to 100000, have -1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
	if err := DefaultCollectorConfig().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
}
