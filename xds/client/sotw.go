package client

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// sotw is a stream of the protocol that tells the state of the world, in the words of
// the delta protocol: a request names all that is wanted, and of listeners and clusters
// a response has all that there are, so that what it lacks is gone.
type sotw struct {
	grpc discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient

	mu    sync.Mutex // guards what follows: one goroutine sends, another receives
	types map[string]*world
}

// world is one type.
type world struct {
	names    map[string]bool // wanted, wildcard among them
	told     map[string]bool // in the last response
	accepted string          // version
	version  string          // of the last response
	nonce    string          // the same
}

func newSotW(st discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient) *sotw {
	return &sotw{grpc: st, types: map[string]*world{}}
}

func (s *sotw) ofLocked(url string) *world {
	w := s.types[url]
	if w == nil {
		w = &world{names: map[string]bool{}, told: map[string]bool{}}
		s.types[url] = w
	}
	return w
}

// Send asks for what is wanted from now on, or answers.
func (s *sotw) Send(m *discoveryv3.DeltaDiscoveryRequest) error {
	return s.grpc.Send(s.request(m))
}

func (s *sotw) request(m *discoveryv3.DeltaDiscoveryRequest) *discoveryv3.DiscoveryRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.ofLocked(m.GetTypeUrl())
	for name := range m.GetInitialResourceVersions() {
		w.told[name] = true // by an earlier stream
	}
	for _, name := range m.GetResourceNamesSubscribe() {
		w.names[name] = true
	}
	for _, name := range m.GetResourceNamesUnsubscribe() {
		delete(w.names, name)
	}
	if m.GetResponseNonce() != "" && m.GetErrorDetail() == nil && m.GetResponseNonce() == w.nonce {
		w.accepted = w.version
	}
	r := &discoveryv3.DiscoveryRequest{
		Node: m.GetNode(), TypeUrl: m.GetTypeUrl(), VersionInfo: w.accepted,
		ResponseNonce: cmp.Or(m.GetResponseNonce(), w.nonce), ErrorDetail: m.GetErrorDetail(),
	}
	if !w.names[wildcard] {
		r.ResourceNames = slices.Sorted(maps.Keys(w.names))
	} // else none: servers older than the asterisk understand that, too
	return r
}

// Recv is the next response.
func (s *sotw) Recv() (*discoveryv3.DeltaDiscoveryResponse, error) {
	m, err := s.grpc.Recv()
	if err != nil {
		return nil, err
	}
	return s.response(m), nil
}

func (s *sotw) response(m *discoveryv3.DiscoveryResponse) *discoveryv3.DeltaDiscoveryResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.ofLocked(m.GetTypeUrl())
	w.version, w.nonce = m.GetVersionInfo(), m.GetNonce()
	out := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: m.GetTypeUrl(), Nonce: m.GetNonce(), SystemVersionInfo: m.GetVersionInfo()}
	told, legible := map[string]bool{}, true
	for _, a := range m.GetResources() {
		var wrapped discoveryv3.Resource
		if a.MessageIs(&wrapped) && a.UnmarshalTo(&wrapped) == nil {
			a = wrapped.GetResource()
		}
		name := nameIn(a)
		legible = legible && name != ""
		told[name] = true
		out.Resources = append(out.Resources, &discoveryv3.Resource{Name: name, Version: m.GetVersionInfo(), Resource: a})
	}
	if full := m.GetTypeUrl() == resource.TypeCluster || m.GetTypeUrl() == resource.TypeListener; full && legible {
		gone := map[string]bool{}
		maps.Copy(gone, w.told)
		maps.Copy(gone, w.names)
		delete(gone, wildcard)
		maps.DeleteFunc(gone, func(name string, _ bool) bool { return told[name] })
		out.RemovedResources = slices.Sorted(maps.Keys(gone))
		w.told = told
	}
	return out
}

// nameIn is the name of a resource; "" if it is illegible. In all four types it is the
// field with the number 1.
func nameIn(a *anypb.Any) string {
	b, name := a.GetValue(), ""
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return ""
		}
		b = b[n:]
		if number == 1 && kind == protowire.BytesType {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return ""
			}
			name, b = string(v), b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return ""
		}
		b = b[n:]
	}
	return name
}
