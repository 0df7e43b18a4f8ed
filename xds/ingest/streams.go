package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/internal/refrain"
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
	faults  *refrain.Log
	metrics metrics
	running sync.WaitGroup
	seats   *report.Seats
}

func newStreams(perPrincipal int, now func() time.Duration, log *slog.Logger) streams {
	return streams{now: now, log: log, faults: refrain.New(log), seats: report.NewSeats(perPrincipal)}
}

// Wait returns when every stream has told the sink that it has left. Stop the gRPC
// server first.
func (g *streams) Wait() { g.running.Wait() }

// Stats counts since the start.
func (g *streams) Stats() Stats {
	var all Stats
	g.metrics.add(func(s *Stats) { all = *s; all.Refused = maps.Clone(s.Refused) })
	all.Streams = g.seats.Len()
	return all
}

// run serves one stream, until receive returns or has called end. gRPC ends a stream when
// this returns, which is also the only way to end a Recv that blocks: the goroutine ends
// after it.
func (g *streams) run(stream context.Context, receive func(ctx context.Context, end context.CancelCauseFunc) error) error {
	ctx, end := context.WithCancelCause(stream)
	g.running.Go(func() { end(receive(ctx, end)) })
	<-ctx.Done()
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) {
		return nil // the peer is done
	}
	switch code := status.Code(err); code {
	case codes.Canceled, codes.Unavailable: // its connection is gone
	case codes.Aborted: // another stream has its place
	default:
		who, _ := report.Identify(stream)
		g.faults.Write(stream, slog.LevelWarn, who+" "+code.String(), "an envoy's stream was ended",
			slog.String("principal", who), slog.String("code", code.String()), slog.String("error", status.Convert(err).Message()))
	}
	return err
}

// firstOf reads the first message of a stream, which must name a node, and in time.
func firstOf[M any](ctx context.Context, g *streams, end context.CancelCauseFunc, recv func() (M, error), nodeOf func(M) *corev3.Node) (M, *corev3.Node, error) {
	late := time.AfterFunc(nodeWithin, func() {
		end(g.refuse(codes.DeadlineExceeded, BadNode, "no node within %s", nodeWithin))
	})
	defer late.Stop()
	m, err := recv()
	switch {
	case err != nil:
		return m, nil, err
	case !late.Stop():
		return m, nil, context.Cause(ctx)
	case nodeOf(m).GetId() == "":
		return m, nil, g.refuse(codes.InvalidArgument, BadNode, "the first message must name a node")
	}
	if said := reporterOf(nodeOf(m), "", 0); max(len(said.ID), len(said.Zone), len(said.Region), len(said.Node)) > mostNode {
		return m, nil, g.refuse(codes.InvalidArgument, BadNode, "the node's id, zone, region or metadata.overhear.node is longer than %d bytes", mostNode)
	}
	return m, nodeOf(m), nil
}

// seat gives a stream the place of its id, until it has called leave.
func (g *streams) seat(ctx context.Context, id string, end context.CancelCauseFunc) (principal string, leave func(), err error) {
	principal, _ = report.Identify(ctx)
	leave, why, err := g.seats.Take(ctx, report.Sitter{ID: id, Principal: principal, End: end})
	if why != "" {
		g.metrics.refuse(map[Refusal]int{Refusal(why): 1})
	}
	return principal, leave, err
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

// refuse counts a stream that is not taken, and is the error that ends it.
func (g *streams) refuse(code codes.Code, why Refusal, format string, args ...any) error {
	g.metrics.refuse(map[Refusal]int{why: 1})
	return status.Errorf(code, format, args...)
}
