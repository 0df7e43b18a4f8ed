package report

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Seats are the places of a collector's live streams: one for each id, so many for each
// principal.
type Seats struct {
	most int // of one principal

	mu         sync.Mutex // guards what follows
	taken      map[string]*seat
	principals map[string]int // seats taken
}

// Sitter is who wants a seat.
type Sitter struct {
	ID, Principal string
	// Incarnation: an older one does not replace a newer one.
	Incarnation uint64
	// End ends the stream, because another has come that may have its seat.
	End func(error)
}

type seat struct {
	Sitter
	left chan struct{} // closed when nothing more comes from the stream
}

// NewSeats has so many seats for each principal.
func NewSeats(perPrincipal int) *Seats {
	return &Seats{most: perPrincipal, taken: map[string]*seat{}, principals: map[string]int{}}
}

// Len is how many seats are taken.
func (s *Seats) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.taken)
}

// Take gives a stream the seat of its id. An older stream of the same reporter is ended,
// and waited for until it has called its leave. The error is the one that ends a stream
// that gets no seat; why is empty if its context has ended it already.
func (s *Seats) Take(ctx context.Context, who Sitter) (leave func(), why Refusal, err error) {
	mine := &seat{who, make(chan struct{})}
	for {
		old, ok := s.sit(mine)
		switch {
		case ok:
			return func() { s.leave(mine) }, "", nil
		case old == nil:
			return nil, TooManyStreams, status.Errorf(codes.ResourceExhausted, "%s has %d reporters already", who.Principal, s.most)
		case old.Principal != who.Principal:
			return nil, ForeignReporter, status.Errorf(codes.PermissionDenied, "%q reports from elsewhere", who.ID)
		case who.Incarnation < old.Incarnation:
			return nil, OldIncarnation, status.Errorf(codes.AlreadyExists, "%q has a newer incarnation", who.ID)
		}
		old.End(status.Errorf(codes.Aborted, "another stream of %q has come", who.ID))
		select {
		case <-old.left:
		case <-ctx.Done():
			return nil, "", context.Cause(ctx)
		}
	}
}

// sit takes a seat if it is free, else gives who has it; nil if the principal may have no
// more.
func (s *Seats) sit(mine *seat) (old *seat, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old = s.taken[mine.ID]; old != nil || s.principals[mine.Principal] >= s.most {
		return old, false
	}
	s.taken[mine.ID] = mine
	s.principals[mine.Principal]++
	return nil, true
}

func (s *Seats) leave(mine *seat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taken, mine.ID)
	if s.principals[mine.Principal]--; s.principals[mine.Principal] == 0 {
		delete(s.principals, mine.Principal)
	}
	close(mine.left)
}
