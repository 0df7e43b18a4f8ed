package grpcstats

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/outlier"
)

// attempt is one attempt of a call. It is the context of its own events, so that it takes
// one allocation. Its events come from the caller's goroutine and from that of the
// connection, and headers may be read before it is known that they were sent.
type attempt struct {
	context.Context
	channel *channel
	route   uint16

	mu       sync.Mutex        // guards what follows
	endpoint *outlier.Endpoint // nil: it has none, or has ended
	count    outlier.Attempt
	deadline time.Duration // 0: none
	head     time.Duration // when headers came; 0: not yet
	trailed  bool          // the server has sent a status
	pushback bool
}

type attemptKey struct{}

// Value finds the attempt in its own context.
func (a *attempt) Value(key any) any {
	if key == (attemptKey{}) {
		return a
	}
	return a.Context.Value(key)
}

// TagRPC begins an attempt.
func (c *channel) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return &attempt{Context: ctx, channel: c, route: c.route(info.FullMethodName)}
}

// HandleRPC takes in what happens to an attempt.
func (c *channel) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.OutHeader:
		if a := of(ctx); a != nil && s.Client {
			a.sent(s)
		}
	case *stats.InHeader:
		if a := of(ctx); a != nil && s.Client {
			a.headers()
		}
	case *stats.InTrailer:
		if a := of(ctx); a != nil && s.Client {
			a.trailer(s)
		}
	case *stats.End:
		if a := of(ctx); a != nil && s.Client {
			a.end(s)
		}
	}
}

func of(ctx context.Context) *attempt {
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	return a
}

// sent begins to count: now the attempt has an endpoint.
func (a *attempt) sent(s *stats.OutHeader) {
	at, ok := addressOf(s.RemoteAddr)
	if !ok {
		return
	}
	e := (*a.channel.known.Load())[at]
	if e == nil {
		return // one too many, or its connection is already forgotten
	}
	now := a.channel.reporter.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	deadline, limited := a.Deadline()
	if limited {
		a.deadline = deadline.Sub(a.channel.reporter.epoch)
		a.channel.deadlined(a.deadline - now)
	}
	if a.head > 0 {
		now = min(now, a.head)
	}
	a.endpoint, a.count = e, e.StartOn(a.route, now, limited)
	if a.head > 0 {
		e.Headers(&a.count, a.head)
	}
}

func (a *attempt) headers() {
	now := a.channel.reporter.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.head = now
	if a.endpoint != nil {
		a.endpoint.Headers(&a.count, now)
	}
}

func (a *attempt) trailer(s *stats.InTrailer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trailed = true
	a.pushback = len(s.Trailer.Get("grpc-retry-pushback-ms")) > 0
}

func (a *attempt) end(s *stats.End) {
	now := s.EndTime.Sub(a.channel.reporter.epoch)
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.endpoint
	if e == nil {
		return
	}
	a.endpoint = nil
	r := outlier.HTTPResult{
		GRPC: true, GRPCStatusSeen: true, Pushback: a.pushback, HeadersSeen: a.head > 0,
		Age: now - a.count.Started(), Overdue: a.channel.due(e.Overdue(a.route)),
		ShortDeadline: a.deadline > 0 && a.deadline-a.count.Started() < e.Median(),
	}
	switch {
	case s.Error != nil:
		st := status.Convert(s.Error)
		r.GRPCStatus = int(st.Code())
		ctx := a.Err()
		r.Ending = circumstances{
			left:    errors.Is(ctx, context.Canceled),
			late:    errors.Is(ctx, context.DeadlineExceeded) || a.deadline > 0 && now >= a.deadline,
			trailed: a.trailed, answered: a.head > 0,
		}.ending(st)
	case !a.trailed:
		// The stream was over before all of the request was sent, and gRPC does not say
		// how: its error is the end of the stream, which here is none.
		r.Ending = outlier.EndLocalLimit
	}
	wake := e.End(&a.count, outlier.Outcome{
		Class: outlier.ClassifyHTTP(r), Now: now, Level: r.Level(), Gateway: r.Gateway(), Route: a.route,
	})
	if wake {
		a.channel.look.Store(true)
		a.channel.reporter.wake()
	}
}

// Texts by which gRPC's errors are told apart. Statuses of its own making have no other
// mark; which they are is checked with a real client.
const (
	textTooLarge  = "message larger than max"
	textReset     = "stream terminated by RST_STREAM with error code: "
	textClosing   = "the client connection is closing"
	textKeepalive = "keepalive ping failed"
	textRejected  = "the stream is rejected because server is draining the connection"
	textCalm      = "received prior goaway: code: ENHANCE_YOUR_CALM"
)

// resets are the codes of RST_STREAM that mean something else than a broken answer
// (RFC 9113 §7).
var resets = map[string]uint32{"REFUSED_STREAM": 0x7, "ENHANCE_YOUR_CALM": 0xb, "HTTP_1_1_REQUIRED": 0xd}

// circumstances are those in which an attempt came to an end that has an error.
type circumstances struct {
	left, late bool // the caller has left, or its deadline has come
	trailed    bool // the server has sent a status
	answered   bool // its headers had come
}

func (in circumstances) ending(st *status.Status) outlier.Ending {
	switch {
	case st.Code() == codes.Canceled && in.left:
		return outlier.EndClientAbort
	case st.Code() == codes.DeadlineExceeded && in.late:
		return outlier.EndRouteTimeout
	}
	text := st.Message()
	if strings.Contains(text, textTooLarge) {
		return outlier.EndLocalLimit // of the caller, or of the server for what the caller sent
	}
	if in.trailed {
		return outlier.EndComplete
	}
	if _, code, ok := strings.Cut(text, textReset); ok {
		code, _, _ = strings.Cut(code, " ")
		return outlier.StreamReset(resets[code])
	}
	switch {
	case strings.Contains(text, textClosing):
		return outlier.EndLocalLimit // by ourselves
	case strings.Contains(text, textKeepalive):
		return outlier.EndPingFailed
	case strings.Contains(text, textRejected):
		return outlier.EndGoAwayUnprocessed
	case strings.Contains(text, textCalm):
		return outlier.EndEnhanceYourCalm
	}
	switch st.Code() {
	case codes.Unavailable:
		if in.answered {
			return outlier.EndBodyCut
		}
		return outlier.EndConnectionLost
	case codes.DeadlineExceeded:
		return outlier.EndRouteTimeout
	case codes.Internal, codes.DataLoss, codes.Unknown:
		return outlier.EndBadFraming
	default:
		// What gRPC says by itself of a message: too large, no such compressor.
		return outlier.EndLocalLimit
	}
}
