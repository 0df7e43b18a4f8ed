package server

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"

	"github.com/overhear-mesh/overhear/xds/resource"
)

const (
	// maxStrangers is how many types that are not served one stream may ask for.
	maxStrangers = 32
	// maxName bounds names that a client chooses: its node id, zone, types, resources.
	maxName = 2048
	// maxRefusal bounds what is kept of the text of a NACK.
	maxRefusal = 2048
)

// wireStream is the gRPC stream of a client.
type wireStream interface {
	Context() context.Context
	SendMsg(m any) error
	RecvMsg(m any) error
}

// stream is one xDS stream of a client.
type stream struct {
	wire    wireStream
	delta   bool
	peer    string
	address string // peer's without the port
	url     string // of a stream per type; "" for ADS
	since   time.Time
	out     outbox

	// What follows is guarded by Server.mu.
	node  string // node.id; "" until the first request
	view  resource.View
	subs  [numTypes]*subscription
	nonce uint64 // of the last response
	// queued says in which lanes of Server.pending it stands.
	queued [numLanes]bool
	// strangers are the types asked for that are not served here.
	strangers map[string]struct{}
	renamed   bool    // its node has changed since
	news      []Fault // what the newest request was the first to do wrong, until it is logged
}

// serve is the life of a stream. What it is sent is written by a goroutine that exists
// only while there is something to write: of a thousand clients that wait for news, each
// has one goroutine and no more.
func (s *Server) serve(wire wireStream, delta bool, url string) error {
	st := s.open(wire, delta, url)
	defer s.close(st)
	for {
		st.out.waitForRoom()
		var err error
		if delta {
			var r discoveryv3.DeltaDiscoveryRequest
			if err = wire.RecvMsg(&r); err == nil {
				err = s.changeAsked(st, &r)
			}
		} else {
			var r discoveryv3.DiscoveryRequest
			if err = wire.RecvMsg(&r); err == nil {
				err = s.worldAsked(st, &r)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			s.ended(st, err)
			return err
		}
	}
}

func (s *Server) open(wire wireStream, delta bool, url string) *stream {
	st := &stream{wire: wire, delta: delta, url: url, since: time.Now()}
	st.out.room.L = &st.out.mu
	if p, ok := peer.FromContext(wire.Context()); ok && p.Addr != nil {
		st.peer, st.address = p.Addr.String(), p.Addr.String()
		if host, _, err := net.SplitHostPort(st.peer); err == nil {
			st.address = host
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = struct{}{}
	s.opened++
	return st
}

func (s *Server) close(st *stream) {
	s.mu.Lock()
	delete(s.streams, st)
	for typ, sub := range st.subs {
		if sub != nil {
			sub.close()
			st.subs[typ] = nil // it may still have a place in Server.pending
		}
	}
	if st.node != "" {
		s.leave(st)
	}
	s.mu.Unlock()
	st.out.writers.Wait() // gRPC wants nothing to be written after the end
}

// request is what both variants of a request have in common.
type request struct {
	node    *corev3.Node
	url     string // of the type; on a stream of one type the stream's if it is left out
	nonce   string
	refusal *spb.Status // nil unless it is a NACK
}

// begin notes who the client is and what answer the request may be, and finds or begins
// the subscription of it. It is nil without an error for a type that is not served: such
// a request is left unanswered. Called under s.mu.
func (s *Server) begin(st *stream, r request) (sub *subscription, first bool, refused *batch, err error) {
	if st.node == "" {
		switch id := r.node.GetId(); {
		case id == "":
			return nil, false, nil, endFor(NoNode, codes.InvalidArgument, "the first request of a stream must have a node with an id")
		case len(id) > maxName:
			return nil, false, nil, tooLong("node.id")
		case len(r.node.GetLocality().GetZone()) > maxName:
			return nil, false, nil, tooLong("node.locality.zone")
		}
		st.node, st.view = r.node.GetId(), resource.ViewOf(r.node)
		s.join(st)
	} else if r.node.GetId() != "" && (r.node.GetId() != st.node || resource.ViewOf(r.node) != st.view) {
		s.ignored[NodeChanged]++ // the first one counts
		if !st.renamed {
			st.renamed, st.news = true, append(st.news, NodeChanged)
		}
	}
	if r.url == "" {
		return nil, false, nil, endFor(NoType, codes.InvalidArgument, "type_url: is empty: want a type on an aggregated stream")
	}
	typ, ok := typeOf(r.url)
	if !ok {
		s.ignored[TypeNotServed]++
		return nil, false, nil, st.stranger(r.url)
	}
	if sub = st.subs[typ]; sub != nil {
		if r.nonce != "" {
			refused = s.answered(sub, r.nonce, refusalOf(r.refusal))
		}
		return sub, false, refused, nil
	}
	sub = &subscription{
		stream: st, typ: typ, table: &s.tables[st.view.Kind][typ],
		// Endpoints and routes have no wildcard: a request without names there asks for
		// nothing.
		legacy: typ.whole(),
	}
	sub.id = sub.table.subIDs.take(sub)
	st.subs[typ] = sub
	return sub, true, nil, nil
}

func (st *stream) stranger(url string) error {
	if len(url) > maxName {
		return tooLong("type_url")
	}
	if _, known := st.strangers[url]; known {
		return nil
	}
	if len(st.strangers) == maxStrangers {
		return endFor(TooManyTypes, codes.ResourceExhausted, "more than %d types that are not served here", maxStrangers)
	}
	if st.strangers == nil {
		st.strangers = map[string]struct{}{}
	}
	st.strangers[url] = struct{}{}
	st.news = append(st.news, TypeNotServed)
	return nil
}

// refusalOf is the text of a NACK; "" for an ACK.
func refusalOf(detail *spb.Status) string {
	switch said := detail.GetMessage(); {
	case detail == nil:
		return ""
	case said == "":
		return "no reason given"
	default:
		// A copy: a part would keep the whole alive.
		return strings.ToValidUTF8(strings.Clone(said[:min(len(said), maxRefusal)]), "")
	}
}
