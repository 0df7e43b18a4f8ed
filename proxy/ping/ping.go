package ping

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// Want is what counts as a sign of life.
type Want uint8

const (
	Connected Want = iota // the connection is accepted
	Held                  // and not reset at once
	Answered              // the application itself answers, whatever it says
	Good                  // it says that it is well: a status of 200-399, or SERVING
)

// Target is one endpoint to ask.
type Target struct {
	Address string // host:port
	Want    Want
	// GRPC: Answered and Good ask by grpc.health.v1.Health/Check for Service
	// ("": the whole server), else by a GET of Path ("" is "/").
	GRPC          bool
	Path, Service string
	Host          string // to be asked for; "" is Address
	// Trial: whether a ping can tell anything is what is to be learned. A server
	// without a health service then fails; else that answer is a sign of life.
	Trial bool
	// Inbound: an inbound sidecar answers at Address, whose mark in a response
	// is to be believed.
	Inbound bool
}

// Dial opens a connection.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// linger is how long Held stays on a connection: an inbound sidecar needs a
// local connect, far below a millisecond, to learn that nobody listens.
const linger = 50 * time.Millisecond

// maxHead bounds what is read of an answer.
const maxHead = 64 << 10

// Ping asks t once. It returns when it knows, or when ctx ends: by its deadline
// the ping has timed out, by cancellation it was not run.
func Ping(ctx context.Context, dial Dial, t Target) outlier.ProbeResult {
	c, err := dial(ctx, "tcp", t.Address)
	if err != nil {
		return failed(ctx, err)
	}
	defer func() { _ = c.Close() }()
	// Closing is the one way to stop a read that works on every net.Conn
	// whatever deadline it is under.
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	switch t.Want {
	case Held:
		return hold(ctx, c)
	case Answered, Good:
		if t.GRPC {
			return call(ctx, c, t)
		}
		return get(ctx, c, t)
	}
	return outlier.ProbeOK
}

// hold waits a moment for a reset.
func hold(ctx context.Context, c net.Conn) outlier.ProbeResult {
	quiet, cancel := context.WithTimeout(ctx, linger)
	defer cancel()
	deadline, _ := quiet.Deadline()
	if err := c.SetReadDeadline(deadline); err != nil {
		return failed(ctx, err)
	}
	_, err := c.Read(make([]byte, 1))
	switch result := failed(quiet, err); {
	case err == nil, errors.Is(err, io.EOF), result == outlier.TimedOut:
		return outlier.ProbeOK
	case result == outlier.Reset:
		return outlier.Refused // by the application, in its sidecar's words
	default:
		return result
	}
}

// get sends a GET and judges the head of the answer.
func get(ctx context.Context, c net.Conn, t Target) outlier.ProbeResult {
	path, host := t.Path, t.Host
	if path == "" {
		path = "/"
	}
	if host == "" {
		host = t.Address
	}
	request := "GET " + path + " HTTP/1.1\r\nhost: " + host + "\r\nuser-agent: overhear-ping\r\naccept: */*\r\nconnection: close\r\n\r\n"
	if _, err := io.WriteString(c, request); err != nil {
		return failed(ctx, err)
	}
	r := bufio.NewReader(io.LimitReader(c, maxHead))
	for {
		answer, err := http.ReadResponse(r, nil) //nolint:bodyclose // Close would read the body to its end; the connection ends instead
		if err != nil {
			return failed(ctx, err)
		}
		if answer.StatusCode >= 100 && answer.StatusCode < 200 && answer.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		return judge(answer, t)
	}
}

// originHeader carries the mark by which an inbound sidecar says that it, and
// not the application, answers.
const originHeader = "x-overhear-origin"

// marked is what the mark says, where one is to be believed; ProbeOK without.
func marked(t Target, origin string) outlier.ProbeResult {
	if t.Inbound {
		switch origin {
		case outlier.OriginRefused:
			return outlier.Refused
		case outlier.OriginReset:
			return outlier.Reset
		case outlier.OriginTimeout:
			return outlier.TimedOut
		}
	}
	return outlier.ProbeOK
}

// judge is what the head of an answer says.
func judge(answer *http.Response, t Target) outlier.ProbeResult {
	if r := marked(t, answer.Header.Get(originHeader)); r != outlier.ProbeOK {
		return r
	}
	if t.Want == Answered || answer.StatusCode >= 200 && answer.StatusCode < 400 {
		return outlier.ProbeOK
	}
	return outlier.Unhealthy
}

// failed is the result of a ping that ended in err.
func failed(ctx context.Context, err error) outlier.ProbeResult {
	// An error after ctx ended is of our own making.
	switch ctx.Err() {
	case context.DeadlineExceeded:
		return outlier.TimedOut
	case context.Canceled:
		return outlier.NotRun
	}
	switch upstream.Ending(err) {
	case outlier.EndConnectRefused:
		return outlier.Refused
	case outlier.EndUnreachable:
		return outlier.Unreachable
	case outlier.EndTLS:
		return outlier.TLSFailed
	case outlier.EndConnectTimeout:
		return outlier.TimedOut
	case outlier.EndOwnErrno, outlier.EndLocalLimit, outlier.EndClientAbort:
		return outlier.NotRun
	}
	return outlier.Reset
}
