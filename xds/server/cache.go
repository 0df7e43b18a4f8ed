package server

import (
	"context"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/xds/resource"
)

const (
	// maxStrangers is how many types that are not served one stream may ask for;
	// go-control-plane remembers each.
	maxStrangers = 32
	// maxName bounds names that a client chooses: its node id, types, resources.
	maxName = 2048
	// maxRefusal bounds what is kept of the text of a NACK.
	maxRefusal = 2048
)

// streamKey names a stream in callbacks: go-control-plane counts the streams of
// the two variants apart.
type streamKey struct {
	delta bool
	id    int64
}

// front is the side of the server that go-control-plane sees: the streaming part of
// its cache.Cache, and the callbacks of its servers.
//
// A callback knows the stream and a watch knows the request, neither knows both.
// What ties them is the node: the first callback of a stream keeps the request's
// *Node, each later one puts that same pointer into its request, and CreateWatch
// finds the stream by it.
type front struct{ s *Server }

func (f front) open(ctx context.Context, key streamKey, url string) error {
	st := &stream{delta: key.delta, url: url, since: time.Now()}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		st.peer = p.Addr.String()
	}
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.s.streams[key] = st
	f.s.opened++
	return nil
}

func (f front) closed(key streamKey) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	st := f.s.streams[key]
	if st == nil {
		return
	}
	delete(f.s.streams, key)
	for _, sub := range st.subs {
		if sub != nil {
			sub.close()
		}
	}
	if st.id != nil {
		delete(f.s.byID, st.id)
		f.s.leave(st)
	}
}

// request is what both variants of a request have in common.
type request struct {
	node    *corev3.Node
	url     string
	nonce   string
	refusal string // "" unless it is a NACK
}

// request notes the answer that the request may be, and returns the node to put
// into it.
func (f front) request(key streamKey, r request) (*corev3.Node, error) {
	var st *stream
	var refused *batch
	defer func() { // after the lock is free
		if refused != nil {
			f.s.log.Warn("a client refused resources", "node", st.node, "kind", st.view.Kind.String(),
				"type", r.url, "version", refused.version, "reason", r.refusal)
		}
	}()
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	st = f.s.streams[key]
	if st == nil {
		return nil, status.Error(codes.Internal, "request on a stream that is not open")
	}
	if st.id == nil {
		switch {
		case r.node.GetId() == "":
			return nil, status.Error(codes.InvalidArgument, "the first request of a stream must have a node with an id")
		case len(r.node.GetId()) > maxName:
			return nil, tooLong("node.id")
		}
		st.id, st.node, st.view = r.node, r.node.GetId(), resource.ViewOf(r.node)
		f.s.byID[st.id] = st
		f.s.join(st)
	}
	// A node that changes in the middle of a stream is ignored: the first one counts.
	if r.url == "" {
		r.url = st.url
	}
	typ, ok := typeOf(r.url)
	if !ok {
		if len(r.url) > maxName {
			return nil, tooLong("type_url")
		}
		if st.strangers == nil {
			st.strangers = map[string]struct{}{}
		}
		st.strangers[r.url] = struct{}{}
		if len(st.strangers) > maxStrangers {
			return nil, status.Errorf(codes.ResourceExhausted, "more than %d types that are not served here", maxStrangers)
		}
		return st.id, nil
	}
	if sub := st.subs[typ]; sub != nil && r.nonce != "" {
		refused = f.s.answered(sub, r.nonce, r.refusal)
	}
	return st.id, nil
}

// refusalOf is the text of a NACK; "" for an ACK or a first request.
func refusalOf(nonce string, detail *spb.Status) string {
	switch {
	case nonce == "" || detail == nil:
		return ""
	case detail.GetMessage() == "":
		return "no reason given"
	}
	return strings.ToValidUTF8(detail.GetMessage()[:min(len(detail.GetMessage()), maxRefusal)], "")
}

// Callbacks, see sotw.Callbacks and delta.Callbacks of go-control-plane. Its
// server calls them on the stream's goroutine.

func (f front) OnStreamOpen(ctx context.Context, id int64, url string) error {
	return f.open(ctx, streamKey{id: id}, url)
}

func (f front) OnDeltaStreamOpen(ctx context.Context, id int64, url string) error {
	return f.open(ctx, streamKey{delta: true, id: id}, url)
}

func (f front) OnStreamClosed(id int64, _ *corev3.Node) { f.closed(streamKey{id: id}) }

func (f front) OnDeltaStreamClosed(id int64, _ *corev3.Node) {
	f.closed(streamKey{delta: true, id: id})
}

func (f front) OnStreamRequest(id int64, r *discoveryv3.DiscoveryRequest) error {
	node, err := f.request(streamKey{id: id}, request{
		node: r.GetNode(), url: r.GetTypeUrl(), nonce: r.GetResponseNonce(),
		refusal: refusalOf(r.GetResponseNonce(), r.GetErrorDetail()),
	})
	r.Node = node
	return err
}

func (f front) OnStreamDeltaRequest(id int64, r *discoveryv3.DeltaDiscoveryRequest) error {
	node, err := f.request(streamKey{delta: true, id: id}, request{
		node: r.GetNode(), url: r.GetTypeUrl(), nonce: r.GetResponseNonce(),
		refusal: refusalOf(r.GetResponseNonce(), r.GetErrorDetail()),
	})
	r.Node = node
	return err
}

func (f front) OnStreamResponse(_ context.Context, id int64, _ *discoveryv3.DiscoveryRequest, m *discoveryv3.DiscoveryResponse) {
	f.sent(streamKey{id: id}, m.GetTypeUrl(), m.GetNonce())
}

func (f front) OnStreamDeltaResponse(id int64, _ *discoveryv3.DeltaDiscoveryRequest, m *discoveryv3.DeltaDiscoveryResponse) {
	f.sent(streamKey{delta: true, id: id}, m.GetTypeUrl(), m.GetNonce())
}

func (f front) sent(key streamKey, url, nonce string) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	typ, ok := typeOf(url)
	if st := f.s.streams[key]; ok && st != nil && st.subs[typ] != nil {
		f.s.responses[typ]++
		if b := st.subs[typ].sent(nonce); b != nil && len(b.announced) > 0 {
			f.s.repeat(st, b)
		}
	}
}

// watch is one permission to send one response: go-control-plane opens it with
// each request, and closes it when the next request comes before the response.
type watch struct {
	request  *cache.Request
	respond  chan cache.Response
	requestD *cache.DeltaRequest
	respondD chan cache.DeltaResponse
}

// CreateWatch is cache.ConfigWatcher for state of the world: it takes over what
// the client subscribes to, and sends what there is to say or waits for it.
func (f front) CreateWatch(r *cache.Request, want cache.Subscription, ch chan cache.Response) (func(), error) {
	asked := digest(r.GetResourceNames())
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	sub, first, err := f.s.subscription(r.GetNode(), r.GetTypeUrl())
	if sub == nil {
		return nil, err
	}
	sub.lost()
	if first || asked != sub.asked {
		if err := f.s.check(maps.Keys(want.SubscribedResources()), len(want.SubscribedResources())); err != nil {
			return nil, err
		}
		sub.subscribe(want)
		sub.asked = asked
	}
	if first {
		sub.resume(r.GetVersionInfo())
	}
	return f.s.arm(sub, &watch{request: r, respond: ch}), nil
}

// digests are told apart by a seed that no client knows.
var digests = maphash.MakeSeed()

// digest stands for a list of names: a client repeats all of them with each ACK, and
// nearly always they are those of before.
func digest(names []string) uint64 {
	var h maphash.Hash
	h.SetSeed(digests)
	for _, name := range names {
		maphash.WriteComparable(&h, name)
	}
	return h.Sum64()
}

// subscribe takes over what a client of state of the world wants: all of it.
func (s *subscription) subscribe(want cache.Subscription) {
	names := want.SubscribedResources()
	s.setWildcard(want.IsWildcard())
	for name := range names {
		if t := s.table.topic(name); !s.entries[t].named {
			s.name(name)
			s.mark(t, false)
		}
	}
	if s.named > len(names) {
		for t, e := range s.entries {
			if _, ok := names[t.name]; e.named && !ok {
				s.unname(t)
			}
		}
	}
}

// CreateDeltaWatch is cache.ConfigWatcher for delta.
func (f front) CreateDeltaWatch(r *cache.DeltaRequest, want cache.Subscription, ch chan cache.DeltaResponse) (func(), error) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	sub, first, err := f.s.subscription(r.GetNode(), r.GetTypeUrl())
	if sub == nil {
		return nil, err
	}
	if err := f.s.check(slices.Values(r.GetResourceNamesSubscribe()), len(want.SubscribedResources())); err != nil {
		return nil, err
	}
	sub.lost()
	sub.setWildcard(want.IsWildcard())
	for _, name := range r.GetResourceNamesSubscribe() {
		if name != wildcard {
			// Also one that it has already: whoever asks again has lost it.
			sub.mark(sub.name(name), true)
		}
	}
	for _, name := range r.GetResourceNamesUnsubscribe() {
		if t, ok := sub.table.topics[name]; ok {
			sub.unname(t)
		}
	}
	if first {
		sub.resumeFrom(r.GetInitialResourceVersions())
	}
	return f.s.arm(sub, &watch{requestD: r, respondD: ch}), nil
}

const wildcard = "*"

// check bounds what a client asks for: names, of n in all.
func (s *Server) check(names iter.Seq[string], n int) error {
	if n > s.cfg.MaxNames {
		return status.Errorf(codes.ResourceExhausted, "%d names of one type: at most %d", n, s.cfg.MaxNames)
	}
	for name := range names {
		if len(name) > maxName {
			return tooLong("a resource name")
		}
	}
	return nil
}

func tooLong(what string) error {
	return status.Errorf(codes.InvalidArgument, "%s is longer than %d bytes", what, maxName)
}

// lost takes back a response that go-control-plane threw away because the next
// request was faster.
func (s *subscription) lost() {
	if b := s.queued; b != nil {
		s.queued = nil
		s.takeBack(b)
	}
}

// resume believes a client that reconnects in state of the world that it holds
// what it says, if that is all that there is for it now.
func (s *subscription) resume(version string) {
	if version == "" {
		return
	}
	var sum uint64
	for t := range s.entries {
		if now := t.in(s.stream.view.Zone); now != nil {
			sum += now.sum
		}
	}
	if version != versionOf(sum) {
		return
	}
	for t, e := range s.entries {
		if now := t.in(s.stream.view.Zone); now != nil {
			e.dirty = s.announced(t.name)
			e.force = e.dirty
			s.entries[t] = e
			s.hold(t, now)
		}
	}
	s.answer = false
}

// resumeFrom believes a delta client that reconnects what it holds.
func (s *subscription) resumeFrom(versions map[string]string) {
	for name, version := range versions {
		t := s.table.topics[name]
		if t == nil || t.in(s.stream.view.Zone) == nil {
			if e := s.entries[t]; s.wildcard && !e.named {
				s.gone = append(s.gone, name)
			}
			continue
		}
		now := t.in(s.stream.view.Zone)
		e, ok := s.entries[t]
		if !ok || version != now.version {
			continue
		}
		e.dirty = s.announced(name)
		e.force = e.dirty
		s.entries[t] = e
		s.hold(t, now)
	}
}

// response is a batch on its way into a stream: cache.Response and
// cache.DeltaResponse.
type response struct {
	watch    *watch
	body     *discoveryv3.DiscoveryResponse
	bodyD    *discoveryv3.DeltaDiscoveryResponse
	returned map[string]string
}

func (r *response) GetDiscoveryResponse() (*discoveryv3.DiscoveryResponse, error) {
	return r.body, nil
}

func (r *response) GetDeltaDiscoveryResponse() (*discoveryv3.DeltaDiscoveryResponse, error) {
	return r.bodyD, nil
}

func (r *response) GetRequest() *discoveryv3.DiscoveryRequest { return r.watch.request }

func (r *response) GetDeltaRequest() *discoveryv3.DeltaDiscoveryRequest { return r.watch.requestD }

func (r *response) GetVersion() (string, error) { return r.body.GetVersionInfo(), nil }

func (r *response) GetSystemVersion() (string, error) { return r.bodyD.GetSystemVersionInfo(), nil }

func (r *response) GetResponseVersion() string {
	if r.bodyD != nil {
		return r.bodyD.GetSystemVersionInfo()
	}
	return r.body.GetVersionInfo()
}

// GetReturnedResources is go-control-plane's memory of what a client holds. It is
// kept here, in subscription.entries; what it gets to keep is an empty map, into
// which it may write.
func (r *response) GetReturnedResources() map[string]string { return r.returned }

func (r *response) GetNextVersionMap() map[string]string { return r.returned }

func (r *response) GetContext() context.Context { return context.Background() }

var (
	_ cache.ConfigWatcher = front{}
	_ cache.Response      = (*response)(nil)
	_ cache.DeltaResponse = (*response)(nil)
)
