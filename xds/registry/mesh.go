package registry

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Mesh is one consistent list of services. It is immutable once a Registry has
// published it.
type Mesh struct {
	// Detection is where the detection policy of every service starts from; nil:
	// from merge.DefaultPolicy.
	Detection *merge.Policy `yaml:"detection"`
	// Services are what callers can name.
	Services []Service `yaml:"services"`
}

// Protocol is what the endpoints of a service speak, as far as a sidecar has
// to know it.
type Protocol string

// Protocols.
const (
	HTTP1 Protocol = "http1" // HTTP/1.1
	HTTP2 Protocol = "http2" // HTTP/2 without being asked
	GRPC  Protocol = "grpc"  // the same, by the name of what it carries
	TCP   Protocol = "tcp"   // bytes, whatever they mean
)

// Service is what callers name, with the endpoints that offer it.
type Service struct {
	// Name is the name of the cluster and of its endpoints on the wire.
	Name string `yaml:"name"`
	// Protocol is http1, http2, grpc or tcp; default http1.
	Protocol Protocol `yaml:"protocol"`
	// ConnectTimeout bounds the time in which a connection must be up; default 1s.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// Listen is where an unmodified Envoy that takes its whole configuration from
	// here listens for callers of this service; default: nowhere.
	Listen netip.AddrPort `yaml:"listen"`
	// Hosts are the authorities that a route of an Envoy to this service matches,
	// and further names under which a gRPC client may dial it; default: any
	// authority, and the service's name.
	Hosts []string `yaml:"hosts"`
	// Hash is by what requests are kept together where a balancer of ring_hash or maglev
	// hashes and the route is from here: at an Envoy with Listen, and at gRPC clients, which
	// know header fields alone and without one go round. The routes of a sidecar's file
	// have their own.
	Hash []Hash `yaml:"hash"`
	// Ping says how an endpoint without traffic is asked whether it lives.
	Ping Ping `yaml:"ping"`
	// Balancer says how clients choose among the endpoints.
	Balancer Balancer `yaml:"balancer"`
	// Detection says how the service's endpoints are judged; see Policy.
	Detection merge.Policy `yaml:"detection"`
	// EnvoyWeights says whether Envoys are told that an endpoint which is slow for all
	// callers gets a part of its weight. A change of weights moves keys in an Envoy that
	// hashes; default: true, but false with a balancer of ring_hash or maglev.
	EnvoyWeights *bool `yaml:"envoy_weights"`
	// Endpoints are the addresses that offer the service. An empty list is allowed:
	// a service may be known before it runs.
	Endpoints []Endpoint `yaml:"endpoints"`
}

// Balancer is how clients choose among the endpoints of a service, in the words of the
// sidecar's own file. What else stands there, such as prefer_zone, is each sidecar's own.
type Balancer struct {
	// Policy is p2c, least_request, round_robin, random, ring_hash or maglev; default p2c.
	// An Envoy has least request for p2c, and a gRPC client goes round for it. Both go
	// round for random, as an Envoy's own RANDOM heeds no weights. What the two hashing
	// ones go by is said by routes; see Hash. A gRPC client has ring_hash for maglev.
	Policy BalancerPolicy `yaml:"policy"`
	// BoundedLoad goes with ring_hash and maglev: no endpoint has more requests in flight
	// than so many times its fair part, of those of one sidecar or Envoy. 1 to 10, such as
	// 1.25; default 0, no bound, as it is at gRPC clients always.
	BoundedLoad float64 `yaml:"bounded_load"`
}

// BalancerPolicy is a rule of choice.
type BalancerPolicy string

// Rules of choice, as in the sidecar's file.
const (
	P2C          BalancerPolicy = "p2c"
	LeastRequest BalancerPolicy = "least_request"
	RoundRobin   BalancerPolicy = "round_robin"
	Random       BalancerPolicy = "random"
	RingHash     BalancerPolicy = "ring_hash"
	Maglev       BalancerPolicy = "maglev"
)

var balancerPolicies = []string{string(P2C), string(LeastRequest), string(RoundRobin), string(Random), string(RingHash), string(Maglev)}

// Hashes reports whether the rule goes by a key of the request.
func (b BalancerPolicy) Hashes() bool { return b == RingHash || b == Maglev }

// Hash is something of a request that hashing goes by, as in the sidecar's file: one of
// its fields is given. What a request does not have is left out; without any it has no key.
type Hash struct {
	Header string `yaml:"header"` // the name of a header field
	Cookie string `yaml:"cookie"` // the name of a cookie
	Query  string `yaml:"query"`  // the name of a parameter
	Source bool   `yaml:"source"` // the client's host
}

// Ping is how an idle endpoint of a service is asked whether it lives.
type Ping struct {
	Kind    merge.PingKind `yaml:"kind"`    // off, tcp, http or grpc; default tcp
	Path    string         `yaml:"path"`    // what an http ping asks for; default /
	Host    string         `yaml:"host"`    // the authority that an http or grpc ping names; default: the address
	Service string         `yaml:"service"` // what a grpc ping asks the health service for; default: the whole server
}

// Endpoint is one address that offers a service.
type Endpoint struct {
	// Address is an IP address and a port.
	Address netip.AddrPort `yaml:"address"`
	// Instance is the identity of the endpoint; default: its address.
	Instance string `yaml:"instance"`
	Region   string `yaml:"region"`
	Zone     string `yaml:"zone"`
	// Node names the machine that the endpoint runs on. Observers on the same
	// machine are not asked to confirm that it is down.
	Node string `yaml:"node"`
	// Sidecar is the xDS node id of the sidecar beside the endpoint, the only one
	// that may report what happened inside it; default: whoever connects from the
	// endpoint's own IP address.
	Sidecar string `yaml:"sidecar"`
	// Weight is the share of the endpoint relative to the others, 1 to 1000;
	// default 1.
	Weight uint32 `yaml:"weight"`
	// Priority 0 is used first, the next one when too little of it is left.
	Priority uint32 `yaml:"priority"`
	// Inbound says that a sidecar stands before the application and marks the
	// answers that it gives in the application's place.
	Inbound bool `yaml:"inbound"`
	// Draining takes the endpoint out of use in peace.
	Draining bool `yaml:"draining"`
	// Labels are for people, and for findings such as "all of version v2".
	Labels map[string]string `yaml:"labels"`
}

const (
	maxName      = 253    // as a DNS name
	maxEndpoints = 20_000 // of one service: the most that one report stream can speak of
	// maxWeight keeps the sum of the weights of a service, published times 100,
	// below 2^32: gRPC refuses an assignment above it.
	maxWeight = 1000
)

// ID is the identity of the endpoint inside its service.
func (e Endpoint) ID() string {
	if e.Instance != "" {
		return e.Instance
	}
	return e.Address.String()
}

// Policy says how the service's endpoints are judged, the kind of their pings
// included.
func (s *Service) Policy() merge.Policy {
	p := s.Detection
	p.Ping = s.Ping.Kind
	return p
}

// WeighsEnvoys is what EnvoyWeights says, or its default.
func (s *Service) WeighsEnvoys() bool {
	if s.EnvoyWeights != nil {
		return *s.EnvoyWeights
	}
	return !s.Balancer.Policy.Hashes()
}

// Len is the number of endpoints of all services.
func (m *Mesh) Len() int {
	n := 0
	for i := range m.Services {
		n += len(m.Services[i].Endpoints)
	}
	return n
}

// NewService is a service without endpoints, as a file that says nothing else
// would make it.
func NewService(name string) Service {
	return Service{
		Name: name, Protocol: HTTP1, ConnectTimeout: time.Second,
		Ping: Ping{Kind: merge.PingTCP, Path: "/"}, Balancer: Balancer{Policy: P2C}, Detection: merge.DefaultPolicy(),
	}
}

// DecodeInto decodes a mesh file into the struct that into points to and checks
// it. The struct holds a Mesh, inline, and whatever else the file says. The
// error names every problem with line and column; into is written only if there
// is none.
func DecodeInto(name string, data []byte, into any) error {
	defaults := merge.DefaultPolicy()
	base := &defaults
	return strictyaml.Decode(name, data, into, func(value any) {
		switch v := value.(type) {
		case *merge.Policy:
			// Mesh.Detection, the only optional one. The services are a list, so
			// it is complete when the first of them is made.
			*v = defaults
			base = v
		case *Service:
			*v = NewService("")
			v.Detection = *base
		case *Endpoint:
			*v = Endpoint{Weight: 1}
		}
	})
}

// problems collects field errors.
type problems []error

func (p *problems) add(field, format string, args ...any) {
	*p = append(*p, strictyaml.Invalid(field, format, args...))
}

// Validate says which services cannot stand beside each other.
func (m *Mesh) Validate() error {
	var p problems
	if m.Services == nil {
		// Also what is left of a file that was truncated: nothing is no mesh.
		p.add("services", "are missing: want a list, which may be empty")
	}
	names, listens := map[string]int{}, map[netip.AddrPort]int{}
	for i, s := range m.Services {
		if first, ok := names[s.Name]; ok && s.Name != "" {
			p.add(fmt.Sprintf("services[%d].name", i), "%q names services[%d] already", s.Name, first)
		} else {
			names[s.Name] = i
		}
	}
	for i, s := range m.Services {
		for j, host := range s.Hosts {
			if first, ok := names[host]; ok && first != i {
				p.add(fmt.Sprintf("services[%d].hosts[%d]", i, j), "%q names services[%d] already", host, first)
			} else {
				names[host] = i
			}
		}
		if first, ok := listens[s.Listen]; ok && s.Listen.IsValid() {
			p.add(fmt.Sprintf("services[%d].listen", i), "%s is where services[%d] listens already", s.Listen, first)
		} else {
			listens[s.Listen] = i
		}
	}
	return errors.Join(p...)
}

// Validate says what of the service's own fields cannot be used.
func (s *Service) Validate() error {
	var p problems
	p.name("name", s.Name, true)
	switch s.Protocol {
	case HTTP1, HTTP2, GRPC, TCP:
	default:
		p.add("protocol", "%q is no protocol: want http1, http2, grpc or tcp", s.Protocol)
	}
	if s.ConnectTimeout < time.Millisecond || s.ConnectTimeout > time.Minute {
		p.add("connect_timeout", "%v is not between 1ms and 1m", s.ConnectTimeout)
	}
	for i, h := range s.Hosts {
		p.name(fmt.Sprintf("hosts[%d]", i), h, true)
	}
	s.validateHash(&p)
	switch s.Ping.Kind {
	case merge.PingOff, merge.PingTCP, merge.PingHTTP, merge.PingGRPC:
	default:
		p.add("ping.kind", "%q is no kind of ping: want off, tcp, http or grpc", s.Ping.Kind)
	}
	if !strings.HasPrefix(s.Ping.Path, "/") || strings.ContainsFunc(s.Ping.Path, notVisible) {
		p.add("ping.path", "%q is no path: want one that begins with / and has no blanks", s.Ping.Path)
	}
	if strings.ContainsFunc(s.Ping.Host, notVisible) {
		p.add("ping.host", "%q has blanks", s.Ping.Host)
	}
	if s.Ping.Kind == merge.PingHTTP && s.Protocol != HTTP1 {
		p.add("ping.kind", "http pings need protocol http1")
	}
	if s.Ping.Kind == merge.PingGRPC && s.Protocol == HTTP1 {
		p.add("ping.kind", "grpc pings do not go with protocol http1")
	}
	if strings.ContainsFunc(s.Ping.Service, notVisible) {
		p.add("ping.service", "%q has blanks", s.Ping.Service)
	}
	s.validateEndpoints(&p)
	return errors.Join(p...)
}

// Validate says what of a balancer cannot be.
func (b Balancer) Validate() error {
	var p problems
	if policy := string(b.Policy); !slices.Contains(balancerPolicies, policy) {
		p.add("policy", "%q is no policy%s", policy,
			cmp.Or(strictyaml.DidYouMean(policy, balancerPolicies), ": want one of "+strings.Join(balancerPolicies, ", ")))
		return errors.Join(p...)
	}
	switch bound := b.BoundedLoad; {
	case bound != 0 && !(bound >= 1 && bound <= 10):
		p.add("bounded_load", "is %v: want 1 to 10, or 0 for none", bound)
	case bound != 0 && !b.Policy.Hashes():
		p.add("bounded_load", "goes with ring_hash and maglev only, not with %s", b.Policy)
	}
	return errors.Join(p...)
}

func (s *Service) validateHash(p *problems) {
	if len(s.Hash) > 0 && !s.Balancer.Policy.Hashes() {
		p.add("hash", "goes with a balancer of ring_hash or maglev only")
	}
	if len(s.Hash) > 0 && s.Protocol == TCP {
		p.add("hash", "does not go with protocol tcp, which has no routes")
	}
	for i, h := range s.Hash {
		field, given := fmt.Sprintf("hash[%d]", i), 0
		for _, name := range []string{h.Header, h.Cookie, h.Query} {
			if name != "" {
				given++
				p.name(field, name, true)
			}
		}
		if h.Source {
			given++
		}
		if given != 1 {
			p.add(field, "want one of header, cookie, query and source")
		}
	}
}

func (s *Service) validateEndpoints(p *problems) {
	if n := len(s.Endpoints); n > maxEndpoints {
		p.add("endpoints", "are %d: want at most %d in one service", n, maxEndpoints)
	}
	addresses, ids := map[netip.AddrPort]int{}, map[string]int{}
	priorities := map[uint32]int{}
	for i, e := range s.Endpoints {
		field := func(name string) string { return fmt.Sprintf("endpoints[%d].%s", i, name) }
		switch first, ok := addresses[e.Address]; {
		case !e.Address.IsValid():
			p.add(field("address"), "is missing: want an IP address and a port, such as 10.0.0.1:8080")
			continue
		case e.Address.Port() == 0 || e.Address.Addr().IsUnspecified() || e.Address.Addr().IsMulticast():
			p.add(field("address"), "%s is nothing that can be dialled", e.Address)
		case ok:
			// gRPC refuses a whole assignment in which an address stands twice.
			p.add(field("address"), "%s is the address of endpoints[%d] already", e.Address, first)
		default:
			addresses[e.Address] = i
		}
		if first, ok := ids[e.ID()]; ok {
			p.add(field("instance"), "%q is the instance of endpoints[%d] already", e.ID(), first)
		} else {
			ids[e.ID()] = i
		}
		p.name(field("instance"), e.Instance, false)
		p.name(field("region"), e.Region, false)
		p.name(field("zone"), e.Zone, false)
		p.name(field("node"), e.Node, false)
		p.name(field("sidecar"), e.Sidecar, false)
		if e.Weight < 1 || e.Weight > maxWeight {
			p.add(field("weight"), "%d is not between 1 and %d: to take an endpoint out of use, set draining", e.Weight, maxWeight)
		}
		if _, ok := priorities[e.Priority]; !ok {
			priorities[e.Priority] = i
		}
	}
	// gRPC refuses an assignment with a gap in its priorities.
	wanted := uint32(0)
	for _, used := range slices.Sorted(maps.Keys(priorities)) {
		if used != wanted {
			p.add(fmt.Sprintf("endpoints[%d].priority", priorities[used]), "is %d, and no endpoint has %d: want priorities without a gap", used, wanted)
			break
		}
		wanted++
	}
}

// name checks something that becomes a resource name, a label of a metric or
// both.
func (p *problems) name(field, value string, required bool) {
	switch {
	case value == "" && required:
		p.add(field, "is missing")
	case len(value) > maxName:
		p.add(field, "is %d bytes long: want at most %d", len(value), maxName)
	case strings.ContainsFunc(value, notVisible):
		p.add(field, "%q has blanks or control characters", value)
	}
}

func notVisible(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }
