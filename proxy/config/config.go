package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/http1"
	"github.com/overhear-mesh/overhear/proxy/http2"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/tcp"
	"github.com/overhear-mesh/overhear/proxy/trace"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// Config is a whole bootstrap file.
type Config struct {
	Node         Node         `yaml:"node"`
	Admin        Admin        `yaml:"admin"`
	ControlPlane ControlPlane `yaml:"control_plane"`
	// StateDir is where the last accepted resources are kept, so that a sidecar
	// started while its control plane is away serves from them. "": nowhere.
	StateDir  string    `yaml:"state_dir"`
	Log       Log       `yaml:"log"`
	AccessLog AccessLog `yaml:"access_log"`
	Tracing   Tracing   `yaml:"tracing"`
	Record    Record    `yaml:"record"`
	Drain     Drain     `yaml:"drain"`

	// Mark of the connections that the sidecar opens (SO_MARK), so that a firewall does
	// not redirect them to it again. It takes the capability CAP_NET_ADMIN. Default 0, none.
	Mark uint32 `yaml:"mark"`

	// HTTP1, HTTP2 and TCP are the engines' limits and time-outs, for all listeners.
	HTTP1 http1.Config `yaml:"http1"`
	HTTP2 http2.Config `yaml:"http2"`
	TCP   tcp.Config   `yaml:"tcp"`

	Outbound []Outbound `yaml:"outbound"`
	Inbound  []Inbound  `yaml:"inbound"`
	Clusters []Cluster  `yaml:"clusters"`
}

// Node says who this sidecar is; it becomes the xDS node.
type Node struct {
	// ID must be unique in the mesh. Default: the host's name.
	ID string `yaml:"id"`
	// Cluster is the service that this sidecar stands beside. Default: none.
	Cluster string `yaml:"cluster"`
	// Region and Zone are where it runs. Without a zone it shares in
	// fleet-wide verdicts only.
	Region string `yaml:"region"`
	Zone   string `yaml:"zone"`
	// Labels go to the control plane. "node" names the machine: sidecars on one
	// machine share its network, and count as one observer.
	Labels map[string]string `yaml:"labels"`
}

// Admin is the operator's door.
type Admin struct {
	// Address to listen on. Default 127.0.0.1:15000; "off" for none.
	Address string `yaml:"address"`
	// Token, of 16 characters or more, permits the calls that change something (drain, log level), as
	// "Authorization: Bearer TOKEN". Default: none, and no such calls.
	Token string `yaml:"token"`
}

// ControlPlane is where clusters come from and evidence goes.
type ControlPlane struct {
	// Addresses in the order of preference, host:port. Default: none; this
	// sidecar then relies on its file and its own observations.
	Addresses []string `yaml:"addresses"`
	// Insecure permits an address beyond loopback without TLS.
	Insecure bool `yaml:"insecure"`
	// Clusters to ask for. Default: all that the control plane offers.
	Clusters []string `yaml:"clusters"`
	// Listeners to ask for, by name, or "*" for all that the control plane offers;
	// their routes come with them. They stand beside those of the file. Default: none.
	Listeners []string `yaml:"listeners"`
}

// Log is the sidecar's own log, on standard error.
type Log struct {
	// Level is debug, info, warn or error. Default info.
	Level string `yaml:"level"`
	// Format is text or json. Default text.
	Format string `yaml:"format"`
}

// AccessLog has a line for each request and connection.
type AccessLog struct {
	// Path of the file; "stdout", "stderr", or "off". Default off.
	Path string `yaml:"path"`
	// Only "json" for now. Default json.
	Format string `yaml:"format"`
	// Inbound also logs what comes in for the local application. Default true.
	Inbound bool `yaml:"inbound"`
}

// Tracing sends spans of sampled requests to an OpenTelemetry receiver.
type Tracing struct {
	// Address of the receiver, host:port, spoken to by OTLP over gRPC. Default
	// none: trace headers pass through as they are.
	Address string `yaml:"address"`
	// Insecure lets spans leave this machine without TLS. Default false.
	Insecure bool `yaml:"insecure"`
	// Sampling is the share of the traces that begin here; of others the caller
	// has decided. Default 1%.
	Sampling float64 `yaml:"sampling"`
	// Propagation are the headers to read and write, w3c, b3 or b3multi; of those
	// that a request has the first counts. Default [w3c].
	Propagation []trace.Format `yaml:"propagation"`
	// Queue is how many spans may wait for the receiver. Default 2048.
	Queue int `yaml:"queue"`
}

// Record keeps what this sidecar reports of its clusters, for "controlplane replay":
// counts and endings, no requests. Clusters that the file defines are recorded only
// where there is no control plane.
type Record struct {
	// Path of the file that is written, of this sidecar alone; those before it are
	// PATH.1, the newest of them, PATH.2 and so on. A restart goes on in the same
	// file. Default: none, nothing is recorded.
	Path string `yaml:"path"`
	// MaxSize of one file, at least 1MiB. Default 64MiB.
	MaxSize strictyaml.Size `yaml:"max_size"`
	// Files that are kept, the one that is written included, 1 to 100; together they
	// take at most Files x MaxSize. Default 4.
	Files int `yaml:"files"`
}

// Drain is the way out after SIGTERM.
type Drain struct {
	// Timeout after which what is still open is cut. Default 30s.
	Timeout time.Duration `yaml:"timeout"`
	// Notice is for how long, of that, inbound listeners still take connections
	// after the control plane has been told that the instances behind them leave: in
	// that time callers learn to go elsewhere, instead of being refused. Not waited
	// for without a control plane. Default 500ms.
	Notice time.Duration `yaml:"notice"`
}

// Outbound is a listener that carries requests of the local application into the
// mesh. It has either one cluster or routes.
type Outbound struct {
	// Name in log and metrics, unique among all listeners. Default: the address.
	Name string `yaml:"name"`
	// Address to listen on, host:port.
	Address string `yaml:"address"`
	// Protocol is what clients speak: http1, http2 (without being asked; gRPC is
	// that), tcp, or auto: what a connection begins with tells, and what looks like a
	// request is one, however badly written. Default http1. The cluster's own protocol may
	// be the other version of HTTP.
	Protocol Protocol `yaml:"protocol"`
	// DetectTimeout is how long auto waits for a connection's first bytes; what says
	// nothing is carried as tcp, half a request line is read as http1. Default 3s.
	DetectTimeout time.Duration `yaml:"detect_timeout"`
	// Cluster that everything goes to.
	Cluster string `yaml:"cluster"`
	// Destinations lead what was to go there to clusters; the first that holds counts.
	// After them, the addresses of endpoints lead to their clusters. For transparent
	// listeners.
	Destinations []Destination `yaml:"destinations"`
	Redirected   Redirected    `yaml:",inline"`
	// Routes, first match wins; not for tcp. With auto, connections that speak no
	// HTTP are closed, since they have nothing to match routes on.
	Routes []router.Rule `yaml:"routes"`
	// ProxyProtocol wants a PROXY header, version 1 or 2, at the beginning of each
	// connection, and takes the client's address from it; a connection without one is
	// closed. Default false.
	ProxyProtocol bool `yaml:"proxy_protocol"`
	// MaxConnections at one time; further ones wait in the kernel's backlog. Default 0,
	// which stands for 65536.
	MaxConnections int `yaml:"max_connections"`
	// Paths are what becomes of a request's path before any rule looks at it.
	Paths exchange.Paths `yaml:"paths"`
	// TrustedHops is how many proxies stand before this listener that append the address
	// of their caller to x-forwarded-for: of one the last address is the client's, of two
	// the last but one, in log and hash. Default 0: the client is who has connected.
	TrustedHops int `yaml:"trusted_hops"`
	// Upgrades are what clients may change to from HTTP, and how long such a tunnel may
	// be silent.
	Upgrades exchange.Upgrades `yaml:",inline"`
	// Lifetime of a client's connection.
	Lifetime upstream.Lifetime `yaml:",inline"`
}

// Inbound is a listener that carries requests of the mesh to the local
// application. Outcomes are counted first-hand and reported; nobody is judged.
type Inbound struct {
	// Name, Address and Protocol as in an outbound listener.
	Name     string   `yaml:"name"`
	Address  string   `yaml:"address"`
	Protocol Protocol `yaml:"protocol"`
	// DetectTimeout is how long auto waits for a connection's first bytes. Default 3s.
	DetectTimeout time.Duration `yaml:"detect_timeout"`
	// Application is where the local application listens, host:port.
	Application string `yaml:"application"`
	// ApplicationProtocol is the version of HTTP that it speaks: http1, http2, or
	// same, which is that of the connection by which a request came: one that speaks
	// HTTP/1.1 alone wants http1 if callers come by HTTP/2. Default same.
	ApplicationProtocol ApplicationProtocol `yaml:"application_protocol"`
	// Service and Instance are what the registry calls this endpoint. Default
	// of Service: the node's cluster; of Instance: the address.
	Service  string `yaml:"service"`
	Instance string `yaml:"instance"`

	// Transparent: what was to go to another port than the application's is carried
	// there, unread and uncounted.
	Redirected Redirected `yaml:",inline"`
	// ProxyProtocol, MaxConnections and TrustedHops as in an outbound listener.
	ProxyProtocol  bool              `yaml:"proxy_protocol"`
	MaxConnections int               `yaml:"max_connections"`
	TrustedHops    int               `yaml:"trusted_hops"`
	Upgrades       exchange.Upgrades `yaml:",inline"`
	Lifetime       upstream.Lifetime `yaml:",inline"`
}

// Cluster is a cluster that the file defines: the policy of a cluster with its
// endpoints.
type Cluster struct {
	cluster.Config `yaml:",inline"`
	Endpoints      []Endpoint `yaml:"endpoints"`
}

// Endpoint is an endpoint of a cluster that the file defines.
type Endpoint struct {
	// ID is its identity over changes of address. Default: the address.
	ID string `yaml:"id"`
	// Address is ip:port.
	Address string `yaml:"address"`
	// Zone is where it runs, to judge a fault of one zone as such, and for prefer_zone.
	Zone string `yaml:"zone"`
	// Priority: the lowest number gets the requests, as far as it is well. Default 0.
	Priority uint32 `yaml:"priority"`
	// Weight relative to the others, 1 to 1000. Default 1.
	Weight uint32 `yaml:"weight"`
	// Inbound: an Overhear sidecar stands in front of the application.
	Inbound bool `yaml:"inbound"`
	// Draining: finishes what it has, gets nothing new.
	Draining bool `yaml:"draining"`
}

// Protocol is what a listener speaks.
type Protocol uint8

// The protocols.
const (
	HTTP1 Protocol = iota
	TCP
	HTTP2
	Auto
)

var protocols = [...]string{HTTP1: "http1", TCP: "tcp", HTTP2: "http2", Auto: "auto"}

// String is the name that files use.
func (p Protocol) String() string { return strictyaml.NameOf(p, protocols[:], "protocol") }

// MarshalText writes the name that UnmarshalText reads.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a name; it knows what else people call the protocols, and those
// that are not spoken yet, to say so.
func (p *Protocol) UnmarshalText(text []byte) error {
	switch s := string(text); s {
	case "http1", "http":
		*p = HTTP1
	case "http2", "h2c", "grpc":
		*p = HTTP2
	case "auto":
		*p = Auto
	case "tcp":
		*p = TCP
	case "h2", "tls", "https", "websocket":
		return fmt.Errorf("%q is not spoken yet: want http1, http2, auto, or tcp, which carries it opaquely", s)
	default:
		return fmt.Errorf("%q is no protocol: want http1, http2, auto or tcp", s)
	}
	return nil
}

// ApplicationProtocol is what a local application speaks.
type ApplicationProtocol uint8

// The versions of HTTP that an application may speak.
const (
	Same ApplicationProtocol = iota
	OnlyHTTP1
	OnlyHTTP2
)

var versions = [...]string{Same: "same", OnlyHTTP1: "http1", OnlyHTTP2: "http2"}

// String is the name that files use.
func (p ApplicationProtocol) String() string { return strictyaml.NameOf(p, versions[:], "protocol") }

// MarshalText writes the name that UnmarshalText reads.
func (p ApplicationProtocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a name.
func (p *ApplicationProtocol) UnmarshalText(text []byte) error {
	i := slices.Index(versions[:], string(text))
	if string(text) == "grpc" || string(text) == "h2c" {
		i = int(OnlyHTTP2)
	}
	if i < 0 {
		return fmt.Errorf("%q is no version of HTTP: want http1, http2 or same", text)
	}
	*p = ApplicationProtocol(i)
	return nil
}

// DefaultConfig has every default; it has no listener.
func DefaultConfig() Config {
	host, err := os.Hostname()
	if err != nil {
		host = "sidecar"
	}
	return Config{
		Node:      Node{ID: host},
		Admin:     Admin{Address: "127.0.0.1:15000"},
		Log:       Log{Level: "info", Format: "text"},
		AccessLog: AccessLog{Path: "off", Format: "json", Inbound: true},
		Tracing:   Tracing{Sampling: 0.01, Propagation: []trace.Format{trace.W3C}, Queue: 2048},
		Record:    Record{MaxSize: 64 << 20, Files: 4},
		Drain:     Drain{Timeout: 30 * time.Second, Notice: 500 * time.Millisecond},
		HTTP1:     http1.DefaultConfig(),
		HTTP2:     http2.DefaultConfig(),
		TCP:       tcp.DefaultConfig(),
	}
}

// Environment lists the variables that override fields of the file.
var Environment = []struct {
	Name, Field string
	set         func(*Config, string)
}{
	{"OVERHEAR_NODE_ID", "node.id", func(c *Config, v string) { c.Node.ID = v }},
	{"OVERHEAR_NODE_CLUSTER", "node.cluster", func(c *Config, v string) { c.Node.Cluster = v }},
	{"OVERHEAR_REGION", "node.region", func(c *Config, v string) { c.Node.Region = v }},
	{"OVERHEAR_ZONE", "node.zone", func(c *Config, v string) { c.Node.Zone = v }},
	{"OVERHEAR_NODE_NAME", "node.labels.node", func(c *Config, v string) {
		if c.Node.Labels == nil {
			c.Node.Labels = map[string]string{}
		}
		c.Node.Labels["node"] = v
	}},
	{"OVERHEAR_CONTROL_PLANE", "control_plane.addresses", func(c *Config, v string) { c.ControlPlane.Addresses = strings.Split(v, ",") }},
	{"OVERHEAR_ADMIN_ADDRESS", "admin.address", func(c *Config, v string) { c.Admin.Address = v }},
	{"OVERHEAR_ADMIN_TOKEN", "admin.token", func(c *Config, v string) { c.Admin.Token = v }},
	{"OVERHEAR_STATE_DIR", "state_dir", func(c *Config, v string) { c.StateDir = v }},
	{"OVERHEAR_LOG_LEVEL", "log.level", func(c *Config, v string) { c.Log.Level = v }},
}

// Load reads the file at path over the defaults, then the environment over the
// file, and validates the whole. lookup is os.LookupEnv outside tests. The error
// of a file that was read is, or wraps, strictyaml.Problems.
func Load(path string, lookup func(string) (string, bool)) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading the sidecar's configuration: %w", err)
	}
	return Decode(path, data, lookup)
}

// Decode is Load of a file's content.
func Decode(name string, data []byte, lookup func(string) (string, bool)) (Config, error) {
	c := DefaultConfig()
	var set []string
	complete := func(decoded any) {
		c := decoded.(*Config)
		for _, e := range Environment {
			if v, ok := lookup(e.Name); ok && v != "" {
				e.set(c, v)
				set = append(set, e.Name)
			}
		}
		c.complete()
	}
	if err := strictyaml.DecodeWith(name, data, &c, complete, defaults); err != nil {
		if len(set) > 0 {
			err = fmt.Errorf("%s, with %s from the environment:\n%w", name, strings.Join(set, ", "), err)
		}
		return Config{}, err
	}
	return c, nil
}

// defaults fills a list element before the file is read over it.
func defaults(value any) {
	switch v := value.(type) {
	case *Cluster:
		v.Config = cluster.DefaultConfig()
	case *Endpoint:
		v.Weight = 1
	case *Outbound:
		*v = DefaultOutbound()
	case *Inbound:
		v.DetectTimeout, v.Upgrades = detectTimeout, exchange.DefaultUpgrades()
	case *router.Rule:
		*v = router.DefaultRule()
	case *router.Share:
		v.Weight = 1
	case *router.Mirror:
		*v = router.DefaultMirror()
	case *router.Delay:
		*v = router.DefaultDelay()
	case *router.Abort:
		*v = router.DefaultAbort()
	}
}

// DefaultOutbound is a listener of which nothing is said yet.
func DefaultOutbound() Outbound {
	return Outbound{DetectTimeout: detectTimeout, Paths: exchange.DefaultPaths(), Upgrades: exchange.DefaultUpgrades()}
}

// detectTimeout is long enough for a client that connects ahead of its first request,
// and short enough for one that waits for its server to speak first.
const detectTimeout = 3 * time.Second

// complete fills what depends on other fields.
func (c *Config) complete() {
	for i := range c.Outbound {
		c.Outbound[i].Name = cmp.Or(c.Outbound[i].Name, c.Outbound[i].Address)
	}
	for i := range c.Inbound {
		in := &c.Inbound[i]
		in.Name = cmp.Or(in.Name, in.Address)
		in.Service = cmp.Or(in.Service, c.Node.Cluster)
		in.Instance = cmp.Or(in.Instance, in.Address)
	}
	for i := range c.Clusters {
		for j := range c.Clusters[i].Endpoints {
			e := &c.Clusters[i].Endpoints[j]
			e.ID = cmp.Or(e.ID, e.Address)
		}
	}
}

// Specs are the cluster's endpoints as discovery hands them on.
func (c Cluster) Specs() []cluster.Spec {
	specs := make([]cluster.Spec, len(c.Endpoints))
	for i, e := range c.Endpoints {
		specs[i] = cluster.Spec{
			ID: cmp.Or(e.ID, e.Address), Address: e.Address, Zone: e.Zone, Priority: e.Priority,
			Weight: e.Weight, Inbound: e.Inbound, Draining: e.Draining,
		}
	}
	return specs
}

// Validate checks what concerns several blocks; each block checks itself.
func (c *Config) Validate() error {
	var errs []error
	if len(c.Outbound) == 0 && len(c.Inbound) == 0 && len(c.ControlPlane.Listeners) == 0 {
		errs = append(errs, strictyaml.Invalid("outbound", "nothing to listen on: want an outbound or inbound listener, or control_plane.listeners"))
	}
	known := map[string]bool{}
	for i, cl := range c.Clusters {
		if known[cl.Name] {
			errs = append(errs, strictyaml.Invalid(fmt.Sprintf("clusters[%d].name", i), "a second cluster %q: names must be unique", cl.Name))
		}
		known[cl.Name] = true
	}
	// A cluster that the file does not define may come from a control plane. That one is
	// named at all is up to the block.
	leads := func(name, field string) {
		if name != "" && !known[name] && len(c.ControlPlane.Addresses) == 0 {
			errs = append(errs, strictyaml.Invalid(field, "no cluster %q here, and no control plane to bring one%s", name, strictyaml.DidYouMean(name, slices.Sorted(maps.Keys(known)))))
		}
	}
	addresses, names := map[string]string{}, map[string]bool{"admin": true} // see proxy.Sidecar.Addr
	if c.Admin.Address != "off" {
		addresses[c.Admin.Address] = "admin.address"
	}
	taken := func(address, field string) {
		if other, ok := addresses[address]; ok && !strings.HasSuffix(address, ":0") {
			errs = append(errs, strictyaml.Invalid(field, "%s is taken by %s: want a port of its own", address, other))
		}
		addresses[address] = field
	}
	named := func(name, address, field string) {
		if name = cmp.Or(name, address); name == address && !strings.HasSuffix(address, ":0") {
			return // it is as unique as the address
		}
		if names[name] {
			errs = append(errs, strictyaml.Invalid(field, "a second listener %q: names must be unique", name))
		}
		names[name] = true
	}
	for i, o := range c.Outbound {
		field := fmt.Sprintf("outbound[%d]", i)
		taken(o.Address, field+".address")
		named(o.Name, o.Address, field+".name")
		leads(o.Cluster, field+".cluster")
		for j, to := range o.Destinations {
			leads(to.Cluster, fmt.Sprintf("%s.destinations[%d].cluster", field, j))
		}
		for j, r := range o.Routes {
			route := fmt.Sprintf("%s.routes[%d]", field, j)
			leads(r.Cluster, route+".cluster")
			if r.Mirror != nil {
				leads(r.Mirror.Cluster, route+".mirror.cluster")
			}
			for k, share := range r.Clusters {
				leads(share.Cluster, fmt.Sprintf("%s.clusters[%d].cluster", route, k))
			}
		}
	}
	for i, in := range c.Inbound {
		taken(in.Address, fmt.Sprintf("inbound[%d].address", i))
		named(in.Name, in.Address, fmt.Sprintf("inbound[%d].name", i))
	}
	return errors.Join(errs...)
}

// Validate checks who this sidecar claims to be.
func (n Node) Validate() error {
	if n.ID == "" {
		return strictyaml.Invalid("id", "is empty: want a name that is unique in the mesh")
	}
	return nil
}

// minToken is as long as what is not guessed.
const minToken = 16

// Validate checks the operator's door.
func (a Admin) Validate() error {
	var errs []error
	if n := len(a.Token); n > 0 && n < minToken {
		errs = append(errs, strictyaml.Invalid("token", "is %d characters long: want %d or more", n, minToken))
	}
	if a.Address != "off" {
		errs = append(errs, hostPort("address", a.Address, "host:port, or off"))
	}
	return errors.Join(errs...)
}

// Validate checks the addresses, and that plain text stays on this machine.
func (cp ControlPlane) Validate() error {
	var errs []error
	for i, a := range cp.Addresses {
		field := fmt.Sprintf("addresses[%d]", i)
		if err := hostPort(field, a, "host:port"); err != nil {
			errs = append(errs, err)
			continue
		}
		if !cp.Insecure && !loopback(a) {
			errs = append(errs, strictyaml.Invalid(field, "%s is not on this machine and the connection has no TLS: want a loopback address, or insecure: true", a))
		}
	}
	if len(cp.Listeners) > 0 && len(cp.Addresses) == 0 {
		errs = append(errs, strictyaml.Invalid("listeners", "there is nobody to ask: want addresses as well"))
	}
	for i, name := range cp.Listeners {
		if name == "" || slices.Contains(cp.Listeners[:i], name) {
			errs = append(errs, strictyaml.Invalid(fmt.Sprintf("listeners[%d]", i), "is %q: want a name, each once, or *", name))
		}
	}
	return errors.Join(errs...)
}

// Validate checks the names.
func (l Log) Validate() error {
	return errors.Join(
		oneOf("level", l.Level, "debug", "info", "warn", "error"),
		oneOf("format", l.Format, "text", "json"),
	)
}

// Validate bounds what is kept.
func (r Record) Validate() error {
	var errs []error
	if r.MaxSize < 1<<20 {
		errs = append(errs, strictyaml.Invalid("max_size", "is %s: want 1MiB or more", r.MaxSize))
	}
	if r.Files < 1 || r.Files > 100 {
		errs = append(errs, strictyaml.Invalid("files", "is %d: want 1 to 100", r.Files))
	}
	return errors.Join(errs...)
}

// Validate checks the receiver's address and the bounds.
func (t Tracing) Validate() error {
	var errs []error
	if t.Address != "" {
		if err := hostPort("address", t.Address, "host:port"); err != nil {
			errs = append(errs, err)
		} else if !t.Insecure && !loopback(t.Address) {
			errs = append(errs, strictyaml.Invalid("address", "%s is not on this machine and the connection has no TLS: want a loopback address, or insecure: true", t.Address))
		}
	}
	if !(t.Sampling >= 0 && t.Sampling <= 1) {
		errs = append(errs, strictyaml.Invalid("sampling", "is %v: want 0 to 1, or a percentage", t.Sampling))
	}
	if len(t.Propagation) == 0 {
		errs = append(errs, strictyaml.Invalid("propagation", "is empty: want w3c, b3 or b3multi"))
	}
	for i, f := range t.Propagation {
		if slices.Index(t.Propagation, f) < i {
			errs = append(errs, strictyaml.Invalid(fmt.Sprintf("propagation[%d]", i), "%v is there already", f))
		}
	}
	if t.Queue < 1 || t.Queue > 1<<20 {
		errs = append(errs, strictyaml.Invalid("queue", "is %d: want 1 to %d", t.Queue, 1<<20))
	}
	return errors.Join(errs...)
}

// Validate checks the names.
func (a AccessLog) Validate() error {
	if a.Path == "" {
		return errors.Join(strictyaml.Invalid("path", "is empty: want a file, stdout, stderr or off"), oneOf("format", a.Format, "json"))
	}
	return oneOf("format", a.Format, "json")
}

// Validate bounds the waits.
func (d Drain) Validate() error {
	var errs []error
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"timeout", d.Timeout}, {"notice", d.Notice}} {
		if f.value < 0 || f.value > time.Hour {
			errs = append(errs, strictyaml.Invalid(f.name, "is %s: want 0s to 1h", f.value))
		}
	}
	return errors.Join(errs...)
}

// Validate checks that the listener knows where to send things.
func (o Outbound) Validate() error {
	errs := []error{hostPort("address", o.Address, "host:port")}
	switch {
	case o.Cluster == "" && len(o.Routes) == 0 && !o.Redirected.Transparent:
		errs = append(errs, strictyaml.Invalid("cluster", "nowhere to send requests: want cluster or routes"))
	case o.Cluster != "" && len(o.Routes) > 0:
		errs = append(errs, strictyaml.Invalid("routes", "cluster and routes exclude each other: want one of them"))
	case o.Protocol == TCP && len(o.Routes) > 0:
		errs = append(errs, strictyaml.Invalid("routes", "tcp has nothing to match routes on: want cluster"))
	}
	errs = append(errs, router.Check(o.Routes), checkDetection(o.Protocol, o.DetectTimeout))
	errs = append(errs, idle(o.Protocol, o.Redirected.Transparent, o.DetectTimeout, o.Upgrades, o.Paths), checkHops(o.Protocol, o.TrustedHops), idleLifetime(o.Protocol, o.Lifetime))
	errs = append(errs, o.Redirected.check(o.ProxyProtocol))
	if o.Redirected.Transparent {
		errs = append(errs, checkDetection(Auto, o.DetectTimeout)) // the host of a first request is waited for
	}
	if len(o.Destinations) > 0 && !o.Redirected.Transparent {
		errs = append(errs, strictyaml.Invalid("destinations", "are for transparent listeners: others have one destination"))
	}
	if o.MaxConnections < 0 {
		errs = append(errs, strictyaml.Invalid("max_connections", "is %d: want 0 (which is 65536) or more", o.MaxConnections))
	}
	return errors.Join(errs...)
}

// checkDetection bounds the wait of a listener that needs it.
func checkDetection(p Protocol, timeout time.Duration) error {
	if p == Auto && (timeout < 10*time.Millisecond || timeout > time.Minute) {
		return strictyaml.Invalid("detect_timeout", "is %s: want 10ms to 1m", timeout)
	}
	return nil
}

// Validate checks that the listener knows its application.
func (in Inbound) Validate() error {
	errs := []error{
		hostPort("address", in.Address, "host:port"),
		hostPort("application", in.Application, "the local application's host:port"),
	}
	if in.Address != "" && in.Address == in.Application {
		errs = append(errs, strictyaml.Invalid("application", "is the listener itself: want the port of the application"))
	}
	errs = append(errs, checkDetection(in.Protocol, in.DetectTimeout), in.Redirected.check(in.ProxyProtocol))
	errs = append(errs, idle(in.Protocol, false, in.DetectTimeout, in.Upgrades, exchange.DefaultPaths()), checkHops(in.Protocol, in.TrustedHops), idleLifetime(in.Protocol, in.Lifetime))
	if in.Protocol == TCP && in.ApplicationProtocol != Same {
		errs = append(errs, strictyaml.Invalid("application_protocol", "is %s: tcp carries whatever comes unread", in.ApplicationProtocol))
	}
	if in.MaxConnections < 0 {
		errs = append(errs, strictyaml.Invalid("max_connections", "is %d: want 0 (which is 65536) or more", in.MaxConnections))
	}
	return errors.Join(errs...)
}

// Validate checks that the endpoints can be told apart.
func (c *Cluster) Validate() error {
	var errs []error
	if err := c.Config.Validate(); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, idlePing(c.Protocol, c.Ping))
	ids, addresses := map[string]bool{}, map[string]bool{}
	for i, e := range c.Endpoints {
		field := fmt.Sprintf("endpoints[%d]", i)
		if id := cmp.Or(e.ID, e.Address); ids[id] {
			errs = append(errs, strictyaml.Invalid(field+".id", "a second endpoint %q", id))
		} else {
			ids[id] = true
		}
		if addresses[e.Address] {
			errs = append(errs, strictyaml.Invalid(field+".address", "a second endpoint at %s", e.Address))
		}
		addresses[e.Address] = true
	}
	return errors.Join(errs...)
}

// Validate checks one endpoint.
func (e Endpoint) Validate() error {
	var errs []error
	if _, err := netip.ParseAddrPort(e.Address); err != nil {
		errs = append(errs, strictyaml.Invalid("address", "is %q: want ip:port", e.Address))
	}
	if e.Weight < 1 || e.Weight > 1000 {
		errs = append(errs, strictyaml.Invalid("weight", "is %d: want 1 to 1000", e.Weight))
	}
	return errors.Join(errs...)
}

func hostPort(field, value, want string) error {
	host, port, err := net.SplitHostPort(value)
	if err != nil || host == "" || port == "" {
		return strictyaml.Invalid(field, "is %q: want %s", value, want)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return strictyaml.Invalid(field, "is %q: want a port of 0 to 65535", value)
	}
	return nil
}

func oneOf(field, value string, known ...string) error {
	if !slices.Contains(known, value) {
		return strictyaml.Invalid(field, "is %q: want %s", value, strings.Join(known, ", "))
	}
	return nil
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
