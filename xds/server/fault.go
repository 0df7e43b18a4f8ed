package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Fault is what a client did wrong.
type Fault string

// Faults for which a stream is ended, with a gRPC status that says more.
const (
	NoNode         Fault = "no_node"          // the first request names no node
	NoType         Fault = "no_type"          // a request on an aggregated stream
	TooLong        Fault = "too_long"         // a node id, a zone, a type, a name
	TooManyNames   Fault = "too_many_names"   // of one type on a stream
	TooManyUnknown Fault = "too_many_unknown" // names that do not exist, of one address
	TooManyTypes   Fault = "too_many_types"   // that are not served, on a stream
	Unreadable     Fault = "unreadable"       // a message that is no request, or beyond what gRPC takes
)

// Faults for which a request is ignored, or what is wrong in it.
const (
	StaleNonce    Fault = "stale_nonce"     // of no response that waits for an answer; now and then one is overtaken
	TypeNotServed Fault = "type_not_served" // a request for a type that there is not
	NodeChanged   Fault = "node_changed"    // in mid-stream: the first one counts
)

func newFaults(all ...Fault) map[Fault]uint64 {
	counts := make(map[Fault]uint64, len(all))
	for _, f := range all {
		counts[f] = 0 // is told as well: an alert sees no growth from nothing
	}
	return counts
}

// faulty is the error that ends a stream for a fault of its client.
type faulty struct {
	fault  Fault
	status *status.Status
}

func endFor(f Fault, code codes.Code, format string, args ...any) error {
	return &faulty{f, status.Newf(code, format, args...)}
}

func (f *faulty) Error() string { return f.status.String() }

// GRPCStatus is what gRPC tells the client.
func (f *faulty) GRPCStatus() *status.Status { return f.status }

// ended counts and logs the end of a stream, if it is its client's fault.
func (s *Server) ended(st *stream, err error) {
	fault := Unreadable
	if f, ok := errors.AsType[*faulty](err); ok {
		fault = f.fault
	} else if code := status.Code(err); code == codes.Canceled || code == codes.Unavailable || code == codes.DeadlineExceeded {
		return // it has gone, or its connection has
	}
	s.mu.Lock()
	s.refused[fault]++
	s.mu.Unlock()
	s.warn(st, string(fault), "a client's stream was ended", slog.String("reason", string(fault)),
		slog.String("code", status.Code(err).String()), slog.String("error", status.Convert(err).Message()))
}

// tell logs what was wrong with a request: a NACK, or what was ignored for the first time
// on the stream. Not called under s.mu.
func (s *Server) tell(st *stream, b *batch, r request) {
	if b != nil {
		why := refusalOf(r.refusal)
		s.warn(st, r.url+" "+why, "a client refused resources", slog.String("type", r.url), slog.String("version", b.version), slog.String("reason", why))
	}
	for _, fault := range st.news {
		switch fault {
		case TypeNotServed:
			s.warn(st, r.url, "a client asks for a type that is not served", slog.String("type", r.url))
		case NodeChanged:
			id := r.node.GetId()
			s.warn(st, string(NodeChanged), "a client changed its node in mid-stream, and the first one counts", slog.String("changed_to", id[:min(len(id), maxName)]))
		}
	}
	st.news = nil
}

// warn logs what a client did wrong. Lines about one thing that clients of one address do
// are written once in a while.
func (s *Server) warn(st *stream, about, text string, more ...slog.Attr) {
	attrs := []slog.Attr{slog.String("peer", st.peer)}
	if st.node != "" {
		attrs = append(attrs, slog.String("node", st.node), slog.String("kind", st.view.Kind.String()))
	}
	s.faults.Write(context.Background(), slog.LevelWarn, cmp.Or(st.address, st.node)+" "+about, text, append(attrs, more...)...)
}
