package tcp

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

const (
	// idleTicks is into how many parts the idle time-out is divided: how often a
	// connection is looked at, and by how much the time-out may be late. Looking
	// now and then is cheaper than a deadline for each read.
	idleTicks = 4

	// spliceIdle is the idle time-out below which data is not handed to the
	// kernel, which does not say how far it has come: a slow reader would look
	// idle.
	spliceIdle = 30 * time.Second
)

// session is one connection from client to server.
type session struct {
	clock     clock.Clock
	idle      time.Duration
	client    net.Conn
	server    *upstream.Conn
	endpoint  *upstream.Endpoint
	up        direction // from client to server
	down      direction
	firstByte *time.Timer // nil: nobody waits for it

	mu        sync.Mutex // guards what follows
	attempt   upstream.Attempt
	held      upstream.Attempt // counts the connection as load once attempt has ended
	ending    outlier.Ending   // of attempt
	class     outlier.Class
	halfway   bool // the client has sent its end of stream
	over      bool // both sides are closed or being closed
	flags     Flags
	watch     *time.Timer // the idle time-out's next look; nil: none
	lastMoved int64       // bytes at its last look
	quiet     int         // looks without a byte in between
}

// carry moves bytes until both sides have ended, and closes them.
func (s *session) carry(ctx context.Context, firstByte time.Duration) {
	spliced := s.idle == 0 || s.idle >= spliceIdle
	s.up.connect(s.client, s.server.Conn, spliced)
	s.down.connect(s.server.Conn, s.client, spliced)
	s.down.first = s.answered

	unwatch := context.AfterFunc(ctx, func() { s.abort(outlier.EndLocalLimit, LocalReset) })
	defer unwatch()
	if s.idle > 0 {
		s.mu.Lock() // look waits until watch is set
		s.watch = time.AfterFunc(s.idle/idleTicks, s.look)
		s.mu.Unlock()
	}
	if firstByte > 0 {
		s.firstByte = time.AfterFunc(firstByte, func() { s.abort(outlier.EndFirstByteTimeout, UpstreamTimeout) })
		defer s.firstByte.Stop()
	}

	var wg sync.WaitGroup
	wg.Go(s.fromServer)
	s.fromClient()
	wg.Wait()
	s.finish()
}

func (s *session) fromClient() {
	switch end, err := s.up.copy(); end {
	case endOfStream:
		s.mu.Lock()
		s.halfway = true
		s.mu.Unlock()
		s.up.finish()
	case readFailed:
		s.abort(outlier.EndClientAbort, DownstreamTermination)
	case writeFailed:
		s.lost(err)
	}
}

func (s *session) fromServer() {
	switch end, err := s.down.copy(); end {
	case endOfStream:
		s.decide(s.silent(), false)
		s.down.finish()
	case readFailed:
		s.lost(err)
	case writeFailed:
		s.abort(outlier.EndClientAbort, DownstreamTermination)
	}
}

// answered is the first byte from the server. It decides the attempt; the
// connection stays load of its endpoint by an attempt that will say nothing.
func (s *session) answered() {
	if s.firstByte != nil {
		s.firstByte.Stop()
	}
	s.decide(outlier.EndComplete, true)
}

// lost is a server that reset the connection. From behind an inbound sidecar
// that is how a refused connection looks, as long as nothing else has come.
func (s *session) lost(err error) {
	ending := s.silent()
	if s.endpoint.Inbound && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
		ending = outlier.EndConnectRefused
	}
	s.abort(ending, UpstreamTermination)
}

// silent is the ending of a connection that the server ends before its first
// byte. A client that had ended before it asked for no answer.
func (s *session) silent() outlier.Ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.halfway:
		return outlier.EndClientAbort
	case s.up.began.Load():
		return outlier.EndPeerClosedSilent
	}
	return outlier.EndPeerClosedUntouched
}

// decide says how the attempt went. Only the first call counts.
func (s *session) decide(ending outlier.Ending, firstByte bool) {
	now := s.clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attempt.Ended() {
		return
	}
	result := outlier.TCPResult{
		Ending:     ending,
		FirstByte:  firstByte,
		ClientSent: s.up.began.Load(),
		Age:        now - s.attempt.Started(),
	}
	s.ending, s.class = ending, outlier.ClassifyTCP(result)
	s.held = s.endpoint.Begin(now, false)
	s.attempt.End(outlier.Outcome{Class: s.class, Level: result.Level(), Now: now, Conn: s.server.Hash()})
}

// abort ends both sides by a reset, once.
func (s *session) abort(ending outlier.Ending, flag Flags) {
	s.decide(ending, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over = true
	s.flags |= flag
	setLingerZero(s.client)
	_ = s.client.Close()
	setLingerZero(s.server.Conn)
	s.server.Discard()
}

// finish closes what has ended by itself.
func (s *session) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.watch != nil {
		s.watch.Stop()
	}
	_ = s.client.Close()
	s.server.Discard()
	s.held.End(outlier.Outcome{Class: outlier.Ignore, Now: s.clock.Now()})
}

// look ends a connection that has been idle for too long.
func (s *session) look() {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	moved := s.up.moved.Load() + s.down.moved.Load()
	if moved == s.lastMoved {
		s.quiet++
	} else {
		s.lastMoved, s.quiet = moved, 0
	}
	idle := s.quiet >= idleTicks
	if !idle {
		s.watch.Reset(s.idle / idleTicks)
	}
	s.mu.Unlock()
	if idle {
		s.abort(outlier.EndMaxDuration, IdleTimeout)
	}
}

// setLingerZero makes Close reset the peer.
func setLingerZero(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
}
