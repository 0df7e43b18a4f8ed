package http1

import (
	"context"
	"net"
	"sync"
	"sync/atomic"

	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// Server speaks HTTP/1.1 with the clients of one listener. Its methods may be
// called from any goroutine.
type Server struct {
	cfg      Config
	deps     exchange.Deps
	limits   limits
	wheel    *wheel.Wheel
	draining atomic.Bool

	mu    sync.Mutex // guards conns
	conns map[*conn]struct{}
}

// NewServer makes a server. It starts nothing. cfg must be valid.
func NewServer(cfg Config, deps exchange.Deps) *Server {
	if deps.Metrics == nil {
		deps.Metrics = &exchange.Metrics{}
	}
	return &Server{
		cfg:    cfg,
		deps:   deps,
		limits: limits{bytes: int(cfg.MaxHead), fields: cfg.MaxFields},
		wheel:  wheel.New(deps.Clock),
		conns:  make(map[*conn]struct{}),
	}
}

// ServeConn serves the requests of one client, one after the other, until either
// side has enough. It closes nc and returns when everything that it has started
// has ended. The end of ctx breaks off what is under way.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) {
	c := newConn(s, nc)
	s.track(c, true)
	if c.major == 1 { // else it is a stream of a connection that has been counted
		s.deps.Metrics.Connections.Add(1)
		defer s.deps.Metrics.Connections.Add(-1)
	}
	broken := make(chan struct{})
	unbreak := context.AfterFunc(ctx, func() {
		defer close(broken)
		c.guard.shut()
	})
	defer func() {
		s.wheel.Remove(&c.guard.timer)
		s.track(c, false)
		_ = nc.Close()
		if !unbreak() {
			<-broken
		}
		c.guard.close()
		c.release()
	}()
	c.live(ctx)
}

// Drain asks every client to go: what is under way finishes and is answered with
// `connection: close`, and connections without a request are closed after
// Config.DrainIdleTimeout. It returns at once, and may be called again.
func (s *Server) Drain() {
	if s.draining.Swap(true) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.guard.hurry(s.deps.Clock.Now() + s.cfg.DrainIdleTimeout)
	}
}

func (s *Server) track(c *conn, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if open {
		s.conns[c] = struct{}{}
	} else {
		delete(s.conns, c)
	}
}
