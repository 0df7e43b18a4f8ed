package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/xds/resource"
)

const (
	// unreachable bounds the wait for a server that cannot be reached; it may come
	// back at any moment, and asking costs it nothing while it is gone.
	unreachable = time.Second
	// maxReason bounds the text of a NACK.
	maxReason = 4096
	wildcard  = "*"
)

// Config is how a client behaves; [DefaultConfig] has the defaults.
type Config struct {
	Node     Node
	Clusters []string // subscribe to these only; empty: to all that there are
	// Listeners to subscribe to; "*" is all, empty is none.
	Listeners []string
	// Missing is how long a named resource may stay unanswered on a stream before it
	// counts as one that does not exist; default 15 s.
	Missing time.Duration
	// BackoffMin and BackoffMax bound the wait before the next stream: jittered,
	// doubling, from the start again after the first good response. A server that
	// cannot be reached at all is tried at least once a second. Default 100 ms and
	// 15 s.
	BackoffMin, BackoffMax time.Duration
}

// DefaultConfig has the defaults; the Node is the caller's to fill in.
func DefaultConfig() Config {
	return Config{Missing: 15 * time.Second, BackoffMin: 100 * time.Millisecond, BackoffMax: 15 * time.Second}
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	if c.Node.ID == "" {
		errs = append(errs, errors.New("node.id: is empty: the control plane tells its clients apart by it"))
	}
	if c.Missing <= 0 {
		errs = append(errs, fmt.Errorf("missing: is %v: want more than 0", c.Missing))
	}
	if c.BackoffMin <= 0 || c.BackoffMax < c.BackoffMin {
		errs = append(errs, fmt.Errorf("backoff: is %v to %v: want 0 < min <= max", c.BackoffMin, c.BackoffMax))
	}
	return errors.Join(errs...)
}

// Handler gets what arrives. Its methods are called by Run's goroutine, one at a
// time, and must not block.
//
// An error refuses what the call brought: its text goes to the server in a NACK,
// and after a reconnect the server is told the versions of before. What Check refuses
// gets no further; the rest of the same response does.
type Handler interface {
	// Check refuses a resource that cannot be used as it is.
	Check(m proto.Message) error
	// Clusters brings clusters that are new or have changed, and the names of those
	// that are gone.
	Clusters(changed []*clusterv3.Cluster, removed []string) error
	// Endpoints does the same for the endpoints of those clusters, by the name that
	// [EDSName] gives. A removed name does not exist, or no more.
	Endpoints(changed []resource.Endpoints, removed []string) error
	// Listeners does the same for listeners, and Routes for the route configurations
	// that RouteNames names; it is asked after each of them.
	Listeners(changed []*listenerv3.Listener, removed []string) error
	Routes(changed []*routev3.RouteConfiguration, removed []string) error
	RouteNames() []string
	// Answered says what became of a response: nil if it was acknowledged, else why
	// it was refused.
	Answered(url string, refused error)
	// Stream says that the server answers (up), or that it does not and why. What was
	// told before stays valid. It is called when the answer changes, and once if the
	// first attempt fails.
	Stream(up bool, why error)
}

// Client is the sidecar's end of the xDS stream.
type Client struct {
	cc  grpc.ClientConnInterface
	cfg Config
	h   Handler
	log *slog.Logger

	// The rest belongs to Run's goroutine, and outlives a stream.
	clusters  *subscription
	endpoints *subscription
	listeners *subscription
	routes    *subscription
	services  map[string]string // cluster → name of its endpoints
	state     streamState
	// plain: the server knows no delta, and is asked for the state of the world.
	plain bool
}

type streamState uint8

const (
	untold streamState = iota
	up
	down
)

// New returns a client; Run starts it. The configuration must be valid.
func New(cc grpc.ClientConnInterface, cfg Config, h Handler, log *slog.Logger) *Client {
	c := &Client{
		cc: cc, cfg: cfg, h: h, log: log, services: map[string]string{},
		clusters:  newSubscription(resource.TypeCluster, cfg.Clusters),
		endpoints: newSubscription(resource.TypeEndpoints, nil),
		listeners: newSubscription(resource.TypeListener, cfg.Listeners),
		routes:    newSubscription(resource.TypeRoute, nil),
	}
	c.clusters.wildcard = len(cfg.Clusters) == 0
	return c
}

// Run keeps the stream until ctx ends; then it returns nil. It may be called once.
func (c *Client) Run(ctx context.Context) error {
	wait := c.cfg.BackoffMin
	for {
		good, err := c.stream(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if status.Code(err) == codes.Unimplemented && !c.plain {
			c.log.Info("the control plane knows no delta protocol: asking for the state of the world")
			c.plain = true
			continue
		}
		c.tell(down, err)
		if good {
			wait = c.cfg.BackoffMin
		}
		longest := c.cfg.BackoffMax
		if status.Code(err) == codes.Unavailable {
			longest = min(longest, unreachable)
		}
		wait = min(wait, longest)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		}
		wait *= 2
	}
}

// tell passes on a change of the stream's state.
func (c *Client) tell(s streamState, why error) {
	if c.state == s {
		return
	}
	c.state = s
	if s == up {
		c.log.Info("the control plane answers")
	} else {
		c.log.Warn("no answer from the control plane; what it said before stays valid", "error", why)
	}
	c.h.Stream(s == up, why)
}

// stream is the life of one stream. good says that the server sent something that
// makes sense.
func (c *Client) stream(ctx context.Context) (good bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer cancel()

	// Once it is known that nobody answers, the stream waits for the connection: to
	// ask again and again would add this pace to that of the connection.
	st, err := c.open(ctx)
	if err != nil {
		return false, err
	}
	responses := make(chan *discoveryv3.DeltaDiscoveryResponse)
	var ended error // written before responses is closed
	receiving.Go(func() {
		defer close(responses)
		for {
			m, err := st.Recv()
			if err != nil {
				ended = err
				return
			}
			select {
			case responses <- m:
			case <-ctx.Done():
				ended = ctx.Err()
				return
			}
		}
	})

	// A send that fails says only that the stream is over; Recv says why.
	node := c.cfg.Node.message()
	for _, s := range c.subscriptions() {
		if s == c.clusters || s.wildcard || len(s.names) > 0 {
			_ = st.Send(c.hello(s, node))
			node = nil // it is said once a stream
		}
	}
	due := time.NewTimer(0)
	defer due.Stop()
	var held []held // a stream has its own
	for {
		at, ok := c.nextMissing()
		if len(held) > 0 && (!ok || held[0].until.Before(at)) {
			at, ok = held[0].until, true
		}
		if ok {
			due.Reset(time.Until(at))
		} else {
			due.Stop()
		}
		select {
		case m, ok := <-responses:
			if !ok {
				return good, ended
			}
			c.tell(up, nil)
			requests := c.receive(m)
			good = good || len(requests) > 0 && requests[0].GetErrorDetail() == nil
			for _, r := range requests {
				if wait := c.pace(r); wait > 0 {
					held = hold(held, r, time.Now().Add(wait))
				} else {
					_ = st.Send(r)
				}
			}
		case <-due.C:
			now := time.Now()
			for len(held) > 0 && !held[0].until.After(now) {
				_ = st.Send(held[0].request)
				held = held[1:]
			}
			c.expire(now)
		}
	}
}

// adsStream is a stream of either protocol, in the words of delta.
type adsStream interface {
	Send(*discoveryv3.DeltaDiscoveryRequest) error
	Recv() (*discoveryv3.DeltaDiscoveryResponse, error)
}

func (c *Client) open(ctx context.Context) (adsStream, error) {
	ads, wait := discoveryv3.NewAggregatedDiscoveryServiceClient(c.cc), grpc.WaitForReady(c.state == down)
	if c.plain {
		st, err := ads.StreamAggregatedResources(ctx, wait)
		return newSotW(st), err
	}
	return ads.DeltaAggregatedResources(ctx, wait)
}

// subscriptions are those of all types, in the order in which a server should be told
// of them: what is needed before what needs it.
func (c *Client) subscriptions() []*subscription {
	return []*subscription{c.clusters, c.endpoints, c.listeners, c.routes}
}

// hello is the first request of a type on a stream.
func (c *Client) hello(s *subscription, node *corev3.Node) *discoveryv3.DeltaDiscoveryRequest {
	r := &discoveryv3.DeltaDiscoveryRequest{
		Node: node, TypeUrl: s.url, InitialResourceVersions: s.versions,
		ResourceNamesSubscribe: slices.Sorted(maps.Keys(s.names)),
	}
	if s.wildcard {
		// Said and not implied: an empty list could also mean none.
		r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, wildcard)
	}
	s.waiting = map[string]time.Time{}
	for name := range s.names {
		if _, held := s.versions[name]; !held { // of what is held, silence says that it is current
			s.waiting[name] = time.Now().Add(c.cfg.Missing)
		}
	}
	return r
}

// receive applies a response and returns what to send: its ACK or NACK, and what
// follows from it.
func (c *Client) receive(m *discoveryv3.DeltaDiscoveryResponse) []*discoveryv3.DeltaDiscoveryRequest {
	var err error
	var next *discoveryv3.DeltaDiscoveryRequest
	switch url := m.GetTypeUrl(); {
	case url == resource.TypeCluster:
		err = c.receiveClusters(m)
		next = c.endpoints.follow(slices.Collect(maps.Values(c.services)), c.cfg.Missing)
	case url == resource.TypeEndpoints:
		err = receive(c, c.endpoints, m, resource.DecodeEndpoints, func(e resource.Endpoints) string { return e.Service }, c.h.Endpoints)
	case url == resource.TypeListener && len(c.cfg.Listeners) > 0:
		err = receive(c, c.listeners, m, same, (*listenerv3.Listener).GetName, c.h.Listeners)
		next = c.routes.follow(c.h.RouteNames(), c.cfg.Missing)
	case url == resource.TypeRoute && len(c.cfg.Listeners) > 0:
		err = receive(c, c.routes, m, same, (*routev3.RouteConfiguration).GetName, c.h.Routes)
		next = c.routes.follow(c.h.RouteNames(), c.cfg.Missing)
	default:
		return nil // nobody asked, nobody answers
	}
	c.h.Answered(m.GetTypeUrl(), err)
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: m.GetTypeUrl(), ResponseNonce: m.GetNonce()}
	if err != nil {
		text := err.Error()
		c.log.Warn("refused resources of the control plane", "type", m.GetTypeUrl(), "error", text)
		text = strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
		answer.ErrorDetail = &spb.Status{Code: int32(codes.InvalidArgument), Message: text}
	}
	if next == nil {
		return []*discoveryv3.DeltaDiscoveryRequest{answer}
	}
	return []*discoveryv3.DeltaDiscoveryRequest{answer, next}
}

// receive decodes the resources of one type and passes them on.
func receive[M any, P interface {
	*M
	proto.Message
}, V any](c *Client, s *subscription, m *discoveryv3.DeltaDiscoveryResponse, decode func(P) (V, error), name func(V) string, pass func([]V, []string) error) error {
	changed, versions, errs := take(c, s, m, decode, name)
	removed := s.gone(m.GetRemovedResources())
	if len(changed) > 0 || len(removed) > 0 || len(m.GetResources()) == 0 {
		err := pass(changed, removed)
		s.settle(versions, removed, err)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (c *Client) receiveClusters(m *discoveryv3.DeltaDiscoveryResponse) error {
	return receive(c, c.clusters, m, same, (*clusterv3.Cluster).GetName, func(changed []*clusterv3.Cluster, removed []string) error {
		if err := c.h.Clusters(changed, removed); err != nil {
			return err
		}
		for _, m := range changed {
			if m.GetType() == clusterv3.Cluster_EDS {
				c.services[m.GetName()] = EDSName(m)
			} else {
				delete(c.services, m.GetName())
			}
		}
		for _, name := range removed {
			delete(c.services, name)
		}
		return nil
	})
}

// EDSName is the name by which a cluster's endpoints are asked for.
func EDSName(m *clusterv3.Cluster) string {
	return cmp.Or(m.GetEdsClusterConfig().GetServiceName(), m.GetName())
}

// same is the decoding of what the handler reads by itself.
func same[P proto.Message](m P) (P, error) { return m, nil }

// take decodes the resources of a response: the good ones with their versions, and
// what is wrong with the others. Those that nobody subscribes to (any more) are
// left out.
func take[M any, P interface {
	*M
	proto.Message
}, V any](c *Client, s *subscription, m *discoveryv3.DeltaDiscoveryResponse, decode func(P) (V, error), nameOf func(V) string) (changed []V, versions map[string]string, errs []error) {
	versions = map[string]string{}
	for _, r := range m.GetResources() {
		delete(s.waiting, r.GetName())
		if _, wanted := s.names[r.GetName()]; !wanted && !s.wildcard {
			continue
		}
		body := P(new(M))
		if err := r.GetResource().UnmarshalTo(body); err != nil {
			errs = append(errs, fmt.Errorf("resource %q: %w", r.GetName(), err))
			continue
		}
		if err := c.h.Check(body); err != nil {
			errs = append(errs, err)
			continue
		}
		v, err := decode(body)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if nameOf(v) != r.GetName() {
			errs = append(errs, fmt.Errorf("resource %q: calls itself %q", r.GetName(), nameOf(v)))
			continue
		}
		changed = append(changed, v)
		versions[r.GetName()] = r.GetVersion()
	}
	return changed, versions, errs
}

// nextMissing is when the next name counts as missing.
func (c *Client) nextMissing() (at time.Time, ok bool) {
	for _, s := range c.subscriptions() {
		for _, t := range s.waiting {
			if !ok || t.Before(at) {
				at, ok = t, true
			}
		}
	}
	return at, ok
}

// expire tells the handler of names for which no answer came in time. They stay
// subscribed: an answer may still come.
func (c *Client) expire(now time.Time) {
	for _, s := range c.subscriptions() {
		var missing []string
		for name, at := range s.waiting {
			if !at.After(now) {
				missing = append(missing, name)
				delete(s.waiting, name)
			}
		}
		if len(missing) == 0 {
			continue
		}
		slices.Sort(missing)
		c.log.Warn("the control plane does not know these", "type", s.url, "names", missing)
		var err error
		switch s {
		case c.clusters:
			err = c.h.Clusters(nil, missing)
		case c.endpoints:
			err = c.h.Endpoints(nil, missing)
		case c.listeners:
			err = c.h.Listeners(nil, missing)
		default:
			err = c.h.Routes(nil, missing)
		}
		if err != nil { // there is no response that it could refuse
			c.log.Warn("handler", "type", s.url, "error", err)
		}
	}
}
