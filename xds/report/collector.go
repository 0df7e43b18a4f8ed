package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

// Sink takes what reporters say. All calls of one stream come from one goroutine, Join
// first and Leave last; those of different streams come at the same time. A Sink that
// blocks holds back the streams that call it, and no others.
type Sink interface {
	// Join is called after a valid Hello and when no other stream of the same
	// reporter is left. An error ends the stream with that reason, and is counted as a
	// fault of the reporter unless it has a gRPC status; Leave is then not called.
	Join(s *Stream) error
	Evidence(s *Stream, r merge.Report)
	Probed(s *Stream, p Probed)
	Polled(s *Stream, p merge.PollAnswer)
	Probation(s *Stream, p Probation)
	// Leave is called once the stream is gone. Nothing more comes from it, and orders
	// given to it are lost.
	Leave(s *Stream)
}

// CollectorConfig bounds what reporters may do.
type CollectorConfig struct {
	// Rate and Burst of messages per second and stream; default 20 and 40.
	Rate  int `yaml:"rate"`
	Burst int `yaml:"burst"`
	// ReportersPerPrincipal bounds the streams of one principal; default 64.
	ReportersPerPrincipal int `yaml:"reporters_per_principal"`
}

// DefaultCollectorConfig is what the project's figures are measured with.
func DefaultCollectorConfig() CollectorConfig {
	return CollectorConfig{Rate: 20, Burst: 40, ReportersPerPrincipal: 64}
}

// fieldError says which field of a configuration cannot be used.
type fieldError struct{ field, message string }

func (e *fieldError) Error() string { return e.field + ": " + e.message }

// Field is the path of the field, as in YAML.
func (e *fieldError) Field() string { return e.field }

// Validate reports every field that cannot be used: errors joined, each with a method
// Field that names it.
func (c CollectorConfig) Validate() error {
	between := func(name string, v, low, high int) error {
		if v >= low && v <= high {
			return nil
		}
		return &fieldError{name, fmt.Sprintf("want %d to %d, have %d", low, high, v)}
	}
	return errors.Join(
		between("rate", c.Rate, 1, 10_000),
		between("burst", c.Burst, c.Rate, 100_000),
		between("reporters_per_principal", c.ReportersPerPrincipal, 1, 1_000_000),
	)
}

// Times that a stream has for what it owes.
const (
	helloWithin = 10 * time.Second // from the beginning of the stream
	sendWithin  = 2 * time.Second  // for one message to leave
)

// Collector is the control plane's end of all report streams. Register it with a gRPC
// server as reportpb's EvidenceService.
type Collector struct {
	reportpb.UnimplementedEvidenceServiceServer
	cfg       CollectorConfig
	sink      Sink
	authority Authority
	now       func() time.Duration
	log       *slog.Logger
	faults    *Faults
	metrics   metrics
	running   sync.WaitGroup // goroutines of streams
	seats     *Seats
}

// NewCollector starts nothing. now is the table's clock; give it a head start, so that
// what happened before it began is not lost: an instant before 0 cannot be told from
// never. A nil log is none.
func NewCollector(cfg CollectorConfig, sink Sink, authority Authority, now func() time.Duration, log *slog.Logger) *Collector {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Collector{
		cfg: cfg, sink: sink, authority: authority, now: now, log: log,
		faults: NewFaults("a reporter", log), seats: NewSeats(cfg.ReportersPerPrincipal),
	}
}

// Register adds the service to a gRPC server.
func (c *Collector) Register(r grpc.ServiceRegistrar) { reportpb.RegisterEvidenceServiceServer(r, c) }

// Wait returns when every stream has told the Sink that it has left. Stop the gRPC
// server first.
func (c *Collector) Wait() { c.running.Wait() }

// Stream serves one stream; gRPC calls it.
//
// It waits for what fails first. gRPC ends a stream when this returns, which is also
// the only way to end a Send or a Recv that blocks: the two goroutines end after it.
func (c *Collector) Stream(srv reportpb.EvidenceService_StreamServer) error {
	ctx, cancel := context.WithCancelCause(srv.Context())
	s := &Stream{
		c:      c,
		cancel: cancel,
		outbox: newOutbox(),
	}
	s.principal, s.addr = Identify(ctx)
	c.metrics.opened.Add(1)
	c.running.Go(func() { s.end(s.receive(ctx, srv)) })
	c.running.Go(func() { s.end(s.send(ctx, srv)) })
	<-ctx.Done()
	return c.faults.Ended(srv.Context(), context.Cause(ctx))
}

// Stats counts since the start.
func (c *Collector) Stats() Stats { return c.metrics.stats(c.seats.Len(), c.faults.Counts()) }

// Refusals are what was set aside of the words of a reporter that is connected.
func (c *Collector) Refusals(id string) Refusals { return c.seats.Refusals(id) }

// Identify says who the peer is: by TLS, else by address.
func Identify(ctx context.Context) (principal string, addr netip.Addr) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", netip.Addr{}
	}
	if tcp, ok := p.Addr.(*net.TCPAddr); ok {
		addr = tcp.AddrPort().Addr().Unmap()
		principal = addr.String()
	} else {
		principal = p.Addr.String()
	}
	tls, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(tls.State.VerifiedChains) == 0 {
		return principal, addr
	}
	if tls.SPIFFEID != nil {
		return tls.SPIFFEID.String(), addr
	}
	return tls.State.VerifiedChains[0][0].Subject.String(), addr
}

// A Stream is one reporter that is connected. Its methods may be called from any
// goroutine and never block; after the stream has ended they do nothing.
type Stream struct {
	c         *Collector
	cancel    context.CancelCauseFunc
	principal string
	addr      netip.Addr
	outbox    *outbox

	// set before Join, then constant
	reporter merge.Reporter
	hello    Hello
}

// Reporter is who reports.
func (s *Stream) Reporter() merge.Reporter { return s.reporter }

// Held are the verdicts that the sidecar knew when the stream began.
func (s *Stream) Held() []merge.Verdict { return s.hello.Held }

// Own are the instances beside which the sidecar says it stands and that the registry
// binds to it.
func (s *Stream) Own() []Own { return s.hello.Own }

// Close ends the stream. The sidecar comes again.
func (s *Stream) Close(reason string) { s.end(status.Error(codes.Unavailable, reason)) }

// end ends the stream for a reason; the first one counts.
func (s *Stream) end(err error) { s.cancel(err) }

// receive reads until the stream ends.
func (s *Stream) receive(ctx context.Context, srv reportpb.EvidenceService_StreamServer) error {
	c := s.c
	late := time.AfterFunc(helloWithin, func() {
		s.end(c.faults.Refuse(codes.DeadlineExceeded, BadHello, "no hello within %s", helloWithin))
	})
	defer late.Stop()
	up, err := srv.Recv()
	if err != nil {
		return err
	}
	if !late.Stop() {
		return context.Cause(ctx)
	}
	d, err := s.greet(up)
	if err != nil {
		return err
	}
	seat, why, err := c.seats.Take(ctx, Sitter{ID: s.reporter.ID, Principal: s.principal, Incarnation: s.reporter.Incarnation, End: s.end})
	if err != nil {
		if why != "" {
			c.faults.Count(why, 1)
		}
		return err
	}
	defer seat.Leave()
	s.disown(ctx, d, seat)
	if err := c.sink.Join(s); err != nil {
		return c.faults.NotJoined(err)
	}
	defer c.sink.Leave(s)
	c.log.LogAttrs(ctx, slog.LevelInfo, "reporter joined", slog.String("reporter", s.reporter.ID),
		slog.Uint64("incarnation", s.reporter.Incarnation), slog.String("principal", s.principal))
	defer func() {
		c.log.LogAttrs(ctx, slog.LevelInfo, "reporter left", slog.String("reporter", s.reporter.ID), slog.Any("cause", context.Cause(ctx)))
	}()
	s.outbox.welcome()

	up.Hello = nil
	bucket := NewBucket(time.Second/time.Duration(c.cfg.Rate), c.cfg.Burst)
	for {
		if err := s.take(ctx, d, seat, up); err != nil {
			return err
		}
		if wait := bucket.Take(c.now()); wait > 0 {
			c.metrics.throttled.Add(1)
			if err := Pause(ctx, wait); err != nil {
				return err
			}
		}
		if up, err = srv.Recv(); err != nil {
			return err
		}
	}
}

// greet reads the first message.
func (s *Stream) greet(up *reportpb.Up) (*decoder, error) {
	c := s.c
	hello, incarnation, why := decodeHello(up.GetHello())
	switch why {
	case "":
	case BadVersion:
		return nil, c.faults.Refuse(codes.Unimplemented, why, "want version %d.x, have %d", versionMajor, up.GetHello().GetVersion().GetMajor())
	case TooLarge:
		return nil, c.faults.Refuse(codes.InvalidArgument, why, "hello exceeds its bounds")
	default:
		return nil, c.faults.Refuse(codes.InvalidArgument, why, "the first message must say hello with a node id")
	}
	d := &decoder{authority: c.authority, node: hello.Node, addr: s.addr}
	if hello.Observes {
		d.seen = map[uint32]*sighting{}
	}
	s.hello = hello
	s.reporter = merge.Reporter{
		ID: hello.Node, Incarnation: incarnation, Principal: s.principal,
		Node: hello.Labels["node"], Zone: hello.Zone, Region: hello.Region, Labels: hello.Labels,
		Observes: hello.Observes,
	}
	return d, nil
}

// disown sets aside the instances that the sidecar claims and that are not its own.
func (s *Stream) disown(ctx context.Context, d *decoder, seat *Seat) {
	var aside Aside
	s.hello.Own = slices.DeleteFunc(s.hello.Own, func(o Own) bool {
		if d.owns(o.Key) {
			return false
		}
		aside.Add(NotOwner, 1, "it says that it stands beside %s, and the registry does not", o.Key)
		return true
	})
	s.c.faults.SetAside(ctx, seat, &aside)
}

// take reads one message and hands on what is to be believed.
func (s *Stream) take(ctx context.Context, d *decoder, seat *Seat, up *reportpb.Up) error {
	c := s.c
	c.metrics.messages.Add(1)
	if proto.Size(up) > maxMessage {
		return c.faults.Refuse(codes.ResourceExhausted, TooLarge, "a message exceeds %d bytes", maxMessage)
	}
	out := d.decode(up, c.now())
	c.faults.SetAside(ctx, seat, &out.aside)
	s.outbox.learn(out.declared, out.offset)
	for _, p := range out.probes {
		c.sink.Probed(s, p)
	}
	for _, p := range out.polls {
		c.sink.Polled(s, p)
	}
	for _, p := range out.probations {
		c.sink.Probation(s, p)
	}
	if out.report != nil {
		out.report.Incarnation = s.reporter.Incarnation
		c.sink.Evidence(s, *out.report)
	}
	return nil
}

// send sends orders until the stream ends.
func (s *Stream) send(ctx context.Context, srv reportpb.EvidenceService_StreamServer) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.outbox.wake:
		}
		for {
			down := s.outbox.take()
			if down == nil {
				break
			}
			slow := time.AfterFunc(sendWithin, func() {
				s.end(s.c.faults.Refuse(codes.ResourceExhausted, SlowReader, "orders were not read for %s", sendWithin))
			})
			err := srv.Send(down)
			slow.Stop()
			if err != nil {
				return err
			}
			s.c.metrics.sent.Add(1)
		}
	}
}
