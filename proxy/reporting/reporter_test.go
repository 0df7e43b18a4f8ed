package reporting

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/test/pipenet"
	"github.com/overhear-mesh/overhear/xds/report"
)

const (
	controlPlane = "10.0.9.9:15010"
	me           = "10.0.0.1"
)

// world is a sidecar that reports, and who listens.
type world struct {
	t        *testing.T
	net      *pipenet.Network
	clock    clock.Clock
	reporter *Reporter
	cluster  *cluster.Cluster
	sink     *sink
	server   *grpc.Server
	end      func() // ends the control plane
	self     *outlier.Self
}

// newWorld has a cluster "api" with n endpoints, which accept connections.
func newWorld(t *testing.T, n int) *world {
	w := &world{t: t, net: pipenet.New(1), clock: clock.New(), sink: &sink{}, self: outlier.NewSelf()}
	w.serve()
	host := w.net.Host(me)
	cc, err := grpc.NewClient("passthrough:///"+controlPlane,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return host.Dial(ctx, "tcp", addr) }))
	if err != nil {
		t.Fatal(err)
	}
	w.reporter = New(Config{Node: "sidecar-1", Zone: "a", Incarnation: 7}, Deps{Clock: w.clock, Conn: cc})
	w.cluster = w.newCluster("api", "api", n)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.reporter.Run(ctx); err != nil {
			t.Errorf("reporter: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		cc.Close()
		w.end()
	})
	return w
}

// serve starts the control plane.
func (w *world) serve() {
	epoch := time.Now().Add(-time.Hour)
	w.server = grpc.NewServer()
	c := report.NewCollector(report.DefaultCollectorConfig(), w.sink, w.sink, func() time.Duration { return time.Since(epoch) }, nil)
	c.Register(w.server)
	ln, err := w.net.Host("10.0.9.9").Listen(w.t.Context(), "tcp", ":15010")
	if err != nil {
		w.t.Fatal(err)
	}
	go func() { _ = w.server.Serve(ln) }()
	w.end = func() {
		w.server.Stop()
		c.Wait()
	}
}

func (w *world) newCluster(name, service string, n int) *cluster.Cluster {
	cfg := cluster.DefaultConfig()
	cfg.Name, cfg.Service = name, service
	c := cluster.New(cfg, cluster.Deps{Clock: w.clock, Dial: w.net.Host(me).Dial, Seed: 1, Self: w.self})
	w.reporter.Add(c)
	var specs []cluster.Spec
	for i := range n {
		specs = append(specs, spec(i))
		host := w.net.Host(fmt.Sprintf("10.0.1.%d", i+1))
		if ln, err := host.Listen(w.t.Context(), "tcp", ":80"); err == nil {
			w.t.Cleanup(func() { ln.Close() })
		}
	}
	c.Update(specs)
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			w.t.Errorf("cluster: %v", err)
		}
	})
	w.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return c
}

func spec(i int) cluster.Spec {
	return cluster.Spec{ID: fmt.Sprintf("api-%d", i), Address: fmt.Sprintf("10.0.1.%d:80", i+1)}
}

func key(i int) merge.Key { return merge.Key{Service: "api", Instance: fmt.Sprintf("api-%d", i)} }

// attempt is one attempt on an endpoint that ends this way.
func (w *world) attempt(id string, class outlier.Class) {
	w.t.Helper()
	stats := w.stats(id)
	now := w.clock.Now()
	a := stats.Start(now, true)
	w.cluster.Wake() // as upstream.Endpoint does, if the cluster rests
	if class == outlier.OK {
		stats.Headers(&a, now)
	}
	if stats.End(&a, outlier.Outcome{Class: class, Now: now, Level: outlier.LevelConnect}) {
		w.cluster.Wake()
	}
}

func (w *world) stats(id string) *outlier.Endpoint {
	w.t.Helper()
	var stats *outlier.Endpoint
	if err := w.cluster.Ask(w.t.Context(), func(d *outlier.Detector, _ time.Duration) { stats = d.Endpoint(id) }); err != nil || stats == nil {
		w.t.Fatalf("endpoint %q: %v", id, err)
	}
	return stats
}

// answers are n attempts that end well.
func (w *world) answers(id string, n int) {
	w.t.Helper()
	for range n {
		w.attempt(id, outlier.OK)
	}
}

// sink remembers what came.
type sink struct {
	mu         sync.Mutex
	stream     *report.Stream
	joined     int
	left       int
	reports    []heard
	probes     []report.Probed
	polls      []merge.PollAnswer
	probations []report.Probation
}

// heard is a report and when it came.
type heard struct {
	merge.Report
	at time.Time
}

func (s *sink) Sent(string, string) bool { return true }

func (s *sink) Named(k merge.Key) (merge.Key, bool) { return k, true }

func (s *sink) Owner(merge.Key) (string, netip.Addr) { return "sidecar-1", netip.Addr{} }

func (s *sink) Join(st *report.Stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stream = st
	s.joined++
	return nil
}

func (s *sink) Evidence(_ *report.Stream, r merge.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, heard{r, time.Now()})
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

func (s *sink) Probation(_ *report.Stream, p report.Probation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probations = append(s.probations, p)
}

func (s *sink) Leave(*report.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left++
}

// about are the reports with a cell of this endpoint, since from.
func (s *sink) about(k merge.Key, from time.Time) []heard {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []heard
	for _, r := range s.reports {
		for _, c := range r.Cells {
			if c.Key == k && !r.at.Before(from) {
				all = append(all, r)
			}
		}
	}
	return all
}

func (s *sink) all(from time.Time) []heard {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []heard
	for _, r := range s.reports {
		if !r.at.Before(from) {
			all = append(all, r)
		}
	}
	return all
}

func (h heard) cell(t *testing.T, k merge.Key) merge.Cell {
	t.Helper()
	for _, c := range h.Cells {
		if c.Key == k {
			return c
		}
	}
	t.Fatalf("the report has no cell of %v", k)
	return merge.Cell{}
}

// settle lets the sidecar connect, tell all and calm down.
func settle() { time.Sleep(25 * time.Second); synctest.Wait() }

func TestTheFirstHardFailureIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		settle()
		w.answers("api-0", 10)
		time.Sleep(10 * time.Millisecond)
		start := time.Now()
		w.attempt("api-0", outlier.Conn)
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		got := w.sink.about(key(0), start)
		if len(got) != 1 {
			t.Fatalf("reports within 2 ms: got %d, want 1", len(got))
		}
		c := got[0].cell(t, key(0))
		if c.Counts.N != 11 || c.Counts.Conn != 1 || c.Witness != outlier.LevelConnect {
			t.Errorf("got %d attempts, %d failures, witness %v; want 11, 1, connect", c.Counts.N, c.Counts.Conn, c.Witness)
		}
	})
}

func TestAnotherEndpointsFirstFailureDoesNotWaitForTheSlowGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 6)
		settle()
		for i := range 6 {
			w.answers(fmt.Sprintf("api-%d", i), 10)
		}
		for range 20 { // one endpoint fails for a second
			w.attempt("api-0", outlier.Conn)
			time.Sleep(50 * time.Millisecond)
		}
		start := time.Now()
		w.attempt("api-1", outlier.Conn)
		time.Sleep(51 * time.Millisecond)
		synctest.Wait()
		if got := w.sink.about(key(1), start); len(got) == 0 {
			t.Error("no report of the second endpoint within 50 ms")
		}
	})
}

func TestHardNewsSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		settle()
		start := time.Now()
		for range 300 {
			w.attempt("api-0", outlier.Conn)
			time.Sleep(10 * time.Millisecond)
		}
		got := w.sink.about(key(0), start)
		fast, slow := 0, 0
		for i, r := range got {
			if r.at.Sub(start) <= 500*time.Millisecond {
				fast++
			} else {
				slow++
			}
			if i > 0 && r.at.Sub(got[i-1].at) < 50*time.Millisecond {
				t.Errorf("reports %v apart, want at least 50 ms", r.at.Sub(got[i-1].at))
			}
		}
		if fast < 8 || fast > 11 {
			t.Errorf("reports in the first 500 ms: got %d, want about 10", fast)
		}
		if slow < 8 || slow > 11 {
			t.Errorf("reports in the 2.5 s after: got %d, want about 10", slow)
		}
		time.Sleep(3 * time.Second) // the last news are still told
		synctest.Wait()
		got = w.sink.about(key(0), start)
		if c := got[len(got)-1].cell(t, key(0)); c.Counts.Conn < 300 {
			t.Errorf("failures told in the end: got %d, want all 300 and the probes", c.Counts.Conn)
		}
	})
}

func TestAClusterThatComesBetweenHelloAndWelcomeIsNamedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: pipenet.New(1), clock: clock.New()}
		w.reporter = New(Config{Node: "sidecar-1", Incarnation: 7}, Deps{Clock: w.clock})
		stream := source{w.reporter} // as the client uses it
		w.reporter.ctx = t.Context()
		stream.Hello()
		stream.Build()
		w.newCluster("api", "api", 3)
		synctest.Wait()
		stream.Link(true)
		w.reporter.mu.Lock()
		due := w.reporter.schedule.Next() <= w.clock.Now()
		w.reporter.mu.Unlock()
		if !due {
			t.Error("nothing is due: the control plane cannot ask for a probe of what it has no name for")
		}
		if got := len(stream.Build().Known); got != 3 {
			t.Errorf("endpoints named: got %d, want 3", got)
		}
	})
}

func TestHardNewsThatLastDoNotKeepTheSidecarBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		settle()
		steps := 0
		w.cluster.Subscribe(func(cluster.Event) { steps++ })
		w.attempt("api-0", outlier.Conn)
		w.attempt("api-1", outlier.Conn)
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		if got, most := steps, int(900*time.Millisecond/(5*time.Millisecond))+20; got > most {
			t.Errorf("steps in 0.9 s after two failures: got %d, want at most %d", got, most)
		}
	})
}

func TestSoftFailuresHaveABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 40)
		settle()
		for i := range 40 {
			w.answers(fmt.Sprintf("api-%d", i), 30)
		}
		settle()
		start := time.Now()
		w.attempt("api-0", outlier.Server)
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
		if got := w.sink.about(key(0), start); len(got) != 1 {
			t.Fatalf("the first soft failure: got %d reports in 5 ms, want 1", len(got))
		}
		start = time.Now()
		for i := 1; i < 40; i++ { // another one each 100 ms
			w.attempt(fmt.Sprintf("api-%d", i), outlier.Server)
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		got := len(w.sink.all(start))
		if got < 4 || got > 10 {
			t.Errorf("reports in 3.9 s of soft news: got %d, want the burst, one a second and the full ones", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for i := range 40 {
			if r := w.sink.about(key(i), start.Add(-time.Second)); len(r) == 0 {
				t.Errorf("%v was never told", key(i))
			}
		}
	})
}

func TestWithoutNewsASummarySaysThatItLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		w.answers("api-0", 10)
		settle()
		start := time.Now()
		time.Sleep(time.Minute)
		synctest.Wait()
		got := w.sink.all(start)
		if len(got) != 6 {
			t.Errorf("reports in a quiet minute: got %d, want 6", len(got))
		}
		for _, r := range got {
			if len(r.Cells) != 0 {
				t.Errorf("a summary without news speaks of %d endpoints", len(r.Cells))
			}
		}
		start = time.Now()
		w.answers("api-1", 3)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		all := w.sink.all(start)
		var keys []merge.Key
		for _, r := range all {
			for _, c := range r.Cells {
				keys = append(keys, c.Key)
			}
		}
		if diff := cmp.Diff([]merge.Key{key(1)}, keys); diff != "" {
			t.Errorf("endpoints in the summary after (-want +got):\n%s", diff)
		}
	})
}

func TestAQuietFleetAtOnePercentErrorsIsCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20)
		rng := rand.New(rand.NewPCG(1, 2))
		settle()
		attempt := func() {
			class := outlier.OK
			if rng.IntN(100) == 0 {
				class = outlier.Server
			}
			w.attempt(fmt.Sprintf("api-%d", rng.IntN(20)), class)
			time.Sleep(5 * time.Millisecond)
		}
		for range 2000 {
			attempt()
		}
		start := time.Now()
		for range 12_000 {
			attempt()
		}
		synctest.Wait()
		perSecond := float64(len(w.sink.all(start))) / time.Since(start).Seconds()
		if perSecond > 2 {
			t.Errorf("got %.2f reports a second, want at most 2", perSecond)
		}
		t.Logf("%.2f reports a second at 200 attempts/s on 20 endpoints, 1 %% errors", perSecond)
	})
}

func TestAnOverdueAttemptIsToldAndToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		settle()
		w.answers("api-0", 10)
		time.Sleep(time.Second)
		stats := w.stats("api-0")
		start := time.Now()
		a := stats.Start(w.clock.Now(), true)
		w.cluster.Wake()
		time.Sleep(4 * time.Second)
		synctest.Wait()
		overdue := 0
		for _, r := range w.sink.about(key(0), start) {
			if r.cell(t, key(0)).Overdue > 0 {
				overdue++
			}
		}
		if overdue < 5 {
			t.Errorf("reports of the overdue attempt in 4 s: got %d, want several", overdue)
		}
		stats.End(&a, outlier.Outcome{Class: outlier.OK, Now: w.clock.Now()})
	})
}

func TestAProbeIsMadeByOrderAndItsResultToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		settle()
		w.net.Host("10.0.1.2").Crash()
		w.net.Blackhole("*", "10.0.1.3:80")
		st := w.sink.stream
		st.Order(merge.ProbeOrder{ID: 1, Key: key(0), Level: outlier.LevelConnect, Timeout: time.Second, Epoch: 3})
		st.Order(merge.ProbeOrder{ID: 2, Key: key(1), Level: outlier.LevelConnect, Timeout: time.Second})
		st.Order(merge.ProbeOrder{ID: 3, Key: key(2), Level: outlier.LevelConnect, Timeout: time.Second})
		st.Order(merge.ProbeOrder{ID: 4, Key: key(2), Level: outlier.LevelConnect, Timeout: time.Second})
		time.Sleep(100 * time.Millisecond)
		st.Cancel(4)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		got := map[merge.OrderID]outlier.ProbeResult{}
		for _, p := range w.sink.probes {
			got[p.ID] = p.Result
			if p.ID == 1 && (p.Key != key(0) || p.Epoch != 3 || p.Level != outlier.LevelConnect) {
				t.Errorf("order 1 is answered by %+v", p)
			}
		}
		want := map[merge.OrderID]outlier.ProbeResult{1: outlier.ProbeOK, 2: outlier.Refused, 3: outlier.TimedOut, 4: outlier.NotRun}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("results (-want +got):\n%s", diff)
		}
	})
}

func TestOrdersBeyondTheSidecarsOwnRateAreAnsweredAndNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		settle()
		for id := range merge.OrderID(40) {
			w.sink.stream.Order(merge.ProbeOrder{ID: id + 1, Key: key(0), Level: outlier.LevelConnect, Timeout: time.Second})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		ran := 0
		for _, p := range w.sink.probes {
			if p.Result != outlier.NotRun {
				ran++
			}
		}
		if len(w.sink.probes) != 40 {
			t.Errorf("answers: got %d, want 40", len(w.sink.probes))
		}
		if ran < 1 || ran > 20 {
			t.Errorf("probes run: got %d, want at most twice the burst of 10", ran)
		}
	})
}

func TestAPollIsAnsweredWithTheCountsOfNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		settle()
		w.answers("api-0", 10)
		time.Sleep(3 * time.Second)
		asked := w.sink.reports[0].Received + time.Since(w.sink.reports[0].at) - time.Second // one second ago, table's clock
		w.answers("api-0", 5)
		w.sink.stream.Poll(merge.Poll{ID: 5, Key: key(0), At: asked})
		w.sink.stream.Poll(merge.Poll{ID: 6, Key: key(1), At: asked}) // never tried
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
		if len(w.sink.polls) != 2 {
			t.Fatalf("answers: got %d, want 2", len(w.sink.polls))
		}
		for _, a := range w.sink.polls {
			switch a.ID {
			case 5:
				if a.Cell.Key != key(0) || a.Cell.Counts.N != 15 || a.Then.N != 10 || a.Then.At > asked {
					t.Errorf("got %+v; want 15 attempts now and 10 at or before %v", a, asked)
				}
			case 6:
				if a.Cell.Key != key(1) || a.Cell.Counts.N != 0 {
					t.Errorf("got %+v; want nothing to tell", a)
				}
			}
		}
	})
}

func TestEachFailureOfAWatchedEndpointIsReportedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		settle()
		w.sink.stream.Watch(merge.Watch{Key: key(0), For: 2 * time.Second})
		start := time.Now()
		for i := range 400 {
			class := outlier.OK
			if i%10 == 5 && i < 200 { // each 100 ms, for 2 s
				class = outlier.Server
			}
			w.attempt("api-0", class)
			w.attempt("api-1", outlier.OK)
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		// The local rules put it out after a while, and nobody tries it then; that is told too.
		if got := len(w.sink.about(key(0), start)); got < 15 || got > 25 {
			t.Errorf("reports of the watched endpoint in 4 s: got %d, want about 20: at the order, and at each failure", got)
		}
		if got := len(w.sink.about(key(1), start)); got > 1 {
			t.Errorf("reports of the other one: got %d, want at most a summary", got)
		}
	})
}

func TestPingsUnderALeaseAreToldUnderItsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		settle()
		now := w.sink.reports[0].Received + time.Since(w.sink.reports[0].at)
		lease := merge.PingLease{ID: 77, Key: key(0), Kind: merge.PingTCP, Every: 10 * time.Second, Timeout: time.Second, Until: now + time.Minute}
		w.sink.stream.Lease(lease)
		time.Sleep(50 * time.Second)
		synctest.Wait()
		got := len(w.sink.probes)
		if got < 3 || got > 7 {
			t.Errorf("pings in 50 s: got %d, want about 5", got)
		}
		for _, p := range w.sink.probes {
			if p.ID != 77 || p.Key != key(0) || p.Result != outlier.ProbeOK {
				t.Errorf("got %+v, want a good ping of api-0 under lease 77", p)
			}
		}
		lease.ID, lease.Until = 76, 0
		w.sink.stream.Lease(lease) // the end of an older one changes nothing
		lease.ID = 77
		w.sink.stream.Lease(lease)
		time.Sleep(time.Minute)
		synctest.Wait()
		if more := len(w.sink.probes) - got; more > 1 {
			t.Errorf("pings after the end of the lease: got %d, want none", more)
		}
	})
}

func TestAShareTellsWhatItHasCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		settle()
		w.answers("api-0", 10)
		out := spec(0)
		out.Verdict = outlier.Verdict{State: outlier.Probation, Epoch: 4, Rule: outlier.RuleFast}
		w.cluster.Update([]cluster.Spec{out, spec(1), spec(2)})
		time.Sleep(time.Second)
		w.sink.stream.Share(merge.Share{Key: key(0), Epoch: 4, Weight: 0.5, For: 5 * time.Second})
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		before := w.count("api-0")
		w.answers("api-0", 3)
		w.attempt("api-0", outlier.Server)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if len(w.sink.probations) == 0 {
			t.Fatal("nothing was told")
		}
		got := w.sink.probations[len(w.sink.probations)-1]
		if got.Key != key(0) || got.Epoch != 4 || got.Counts.Server != 1 {
			t.Errorf("got %+v; want one failure on api-0 in epoch 4", got)
		}
		if want := w.count("api-0").Sub(before); got.Counts.N < want.N {
			t.Errorf("attempts since the share began: got %d, want at least %d", got.Counts.N, want.N)
		}
		if got.Counts.N >= 10 {
			t.Errorf("attempts since the share began: got %d, want none of before", got.Counts.N)
		}
		told := len(w.sink.probations)
		time.Sleep(6 * time.Second) // it lapses
		w.answers("api-0", 3)
		time.Sleep(time.Second)
		synctest.Wait()
		if more := len(w.sink.probations) - told; more > 0 {
			t.Errorf("told after the share has lapsed: %d", more)
		}
	})
}

func TestAShareCountsWhatBeginsUnderItHoweverLateItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		settle()
		stats := w.stats("api-0")
		var old [2]outlier.Attempt
		for i := range old {
			old[i] = stats.Start(w.clock.Now(), true)
		}
		time.Sleep(time.Millisecond)
		out := spec(0)
		out.Verdict = outlier.Verdict{State: outlier.Probation, Epoch: 4, Rule: outlier.RuleFast}
		w.cluster.Update([]cluster.Spec{out, spec(1), spec(2)})
		time.Sleep(time.Second)
		w.sink.stream.Share(merge.Share{Key: key(0), Epoch: 4, Weight: 0.5, For: 5 * time.Second})
		time.Sleep(time.Second)
		test := stats.Start(w.clock.Now(), true)
		end := func(a *outlier.Attempt, class outlier.Class) {
			stats.End(a, outlier.Outcome{Class: class, Now: w.clock.Now()})
			w.cluster.Wake()
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
		}
		told := func() (newest outlier.Counts) {
			for _, p := range w.sink.probations {
				if p.Key == key(0) && p.Epoch == 4 {
					newest = p.Counts
				}
			}
			return newest
		}
		end(&old[0], outlier.OK)
		end(&old[1], outlier.Timeout)
		if got := told(); got.N > 0 {
			t.Errorf("of attempts of before it told %+v, want nothing", got)
		}
		time.Sleep(10 * time.Second) // the share lapses
		end(&test, outlier.Timeout)
		if got := told(); got.N != 1 || got.Timeout != 1 {
			t.Errorf("of what timed out after its share had lapsed it told %+v, want one timeout", got)
		}
	})
}

func (w *world) count(id string) outlier.Counts {
	for _, e := range w.cluster.Snapshot().Endpoints {
		if e.ID == id {
			return e.Counts
		}
	}
	return outlier.Counts{}
}

func TestAnInstanceOfNoServiceIsNotToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := New(Config{Node: "sidecar-1", Incarnation: 7}, Deps{Clock: clock.New(), Log: slog.New(slog.NewTextHandler(&log, nil))})
		r.ctx = t.Context()
		r.Own(Instance{Instance: "127.0.0.1:15006"})() // a hard failure of it
		if got := (source{r}).Hello().Own; len(got) > 0 {
			t.Errorf("told of %+v, which no control plane knows", got)
		}
		if !strings.Contains(log.String(), "127.0.0.1:15006") {
			t.Errorf("log %q, want that it names the instance", log.String())
		}
	})
}

func TestAnApplicationThatRefusesIsToldAtOnceAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		detector := outlier.New(outlier.DefaultConfig(), rand.New(rand.NewPCG(0, 0)))
		detector.SetMembers([]outlier.Member{{ID: "own-1"}}, w.clock.Now())
		stats := detector.Endpoint("own-1")
		k := merge.Key{Service: "own", Instance: "own-1"}
		wake := w.reporter.Own(Instance{Service: k.Service, Instance: k.Instance, Stats: stats})
		end := func(class outlier.Class) {
			now := w.clock.Now()
			a := stats.Start(now, true)
			if stats.End(&a, outlier.Outcome{Class: class, Level: outlier.LevelConnect, Now: now}) {
				wake()
			}
		}
		settle()
		for range 5 {
			end(outlier.OK)
		}
		start := time.Now()
		end(outlier.Conn)
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		own := func() (cells []merge.OwnCell) {
			for _, r := range w.sink.all(start) {
				cells = append(cells, r.Own...)
			}
			return cells
		}
		got := own()
		if len(got) != 1 {
			t.Fatalf("told within 2 ms: got %d, want 1", len(got))
		}
		if c := got[0]; c.Key != k || c.N != 6 || c.K != 1 || c.Refused < c.LastOK || c.Refused < 0 {
			t.Errorf("got %+v; want 6 requests, 1 failure, refusing", c)
		}
		begun := got[0].Started
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := len(own()); got < 3 || got > 6 {
			t.Errorf("told in 2 s: got %d, want twice a second", got)
		}
		end(outlier.OK)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		got = own()
		if c := got[len(got)-1]; c.Refused >= 0 || c.LastOK < 0 || c.Started < begun+2*time.Second {
			t.Errorf("after an answer: got %+v; want it back, and started after %v", c, begun)
		}
		w.reporter.Drain()
		time.Sleep(time.Millisecond)
		synctest.Wait()
		got = own()
		if c := got[len(got)-1]; !c.Draining {
			t.Errorf("after Drain: got %+v; want it draining", c)
		}
	})
}

func TestAMuteReachesTheClustersAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		settle()
		muted := func(is bool) {
			t.Helper()
			synctest.Wait()
			time.Sleep(5 * time.Millisecond)
			if got := w.self.Muted(w.clock.Now()); got != is {
				t.Errorf("muted: %v, want %v", got, is)
			}
		}
		muted(false)
		// The control plane's clock is an hour ahead.
		w.sink.stream.Mute(merge.Mute{Reporter: "sidecar-1", Until: w.clock.Now() + time.Hour + time.Minute, Reason: "a test"})
		muted(true)
		time.Sleep(50 * time.Second)
		muted(true)
		time.Sleep(15 * time.Second)
		muted(false)
		w.sink.stream.Mute(merge.Mute{Reporter: "sidecar-1", Until: w.clock.Now() + time.Hour + time.Minute, Reason: "a test"})
		muted(true)
		w.sink.stream.Mute(merge.Mute{Reporter: "sidecar-1"})
		muted(false)
	})
}

func TestAWeightReachesTheClusterAndLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		w.attempt("api-0", outlier.OK)
		settle()
		share := func(want float64) {
			t.Helper()
			time.Sleep(100 * time.Millisecond)
			for _, e := range w.cluster.Snapshot().Endpoints {
				expected := 1.0
				if e.ID == "api-0" {
					expected = want
				}
				if math.Abs(e.Share-expected) > 1e-6 {
					t.Errorf("%s has share %v, want %v", e.ID, e.Share, expected)
				}
			}
		}
		order := func(weight float64) {
			w.sink.stream.Weight(merge.Weight{Key: key(0), Weight: weight, For: 30 * time.Second, Reason: "a test"})
		}
		share(1)
		order(0.4)
		share(0.4)
		time.Sleep(20 * time.Second)
		order(0.3)
		share(0.3)
		time.Sleep(20 * time.Second) // it was said again in time
		share(0.3)
		time.Sleep(15 * time.Second) // and now no more
		share(1)
		order(0.5)
		share(0.5)
		order(1)
		share(1)
	})
}

func TestPercentilesOfAllServeASidecarThatKnowsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.attempt("api-0", outlier.OK)
		settle()
		// An attempt is overdue at four times the 99th percentile: the sidecar tells so.
		overdue := func(from time.Time) (last time.Duration) {
			for _, h := range w.sink.all(from) {
				for _, c := range h.Clusters {
					if c.Service == "api" {
						last = c.Overdue
					}
				}
			}
			return last
		}
		before := time.Now()
		w.attempt("api-0", outlier.OK)
		settle()
		if got := overdue(before); got < time.Second {
			t.Fatalf("overdue after %v before anybody knows, want the most that there is", got)
		}
		w.sink.stream.Settings(merge.Settings{Service: "api", Latency: outlier.Percentiles{P50: 20 * time.Millisecond, P90: 50 * time.Millisecond, P99: 100 * time.Millisecond}})
		before = time.Now()
		time.Sleep(2 * time.Second)
		w.attempt("api-0", outlier.OK)
		settle()
		if got := overdue(before); got != 400*time.Millisecond {
			t.Errorf("overdue after %v, want four times the fleet's 99th percentile", got)
		}
	})
}

func TestAControlPlaneThatComesBackIsToldEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		settle()
		w.answers("api-0", 10)
		w.answers("api-1", 10)
		out := spec(2)
		out.Verdict = outlier.Verdict{State: outlier.Ejected, Epoch: 9, Rule: outlier.RuleHard}
		w.cluster.Update([]cluster.Spec{spec(0), spec(1), out})
		settle()
		if !w.reporter.Connected() {
			t.Error("not connected before")
		}
		w.end()
		time.Sleep(5 * time.Second)
		if w.reporter.Connected() {
			t.Error("still connected")
		}
		start := time.Now()
		w.serve()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if w.sink.joined != 2 || !w.reporter.Connected() {
			t.Fatalf("joined %d times, connected %v; want 2, true", w.sink.joined, w.reporter.Connected())
		}
		first := w.sink.all(start)[0]
		var keys []merge.Key
		for _, c := range first.Cells {
			keys = append(keys, c.Key)
		}
		if diff := cmp.Diff([]merge.Key{key(0), key(1)}, keys); diff != "" {
			t.Errorf("endpoints in the first report (-want +got):\n%s", diff)
		}
		if len(first.Clusters) != 1 || first.Clusters[0].N != 20 {
			t.Errorf("totals in the first report: got %+v, want 20 attempts on api", first.Clusters)
		}
		want := []merge.Verdict{{Key: key(2), State: outlier.Ejected, Epoch: 9, Rule: outlier.RuleHard}}
		if diff := cmp.Diff(want, w.sink.stream.Held()); diff != "" {
			t.Errorf("held verdicts (-want +got):\n%s", diff)
		}
		// Also an endpoint that nobody has ever tried can be named in an order.
		w.sink.stream.Order(merge.ProbeOrder{ID: 1, Key: key(2), Level: outlier.LevelConnect, Timeout: time.Second})
		time.Sleep(time.Second)
		synctest.Wait()
		if len(w.sink.probes) != 1 {
			t.Errorf("results of the order: got %d, want 1", len(w.sink.probes))
		}
	})
}

func TestAClusterOfTheFileIsNobodysBusiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.cluster = w.newCluster("local", "", 2)
		settle()
		start := time.Now()
		w.attempt("api-1", outlier.Conn)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		for _, r := range w.sink.all(start) {
			if len(r.Cells)+len(r.Clusters) > 0 {
				t.Errorf("told: %+v", r)
			}
		}
	})
}

func TestAClusterThatHasStoppedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		cfg := cluster.DefaultConfig()
		cfg.Name, cfg.Service = "brief", "brief"
		brief := cluster.New(cfg, cluster.Deps{Clock: w.clock})
		w.reporter.Add(brief)
		brief.Update([]cluster.Spec{spec(0)})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = brief.Run(ctx) })
		clusters := func() int {
			w.reporter.mu.Lock()
			defer w.reporter.mu.Unlock()
			return len(w.reporter.members)
		}
		settle()
		if got := clusters(); got != 2 {
			t.Errorf("clusters before: got %d, want 2", got)
		}
		cancel()
		wg.Wait()
		settle()
		if got := clusters(); got != 1 {
			t.Errorf("clusters after: got %d, want 1", got)
		}
	})
}
