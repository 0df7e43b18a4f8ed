package client

import (
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

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

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

// Node is who this client says it is.
type Node struct {
	ID, Cluster  string
	Region, Zone string
	Version      string            // of this binary
	Labels       map[string]string // become node metadata, under [resource.MetadataKey]
}

// Config is how a client behaves; [DefaultConfig] has the defaults.
type Config struct {
	Node     Node
	Clusters []string // subscribe to these only; empty: to all that there are
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
// and after a reconnect the server is told the versions of before. What cannot be
// decoded is refused by the client and never gets here; the rest of the same
// response does.
type Handler interface {
	// Clusters brings clusters that are new or have changed, and the names of those
	// that are gone.
	Clusters(changed []resource.Cluster, removed []string) error
	// Endpoints does the same for the endpoints of those clusters, by the name that
	// [resource.Cluster.EDSName] gives. A removed name does not exist, or no more.
	Endpoints(changed []resource.Endpoints, removed []string) error
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
	services  map[string]string // cluster → name of its endpoints
	state     streamState
}

type streamState uint8

const (
	untold streamState = iota
	up
	down
)

// subscription is one type: what is wanted and what is held.
type subscription struct {
	url      string
	wildcard bool
	names    map[string]struct{} // wanted by name
	versions map[string]string   // of what was accepted
	// waiting are the names of which the server has not spoken on this stream, with
	// the instant from which they count as missing.
	waiting map[string]time.Time
}

func newSubscription(url string) *subscription {
	return &subscription{url: url, names: map[string]struct{}{}, versions: map[string]string{}, waiting: map[string]time.Time{}}
}

// New returns a client; Run starts it. The configuration must be valid.
func New(cc grpc.ClientConnInterface, cfg Config, h Handler, log *slog.Logger) *Client {
	c := &Client{
		cc: cc, cfg: cfg, h: h, log: log, services: map[string]string{},
		clusters:  newSubscription(resource.TypeCluster),
		endpoints: newSubscription(resource.TypeEndpoints),
	}
	for _, name := range cfg.Clusters {
		c.clusters.names[name] = struct{}{}
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
	st, err := discoveryv3.NewAggregatedDiscoveryServiceClient(c.cc).DeltaAggregatedResources(ctx, grpc.WaitForReady(c.state == down))
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
	if st.Send(c.hello(c.clusters, c.cfg.Node.message())) == nil && len(c.endpoints.names) > 0 {
		_ = st.Send(c.hello(c.endpoints, nil))
	}
	missing := time.NewTimer(0)
	defer missing.Stop()
	for {
		if at, ok := c.nextMissing(); ok {
			missing.Reset(time.Until(at))
		} else {
			missing.Stop()
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
				_ = st.Send(r)
			}
		case <-missing.C:
			c.expire(time.Now())
		}
	}
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
	var next []*discoveryv3.DeltaDiscoveryRequest
	switch m.GetTypeUrl() {
	case resource.TypeCluster:
		err = c.receiveClusters(m)
		if r := c.resubscribe(); r != nil {
			next = append(next, r)
		}
	case resource.TypeEndpoints:
		err = c.receiveEndpoints(m)
	default:
		return nil // nobody asked, nobody answers
	}
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: m.GetTypeUrl(), ResponseNonce: m.GetNonce()}
	if err != nil {
		text := err.Error()
		c.log.Warn("refused resources of the control plane", "type", m.GetTypeUrl(), "error", text)
		text = strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
		answer.ErrorDetail = &spb.Status{Code: int32(codes.InvalidArgument), Message: text}
	}
	return append([]*discoveryv3.DeltaDiscoveryRequest{answer}, next...)
}

func (c *Client) receiveClusters(m *discoveryv3.DeltaDiscoveryResponse) error {
	changed, versions, errs := take(c.clusters, m, resource.DecodeCluster, func(c resource.Cluster) string { return c.Name })
	removed := c.clusters.gone(m.GetRemovedResources())
	if len(changed) > 0 || len(removed) > 0 {
		err := c.h.Clusters(changed, removed)
		c.clusters.settle(versions, removed, err)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, cluster := range changed {
			c.services[cluster.Name] = cluster.EDSName()
		}
		for _, name := range removed {
			delete(c.services, name)
		}
	}
	return errors.Join(errs...)
}

func (c *Client) receiveEndpoints(m *discoveryv3.DeltaDiscoveryResponse) error {
	changed, versions, errs := take(c.endpoints, m, resource.DecodeEndpoints, func(e resource.Endpoints) string { return e.Service })
	removed := c.endpoints.gone(m.GetRemovedResources())
	if len(changed) > 0 || len(removed) > 0 {
		err := c.h.Endpoints(changed, removed)
		c.endpoints.settle(versions, removed, err)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// take decodes the resources of a response: the good ones with their versions, and
// what is wrong with the others. Those that nobody subscribes to (any more) are
// left out.
func take[M any, P interface {
	*M
	proto.Message
}, V any](s *subscription, m *discoveryv3.DeltaDiscoveryResponse, decode func(P) (V, error), nameOf func(V) string) (changed []V, versions map[string]string, errs []error) {
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

// gone are the names that the server says do not exist, as far as anybody cares.
func (s *subscription) gone(names []string) []string {
	var removed []string
	for _, name := range names {
		delete(s.waiting, name)
		_, wanted := s.names[name]
		_, held := s.versions[name]
		if wanted || held {
			removed = append(removed, name)
		}
	}
	return removed
}

// settle notes what the handler accepted.
func (s *subscription) settle(versions map[string]string, removed []string, refused error) {
	if refused != nil {
		return
	}
	maps.Copy(s.versions, versions)
	for _, name := range removed {
		delete(s.versions, name)
	}
}

// resubscribe makes the subscription to endpoints fit the clusters; nil when it
// does already.
func (c *Client) resubscribe() *discoveryv3.DeltaDiscoveryRequest {
	s := c.endpoints
	r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: s.url}
	wanted := map[string]struct{}{}
	for _, service := range c.services {
		wanted[service] = struct{}{}
		if _, ok := s.names[service]; !ok {
			r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, service)
			s.names[service] = struct{}{}
			s.waiting[service] = time.Now().Add(c.cfg.Missing)
		}
	}
	for name := range s.names {
		if _, ok := wanted[name]; !ok {
			r.ResourceNamesUnsubscribe = append(r.ResourceNamesUnsubscribe, name)
			delete(s.names, name)
			delete(s.versions, name)
			delete(s.waiting, name)
		}
	}
	if len(r.GetResourceNamesSubscribe()) == 0 && len(r.GetResourceNamesUnsubscribe()) == 0 {
		return nil
	}
	slices.Sort(r.GetResourceNamesSubscribe())
	slices.Sort(r.GetResourceNamesUnsubscribe())
	return r
}

// nextMissing is when the next name counts as missing.
func (c *Client) nextMissing() (at time.Time, ok bool) {
	for _, s := range []*subscription{c.clusters, c.endpoints} {
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
	for _, s := range []*subscription{c.clusters, c.endpoints} {
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
		if s == c.clusters {
			err = c.h.Clusters(nil, missing)
		} else {
			err = c.h.Endpoints(nil, missing)
		}
		if err != nil { // there is no response that it could refuse
			c.log.Warn("handler", "type", s.url, "error", err)
		}
	}
}

func (n Node) message() *corev3.Node {
	m := &corev3.Node{
		Id: n.ID, Cluster: n.Cluster,
		Locality:             &corev3.Locality{Region: n.Region, Zone: n.Zone},
		UserAgentName:        "overhear",
		UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: n.Version},
	}
	fields := map[string]*structpb.Value{}
	for name, value := range n.Labels {
		fields[name] = structpb.NewStringValue(value)
	}
	if len(fields) > 0 {
		labels := &structpb.Struct{Fields: map[string]*structpb.Value{"labels": structpb.NewStructValue(&structpb.Struct{Fields: fields})}}
		m.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{resource.MetadataKey: structpb.NewStructValue(labels)}}
	}
	return m
}
