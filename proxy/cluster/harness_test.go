package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// mesh is one cluster on an in-memory network, with as many servers as it needs.
type mesh struct {
	t       *testing.T
	net     *pipenet.Network
	clock   clock.Clock
	cluster *cluster.Cluster
	servers []*server
	log     *lockedBuffer
	stop    context.CancelFunc
	stopped chan error
	quit    chan struct{} // closed at the end of the test

	mu     sync.Mutex
	events []cluster.Event
}

// inMesh runs body in a bubble with a running cluster of n servers. When body
// returns the cluster is stopped, and whatever goroutine is left fails the test.
func inMesh(t *testing.T, n int, edit func(*cluster.Config), body func(*mesh)) {
	t.Helper()
	inMeshOf(t, n, cluster.Deps{}, edit, body)
}

// inMeshOf is inMesh for a sidecar that deps say more of.
func inMeshOf(t *testing.T, n int, deps cluster.Deps, edit func(*cluster.Config), body func(*mesh)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &mesh{t: t, net: pipenet.New(1), clock: clock.New(), log: new(lockedBuffer), stopped: make(chan error, 1), quit: make(chan struct{})}
		m.net.Delay("*", "*", 500*time.Microsecond, 200*time.Microsecond)
		for i := range n {
			m.servers = append(m.servers, newServer(t, m.net, fmt.Sprintf("10.0.1.%d", i+1)))
		}
		cfg := cluster.DefaultConfig()
		cfg.Name = "api"
		cfg.Protocol = cluster.TCP
		if edit != nil {
			edit(&cfg)
		}
		deps.Clock, deps.Dial, deps.Log, deps.Seed = m.clock, m.net.Host("10.0.0.1").Dial, logTo(m.log), 1
		deps.Watch = upstream.NewWatch(m.clock)
		m.cluster = cluster.New(cfg, deps)
		m.cluster.Subscribe(func(e cluster.Event) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.events = append(m.events, e)
		})
		m.cluster.Update(m.specs())
		ctx, cancel := context.WithCancel(t.Context())
		m.stop = cancel
		go func() { m.stopped <- m.cluster.Run(ctx) }()
		synctest.Wait()
		defer m.end() // also when body gives up
		body(m)
	})
}

func (m *mesh) end() {
	close(m.quit)
	m.stop()
	if err := <-m.stopped; err != nil {
		m.t.Errorf("Run = %v, want nil", err)
	}
	for _, s := range m.servers {
		s.crash()
	}
}

func (m *mesh) specs() []cluster.Spec {
	var specs []cluster.Spec
	for _, s := range m.servers {
		specs = append(specs, cluster.Spec{ID: s.id, Address: s.address, Weight: 1})
	}
	return specs
}

// update gives the cluster another set and waits until it is in use.
func (m *mesh) update(specs []cluster.Spec) {
	m.cluster.Update(specs)
	synctest.Wait()
}

// request is one request with up to three tries. It returns where the tries went.
func (m *mesh) request() (path []string, class outlier.Class) {
	var tried cluster.Tried
	for range 3 {
		now := m.clock.Now()
		e := m.cluster.Pick(now, &tried)
		if e == nil {
			return path, outlier.Ignore
		}
		tried.Add(e)
		path = append(path, e.ID)
		if class = m.attempt(e, now); class != outlier.Conn {
			break
		}
	}
	return path, class
}

// attempt sends one byte to e and waits up to two seconds for its echo.
func (m *mesh) attempt(e *upstream.Endpoint, now time.Duration) outlier.Class {
	a := e.Begin(now, true)
	end := func(class outlier.Class, c *upstream.Conn) outlier.Class {
		o := outlier.Outcome{Class: class, Now: m.clock.Now()}
		if c != nil {
			o.Conn = c.Hash()
		}
		a.End(o)
		return class
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*time.Second)
	defer cancel()
	c, _, err := e.Get(ctx, now)
	if err != nil {
		return end(outlier.Conn, nil)
	}
	c.SetDeadline(time.Now().Add(2 * time.Second))
	b := []byte{'k'}
	if _, err = c.Write(b); err == nil {
		_, err = c.Read(b)
	}
	switch {
	case err == nil && b[0] == 'k':
		a.Headers(m.clock.Now())
		end(outlier.OK, c)
		e.Put(c, m.clock.Now())
		return outlier.OK
	case err == nil:
		a.Headers(m.clock.Now())
		end(outlier.Server, c)
		e.Put(c, m.clock.Now())
		return outlier.Server
	}
	defer c.Discard()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return end(outlier.Timeout, c)
	}
	return end(outlier.Conn, c)
}

// traffic sends requests at a rate in the background until the function that it
// returns is called, which returns how they went, by class of the last try.
func (m *mesh) traffic(perSecond int) (stop func() map[outlier.Class]int) {
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		classes = make(map[outlier.Class]int)
	)
	quit := make(chan struct{})
	wg.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-m.quit:
				return
			case <-tick.C:
			}
			wg.Go(func() {
				_, class := m.request()
				mu.Lock()
				defer mu.Unlock()
				classes[class]++
			})
		}
	})
	return func() map[outlier.Class]int {
		close(quit)
		wg.Wait()
		return classes
	}
}

// status is what the cluster believes of server i.
func (m *mesh) status(i int) cluster.EndpointStatus {
	m.t.Helper()
	for _, e := range m.cluster.Snapshot().Endpoints {
		if e.ID == m.servers[i].id {
			return e
		}
	}
	m.t.Fatalf("server %d is not in the snapshot", i)
	return cluster.EndpointStatus{}
}

// endpoint is server i, wherever the balancer would go.
func (m *mesh) endpoint(i int) *upstream.Endpoint {
	m.t.Helper()
	for range 1000 {
		if e := m.cluster.Pick(m.clock.Now(), nil); e != nil && e.ID == m.servers[i].id {
			return e
		}
	}
	m.t.Fatalf("server %d is never picked", i)
	return nil
}

// await waits until ok, looking each millisecond for at most limit, and returns
// how long that took.
func (m *mesh) await(what string, limit time.Duration, ok func() bool) time.Duration {
	m.t.Helper()
	start := m.clock.Now()
	for !ok() {
		if m.clock.Now()-start > limit {
			m.t.Fatalf("%s: not within %v; log:\n%s", what, limit, m.log)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
	}
	return m.clock.Now() - start
}

// awaitState waits until the first server is in that state.
func (m *mesh) awaitState(state outlier.State, limit time.Duration) time.Duration {
	m.t.Helper()
	return m.await("the first server is "+state.String(), limit, func() bool { return m.status(0).State == state })
}

// picks returns how many of n picks each server got.
func (m *mesh) picks(n int) map[string]int {
	got := make(map[string]int)
	for range n {
		if e := m.cluster.Pick(m.clock.Now(), nil); e != nil {
			got[e.ID]++
		}
	}
	return got
}

// changes are the changes of belief so far that were carried out.
func (m *mesh) changes() (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		for _, c := range e.Changes {
			if c.Refused == "" {
				out = append(out, fmt.Sprintf("%s %v>%v", c.ID, c.From, c.To))
			}
		}
	}
	return out
}

// pings are the idle pings so far.
func (m *mesh) pings() (out []cluster.Pinged) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		out = append(out, e.Pings...)
	}
	return out
}

// server echoes bytes, well or badly.
type server struct {
	t           *testing.T
	host        *pipenet.Host
	id, address string
	accepted    atomic.Int64
	served      atomic.Int64 // bytes
	hang        atomic.Bool  // accept and never answer
	fail        atomic.Bool  // answer with an error
	reset       atomic.Bool  // reset what is accepted, as an inbound sidecar does whose application is dead

	mu    sync.Mutex
	thaw  chan struct{} // closed when a hang ends
	conns []*pipenet.Conn
	ln    net.Listener
}

func newServer(t *testing.T, n *pipenet.Network, ip string) *server {
	s := &server{t: t, host: n.Host(ip), id: "i-" + ip[strings.LastIndexByte(ip, '.')+1:], address: ip + ":80", thaw: make(chan struct{})}
	s.start()
	return s
}

func (s *server) start() {
	ln, err := s.host.Listen(context.Background(), "tcp", ":80")
	if err != nil {
		s.t.Fatal(err)
	}
	s.ln = ln
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.mu.Lock()
			s.conns = append(s.conns, c.(*pipenet.Conn))
			s.mu.Unlock()
			go s.serve(c.(*pipenet.Conn))
		}
	}()
}

func (s *server) serve(c *pipenet.Conn) {
	defer c.Close()
	if s.reset.Load() {
		_ = c.Reset()
		return
	}
	for b := make([]byte, 1); ; {
		if _, err := c.Read(b); err != nil {
			return
		}
		if s.hang.Load() {
			s.mu.Lock()
			thaw := s.thaw
			s.mu.Unlock()
			<-thaw
		}
		if s.fail.Load() {
			b[0] = 'e'
		}
		s.served.Add(1)
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// crash ends the server as the end of its process does.
func (s *server) crash() {
	s.unhang()
	s.host.Crash()
}

// deafen closes the listener; connections live on.
func (s *server) deafen() { s.ln.Close() }

// shed closes the n oldest connections, or all, in good order.
func (s *server) shed(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns[:min(n, len(s.conns))] {
		_ = c.Close()
	}
}

func (s *server) unhang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hang.Store(false)
	close(s.thaw)
	s.thaw = make(chan struct{})
}

func logTo(b *lockedBuffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
