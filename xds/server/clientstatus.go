package server

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"slices"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	statusv3 "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// maxStatus bounds an answer of CSDS: by default a gRPC client takes 4 MiB.
const maxStatus = 3 << 20

// RegisterStatus adds CSDS (envoy.service.status.v3): what each client was sent, and what
// it said to that. Whoever is told reads the configuration of all; may says who is, by its
// error for all others.
func (s *Server) RegisterStatus(r grpc.ServiceRegistrar, may func(context.Context) error) {
	statusv3.RegisterClientStatusDiscoveryServiceServer(r, statusService{server: s, may: may})
}

type statusService struct {
	statusv3.UnimplementedClientStatusDiscoveryServiceServer

	server *Server
	may    func(context.Context) error
}

func (v statusService) FetchClientStatus(ctx context.Context, r *statusv3.ClientStatusRequest) (*statusv3.ClientStatusResponse, error) {
	if err := v.may(ctx); err != nil {
		return nil, err
	}
	return v.server.clientStatus(ctx, r)
}

// StreamClientStatus answers each request with one response.
func (v statusService) StreamClientStatus(st statusv3.ClientStatusDiscoveryService_StreamClientStatusServer) error {
	if err := v.may(st.Context()); err != nil {
		return err
	}
	for {
		r, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer, err := v.server.clientStatus(st.Context(), r)
		if err != nil {
			return err
		}
		if err := st.Send(answer); err != nil {
			return err
		}
	}
}

// clientStatus describes the clients whose node matches, one for each connection of a
// node, with the streams that it has there.
func (s *Server) clientStatus(ctx context.Context, r *statusv3.ClientStatusRequest) (*statusv3.ClientStatusResponse, error) {
	matches, err := nodeMatcher(r.GetNodeMatchers())
	if err != nil {
		return nil, err
	}
	all := &statusv3.ClientStatusResponse{}
	size := 0
	for _, of := range s.conns() {
		if err := ctx.Err(); err != nil {
			return nil, status.FromContextError(err).Err()
		}
		if !matches(of.node) {
			continue
		}
		view, held := s.heldBy(of)
		if len(held) == 0 {
			continue // it has asked for nothing yet, or is gone
		}
		c := &statusv3.ClientConfig{Node: &corev3.Node{Id: of.node, Locality: &corev3.Locality{Zone: view.Zone}}}
		for _, h := range held {
			one, err := h.message(!r.GetExcludeResourceContents())
			if err != nil {
				return nil, err
			}
			if size += proto.Size(one); size > maxStatus {
				return nil, status.Errorf(codes.ResourceExhausted,
					"the answer is larger than %d bytes: name fewer clients by node_matchers, or set exclude_resource_contents", maxStatus)
			}
			c.GenericXdsConfigs = append(c.GenericXdsConfigs, one)
		}
		all.Config = append(all.Config, c)
	}
	return all, nil
}

// conns are the nodes on their connections, sorted.
func (s *Server) conns() []conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Keys(s.byConn), func(a, b conn) int {
		return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.peer, b.peer))
	})
}

// held is a resource that a client asks for, and how far that went.
type held struct {
	typ     typeIndex
	name    string
	sent    *encoded // nil: nothing
	status  statusv3.ConfigStatus
	refused refusal // if status is ERROR
}

// heldBy describes the streams of one connection, by type and name. The lock is held for
// one connection at a time, so that no push waits for the whole answer.
func (s *Server) heldBy(of conn) (resource.View, []held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var view resource.View
	var all []held
	for st := range s.byConn[of] {
		view = st.view
		for _, sub := range st.subs {
			if sub != nil {
				all = append(all, sub.held()...)
			}
		}
	}
	slices.SortFunc(all, func(a, b held) int {
		return cmp.Or(cmp.Compare(a.typ, b.typ), cmp.Compare(a.name, b.name))
	})
	return view, all
}

func (s *subscription) held() []held {
	unanswered := map[*topic]bool{}
	for _, b := range s.inFlight {
		for _, i := range b.items {
			unanswered[i.topic] = true
		}
	}
	var all []held
	for _, t := range s.topics() {
		e, _ := s.entry(t)
		h := held{typ: s.typ, name: t.name, sent: e.sent}
		refused, isRefused := s.refused[t]
		switch {
		case e.sent == nil && !e.named:
			continue // a wildcard covers it, and it is yet to be told
		case e.sent == nil:
			h.status = statusv3.ConfigStatus_NOT_SENT
		case unanswered[t]:
			h.status = statusv3.ConfigStatus_STALE
		case isRefused && refused.sent.version == e.sent.version:
			h.status, h.refused = statusv3.ConfigStatus_ERROR, refused
		case e.acked:
			h.status = statusv3.ConfigStatus_SYNCED
		default:
			h.status = statusv3.ConfigStatus_STALE
		}
		all = append(all, h)
	}
	return all
}

func (h held) message(contents bool) (*statusv3.ClientConfig_GenericXdsConfig, error) {
	m := &statusv3.ClientConfig_GenericXdsConfig{TypeUrl: typeURLs[h.typ], Name: h.name, ConfigStatus: h.status}
	if h.sent == nil {
		return m, nil
	}
	m.VersionInfo = h.sent.version
	if h.status == statusv3.ConfigStatus_ERROR {
		m.ErrorState = &adminv3.UpdateFailureState{Details: h.refused.text, VersionInfo: h.sent.version, LastUpdateAttempt: timestamppb.New(h.refused.at)}
	}
	if contents {
		var err error
		if m.XdsConfig, err = h.sent.unpack(); err != nil {
			return nil, status.Errorf(codes.Internal, "resource %q: %v", h.name, err)
		}
	}
	return m, nil
}

// unpack takes the resource out of the field that stands for it in responses.
func (e *encoded) unpack() (*anypb.Any, error) {
	field := e.sotw.ReadOnlyData()
	_, _, n := protowire.ConsumeTag(field)
	if n < 0 {
		return nil, protowire.ParseError(n)
	}
	value, n := protowire.ConsumeBytes(field[n:])
	if n < 0 {
		return nil, protowire.ParseError(n)
	}
	var a anypb.Any
	return &a, proto.Unmarshal(value, &a)
}
