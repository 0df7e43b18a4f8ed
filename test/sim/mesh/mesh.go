package mesh

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/proxy"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/config"
	engine "github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/pipenet"
	"github.com/overhear-mesh/overhear/xds/controlplane"
	"github.com/overhear-mesh/overhear/xds/registry"
)

// Service is the name of the one service of a mesh.
const Service = "api"

const (
	controlHost = "10.0.0.1"
	xdsPort     = ":15010"
	apiPort     = ":15014"
	userPort    = "127.0.0.1:15001"
	port        = ":8080" // of an endpoint, as the mesh knows it
	behindPort  = "127.0.0.1:9000"
)

// Config is a mesh. The zero value of a field means its default.
type Config struct {
	Callers   int // default 5
	Endpoints int // default 6
	// Zones over which both are spread in turn; default 1.
	Zones int
	// Inbound puts a sidecar in front of each application.
	Inbound bool
	// Rate is requests per second into each endpoint, from all callers together;
	// default 0, none. See Mesh.Load.
	Rate float64
	// BaseErrors is the share of requests that every application fails in health.
	BaseErrors float64
	// Posts is the share of requests that must not be sent twice.
	Posts float64
	// Work is how long an application takes for an answer; default 2ms.
	Work time.Duration
	// Near and Far are what a packet takes within a zone and beyond it; default
	// 0.2ms and 1ms, each with as much as half of it in jitter.
	Near, Far time.Duration
	// Alone leaves the control plane out: sidecars have the endpoints in their files.
	Alone bool
	// NoControl starts the mesh while the control plane is away; StartControl brings it.
	NoControl bool
	// Node names the machine of a caller; default: each has its own.
	Node func(caller int) string
	// Policy changes how the service is judged.
	Policy func(*registry.Service)
	// Sidecar changes a caller's configuration.
	Sidecar func(caller int, cfg *config.Config)
	// Inside changes the configuration of the sidecar before an application.
	Inside func(endpoint int, cfg *config.Config)
	// Saved has callers keep what they were told, so that another life of the same
	// caller can serve from it.
	Saved bool
	// File gives callers the endpoints in their files, as Alone does, but leaves them
	// their control plane for everything else.
	File bool
	// Seed decides the load, the network's jitter, the backends' dice and, through
	// the time at which each sidecar starts, theirs.
	Seed uint64
	// Log gets the log of all parts; default: discarded.
	Log slog.Handler
}

// Mesh is everything that runs in one bubble.
type Mesh struct {
	*Ledger
	Net       *pipenet.Network
	Callers   []*Caller
	Endpoints []*Endpoint
	Registry  *registry.Registry

	t       testing.TB
	cfg     Config
	began   time.Time
	rng     *rand.Rand
	ctx     context.Context // ends with the mesh
	running sync.WaitGroup  // all sidecars and users

	control *control
	lives   int // of the control plane
	dir     string
	past    []controlplane.Event // of its earlier lives
}

// Caller is a host with users and the sidecar beside them.
type Caller struct {
	Index   int
	Host    *pipenet.Host
	IP      string
	Zone    string
	Sidecar *proxy.Sidecar

	users   *users
	ended   chan struct{} // closed when the sidecar has ended
	end     context.CancelFunc
	cutLoad context.CancelFunc
}

// Endpoint is a host that offers the service.
type Endpoint struct {
	*fakeupstream.Backend
	Index    int
	Instance string
	Address  string
	Host     *pipenet.Host
	IP       string
	Zone     string
	health   fakeupstream.Fault
}

// Heal ends the endpoint's fault.
func (e *Endpoint) Heal() error { return e.Set(e.health) }

// control is one life of the control plane.
type control struct {
	*controlplane.ControlPlane
	end   context.CancelFunc
	ended chan error
}

func (c *Config) complete() {
	c.Callers, c.Endpoints, c.Zones = cmp.Or(c.Callers, 5), cmp.Or(c.Endpoints, 6), cmp.Or(c.Zones, 1)
	c.Work = cmp.Or(c.Work, 2*time.Millisecond)
	c.Near, c.Far = cmp.Or(c.Near, 200*time.Microsecond), cmp.Or(c.Far, time.Millisecond)
	if c.Node == nil {
		c.Node = func(i int) string { return fmt.Sprintf("host-of-caller-%d", i) }
	}
	if c.Log == nil {
		c.Log = slog.DiscardHandler
	}
}

// Start brings a mesh up inside a bubble and returns when every sidecar can serve.
// The mesh ends with the test.
func Start(t testing.TB, cfg Config) *Mesh {
	t.Helper()
	cfg.complete()
	ctx, cancel := context.WithCancel(context.Background())
	m := &Mesh{
		Ledger: &Ledger{}, Net: pipenet.New(cfg.Seed), t: t, cfg: cfg, began: time.Now(),
		rng: rand.New(rand.NewPCG(cfg.Seed, 1)), ctx: ctx, dir: t.TempDir(),
	}
	t.Cleanup(func() {
		for _, c := range m.Callers {
			m.StopUsers(c.Index)
		}
		cancel()
		m.running.Wait()
		for _, e := range m.Endpoints {
			e.Close()
		}
		if m.control == nil {
			return
		}
		if err := m.endControl(); err != nil {
			t.Errorf("control plane: %v", err)
		}
	})
	m.Net.Delay("*", "*", cfg.Far, cfg.Far/2)
	for z := range cfg.Zones {
		net := fmt.Sprintf("10.%d.0.0/16", z+1)
		m.Net.Delay(net, net, cfg.Near, cfg.Near/2)
	}
	for i := range cfg.Endpoints {
		m.startEndpoint(i)
	}
	m.Registry = registry.Static(m.mesh())
	if !cfg.Alone && !cfg.NoControl {
		m.StartControl()
	}
	for i := range cfg.Callers {
		m.Wait(time.Duration(m.rng.Int64N(int64(10 * time.Millisecond))))
		m.AddCaller(i)
	}
	for _, c := range m.Callers {
		m.AwaitReady(c)
	}
	if cfg.Rate > 0 {
		m.Load(cfg.Rate)
	}
	return m
}

func (m *Mesh) zone(i int) (name string, number int) {
	z := i % m.cfg.Zones
	return string(rune('a' + z)), z + 1
}

func (m *Mesh) startEndpoint(i int) {
	m.t.Helper()
	zone, number := m.zone(i)
	e := &Endpoint{Index: i, Instance: fmt.Sprintf("api-%d", i), Zone: zone, IP: fmt.Sprintf("10.%d.2.%d", number, i+1)}
	e.Host, e.Address = m.Net.Host(e.IP), e.IP+port
	address := e.Address
	if m.cfg.Inbound {
		address = behindPort
	}
	var err error
	e.Backend, err = fakeupstream.Start(m.ctx, fakeupstream.Config{
		Name: e.Instance, Address: address, Listen: e.Host.Listen, Latency: m.cfg.Work, Seed: m.rng.Uint64(),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	e.health = fakeupstream.Errors(m.cfg.BaseErrors)
	if err := e.Heal(); err != nil {
		m.t.Fatal(err)
	}
	m.Endpoints = append(m.Endpoints, e)
	if !m.cfg.Inbound {
		return
	}
	cfg := m.sidecar(e.Instance, zone, "host-of-"+e.Instance)
	cfg.Node.Cluster = Service
	cfg.Inbound = []config.Inbound{{
		Name: "inbound", Address: e.Address, Application: behindPort, Service: Service, Instance: e.Instance,
		DetectTimeout: config.DefaultOutbound().DetectTimeout,
	}}
	if m.cfg.Inside != nil {
		m.cfg.Inside(i, &cfg)
	}
	s, err := proxy.New(cfg, proxy.Options{
		Log: m.log(e.Instance), Dial: e.Host.Dial, Listen: e.Host.Listen,
		OnEvent: func(ev cluster.Event) { m.pinged(e.Instance, ev) },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.run(e.Instance, s, m.ctx, nil)
}

func (m *Mesh) log(who string) *slog.Logger { return slog.New(m.cfg.Log).With("who", who) }

func (m *Mesh) run(who string, s *proxy.Sidecar, ctx context.Context, ended chan struct{}) {
	m.running.Go(func() {
		if err := s.Run(ctx); err != nil {
			m.t.Errorf("%s: %v", who, err)
		}
		if ended != nil {
			close(ended)
		}
	})
}

// sidecar is what all sidecars have in common.
func (m *Mesh) sidecar(id, zone, node string) config.Config {
	cfg := config.DefaultConfig()
	cfg.Node = config.Node{ID: id, Zone: zone, Labels: map[string]string{"node": node}}
	cfg.Admin.Address = "off"
	cfg.Drain.Timeout = 100 * time.Millisecond
	if !m.cfg.Alone {
		cfg.ControlPlane = config.ControlPlane{Addresses: []string{controlHost + xdsPort}, Insecure: true}
	}
	return cfg
}

// mesh is what the registry knows.
func (m *Mesh) mesh() *registry.Mesh {
	s := registry.Service{
		Name: Service, Protocol: registry.HTTP1, ConnectTimeout: time.Second,
		Ping: registry.Ping{Kind: merge.PingTCP, Path: "/"}, Detection: merge.DefaultPolicy(),
	}
	for _, e := range m.Endpoints {
		s.Endpoints = append(s.Endpoints, registry.Endpoint{
			Address: netip.MustParseAddrPort(e.Address), Instance: e.Instance, Zone: e.Zone, Node: "host-of-" + e.Instance,
			Sidecar: e.Instance, Weight: 1, Inbound: m.cfg.Inbound,
		})
	}
	if m.cfg.Policy != nil {
		m.cfg.Policy(&s)
	}
	return &registry.Mesh{Services: []registry.Service{s}}
}

// AddCaller starts the sidecar of a caller and gives it users, who do nothing yet. It
// does not wait until the sidecar can serve.
func (m *Mesh) AddCaller(i int) *Caller {
	m.t.Helper()
	zone, number := m.zone(i)
	c := &Caller{Index: i, Zone: zone, IP: fmt.Sprintf("10.%d.1.%d", number, i+1)}
	c.Host = m.Net.Host(c.IP)
	c.users = &users{caller: i, host: c.Host, target: userPort, posts: m.cfg.Posts, began: m.began, ledger: m.Ledger, rates: make(chan float64, 1)}
	if i < len(m.Callers) {
		m.Callers[i] = c
	} else {
		m.Callers = append(m.Callers, c)
	}
	m.startCaller(c)
	ctx, cancel := context.WithCancel(m.ctx)
	c.cutLoad = cancel
	dice := rand.New(rand.NewPCG(m.cfg.Seed, uint64(1000+i)))
	m.running.Go(func() { c.users.run(ctx, dice) })
	return c
}

func (m *Mesh) startCaller(c *Caller) {
	m.t.Helper()
	id := nameOf(c.Index)
	cfg := m.sidecar(id, c.Zone, m.cfg.Node(c.Index))
	out := config.DefaultOutbound()
	out.Name, out.Address, out.Cluster = Service, userPort, Service
	cfg.Outbound = []config.Outbound{out}
	if m.cfg.Alone || m.cfg.File {
		cfg.Clusters = []config.Cluster{m.FileCluster()}
	}
	if m.cfg.Saved {
		cfg.StateDir = filepath.Join(m.dir, id)
	}
	if m.cfg.Sidecar != nil {
		m.cfg.Sidecar(c.Index, &cfg)
	}
	s, err := proxy.New(cfg, proxy.Options{
		Log: m.log(id), Dial: c.Host.Dial, Listen: c.Host.Listen,
		OnRequest: func(_ string, r *engine.Record) { m.heard(c.Index, r) },
		OnEvent:   func(e cluster.Event) { m.believed(c.Index, e) },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	c.Sidecar, c.ended = s, make(chan struct{})
	ctx, cancel := context.WithCancel(m.ctx)
	c.end = cancel
	m.run(id, s, ctx, c.ended)
}

// FileCluster is the service as a sidecar's own file has it.
func (m *Mesh) FileCluster() config.Cluster {
	c := config.Cluster{Config: cluster.DefaultConfig()}
	c.Name = Service
	for _, e := range m.Endpoints {
		c.Endpoints = append(c.Endpoints, config.Endpoint{ID: e.Instance, Address: e.Address, Zone: e.Zone, Weight: 1, Inbound: m.cfg.Inbound})
	}
	return c
}

// StopUsers ends a caller's load and waits for its requests.
func (m *Mesh) StopUsers(caller int) {
	c := m.Callers[caller]
	c.cutLoad()
	c.users.wg.Wait()
}

// StopCaller ends a caller's sidecar in good order.
func (m *Mesh) StopCaller(caller int) {
	m.StopUsers(caller)
	c := m.Callers[caller]
	c.end()
	<-c.ended
}

// heard notes a request that a caller's sidecar has carried.
func (m *Mesh) heard(caller int, r *engine.Record) {
	began := m.Now() - r.Duration
	for _, a := range r.Attempts {
		m.addAttempt(Attempt{
			At: began + a.Offset, Took: a.Duration, Caller: caller, Endpoint: m.indexOf(a.Endpoint.ID),
			Class: a.Class, Ending: a.Ending, Status: a.Status,
		})
	}
}

func (m *Mesh) believed(caller int, e cluster.Event) {
	for _, c := range e.Changes {
		m.addBelief(Belief{At: m.Now(), Caller: caller, Endpoint: m.indexOf(c.ID), Change: c})
	}
	m.pinged(nameOf(caller), e)
}

func (m *Mesh) pinged(by string, e cluster.Event) {
	for _, p := range e.Pings {
		m.addPing(Ping{At: m.Now(), By: by, Endpoint: m.indexOf(p.ID), Leased: p.Leased, Result: p.Result})
	}
}

// nameOf is a caller's node.
func nameOf(caller int) string { return fmt.Sprintf("caller-%d", caller) }

// indexOf is -1 for an endpoint that is not the mesh's.
func (m *Mesh) indexOf(instance string) int {
	for _, e := range m.Endpoints {
		if e.Instance == instance || e.Address == instance {
			return e.Index
		}
	}
	return -1
}

// AwaitReady waits until a sidecar can serve and knows every endpoint.
func (m *Mesh) AwaitReady(c *Caller) {
	m.t.Helper()
	why := ""
	for range 1000 {
		if why = c.Sidecar.Ready(); why == "" {
			n := len(m.Snapshot(c.Index).Endpoints)
			if n == len(m.Endpoints) {
				return
			}
			why = fmt.Sprintf("it knows %d of %d endpoints", n, len(m.Endpoints))
		}
		m.Wait(10 * time.Millisecond)
	}
	m.t.Fatalf("caller %d is not ready after 10s: %s", c.Index, why)
}

// Snapshot is what a caller's sidecar believes now.
func (m *Mesh) Snapshot(caller int) cluster.Snapshot {
	for _, c := range m.Callers[caller].Sidecar.Clusters() {
		if c.Name() == Service {
			if s := c.Snapshot(); s != nil {
				return *s
			}
		}
	}
	return cluster.Snapshot{}
}

// Load makes the users send so many requests per second into each endpoint, as long
// as all endpoints share alike. Each caller sends the same.
func (m *Mesh) Load(rate float64) {
	for i := range m.Callers {
		m.LoadOf(i, rate*float64(len(m.Endpoints))/float64(len(m.Callers)))
	}
}

// LoadOf makes the users of one caller send so many requests per second in all.
func (m *Mesh) LoadOf(caller int, rate float64) { m.Callers[caller].users.rates <- rate }

// Now is the time since the mesh began.
func (m *Mesh) Now() time.Duration { return time.Since(m.began) }

// Wait lets virtual time pass.
func (m *Mesh) Wait(d time.Duration) { time.Sleep(d) }

// StartControl starts the control plane, over what its last life has left, and waits
// until it answers its clients.
func (m *Mesh) StartControl() {
	m.t.Helper()
	m.StartControlOnly()
	<-m.control.Opened()
}

// StartControlOnly is StartControl without the wait.
func (m *Mesh) StartControlOnly() {
	m.t.Helper()
	cfg := controlplane.DefaultConfig()
	cfg.XDS, cfg.HTTP, cfg.Insecure = controlHost+xdsPort, controlHost+apiPort, true
	cfg.StateDir = m.controlState()
	cp, err := controlplane.New(cfg, controlplane.Options{
		Registry: m.Registry, Listen: m.Net.Host(controlHost).Listen, Log: m.log("control"), Seed: m.cfg.Seed + 1,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.control = &control{cp, cancel, make(chan error, 1)}
	ended := m.control.ended
	go func() { ended <- cp.Run(ctx) }()
}

// controlState is the directory of the present life of the control plane.
func (m *Mesh) controlState() string {
	dir := filepath.Join(m.dir, fmt.Sprint("life-", m.lives))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		m.t.Fatal(err)
	}
	return dir
}

// KillControl ends the control plane as a crash does: its connections are reset, and
// what it would have written on its way out is not there for the next life.
func (m *Mesh) KillControl() {
	m.t.Helper()
	m.past = m.Events()
	was := m.controlState()
	m.lives++
	if err := os.CopyFS(m.controlState(), os.DirFS(was)); err != nil {
		m.t.Fatal(err)
	}
	m.Net.Host(controlHost).Crash()
	_ = m.endControl() // it may say that its listeners were taken away
}

func (m *Mesh) endControl() error {
	m.control.end()
	err := <-m.control.ended
	m.control = nil
	return err
}
