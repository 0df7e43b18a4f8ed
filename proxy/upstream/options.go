package upstream

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// Options is how the connections of a cluster's endpoints are opened and kept.
type Options struct {
	// Dial opens a connection; nil is not allowed.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// ConnectTimeout bounds the opening of one connection; default 1s, 0 is
	// none.
	ConnectTimeout time.Duration
	// IdleTimeout is how long a connection is kept without a request; default
	// 30s, 0 is for ever. Below the server's own, it avoids the race between a
	// request and the server's close.
	IdleTimeout time.Duration
	// MaxIdle is how many connections may lie idle; default 256, 0 is none.
	MaxIdle int
	// MaxConns is how many connections may be open at once; default 4096, 0 is
	// no limit. One more is refused with ErrTooManyConnections; see Endpoint.Await.
	MaxConns int
	// RefusedWait is for how long, at most, a connection that is open already is
	// waited for when the endpoint refuses a new one; default 0, not at all. It is
	// for an endpoint without an alternative: the local application of an inbound
	// sidecar, which must not look dead as long as it answers.
	RefusedWait time.Duration
	// KeepAlive is after what silence the kernel asks the peer whether it is
	// still there; it gives up after twice as long. Default 15s, 0 leaves it to
	// Dial.
	KeepAlive time.Duration
	// HTTP2 says that the endpoint speaks HTTP/2, and that connections are shared.
	HTTP2 bool
	// Lifetime bounds the use of one connection. For MaxDuration there must be Now.
	Lifetime Lifetime
	// Now is the clock of the instants that endpoints are given; nil: there is none.
	Now func() time.Duration
	// Watch notices what happens to idle connections; nil: nobody does.
	Watch *Watch
	// Hint is told of an endpoint that has closed an idle connection as one does that
	// dies, and owes it a probe, of which Endpoint.Hinted is told. It must not block.
	// nil: nobody wants to know.
	Hint func(*Endpoint)
	// Resting is true while nobody looks at the counters for lack of anything to see:
	// the attempt that begins then makes it false and wakes who rests. nil: nobody does.
	Resting *atomic.Bool
}

// DefaultOptions dials by the standard library.
func DefaultOptions() Options {
	return Options{
		Dial:           new(net.Dialer).DialContext,
		ConnectTimeout: time.Second,
		IdleTimeout:    30 * time.Second,
		MaxIdle:        256,
		MaxConns:       4096,
		KeepAlive:      15 * time.Second,
	}
}
