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
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
// What is refused is not held: the reasons go to the server in a NACK, and after a
// reconnect it is told the versions of before. The rest of the same response is taken.
type Handler interface {
	// Clusters brings clusters that are new or have changed, and the names of those
	// that are gone.
	Clusters(changed []*clusterv3.Cluster, removed []string) Refused
	// Endpoints does the same for the endpoints of those clusters, by the name that
	// [EDSName] gives. A removed name does not exist, or no more.
	Endpoints(changed []*endpointv3.ClusterLoadAssignment, removed []string) Refused
	// Listeners does the same for listeners, and Routes for the route configurations
	// that RouteNames names; it is asked after each of them.
	Listeners(changed []*listenerv3.Listener, removed []string) Refused
	Routes(changed []*routev3.RouteConfiguration, removed []string) Refused
	RouteNames() []string
	// Answered says what became of a response: nil if it was acknowledged, else why
	// it was refused.
	Answered(url string, refused error)
	// Stream says that the server answers (up), or that it does not and why. What was
	// told before stays valid. It is called when the answer changes, and once if the
	// first attempt fails.
	Stream(up bool, why error)
}

// Refused is why resources cannot be used, by name; nil: all can.
type Refused map[string]error

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
	// asked are those of them that this client asks for, in the order in which a server
	// should be told of them: what is needed before what needs it.
	asked    []*subscription
	services map[string]string // cluster → name of its endpoints
	state    streamState
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
	c := &Client{cc: cc, cfg: cfg, h: h, log: log, services: map[string]string{}}
	c.clusters = newSubscription(resource.TypeCluster, cfg.Clusters, (*clusterv3.Cluster).GetName, c.takeClusters)
	c.clusters.wildcard = len(cfg.Clusters) == 0
	c.endpoints = newSubscription(resource.TypeEndpoints, nil, (*endpointv3.ClusterLoadAssignment).GetClusterName, h.Endpoints)
	c.listeners = newSubscription(resource.TypeListener, cfg.Listeners, (*listenerv3.Listener).GetName, h.Listeners)
	c.routes = newSubscription(resource.TypeRoute, nil, (*routev3.RouteConfiguration).GetName, h.Routes)
	c.asked = []*subscription{c.clusters, c.endpoints}
	if len(cfg.Listeners) > 0 {
		c.asked = append(c.asked, c.listeners, c.routes)
	}
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
	for _, s := range c.asked {
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
	s := c.subscription(m.GetTypeUrl())
	if s == nil {
		return nil // nobody asked, nobody answers
	}
	err := s.receive(m)
	c.h.Answered(s.url, err)
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: s.url, ResponseNonce: m.GetNonce()}
	if err != nil {
		text := err.Error()
		c.log.Warn("refused resources of the control plane", "type", s.url, "error", text)
		text = strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
		answer.ErrorDetail = &spb.Status{Code: int32(codes.InvalidArgument), Message: text}
	}
	if next := c.follow(s); next != nil {
		return []*discoveryv3.DeltaDiscoveryRequest{answer, next}
	}
	return []*discoveryv3.DeltaDiscoveryRequest{answer}
}

// subscription is that of a type; nil: this client does not ask for it.
func (c *Client) subscription(url string) *subscription {
	for _, s := range c.asked {
		if s.url == url {
			return s
		}
	}
	return nil
}

// follow changes the subscription to what others name, after one of those has changed;
// nil when it is the same.
func (c *Client) follow(changed *subscription) *discoveryv3.DeltaDiscoveryRequest {
	switch changed {
	case c.clusters:
		return c.endpoints.follow(slices.Collect(maps.Values(c.services)), c.cfg.Missing)
	case c.listeners, c.routes:
		return c.routes.follow(c.h.RouteNames(), c.cfg.Missing)
	}
	return nil
}

// takeClusters passes clusters on, and notes by which names their endpoints go.
func (c *Client) takeClusters(changed []*clusterv3.Cluster, removed []string) Refused {
	refused := c.h.Clusters(changed, removed)
	for _, m := range changed {
		switch {
		case refused[m.GetName()] != nil:
		case m.GetType() == clusterv3.Cluster_EDS:
			c.services[m.GetName()] = EDSName(m)
		default:
			delete(c.services, m.GetName())
		}
	}
	for _, name := range removed {
		delete(c.services, name)
	}
	return refused
}

// EDSName is the name by which a cluster's endpoints are asked for.
func EDSName(m *clusterv3.Cluster) string {
	return cmp.Or(m.GetEdsClusterConfig().GetServiceName(), m.GetName())
}

// nextMissing is when the next name counts as missing.
func (c *Client) nextMissing() (at time.Time, ok bool) {
	for _, s := range c.asked {
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
	for _, s := range c.asked {
		var missing []string
		for name, at := range s.waiting {
			if !at.After(now) {
				missing = append(missing, name)
			}
		}
		if len(missing) == 0 {
			continue
		}
		slices.Sort(missing)
		c.log.Warn("the control plane does not know these", "type", s.url, "names", missing)
		_ = s.receive(&discoveryv3.DeltaDiscoveryResponse{RemovedResources: missing}) // brings nothing to refuse
	}
}
