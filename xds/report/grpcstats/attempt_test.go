package grpcstats

import (
	"context"
	"errors"
	"hash/maphash"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/outlier"
)

// silent is a reporter that nobody hears and whose loop does not run, with one endpoint.
func silent() (c *channel, e *outlier.Endpoint, addr net.Addr) {
	at := netip.MustParseAddrPort(serverAddr)
	r := &Reporter{epoch: time.Now(), self: outlier.NewSelf(), seed: maphash.MakeSeed(), woken: make(chan struct{}, 1), channels: map[string]*channel{}}
	c = r.Handler("xds:///api").(*channel)
	c.connected(at)
	return c, (*c.known.Load())[at], net.TCPAddrFromAddrPort(at)
}

// events are those of a call that succeeds.
type events struct {
	tag     stats.RPCTagInfo
	sent    stats.OutHeader
	header  stats.InHeader
	trailer stats.InTrailer
	end     stats.End
}

func eventsOf(addr net.Addr) *events {
	return &events{
		tag:  stats.RPCTagInfo{FullMethodName: "/grpc.health.v1.Health/Check"},
		sent: stats.OutHeader{Client: true, RemoteAddr: addr}, header: stats.InHeader{Client: true},
		trailer: stats.InTrailer{Client: true}, end: stats.End{Client: true},
	}
}

func (v *events) call(ctx context.Context, c *channel) {
	ctx = c.TagRPC(ctx, &v.tag)
	c.HandleRPC(ctx, &v.sent)
	c.HandleRPC(ctx, &v.header)
	c.HandleRPC(ctx, &v.trailer)
	v.end.EndTime = time.Now()
	c.HandleRPC(ctx, &v.end)
}

func TestACallAllocatesOnce(t *testing.T) {
	c, e, addr := silent()
	v := eventsOf(addr)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	v.call(ctx, c) // what is made once
	if got := testing.AllocsPerRun(1000, func() { v.call(ctx, c) }); got > 1 {
		t.Errorf("%v allocations, want 1", got)
	}
	if got := e.Counts(); got.N < 1000 || got.K() != 0 {
		t.Errorf("counted %+v", got)
	}
}

func BenchmarkCall(b *testing.B) {
	c, _, addr := silent()
	v := eventsOf(addr)
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		v.call(ctx, c)
	}
}

// gRPC reads headers on another goroutine than the one that says that they were sent.
func TestAnAnswerThatIsReadBeforeTheRequestIsSaidToBeSentCounts(t *testing.T) {
	c, e, addr := silent()
	v := eventsOf(addr)
	ctx := c.TagRPC(t.Context(), &v.tag)
	c.HandleRPC(ctx, &v.header)
	c.HandleRPC(ctx, &v.trailer)
	c.HandleRPC(ctx, &v.sent)
	v.end.EndTime = time.Now()
	c.HandleRPC(ctx, &v.end)
	c.HandleRPC(ctx, &v.end) // is one too many
	if got := e.Counts(); got.N != 1 || got.K() != 0 || e.Inflight() != 0 {
		t.Errorf("counted %+v, %d in flight", got, e.Inflight())
	}
}

func TestWhatIsNotOfAKnownEndpointIsNotCounted(t *testing.T) {
	c, e, _ := silent()
	for _, addr := range []net.Addr{nil, &net.UnixAddr{Name: "/s"}, &net.TCPAddr{}, &net.TCPAddr{IP: net.IPv4(10, 9, 9, 9), Port: 1}} {
		eventsOf(addr).call(t.Context(), c)
		c.HandleConn(c.TagConn(t.Context(), &stats.ConnTagInfo{RemoteAddr: &net.UnixAddr{Name: "/s"}}), &stats.ConnBegin{Client: true})
	}
	c.HandleRPC(t.Context(), &stats.End{Client: true}) // of a call that was never begun
	if got := e.Counts(); got.N != 0 || len(c.members) != 1 {
		t.Errorf("counted %+v, know %d endpoints", got, len(c.members))
	}
}

func TestAddressesOfIPv4AreOneHoweverTheyAreWritten(t *testing.T) {
	want := netip.MustParseAddrPort("10.1.0.1:1")
	for _, ip := range []net.IP{net.IPv4(10, 1, 0, 1), net.IPv4(10, 1, 0, 1).To4()} {
		if got, ok := addressOf(&net.TCPAddr{IP: ip, Port: 1}); !ok || got != want {
			t.Errorf("%v (%d bytes) is %v, want %v", ip, len(ip), got, want)
		}
	}
}

func TestEndpointsAreRememberedUpToABound(t *testing.T) {
	c, _, _ := silent()
	r := c.reporter
	r.mu.Lock()
	for i := range maxEndpoints {
		c.members[netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), 1)] = &member{}
	}
	r.mu.Unlock()
	before := len(c.members)
	c.connected(netip.MustParseAddrPort("10.3.0.1:1"))
	c.disconnected(netip.MustParseAddrPort("10.3.0.1:1"))
	if got := len(c.members); got != before {
		t.Errorf("%d endpoints, want %d", got, before)
	}
}

func TestAnEndingIsToldByTheContextAndTheText(t *testing.T) {
	for _, tc := range []struct {
		code codes.Code
		text string
		in   circumstances
		want outlier.Ending
	}{
		{codes.Canceled, "context canceled", circumstances{left: true}, outlier.EndClientAbort},
		{codes.Canceled, "server says", circumstances{trailed: true, answered: true}, outlier.EndComplete},
		{codes.DeadlineExceeded, "context deadline exceeded", circumstances{late: true, answered: true}, outlier.EndRouteTimeout},
		{codes.DeadlineExceeded, "stream terminated by RST_STREAM with error code: CANCEL", circumstances{late: true}, outlier.EndRouteTimeout},
		{codes.DeadlineExceeded, "server says", circumstances{trailed: true}, outlier.EndComplete},
		{codes.Unavailable, "error reading from server: EOF", circumstances{}, outlier.EndConnectionLost},
		{codes.Unavailable, "error reading from server: EOF", circumstances{answered: true}, outlier.EndBodyCut},
		{codes.Unavailable, "keepalive ping failed to receive ACK within timeout", circumstances{}, outlier.EndPingFailed},
		{codes.Unavailable, "the stream is rejected because server is draining the connection", circumstances{}, outlier.EndGoAwayUnprocessed},
		{codes.Unavailable, "closing transport due to: EOF, received prior goaway: code: ENHANCE_YOUR_CALM, debug data: \"too_many_pings\"", circumstances{}, outlier.EndEnhanceYourCalm},
		{codes.Unavailable, "closing transport due to: EOF, received prior goaway: code: NO_ERROR", circumstances{}, outlier.EndConnectionLost},
		{codes.Unavailable, "rpc error: code = Canceled desc = grpc: the client connection is closing", circumstances{}, outlier.EndLocalLimit},
		{codes.Internal, "server closed the stream without sending trailers", circumstances{answered: true}, outlier.EndBadFraming},
		{codes.ResourceExhausted, "grpc: received message larger than max (9 vs. 1)", circumstances{trailed: true, answered: true}, outlier.EndLocalLimit},
		{codes.Unimplemented, "grpc: Decompressor is not installed", circumstances{answered: true}, outlier.EndLocalLimit},
		{codes.Unavailable, "stream terminated by RST_STREAM with error code: REFUSED_STREAM", circumstances{}, outlier.EndRefusedStream},
	} {
		if got := tc.in.ending(status.New(tc.code, tc.text)); got != tc.want {
			t.Errorf("%v %q, %+v: %v, want %v", tc.code, tc.text, tc.in, got, tc.want)
		}
	}
}

func TestAProbeThatCannotBeMadeSaysNothingOfTheEndpoint(t *testing.T) {
	over, end := context.WithCancel(t.Context())
	end()
	for _, tc := range []struct {
		ctx  context.Context
		err  error
		want outlier.ProbeResult
	}{
		{t.Context(), errors.New("what nobody knows"), outlier.NotRun},
		{t.Context(), context.DeadlineExceeded, outlier.TimedOut},
		{over, context.Canceled, outlier.NotRun},
	} {
		if got := failed(tc.ctx, tc.err); got != tc.want {
			t.Errorf("%v: %v, want %v", tc.err, got, tc.want)
		}
	}
}

// A busy machine doubts itself, and would wait for longer than its calls do.
func TestACallThatHasHadItsTimeCountsHoweverMuchTheClientDoubtsItself(t *testing.T) {
	c, e, addr := silent()
	r := c.reporter
	for s := range 8 {
		r.self.Trouble(time.Duration(s) * time.Second)
		r.mu.Lock()
		c.detector.Step(time.Duration(s)*time.Second + 500*time.Millisecond)
		r.mu.Unlock()
	}
	if got := e.Overdue(0); got <= time.Second {
		t.Fatalf("an answer is overdue after %v: the test wants more than a second", got)
	}
	v := eventsOf(addr)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	call := c.TagRPC(ctx, &v.tag)
	c.HandleRPC(call, &v.sent)
	v.end.Error, v.end.EndTime = status.Error(codes.DeadlineExceeded, "context deadline exceeded"), time.Now().Add(time.Second)
	c.HandleRPC(call, &v.end)
	if got := e.Counts(); got.Timeout != 1 {
		t.Errorf("counted %+v, want a timeout", got)
	}
}
