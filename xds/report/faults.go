package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/internal/refrain"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Aside is what was set aside of one message.
type Aside struct {
	Counts map[Refusal]int
	wrong  map[Refusal]wrong // of these, what is not usual
}

// wrong is what was wrong so often, the first time in words.
type wrong struct {
	n     int
	words string
}

// Add sets aside n times what is wrong.
func (a *Aside) Add(why Refusal, n int, format string, args ...any) {
	if n == 0 {
		return
	}
	a.Usual(why, n)
	if a.wrong == nil {
		a.wrong = map[Refusal]wrong{}
	}
	w, known := a.wrong[why]
	if !known {
		w.words = fmt.Sprintf(format, args...)
	}
	w.n += n
	a.wrong[why] = w
}

// Usual sets aside n times what is no fault of the reporter.
func (a *Aside) Usual(why Refusal, n int) {
	if n == 0 {
		return
	}
	if a.Counts == nil {
		a.Counts = map[Refusal]int{}
	}
	a.Counts[why] += n
}

// Refusals are what was set aside of a reporter's words since its stream began, but what is
// usual.
type Refusals struct {
	Counts map[Refusal]uint64
	Newest string    // its reason, and what was wrong the first time in that message
	At     time.Time // of the newest
}

// refusals are those of one stream.
type refusals struct {
	mu sync.Mutex // guards what follows
	Refusals
}

func (r *refusals) get() Refusals {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.Refusals
	all.Counts = maps.Clone(all.Counts)
	return all
}

// add takes in what was set aside, and gives the reasons that are new on the stream.
func (r *refusals) add(all *Aside, now time.Time) (news []Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, why := range slices.Sorted(maps.Keys(all.wrong)) {
		if r.Counts[why] == 0 {
			news = append(news, why)
		}
		if r.Counts == nil {
			r.Counts = map[Refusal]uint64{}
		}
		r.Counts[why] += uint64(all.wrong[why].n)
		r.Newest, r.At = string(why)+": "+all.wrong[why].words, now
	}
	return news
}

// Faults counts what a collector does not believe or take, and tells an operator of it. Its
// methods may be called from any goroutine.
type Faults struct {
	whose string
	log   *refrain.Log

	mu     sync.Mutex // guards what follows
	counts map[Refusal]uint64
}

// NewFaults has none yet; whose they are is for the log, as "an envoy".
func NewFaults(whose string, log *slog.Logger) *Faults {
	return &Faults{whose: whose, log: refrain.New(log)}
}

// Counts are those since the start.
func (f *Faults) Counts() map[Refusal]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.counts)
}

// Count counts what was not believed or not taken.
func (f *Faults) Count(why Refusal, n int) {
	if n == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counts == nil {
		f.counts = map[Refusal]uint64{}
	}
	f.counts[why] += uint64(n)
}

// Refuse counts a stream that is not taken, and is the error that ends it.
func (f *Faults) Refuse(code codes.Code, why Refusal, format string, args ...any) error {
	f.Count(why, 1)
	return status.Errorf(code, format, args...)
}

// NotJoined is the error that ends a stream which a sink does not take. One with a gRPC
// status is no fault of the reporter.
func (f *Faults) NotJoined(err error) error {
	why := ForeignReporter
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, merge.ErrIncarnation) {
		why = OldIncarnation
	}
	return f.Refuse(codes.FailedPrecondition, why, "%v", err)
}

// SetAside counts what was set aside of the words of who has a seat, and logs the first of
// each reason on its stream.
func (f *Faults) SetAside(ctx context.Context, of *Seat, all *Aside) {
	if len(all.Counts) == 0 {
		return
	}
	for why, n := range all.Counts {
		f.Count(why, n)
	}
	for _, why := range of.refused.add(all, time.Now()) {
		f.Tell(ctx, slog.LevelWarn, of.ID, why, "what "+f.whose+" says is set aside", slog.String("reason", string(why)), slog.String("detail", all.wrong[why].words))
	}
}

// Tell logs something about a reporter, unless there was a line about it and this reason
// just now.
func (f *Faults) Tell(ctx context.Context, level slog.Level, id string, why Refusal, text string, attrs ...slog.Attr) {
	f.log.Write(ctx, level, id+" "+string(why), text, append([]slog.Attr{slog.String("reporter", id)}, attrs...)...)
}

// Ended is the error with which gRPC is to end a stream that ended for err; nil if its peer
// is done. It is logged if it is the peer's fault.
func (f *Faults) Ended(stream context.Context, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) {
		return nil
	}
	switch code := status.Code(err); code {
	case codes.Canceled, codes.Unavailable: // its connection is gone, or we are
	case codes.Aborted: // another stream has its place
	default:
		who, _ := Identify(stream)
		f.log.Write(stream, slog.LevelWarn, who+" "+code.String(), f.whose+"'s stream was ended",
			slog.String("principal", who), slog.String("code", code.String()), slog.String("error", status.Convert(err).Message()))
	}
	return err
}
