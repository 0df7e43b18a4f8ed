package ingest

import (
	"context"
	"log/slog"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"

	"github.com/overhear-mesh/overhear/xds/report"
)

const (
	// nodeWithin is how long a stream may take to say whose it is.
	nodeWithin = 10 * time.Second
	// mostNode is how many bytes there may be of each thing that it says of its Envoy, as
	// xds/server has it: they are remembered, and are in log lines.
	mostNode = 2048
)

// streams are those of one service or more: how they begin, are bounded and end.
type streams struct {
	now     func() time.Duration
	log     *slog.Logger
	faults  *report.Faults
	metrics metrics
	running sync.WaitGroup
	seats   *report.Seats
}

func newStreams(perPrincipal int, now func() time.Duration, log *slog.Logger) streams {
	return streams{now: now, log: log, faults: report.NewFaults("an envoy", log), seats: report.NewSeats(perPrincipal)}
}

// Wait returns when every stream has told the sink that it has left. Stop the gRPC
// server first.
func (g *streams) Wait() { g.running.Wait() }

// Refusals are what was set aside of the words of an Envoy that is heard.
func (g *streams) Refusals(id string) report.Refusals { return g.seats.Refusals(id) }

// Stats counts since the start.
func (g *streams) Stats() Stats {
	var all Stats
	g.metrics.add(func(s *Stats) { all = *s })
	all.Streams, all.Refused = g.seats.Len(), g.faults.Counts()
	return all
}

// run serves one stream, until receive returns or has called end. gRPC ends a stream when
// this returns, which is also the only way to end a Recv that blocks: the goroutine ends
// after it.
func (g *streams) run(stream context.Context, receive func(ctx context.Context, end context.CancelCauseFunc) error) error {
	ctx, end := context.WithCancelCause(stream)
	g.running.Go(func() { end(receive(ctx, end)) })
	<-ctx.Done()
	return g.faults.Ended(stream, context.Cause(ctx))
}

// firstOf reads the first message of a stream, which must name a node, and in time.
func firstOf[M any](ctx context.Context, g *streams, end context.CancelCauseFunc, recv func() (M, error), nodeOf func(M) *corev3.Node) (M, *corev3.Node, error) {
	late := time.AfterFunc(nodeWithin, func() {
		end(g.faults.Refuse(codes.DeadlineExceeded, BadNode, "no node within %s", nodeWithin))
	})
	defer late.Stop()
	m, err := recv()
	switch {
	case err != nil:
		return m, nil, err
	case !late.Stop():
		return m, nil, context.Cause(ctx)
	case nodeOf(m).GetId() == "":
		return m, nil, g.faults.Refuse(codes.InvalidArgument, BadNode, "the first message must name a node")
	}
	if said := reporterOf(nodeOf(m), "", 0); max(len(said.ID), len(said.Zone), len(said.Region), len(said.Node)) > mostNode {
		return m, nil, g.faults.Refuse(codes.InvalidArgument, BadNode, "the node's id, zone, region or metadata.overhear.node is longer than %d bytes", mostNode)
	}
	return m, nodeOf(m), nil
}

// seat gives a stream the place of its id, until it leaves.
func (g *streams) seat(ctx context.Context, id string, end context.CancelCauseFunc) (*report.Seat, error) {
	principal, _ := report.Identify(ctx)
	seat, why, err := g.seats.Take(ctx, report.Sitter{ID: id, Principal: principal, End: end})
	if why != "" {
		g.faults.Count(why, 1)
	}
	return seat, err
}

// pace takes a token for a message that was read, and waits until the next may be.
func (g *streams) pace(ctx context.Context, bucket *report.Bucket, now time.Duration) error {
	wait := bucket.Take(now)
	if wait == 0 {
		return nil
	}
	g.metrics.add(func(s *Stats) { s.Throttled++ })
	return report.Pause(ctx, wait)
}
