package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/overhear-mesh/overhear/outlier"
)

// ErrTooManyConnections is that Options.MaxConns are open.
var ErrTooManyConnections = errors.New("too many connections")

var errConnectTimeout = errors.New("connect timeout")

// ConnectError is why there is no connection.
type ConnectError struct {
	Ending outlier.Ending // what that says about the endpoint
	Err    error
	Detail string // what Ending cannot say; often empty
}

func (e *ConnectError) Error() string { return fmt.Sprintf("connect: %v", e.Err) }

func (e *ConnectError) Unwrap() error { return e.Err }

// ConnectEnding is what an error of Get or Fresh says about the endpoint.
func ConnectEnding(err error) outlier.Ending {
	if e, ok := errors.AsType[*ConnectError](err); ok {
		return e.Ending
	}
	return Ending(err)
}

// StreamError is why a part of a connection has ended; see Endpoint.Lend.
type StreamError struct {
	Ending outlier.Ending // what that says about the endpoint
	// Retry is the ending to decide a retry by, if that is another one: of many that
	// have lost their connection only one is charged with it.
	Retry outlier.Ending
}

func (e *StreamError) Error() string { return fmt.Sprintf("stream ended (%v)", e.Ending) }

// GivenUp is the cause to cancel a context with, when an attempt that may still
// be waiting for its connection is given up: the ConnectError of Get then has
// this ending.
func GivenUp(ending outlier.Ending) error { return &givenUp{ending} }

type givenUp struct{ ending outlier.Ending }

func (g *givenUp) Error() string { return fmt.Sprintf("given up (%v)", g.ending) }

// Given is the error of a dial whose caller stopped waiting. Without a cause of
// ours, a deadline is the request's and a cancellation the client's.
func Given(ctx context.Context, err error) *ConnectError {
	ending := outlier.EndClientAbort
	cause := context.Cause(ctx)
	if g, ok := errors.AsType[*givenUp](cause); ok {
		ending = g.ending
	} else if errors.Is(cause, context.DeadlineExceeded) {
		ending = outlier.EndRouteTimeout
	}
	return &ConnectError{Ending: ending, Err: err}
}

// errnos sorts what the kernel says. Own means that this machine is at fault:
// such an attempt never reached the endpoint and is no evidence against it.
var errnos = map[syscall.Errno]outlier.Ending{
	syscall.ECONNREFUSED: outlier.EndConnectRefused,

	syscall.EHOSTUNREACH: outlier.EndUnreachable,
	syscall.ENETUNREACH:  outlier.EndUnreachable,
	syscall.EHOSTDOWN:    outlier.EndUnreachable,

	syscall.ECONNRESET:   outlier.EndResetBeforeHeaders,
	syscall.ECONNABORTED: outlier.EndResetBeforeHeaders,
	syscall.EPIPE:        outlier.EndResetBeforeHeaders,

	syscall.EMFILE:        outlier.EndOwnErrno,
	syscall.ENFILE:        outlier.EndOwnErrno,
	syscall.EADDRNOTAVAIL: outlier.EndOwnErrno, // no local port left
	syscall.EADDRINUSE:    outlier.EndOwnErrno,
	syscall.ENOBUFS:       outlier.EndOwnErrno,
	syscall.ENOMEM:        outlier.EndOwnErrno,
	syscall.ENETDOWN:      outlier.EndOwnErrno, // our link
	syscall.EACCES:        outlier.EndOwnErrno, // our firewall
	syscall.EPERM:         outlier.EndOwnErrno,
	syscall.EAFNOSUPPORT:  outlier.EndOwnErrno,
	syscall.EINVAL:        outlier.EndOwnErrno,
}

// Ending says what an error of connecting, or of an exchange before the first
// byte of an answer, means for the endpoint.
func Ending(err error) outlier.Ending {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		if ending, known := errnos[errno]; known {
			return ending
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return outlier.EndClientAbort
	case errors.Is(err, net.ErrClosed):
		return outlier.EndLocalLimit // we closed it ourselves
	case isTimeout(err):
		return outlier.EndConnectTimeout
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return outlier.EndUnreachable
		}
		return outlier.EndOwnErrno // it is our resolver that fails
	}
	return outlier.EndResetBeforeHeaders // io.EOF, io.ErrClosedPipe and the like
}

// isTimeout: an established connection that the kernel gave up (ETIMEDOUT of a
// read or write) is lost, not slow to open.
func isTimeout(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op != "dial" && errors.Is(err, syscall.ETIMEDOUT) {
		return false
	}
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT)
}
