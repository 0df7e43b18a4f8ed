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
	taken      map[string]*Seat
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

// Seat is the place of a live stream.
type Seat struct {
	Sitter
	seats   *Seats
	left    chan struct{} // closed when nothing more comes from the stream
	refused refusals
}

// NewSeats has so many seats for each principal.
func NewSeats(perPrincipal int) *Seats {
	return &Seats{most: perPrincipal, taken: map[string]*Seat{}, principals: map[string]int{}}
}

// Len is how many seats are taken.
func (s *Seats) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.taken)
}

// Refusals are what was set aside of the words of who has the seat of an id.
func (s *Seats) Refusals(id string) Refusals {
	s.mu.Lock()
	seat := s.taken[id]
	s.mu.Unlock()
	if seat == nil {
		return Refusals{}
	}
	return seat.refused.get()
}

// Take gives a stream the seat of its id. An older stream of the same reporter is ended,
// and waited for until it has left. The error is the one that ends a stream that gets no
// seat; why is empty if its context has ended it already.
func (s *Seats) Take(ctx context.Context, who Sitter) (seat *Seat, why Refusal, err error) {
	mine := &Seat{Sitter: who, seats: s, left: make(chan struct{})}
	for {
		old, ok := s.sit(mine)
		switch {
		case ok:
			return mine, "", nil
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
func (s *Seats) sit(mine *Seat) (old *Seat, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old = s.taken[mine.ID]; old != nil || s.principals[mine.Principal] >= s.most {
		return old, false
	}
	s.taken[mine.ID] = mine
	s.principals[mine.Principal]++
	return nil, true
}

// Leave gives the seat up: nothing more comes from its stream.
func (s *Seat) Leave() {
	all := s.seats
	all.mu.Lock()
	defer all.mu.Unlock()
	delete(all.taken, s.ID)
	if all.principals[s.Principal]--; all.principals[s.Principal] == 0 {
		delete(all.principals, s.Principal)
	}
	close(s.left)
}
