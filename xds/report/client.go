package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/xds/reportpb"
)

// Source is the sidecar behind a Client. Its methods are called by two goroutines of
// Run: Handle by one, the others by the other.
type Source interface {
	// Hello is called when a stream begins. Everything is to be told again after it.
	Hello() Hello
	// Ready is where the client waits until there is something to say.
	Ready() <-chan struct{}
	// Build is called when a message can be sent, right after a stream began and then
	// after Ready: it reads the counters now, so that nothing old waits in a queue.
	Build() Message
	// Handle takes orders. It must not block for long: the next ones wait behind it.
	Handle(Orders)
	// Link says whether a control plane hears this sidecar.
	Link(up bool)
}

// ClientConfig is what a client needs to know of its sidecar.
type ClientConfig struct {
	// Incarnation must be larger than that of any earlier life: the start time.
	Incarnation uint64
	// Now is the sidecar's clock.
	Now func() time.Duration
	// Log gets a line when the link goes up or down; nil is none.
	Log *slog.Logger
	// Recorder keeps all that is told; nil: nobody does. With one, the source is also
	// asked while no control plane listens.
	Recorder *Recorder
}

const (
	// clientRate stays below what a collector accepts, so that a well-behaved sidecar
	// is never held back.
	clientRate  = 20
	clientBurst = 20

	backoffBase = 100 * time.Millisecond
	backoffMax  = 8 * time.Second
	settled     = 5 * time.Second // a stream that lived as long proves that all is well
	renewAfter  = time.Minute     // the soonest that a stream is renewed for want of names
	deafWait    = time.Minute     // a control plane that takes no reports is asked again that late
)

// Client is the sidecar's end of the report stream.
type Client struct {
	cfg    ClientConfig
	stub   reportpb.EvidenceServiceClient
	source Source
	deaf   atomic.Bool

	// owned by Run
	incarnation uint64
	seq         uint64
	said        bool // the last message, and it is sent
}

// NewClient starts nothing. cc should be the connection of the ADS stream; nil: there
// is no control plane, and all is told to the recorder only.
func NewClient(cc grpc.ClientConnInterface, cfg ClientConfig, source Source) *Client {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{cfg: cfg, source: source, incarnation: cfg.Incarnation}
	if cc != nil {
		c.stub = reportpb.NewEvidenceServiceClient(cc)
	}
	return c
}

// Deaf reports whether the control plane takes no reports, as one that is not ours.
func (c *Client) Deaf() bool { return c.deaf.Load() }

// Ends of a stream that are no failures.
var (
	errReincarnate = errors.New("told to reincarnate")
	errRenew       = errors.New("out of names for endpoints")
)

// Run keeps a stream open until ctx ends or the source has said its last, and then
// returns nil.
func (c *Client) Run(ctx context.Context) error {
	if c.stub == nil {
		c.monologue(ctx)
		return nil
	}
	failures, wait := 0, time.Duration(0)
	for ctx.Err() == nil {
		began := c.cfg.Now() + wait
		err := c.stream(ctx, wait)
		if ctx.Err() != nil || c.said && errors.Is(err, io.EOF) {
			return nil
		}
		if status.Code(err) == codes.Unimplemented {
			// It is somebody else's, and that may last for ever: said once.
			if !c.deaf.Swap(true) {
				c.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "the control plane takes no reports: this sidecar decides alone")
			}
			wait = deafWait/2 + rand.N(deafWait/2)
			continue
		}
		c.deaf.Store(false)
		c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "report stream ended", slog.Any("cause", err))
		if c.cfg.Now()-began >= settled {
			failures = 0
		}
		if errors.Is(err, errReincarnate) {
			c.incarnation++
		}
		wait = backoff(failures)
		failures++
	}
	return nil
}

// open waits and then opens a stream. Meanwhile all goes to the recorder.
func (c *Client) open(ctx context.Context, wait time.Duration) (reportpb.EvidenceService_StreamClient, error) {
	if c.cfg.Recorder != nil {
		alone, heard := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() { defer close(ended); c.monologue(alone) }()
		defer func() { heard(); <-ended }()
	}
	if err := Pause(ctx, wait); err != nil {
		return nil, err
	}
	// Waiting for the connection, and not asking again and again, leaves the pace of
	// reconnecting to the one that dials.
	return c.stub.Stream(ctx, grpc.WaitForReady(true))
}

// monologue has the source say what it would to a control plane that listens, until
// ctx ends.
func (c *Client) monologue(ctx context.Context) {
	c.hello()
	bucket := NewBucket(time.Second/clientRate, clientBurst)
	for {
		c.build()
		if Pause(ctx, bucket.Take(c.cfg.Now())) != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-c.source.Ready():
		}
	}
}

// hello begins what is told from here on.
func (c *Client) hello() Hello {
	h := c.source.Hello()
	if c.cfg.Recorder != nil {
		c.cfg.Recorder.Hello(h, c.incarnation)
	}
	return h
}

// build has the source say what it has to say.
func (c *Client) build() Message {
	m := c.source.Build()
	if c.cfg.Recorder != nil {
		c.cfg.Recorder.Message(m, c.cfg.Now())
	}
	return m
}

// backoff grows with each failure in a row, with full jitter above half, so that many
// sidecars that lost one control plane do not come back as one.
func backoff(failures int) time.Duration {
	d := min(backoffBase<<min(failures, 10), backoffMax)
	return d/2 + rand.N(d/2)
}

// stream is the life of one stream, which begins after a wait.
func (c *Client) stream(parent context.Context, wait time.Duration) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	srv, err := c.open(ctx, wait)
	if err != nil {
		return err
	}
	names := newNames()
	var wg sync.WaitGroup
	wg.Go(func() { cancel(c.receive(srv, names)) })
	wg.Go(func() { cancel(c.send(ctx, cancel, srv, names)) })
	wg.Wait()
	c.source.Link(false)
	return context.Cause(ctx)
}

// send says hello and then what the source has to say.
func (c *Client) send(ctx context.Context, cancel context.CancelCauseFunc, srv reportpb.EvidenceService_StreamClient, names *names) error {
	began := c.cfg.Now()
	bucket := NewBucket(time.Second/clientRate, clientBurst)
	send := func(up *reportpb.Up) error {
		if wait := bucket.Take(c.cfg.Now()); wait > 0 {
			if err := Pause(ctx, wait); err != nil {
				return err
			}
		}
		err := c.transmit(cancel, srv, up)
		if errors.Is(err, io.EOF) { // the stream has ended, and receive is told why
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return err
	}
	if err := send(encodeHello(c.hello(), c.incarnation, c.cfg.Now())); err != nil {
		return err
	}
	e := encoder{names: names, seq: &c.seq}
	for {
		m := c.build()
		for _, up := range e.encode(m, c.cfg.Now()) {
			if err := send(up); err != nil {
				return err
			}
		}
		if m.Last {
			c.said = true
			_ = srv.CloseSend()
			<-ctx.Done() // the control plane has read it all when it ends the stream
			return context.Cause(ctx)
		}
		if e.unnamed > 0 && c.cfg.Now()-began >= renewAfter {
			return errRenew
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.source.Ready():
		}
	}
}

// transmit sends one message, or ends a stream on which it cannot leave.
func (c *Client) transmit(cancel context.CancelCauseFunc, srv reportpb.EvidenceService_StreamClient, up *reportpb.Up) error {
	stuck := time.AfterFunc(sendWithin, func() { cancel(fmt.Errorf("a report could not be sent for %s", sendWithin)) })
	defer stuck.Stop()
	return srv.Send(up)
}

// receive takes orders.
func (c *Client) receive(srv reportpb.EvidenceService_StreamClient, names *names) error {
	for {
		down, err := srv.Recv()
		if err != nil {
			return err
		}
		if w := down.GetWelcome(); w != nil {
			if got := w.GetVersion().GetMajor(); got != versionMajor {
				return fmt.Errorf("control plane speaks version %d, want %d", got, versionMajor)
			}
			c.source.Link(true)
		}
		c.source.Handle(decodeOrders(down, names, c.cfg.Now()))
		if down.GetReincarnate() != nil {
			return fmt.Errorf("%w: %s", errReincarnate, down.GetReincarnate().GetReason())
		}
	}
}
