package upstream_test

import (
	"context"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// watched is an endpoint behind a real socket whose idle connections are watched.
type watched struct {
	*upstream.Endpoint
	clock clock.Clock
	open  func() (*upstream.Conn, *net.TCPConn)
	hints chan struct{}
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{clock: clock.New(), hints: make(chan struct{}, 1000)}
	opts := upstream.DefaultOptions()
	opts.MaxIdle = 1000
	opts.Hint = func(*upstream.Endpoint) { w.hints <- struct{}{} }
	watch := upstream.NewWatch(w.clock)
	opts.Watch = watch
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() {
		if err := watch.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		run.Wait()
	})
	w.Endpoint, w.open = loopbackWith(t, opts)
	return w
}

func TestAnIdleSocketThatIsClosedOrResetIsNoticed(t *testing.T) {
	for name, dies := range map[string]func(*net.TCPConn){
		"closed":             func(s *net.TCPConn) { s.Close() },
		"reset":              func(s *net.TCPConn) { _ = s.SetLinger(0); s.Close() },
		"spoke, then closed": func(s *net.TCPConn) { _, _ = s.Write([]byte("x")); s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatched(t)
			c, s := w.open()
			w.Put(c, w.clock.Now())
			dies(s)
			<-w.hints
			if n := w.Idle() + w.Open(); n != 0 {
				t.Errorf("%d connections are left", n)
			}
		})
	}
}

// It is registered once and lies idle many times.
func TestASocketIsStillWatchedAfterRequests(t *testing.T) {
	w := newWatched(t)
	c, s := w.open()
	for range 3 {
		w.Put(c, w.clock.Now())
		got, reused, err := w.Get(t.Context(), w.clock.Now())
		if err != nil || !reused || got != c {
			t.Fatalf("got %p, reused %v, %v; want the same", got, reused, err)
		}
		for _, end := range []net.Conn{s, got} {
			if _, err := end.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		for _, end := range []net.Conn{s, got} {
			if _, err := end.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.Put(c, w.clock.Now())
	s.Close()
	<-w.hints
}

// The next connection gets the descriptor of the last. What the kernel says of either
// is said of no other.
func TestADescriptorThatIsUsedAgainConfusesNobody(t *testing.T) {
	w := newWatched(t)
	for range 200 {
		old, far := w.open()
		w.Put(old, w.clock.Now())
		if _, _, err := w.Get(t.Context(), w.clock.Now()); err != nil {
			t.Fatal(err)
		}
		go far.Close() // while the descriptor changes hands
		old.Discard()
		c, s := w.open()
		w.Put(c, w.clock.Now())
		got, reused, err := w.Get(t.Context(), w.clock.Now())
		if err != nil || !reused || got != c {
			t.Fatalf("got %p, reused %v, %v; want the one that stands", got, reused, err)
		}
		got.Discard()
		s.Close()
	}
	if n := len(w.hints); n != 0 {
		t.Errorf("%d hints, want none: we closed all of them", n)
	}
}

func TestClosingAtBothEndsAtOnceRacesNothing(t *testing.T) {
	w := newWatched(t)
	var both sync.WaitGroup
	for range 200 {
		c, s := w.open()
		w.Put(c, w.clock.Now())
		both.Go(func() { s.Close() })
		both.Go(w.CloseIdle)
	}
	both.Wait()
	w.CloseIdle()
	for w.Open() > 0 { // one that was noticed is closed by whoever noticed it
		runtime.Gosched()
	}
}

func TestAThousandConnectionsLeaveNothingBehind(t *testing.T) {
	const many = 1000
	before, routines := descriptors(t), runtime.NumGoroutine()
	t.Run("", func(t *testing.T) {
		w := newWatched(t)
		at := runtime.NumGoroutine()
		servers := make([]*net.TCPConn, 0, many)
		conns := make([]*upstream.Conn, 0, many)
		for range many {
			c, s := w.open()
			conns, servers = append(conns, c), append(servers, s)
		}
		for _, c := range conns {
			w.Put(c, w.clock.Now())
		}
		if n := runtime.NumGoroutine(); n > at+many/10 { // those of others come and go
			t.Errorf("%d goroutines more for %d idle connections, want none", n-at, many)
		}
		for _, s := range servers {
			s.Close()
		}
		for w.Open() > 0 {
			runtime.Gosched()
		}
	})
	if n := descriptors(t); n > before+2 { // the runtime's own
		t.Errorf("%d descriptors, %d before", n, before)
	}
	for runtime.NumGoroutine() > routines { // the test's time-out tells of one that stays
		runtime.Gosched()
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
