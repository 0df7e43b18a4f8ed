package fakeupstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// dial opens a connection; real sockets and those in memory differ in nothing else.
type dial func(ctx context.Context, network, address string) (net.Conn, error)

// everywhere runs a test on both kinds of network.
func everywhere(t *testing.T, f func(t *testing.T, cfg fakeupstream.Config, d dial)) {
	t.Run("sockets", func(t *testing.T) {
		f(t, fakeupstream.Config{}, new(net.Dialer).DialContext)
	})
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := pipenet.New(1)
			f(t, fakeupstream.Config{Address: "10.0.0.2:80", Listen: n.Host("10.0.0.2").Listen}, n.Host("10.0.0.1").Dial)
		})
	})
}

func start(t *testing.T, cfg fakeupstream.Config) *fakeupstream.Backend {
	t.Helper()
	b, err := fakeupstream.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// client has its connections closed when the test ends.
func client(t *testing.T, d dial) *http.Client {
	tr := &http.Transport{DialContext: d}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func get(t *testing.T, c *http.Client, url string) (status int, body string, err error) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func set(t *testing.T, b *fakeupstream.Backend, f fakeupstream.Fault) {
	t.Helper()
	if err := b.Set(f); err != nil {
		t.Fatal(err)
	}
}

func wantOK(t *testing.T, c *http.Client, url string) {
	t.Helper()
	if status, body, err := get(t, c, url); err != nil || status != http.StatusOK || body != "ok\n" {
		t.Fatalf("got %d %q, %v; want 200 ok", status, body, err)
	}
}

// wantServed is wantOK for other goroutines.
func wantServed(t *testing.T, c *http.Client, url string) {
	t.Helper()
	if status, _, err := get(t, c, url); err != nil || status != http.StatusOK {
		t.Errorf("got %d, %v; want 200", status, err)
	}
}

func TestInHealthItAnswersAndCounts(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		cfg.Name = "b1"
		b := start(t, cfg)
		c := client(t, d)
		before := time.Now()
		for range 3 {
			wantOK(t, c, "http://"+b.Addr()+"/a")
		}
		wantOK(t, c, "http://"+b.Addr()+"/healthz")
		resp, err := c.Get("http://" + b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("x-upstream"); got != "b1" {
			t.Errorf("x-upstream: got %q, want b1", got)
		}
		got := b.Counts()
		if got.Requests != 4 || got.Pings != 1 || got.Connections < 1 || got.Failed != 0 {
			t.Errorf("got %+v; want 4 requests, 1 ping", got)
		}
		arrivals := b.Arrivals(before)
		if len(arrivals) != 5 || arrivals[0].Path != "/a" || !arrivals[3].Ping || arrivals[3].Conn < 1 {
			t.Errorf("arrivals: got %+v", arrivals)
		}
		if got := len(b.Connections(before)); got < 1 {
			t.Errorf("connections: got %d, want some", got)
		}
		if got := b.Arrivals(time.Now().Add(time.Hour)); len(got) != 0 {
			t.Errorf("arrivals of the future: got %d, want none", len(got))
		}
	})
}

func TestACrashResetsAndRefusesUntilItIsWell(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		b := start(t, cfg)
		addr := b.Addr()
		old, err := d(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		wantOK(t, client(t, d), "http://"+addr) // the old connection has been accepted by now
		set(t, b, fakeupstream.Crash())
		if _, err := old.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the open connection: got %v, want a reset", err)
		}
		if _, err := d(t.Context(), "tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a new one: got %v, want refused", err)
		}
		set(t, b, fakeupstream.Fault{})
		if b.Addr() != addr {
			t.Errorf("address: got %s, want %s as before", b.Addr(), addr)
		}
		wantOK(t, client(t, d), "http://"+addr)
		if err := b.Restart(); err != nil {
			t.Errorf("restart: %v", err)
		}
		wantOK(t, client(t, d), "http://"+addr)
	})
}

func TestACrashEndsRequestsInFlight(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		b := start(t, cfg)
		set(t, b, fakeupstream.Hang())
		c := client(t, d)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, _, err := get(t, c, "http://"+b.Addr()); err == nil {
				t.Error("the request in flight was answered")
			}
		})
		waitFor(t, func() bool { return b.Counts().Inflight == 1 })
		set(t, b, fakeupstream.Crash())
		wg.Wait()
	})
}

// waitFor yields until something holds.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("it never came")
		}
	}
}

func TestADrainEndsConnectionsInPeaceAndServesOn(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		cfg.Latency = 10 * time.Millisecond
		b := start(t, cfg)
		idle, busy := client(t, d), client(t, d)
		wantOK(t, idle, "http://"+b.Addr())
		var wg sync.WaitGroup
		wg.Go(func() { wantServed(t, busy, "http://"+b.Addr()) })
		waitFor(t, func() bool { return b.Counts().Inflight == 1 })
		set(t, b, fakeupstream.Drain())
		wg.Wait()
		wantOK(t, idle, "http://"+b.Addr())
		wantOK(t, busy, "http://"+b.Addr())
		if status, _, err := get(t, busy, "http://"+b.Addr()+"/healthz"); err != nil || status != http.StatusServiceUnavailable {
			t.Errorf("a check: got %d, %v; want 503", status, err)
		}
		if got := b.Counts(); got.Connections != 5 {
			t.Errorf("5 requests on %d connections, want one each", got.Connections)
		}
		wg.Go(func() { wantServed(t, busy, "http://"+b.Addr()) })
		waitFor(t, func() bool { return b.Counts().Inflight == 1 })
		f := fakeupstream.Drain()
		f.Deaf = true
		set(t, b, f)
		wg.Wait()
		if _, _, err := get(t, busy, "http://"+b.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("when the listener is closed: got %v, want refused", err)
		}
		set(t, b, fakeupstream.Fault{})
		for range 2 {
			wantOK(t, busy, "http://"+b.Addr())
		}
		wantOK(t, busy, "http://"+b.Addr()+"/healthz")
		if got := b.Counts(); got.Connections != 7 {
			t.Errorf("%d connections in the end, want one more than the 6 before", got.Connections)
		}
	})
}

func TestADrainSaysGoAwayOverHTTP2(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		cfg.HTTP2, cfg.Latency = true, 10*time.Millisecond
		b := start(t, cfg)
		tr := &http.Transport{DialContext: d, Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		t.Cleanup(tr.CloseIdleConnections)
		c := &http.Client{Transport: tr}
		var wg sync.WaitGroup
		wg.Go(func() { wantServed(t, c, "http://"+b.Addr()) })
		waitFor(t, func() bool { return b.Counts().Inflight == 1 })
		set(t, b, fakeupstream.Drain())
		wg.Wait()
		for range 3 {
			wantOK(t, c, "http://"+b.Addr())
		}
		if got := b.Counts(); got.Connections != 4 || got.Requests != 4 {
			t.Errorf("got %d requests on %d connections, want 4 on one each", got.Requests, got.Connections)
		}
	})
}

func TestAResetEndsTheStreamsOfAConnectionAndNoMore(t *testing.T) {
	const streams = 50
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		cfg.HTTP2 = true
		b := start(t, cfg)
		tr := &http.Transport{DialContext: d, Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		t.Cleanup(tr.CloseIdleConnections)
		c := &http.Client{Transport: tr}
		wantOK(t, c, "http://"+b.Addr()) // one connection is open now, and all share it
		set(t, b, fakeupstream.Hang())
		var wg sync.WaitGroup
		for range streams {
			wg.Go(func() {
				if _, _, err := get(t, c, "http://"+b.Addr()); err == nil {
					t.Error("a request under way was answered")
				}
			})
		}
		waitFor(t, func() bool { return b.Counts().Inflight == streams })
		set(t, b, fakeupstream.Reset())
		wg.Wait()
		wantOK(t, c, "http://"+b.Addr())
		wantOK(t, c, "http://"+b.Addr())
		if got := b.Counts(); got.Connections != 2 || got.Requests != streams+3 {
			t.Errorf("got %d requests on %d connections, want %d on 2", got.Requests, got.Connections, streams+3)
		}
	})
}

func TestDeafClosesTheListenerAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		b := start(t, cfg)
		c := client(t, d)
		wantOK(t, c, "http://"+b.Addr())
		set(t, b, fakeupstream.Deaf())
		wantOK(t, c, "http://"+b.Addr()) // on the open connection
		if _, err := d(t.Context(), "tcp", b.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a new connection: got %v, want refused", err)
		}
		set(t, b, fakeupstream.Fault{})
		wantOK(t, client(t, d), "http://"+b.Addr())
	})
}

func TestWhatHungIsAnsweredWhenTheFaultEnds(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		b := start(t, cfg)
		set(t, b, fakeupstream.Hang())
		c := client(t, d)
		var wg sync.WaitGroup
		wg.Go(func() { wantServed(t, c, "http://"+b.Addr()) })
		waitFor(t, func() bool { return b.Counts().Inflight == 1 })
		set(t, b, fakeupstream.Fault{})
		wg.Wait()
	})
}

func TestAHangAnswersNobodyNotEvenPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pipenet.New(1)
		b := start(t, fakeupstream.Config{Address: "10.0.0.2:80", Listen: n.Host("10.0.0.2").Listen})
		c := client(t, n.Host("10.0.0.1").Dial)
		c.Timeout = time.Minute
		set(t, b, fakeupstream.Hang())
		for _, path := range []string{"/", "/healthz"} {
			if _, _, err := get(t, c, "http://"+b.Addr()+path); err == nil {
				t.Errorf("%s was answered", path)
			}
		}
		set(t, b, fakeupstream.Fault{Hung: true, SparePings: true})
		wantOK(t, c, "http://"+b.Addr()+"/healthz")
		synctest.Wait()
		if got := b.Counts().Inflight; got != 0 {
			t.Errorf("in flight after the clients gave up: got %d, want 0", got)
		}
	})
}

func TestErrorsFailTheirShareAndSparePings(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		b := start(t, cfg)
		c := client(t, d)
		set(t, b, fakeupstream.Errors(0.3))
		failed := 0
		for range 300 {
			status, _, err := get(t, c, "http://"+b.Addr())
			if err != nil {
				t.Fatal(err)
			}
			if status == http.StatusInternalServerError {
				failed++
			}
		}
		if failed < 60 || failed > 120 {
			t.Errorf("failed: got %d of 300, want about 90", failed)
		}
		set(t, b, fakeupstream.Fault{ErrorRate: 1, Status: http.StatusServiceUnavailable, Header: http.Header{"retry-after": {"3"}}})
		resp, err := c.Get("http://" + b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "3" {
			t.Errorf("got %d, retry-after %q; want 503, 3", resp.StatusCode, resp.Header.Get("Retry-After"))
		}
		wantOK(t, c, "http://"+b.Addr()+"/healthz")
		if got := b.Counts().Failed; got != failed+1 {
			t.Errorf("counted as failed: got %d, want %d", got, failed+1)
		}
	})
}

func TestBrokenBodies(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		cfg.Body = bytes.Repeat([]byte("0123456789"), 100)
		b := start(t, cfg)
		c := client(t, d)
		set(t, b, fakeupstream.Fault{Body: fakeupstream.Cut})
		status, body, err := get(t, c, "http://"+b.Addr())
		if status != http.StatusOK || len(body) != 500 || err == nil {
			t.Errorf("cut: got %d, %d bytes, %v; want 200, 500 bytes and an error", status, len(body), err)
		}
		set(t, b, fakeupstream.Fault{Body: fakeupstream.Stalled})
		resp, err := c.Get("http://" + b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		half := make([]byte, 500)
		if _, err := io.ReadFull(resp.Body, half); err != nil {
			t.Fatalf("the first half: %v", err)
		}
		set(t, b, fakeupstream.Fault{})
		rest, err := io.ReadAll(resp.Body)
		if len(rest) != 500 || err != nil {
			t.Errorf("after the stall: got %d bytes, %v; want 500", len(rest), err)
		}
	})
}

func inMemory(t *testing.T, cfg fakeupstream.Config) (*fakeupstream.Backend, *http.Client, dial) {
	n := pipenet.New(1)
	cfg.Address, cfg.Listen = "10.0.0.2:80", n.Host("10.0.0.2").Listen
	d := n.Host("10.0.0.1").Dial
	return start(t, cfg), client(t, d), d
}

func TestSlowMultipliesTheLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c, _ := inMemory(t, fakeupstream.Config{Latency: 5 * time.Millisecond})
		for _, tc := range []struct {
			fault fakeupstream.Fault
			want  time.Duration
		}{
			{fakeupstream.Fault{}, 5 * time.Millisecond},
			{fakeupstream.Slow(10), 50 * time.Millisecond},
		} {
			set(t, b, tc.fault)
			at := time.Now()
			wantOK(t, c, "http://"+b.Addr())
			if got := time.Since(at); got != tc.want {
				t.Errorf("%+v: got %v, want %v", tc.fault, got, tc.want)
			}
		}
	})
}

func TestASlowTailSlowsItsShareAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c, _ := inMemory(t, fakeupstream.Config{Latency: 5 * time.Millisecond})
		set(t, b, fakeupstream.SlowTail(.25, 10))
		slow := 0
		for range 400 {
			at := time.Now()
			wantOK(t, c, "http://"+b.Addr())
			switch got := time.Since(at); got {
			case 5 * time.Millisecond:
			case 50 * time.Millisecond:
				slow++
			default:
				t.Fatalf("an answer took %v, want 5 or 50 ms", got)
			}
		}
		if slow < 60 || slow > 140 {
			t.Errorf("%d of 400 are slow, want a quarter", slow)
		}
	})
}

func TestAFaultOfAPathSparesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c, _ := inMemory(t, fakeupstream.Config{})
		f := fakeupstream.Errors(1)
		f.Path = "/bad/"
		set(t, b, f)
		wantOK(t, c, "http://"+b.Addr()+"/good/")
		status, _, err := get(t, c, "http://"+b.Addr()+"/bad/1")
		if err != nil || status != http.StatusInternalServerError {
			t.Errorf("got status %d, %v, want 500", status, err)
		}
	})
}

func TestAPauseDelaysEverythingAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c, _ := inMemory(t, fakeupstream.Config{})
		set(t, b, fakeupstream.Pauses(30*time.Second, 1500*time.Millisecond))
		at := time.Now()
		for _, tc := range []struct{ since, want time.Duration }{
			{10 * time.Second, 0},
			{28 * time.Second, 0},
			{29 * time.Second, time.Second},
			{59500 * time.Millisecond, 500 * time.Millisecond},
		} {
			time.Sleep(time.Until(at.Add(tc.since)))
			asked := time.Now()
			wantOK(t, c, "http://"+b.Addr())
			if got := time.Since(asked); got != tc.want {
				t.Errorf("asked %v after the beginning: got an answer after %v, want %v", tc.since, got, tc.want)
			}
		}
	})
}

func TestAFlapAlternates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, d := inMemory(t, fakeupstream.Config{})
		set(t, b, fakeupstream.Flap(fakeupstream.Crash(), 5*time.Second, 20*time.Second))
		for at, want := range []bool{false, true, true, true, true, false, true} { // each 5 s
			time.Sleep(2500 * time.Millisecond)
			c, err := d(t.Context(), "tcp", b.Addr())
			if got := err == nil; got != want {
				t.Errorf("after %d x 5 s: reachable %v, want %v", at, got, want)
			}
			if err == nil {
				c.Close()
			}
			time.Sleep(2500 * time.Millisecond)
		}
		set(t, b, fakeupstream.Fault{})
		time.Sleep(time.Minute)
		if c, err := d(t.Context(), "tcp", b.Addr()); err != nil {
			t.Errorf("after the fault has ended: %v", err)
		} else {
			c.Close()
		}
	})
}

func TestATCPBackendEchoes(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		cfg.Protocol = fakeupstream.TCP
		b := start(t, cfg)
		say := func(fault fakeupstream.Fault, text string) (string, error) {
			t.Helper()
			set(t, b, fault)
			c, err := d(t.Context(), "tcp", b.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, text); err != nil {
				t.Fatal(err)
			}
			c.(interface{ CloseWrite() error }).CloseWrite()
			got, err := io.ReadAll(c)
			return string(got), err
		}
		if got, err := say(fakeupstream.Fault{}, "hello"); got != "hello" || err != nil {
			t.Errorf("in health: got %q, %v", got, err)
		}
		if got, err := say(fakeupstream.Errors(1), "hello"); got != "" || err != nil {
			t.Errorf("an error: got %q, %v; want the end before any byte", got, err)
		}
		if got, err := say(fakeupstream.Fault{Body: fakeupstream.Cut}, "hello!"); got != "hel" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("cut: got %q, %v; want half of it and a reset", got, err)
		}
		if got := b.Counts(); got.Requests != 3 || got.Connections != 3 || got.Failed != 2 {
			t.Errorf("got %+v; want 3 requests on 3 connections, 2 failed", got)
		}
	})
}

func TestAConnectionWithoutAWordIsCountedApart(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		for _, p := range []fakeupstream.Protocol{fakeupstream.HTTP, fakeupstream.TCP} {
			cfg.Protocol = p
			b := start(t, cfg)
			c, err := d(t.Context(), "tcp", b.Addr())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			waitFor(t, func() bool { return b.Counts().Silent == 1 })
			if got := b.Counts(); got.Requests != 0 || got.Connections != 1 {
				t.Errorf("got %+v; want one silent connection", got)
			}
			b.Close()
		}
	})
}

func TestAfterCloseNothingIsLeft(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg fakeupstream.Config, d dial) {
		b := start(t, cfg)
		set(t, b, fakeupstream.Flap(fakeupstream.Hang(), time.Second, time.Second))
		c, err := d(t.Context(), "tcp", b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b.Close()
		if err := b.Set(fakeupstream.Fault{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("setting a fault after Close: got %v, want closed", err)
		}
		if _, err := d(t.Context(), "tcp", b.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialling after Close: got %v, want refused", err)
		}
	})
}

func TestABoundedCapacityServesInTurnAndTurnsAwayWhatCannotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c, _ := inMemory(t, fakeupstream.Config{Latency: 10 * time.Millisecond})
		set(t, b, fakeupstream.Overload(2, 4, 10))
		type answer struct {
			status int
			took   time.Duration
		}
		answers := make(chan answer, 8)
		for range cap(answers) {
			go func() {
				began := time.Now()
				status, _, err := get(t, c, "http://"+b.Addr()+"/")
				if err != nil {
					t.Error(err)
				}
				answers <- answer{status, time.Since(began)}
			}()
			synctest.Wait()
		}
		got := map[answer]int{}
		for range cap(answers) {
			got[<-answers]++
		}
		want := map[answer]int{{503, 0}: 2, {200, 100 * time.Millisecond}: 2, {200, 200 * time.Millisecond}: 2, {200, 300 * time.Millisecond}: 2}
		if !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		// A ping waits its turn, and who has left keeps no place.
		set(t, b, fakeupstream.Overload(1, 1, 100))
		ctx, cancel := context.WithCancel(t.Context())
		for range 2 {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.Addr()+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				if resp, err := c.Do(req); err == nil {
					resp.Body.Close()
					t.Error("a request that nobody waits for is answered")
				}
			}()
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
		began := time.Now()
		wantOK(t, c, "http://"+b.Addr()+"/healthz")
		if took := time.Since(began); took != time.Second {
			t.Errorf("a ping took %v, want 1s", took)
		}
	})
}
