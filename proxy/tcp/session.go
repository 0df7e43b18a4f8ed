package tcp

import (
	"context"
	"errors"
	"sync"
	"syscall"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/tunnel"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// session is one connection from client to server, with what it says about its
// endpoint.
type session struct {
	tunnel.Tunnel
	clock    clock.Clock
	endpoint *upstream.Endpoint
	flags    Flags // known when carry has returned

	mu      sync.Mutex // guards what follows
	attempt upstream.Attempt
	held    upstream.Attempt // counts the connection as load once attempt has ended
	ending  outlier.Ending   // of attempt
	class   outlier.Class
	halfway bool // the client has sent its end of stream
}

// carry moves bytes until both sides have ended, and closes them.
func (s *session) carry(ctx context.Context) {
	// The first byte from the server decides the attempt; the connection stays load of
	// its endpoint by an attempt that will say nothing.
	s.First = func() { s.decide(outlier.EndComplete, true) }
	s.Ended = s.ended
	s.Carry(ctx)
	s.held.End(outlier.Outcome{Class: outlier.Ignore, Now: s.clock.Now()})
}

func (s *session) ended(end tunnel.End, err error) {
	switch end {
	case tunnel.ClientDone:
		s.mu.Lock()
		s.halfway = true
		s.mu.Unlock()
	case tunnel.ServerDone:
		s.decide(s.silent(), false)
	case tunnel.ClientLost:
		s.decide(outlier.EndClientAbort, false)
		s.flags |= DownstreamTermination
	case tunnel.ServerLost:
		s.decide(s.lost(err), false)
		s.flags |= UpstreamTermination
	case tunnel.NoFirstByte:
		s.decide(outlier.EndFirstByteTimeout, false)
		s.flags |= UpstreamTimeout
	case tunnel.Idle:
		s.decide(outlier.EndMaxDuration, false)
		s.flags |= IdleTimeout
	case tunnel.Stopped:
		s.decide(outlier.EndLocalLimit, false)
		s.flags |= LocalReset
	}
}

// lost is the ending of a connection that the server reset. From behind an inbound
// sidecar that is how a refused connection looks, as long as nothing else has come.
func (s *session) lost(err error) outlier.Ending {
	if s.endpoint.Inbound && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
		return outlier.EndConnectRefused
	}
	return s.silent()
}

// silent is the ending of a connection that the server ends before its first
// byte. A client that had ended before it asked for no answer.
func (s *session) silent() outlier.Ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.halfway:
		return outlier.EndClientAbort
	case s.Asked():
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
		ClientSent: s.Asked(),
		Age:        now - s.attempt.Started(),
	}
	s.ending, s.class = ending, outlier.ClassifyTCP(result)
	s.held = s.endpoint.Begin(now, false)
	s.attempt.End(outlier.Outcome{Class: s.class, Level: result.Level(), Now: now, Conn: s.Server.Hash()})
}
