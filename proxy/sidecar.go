package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/admin"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/proxy/discovery"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/http2"
	"github.com/overhear-mesh/overhear/proxy/listener"
	"github.com/overhear-mesh/overhear/proxy/mirror"
	"github.com/overhear-mesh/overhear/proxy/reporting"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/telemetry"
	"github.com/overhear-mesh/overhear/proxy/trace"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// Options are what a sidecar gets from the program around it; every field may be
// left out.
type Options struct {
	// Log is the sidecar's own log. Default: discarded.
	Log *slog.Logger
	// LogLevel lets an operator change the level of Log.
	LogLevel *slog.LevelVar
	// Version is shown to operators and to the control plane.
	Version string
	// Dial opens every connection: attempts, probes, the control plane.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// OriginalDestination tells where a connection was to go that the kernel has
	// redirected to a transparent listener. Default: what the kernel says.
	OriginalDestination func(net.Conn) (netip.AddrPort, error)
	// Listen opens every listener. A connection, of it or of Dial, that has neither a
	// descriptor nor SetLinger cannot be reset: to its peer, what is cut looks ended.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	// OnRequest is called with each HTTP request that has ended, on the goroutine
	// that served it. It must neither block nor keep the record.
	OnRequest func(listener string, r *exchange.Record)
	// OnEvent is called with each cluster's events, on that cluster's goroutine. It
	// must not block.
	OnEvent func(cluster.Event)
}

// Sidecar is one data plane. Its methods may be called from any goroutine.
type Sidecar struct {
	opts  Options
	clock clock.Clock
	watch *upstream.Watch
	start time.Time
	node  config.Node

	streams   *http2.Client    // connections to endpoints that speak HTTP/2
	mirror    *mirror.Client   // sends copies of requests
	link      *grpc.ClientConn // to the control plane; nil: none
	discovery *discovery.Discovery
	reporter  *reporting.Reporter // nil without a control plane
	accessLog *telemetry.AccessLog
	spans     *telemetry.Spans // nil: no tracing
	tracing   *trace.Policy    // the same
	ids       router.IDs
	metrics   *prometheus.Registry

	accepted, refused atomic.Uint64 // reloads
	reloadError       atomic.Pointer[string]
	draining          atomic.Bool
	drain             chan struct{} // closed when told to drain
	drainOnce         sync.Once

	opened chan struct{} // closed when the file's listeners are open, or will not be
	inUse  atomic.Bool   // the first clusters have been set up

	passed    *outlier.Endpoint // counts what goes to unknown destinations, all of it together
	redirects atomic.Bool       // there is, or was, a transparent listener
	own       sync.Map          // of passage: connections that have been opened a moment ago

	mu      sync.Mutex // guards what follows
	cfg     config.Config
	told    []config.Outbound   // the control plane's listeners
	doors   map[string]*door    // open listeners by key
	retired map[*door]bool      // those that a reload has closed, while they drain
	addrs   map[string]net.Addr // by listener name, once open
	running *running            // nil before and after Run
}

// running is what a reload needs of Run.
type running struct {
	serve  func(*door) // starts serving
	retire func(*door) // drains what has been removed
	sync   func()      // waits until requests find the clusters as they were last set
}

// New assembles a sidecar of a valid configuration. It opens the access log, and
// nothing else before Run.
func New(cfg config.Config, opts Options) (*Sidecar, error) {
	if err := strictyaml.Validate(&cfg); err != nil {
		return nil, err
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Dial == nil {
		dialer := new(net.Dialer)
		if cfg.Mark != 0 {
			var err error
			if dialer, err = marking(cfg.Mark); err != nil {
				return nil, err
			}
		}
		opts.Dial = dialer.DialContext
	}
	if opts.OriginalDestination == nil {
		opts.OriginalDestination = listener.OriginalDestination
	}
	if opts.Listen == nil {
		opts.Listen = new(net.ListenConfig).Listen
	}
	s := &Sidecar{
		opts: opts, clock: clock.New(), start: time.Now(), node: cfg.Node, cfg: cfg,
		drain: make(chan struct{}), opened: make(chan struct{}), doors: map[string]*door{}, retired: map[*door]bool{}, addrs: map[string]net.Addr{},
	}
	s.watch = upstream.NewWatch(s.clock)
	s.passed = unjudged("passed", s.clock.Now())
	s.streams = http2.NewClient(cfg.HTTP2, s.clock)
	s.mirror = mirror.New(cfg.HTTP1, exchange.Deps{Clock: s.clock, Streams: s.streams})
	if cfg.AccessLog.Path != "off" {
		var err error
		if s.accessLog, err = telemetry.OpenAccessLog(cfg.AccessLog.Path, s.clock); err != nil {
			return nil, err
		}
	}
	if t := cfg.Tracing; t.Address != "" {
		var err error
		if s.spans, err = telemetry.NewSpans(telemetry.SpansConfig{
			Address: t.Address, Queue: t.Queue, Dial: opts.Dial,
			Service: s.node.Cluster, Instance: s.node.ID, Zone: s.node.Zone, Version: opts.Version,
		}, s.clock, opts.Log); err != nil {
			return nil, err
		}
		s.tracing = trace.NewPolicy(t.Propagation, t.Sampling)
	}
	if err := s.connect(); err != nil {
		return nil, err
	}
	s.metrics = prometheus.NewRegistry()
	s.metrics.MustRegister(s.collector(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return s, nil
}

// connect makes discovery and reporting, which share one connection to the
// control plane.
func (s *Sidecar) connect() error {
	node := discovery.Node{
		ID: s.node.ID, Cluster: s.node.Cluster, Region: s.node.Region, Zone: s.node.Zone,
		Labels: s.node.Labels, Version: s.opts.Version,
	}
	deps := discovery.Deps{
		Cluster:   cluster.Deps{Clock: s.clock, Dial: s.dial, Log: s.opts.Log, Seed: uint64(s.start.UnixNano()), Node: s.node.ID, Zone: s.node.Zone, Watch: s.watch},
		Log:       s.opts.Log,
		Listeners: s.listen,
		Added: func(c *cluster.Cluster) {
			if s.reporter != nil {
				s.reporter.Add(c)
			}
			if s.opts.OnEvent != nil {
				c.Subscribe(s.opts.OnEvent)
			}
		},
	}
	cp := s.cfg.ControlPlane
	tell := reporting.Deps{Clock: s.clock, Log: s.opts.Log}
	if len(cp.Addresses) > 0 {
		var err error
		if s.link, err = discovery.Connect(cp.Addresses, s.opts.Dial); err != nil {
			return fmt.Errorf("control_plane: %w", err)
		}
		deps.ControlPlane, tell.Conn = s.link, s.link // not before: a nil pointer in an interface is not nil
	}
	if rec := s.cfg.Record; rec.Path != "" {
		var err error
		if tell.Recorder, err = reporting.Record(rec.Path, int64(rec.MaxSize), rec.Files, s.clock, s.opts.Log); err != nil {
			return fmt.Errorf("record.path: %w", err)
		}
	}
	if tell.Conn != nil || tell.Recorder != nil {
		s.reporter = reporting.New(reporting.Config{
			Node: node.ID, Region: node.Region, Zone: node.Zone, Labels: node.Labels,
			Incarnation: uint64(s.start.UnixMilli()),
		}, tell)
	}
	s.discovery = discovery.New(discovery.Config{
		Static:   static(s.cfg),
		XDS:      discovery.XDS(node, cp.Clusters, cp.Listeners),
		StateDir: s.cfg.StateDir,
	}, deps)
	return nil
}

func static(cfg config.Config) []discovery.Static {
	var out []discovery.Static
	for _, c := range cfg.Clusters {
		out = append(out, discovery.Static{Config: c.Config, Endpoints: c.Specs()})
	}
	return out
}

// Run opens the listeners and serves until ctx ends or an operator asks to drain.
// Then it takes no new connections, lets requests under way finish, and cuts what
// is left after the drain timeout. It returns nil after an orderly end, when all
// that it started has ended. It may be called once.
func (s *Sidecar) Run(ctx context.Context) error {
	// Three lives, from the shortest to the longest: ctx until we are told to
	// stop; work until the last request has ended; and the access log's, until the
	// last line is written.
	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	defer endWork()
	logging, endLogging := context.WithCancel(context.WithoutCancel(ctx))
	defer endLogging()

	var log errgroup.Group
	if s.accessLog != nil {
		log.Go(func() error { return s.accessLog.Run(logging) })
	}
	group, work := errgroup.WithContext(work)
	group.Go(func() error {
		if err := s.watch.Run(work); err != nil {
			s.opts.Log.Warn("it is not noticed when servers close idle connections", "error", err)
		}
		return nil
	})
	group.Go(func() error { return s.discovery.Run(work) })
	group.Go(func() error { return s.mirror.Run(work) })
	err := s.open(work, group)
	if err == nil {
		if s.reporter != nil {
			group.Go(func() error { return s.reporter.Run(work) })
		}
		s.opts.Log.Info("sidecar runs", "node", s.node.ID, "version", s.opts.Version)
		select {
		case <-ctx.Done():
		case <-s.drain:
		case <-work.Done(): // something that must not end has ended
		}
		s.drainAll(work)
	}
	endWork()
	err = errors.Join(err, ignoreCancel(group.Wait()))
	if s.link != nil {
		err = errors.Join(err, s.link.Close())
	}
	endLogging()
	err = errors.Join(err, log.Wait())
	if s.spans != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSpans)
		defer cancel()
		if lost := s.spans.Shutdown(last); lost != nil {
			s.opts.Log.Warn("the last spans are lost", "error", lost)
		}
	}
	s.opts.Log.Info("sidecar ended", "node", s.node.ID)
	return err
}

// lastSpans is how long the receiver has for what waits at the end.
const lastSpans = 2 * time.Second

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// open opens every listener and the admin port, or none.
func (s *Sidecar) open(work context.Context, group *errgroup.Group) (err error) {
	defer close(s.opened)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = &running{
		serve: func(d *door) {
			group.Go(func() error {
				if err := d.listener.Serve(work, d.socket); err != nil {
					return fmt.Errorf("listener %s: %w", d.name, err)
				}
				return nil
			})
		},
		retire: func(d *door) {
			group.Go(func() error { s.retire(d); return nil })
		},
		sync: func() {
			for _, c := range s.discovery.Clusters() {
				_ = c.Sync(work) // one that has stopped is not waited for
			}
		},
	}
	defer func() {
		if err != nil {
			s.running = nil
		}
	}()
	if err := s.applyLocked(work, s.cfg); err != nil {
		return err
	}
	if s.cfg.Admin.Address == "off" {
		return nil
	}
	socket, err := s.opts.Listen(work, "tcp", s.cfg.Admin.Address)
	if err != nil {
		for _, d := range s.doors {
			_ = d.listener.Drain(0)
		}
		return fmt.Errorf("admin.address: %w", err)
	}
	s.addrs["admin"] = socket.Addr()
	s.opts.Log.Info("listening", "listener", "admin", "address", socket.Addr().String())
	server := &http.Server{
		Handler:           admin.Handler(s.shown()),
		ReadHeaderTimeout: admin.ReadHeaderTimeout,
		IdleTimeout:       admin.IdleTimeout,
		ErrorLog:          slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug),
	}
	group.Go(func() error {
		if err := server.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("admin: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-work.Done()
		return server.Close()
	})
	return nil
}

// drainAll closes every listener gently: first those by which requests come in,
// then those by which the local application needs to go out while it answers them.
func (s *Sidecar) drainAll(work context.Context) {
	s.draining.Store(true)
	s.mu.Lock()
	s.running = nil // a reload opens nothing any more
	drain := s.cfg.Drain
	var in, out []*door
	for _, d := range s.doors {
		if d.inbound {
			in = append(in, d)
		} else {
			out = append(out, d)
		}
	}
	for d := range s.retired {
		out = append(out, d) // they drain already, and are waited for
	}
	s.mu.Unlock()
	s.opts.Log.Info("draining", "timeout", drain.Timeout)
	end := s.clock.Now() + drain.Timeout
	if len(in) > 0 && s.reporter != nil && s.reporter.Connected() {
		s.reporter.Drain()
		select {
		case <-time.After(min(drain.Notice, drain.Timeout)):
		case <-work.Done():
		}
	}
	for _, doors := range [][]*door{in, out} {
		var wg sync.WaitGroup
		for _, d := range doors {
			wg.Go(func() { d.shut(max(0, end-s.clock.Now())) })
		}
		wg.Wait()
	}
}

// retire drains a listener that a reload has removed.
func (s *Sidecar) retire(d *door) {
	s.mu.Lock()
	timeout := s.cfg.Drain.Timeout
	s.mu.Unlock()
	d.shut(timeout)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.retired, d)
}

// Drain makes Run end as the end of its context does.
func (s *Sidecar) Drain() { s.drainOnce.Do(func() { close(s.drain) }) }

// Ready returns "" when traffic can be served, else the reason why not.
func (s *Sidecar) Ready() string {
	s.mu.Lock()
	open := s.running != nil
	s.mu.Unlock()
	switch {
	case s.draining.Load():
		return "draining"
	case !open:
		return "listeners are not open"
	}
	select {
	case <-s.discovery.Ready():
	default:
		return "no clusters yet: the control plane has not answered, and there is no saved state"
	}
	if !s.setUp() {
		return "clusters are being set up"
	}
	return ""
}

// setUp reports whether requests find what discovery has brought first.
func (s *Sidecar) setUp() bool {
	if s.inUse.Load() {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, c := range s.discovery.Clusters() {
		if err := c.Sync(ctx); err != nil && !errors.Is(err, cluster.ErrStopped) {
			return false
		}
	}
	s.inUse.Store(true)
	return true
}

// Addr is where a listener, by its name, or "admin" listens; nil before Run has
// opened it.
func (s *Sidecar) Addr(name string) net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addrs[name]
}

// Clusters are all clusters of the moment.
func (s *Sidecar) Clusters() []*cluster.Cluster { return s.discovery.Clusters() }

// Reload replaces the configuration while requests go on, and opens the access log
// again. It changes all that can be changed, or, with an error, nothing at all; the
// error is counted and shown as by ReloadFailed.
func (s *Sidecar) Reload(next config.Config) error {
	if err := s.reload(next); err != nil {
		s.ReloadFailed(err)
		return err
	}
	s.accepted.Add(1)
	s.reloadError.Store(nil)
	return nil
}

// ReloadFailed counts and shows a reload that failed before Reload could be called.
func (s *Sidecar) ReloadFailed(err error) {
	s.refused.Add(1)
	text := err.Error()
	s.reloadError.Store(&text)
}

func (s *Sidecar) reload(next config.Config) error {
	if err := strictyaml.Validate(&next); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		return errors.New("the sidecar does not run")
	}
	if fixed := fixedFields(s.cfg, next); fixed != "" {
		return fmt.Errorf("%s cannot change while the sidecar runs: restart it", fixed)
	}
	whole := withTold(next, s.told)
	if err := whole.Validate(); err != nil {
		return toldError(err, len(next.Outbound), s.told)
	}
	if s.accessLog != nil {
		if err := s.accessLog.Reopen(); err != nil {
			return err
		}
	}
	if err := s.applyLocked(context.Background(), whole); err != nil {
		return err
	}
	if s.opts.LogLevel != nil {
		_ = s.opts.LogLevel.UnmarshalText([]byte(next.Log.Level)) // valid: one that slog knows
	}
	s.cfg = next
	s.opts.Log.Info("configuration reloaded")
	return nil
}

// fixedFields names what differs between two configurations and cannot change at
// run time.
func fixedFields(a, b config.Config) string {
	var differ []string
	for _, f := range []struct {
		name string
		a, b any
	}{
		{"node", a.Node, b.Node}, {"admin", a.Admin, b.Admin}, {"control_plane", a.ControlPlane, b.ControlPlane},
		{"state_dir", a.StateDir, b.StateDir}, {"log.format", a.Log.Format, b.Log.Format}, {"access_log", a.AccessLog, b.AccessLog}, {"tracing", a.Tracing, b.Tracing}, {"record", a.Record, b.Record}, {"mark", a.Mark, b.Mark},
		{"http1", a.HTTP1, b.HTTP1}, {"http2", a.HTTP2, b.HTTP2}, {"tcp", a.TCP, b.TCP}, {"inbound", a.Inbound, b.Inbound},
	} {
		if !reflect.DeepEqual(f.a, f.b) {
			differ = append(differ, f.name)
		}
	}
	return strings.Join(differ, ", ")
}

// shown is what the admin port shows.
func (s *Sidecar) shown() admin.Source {
	return admin.Source{
		Ready: s.Ready, Status: s.status, Drain: s.Drain, Level: s.opts.LogLevel, Metrics: s.metrics, Token: s.cfg.Admin.Token,
		Clusters: func() []*cluster.Snapshot {
			var all []*cluster.Snapshot
			for _, c := range s.discovery.Clusters() {
				if snapshot := c.Snapshot(); snapshot != nil {
					all = append(all, snapshot)
				}
			}
			return all
		},
		Config: func() ([]byte, error) {
			s.mu.Lock()
			shown, listeners := s.cfg, s.told
			s.mu.Unlock()
			if shown.Admin.Token != "" {
				shown.Admin.Token = "(set)"
			}
			blocks := []any{shown}
			if len(listeners) > 0 {
				blocks = append(blocks, map[string]any{"control_plane_listeners": listeners})
			}
			if told := s.discovery.Told(); len(told) > 0 {
				blocks = append(blocks, map[string]any{"control_plane_clusters": told})
			}
			var dump []byte
			for _, block := range blocks {
				text, err := strictyaml.Encode(block)
				if err != nil {
					return nil, err
				}
				dump = append(dump, text...)
			}
			return dump, nil
		},
	}
}

func (s *Sidecar) status() admin.Status {
	up := s.clock.Now()
	st := admin.Status{
		Node: s.node.ID, Zone: s.node.Zone, Version: s.opts.Version,
		Uptime: up.Round(time.Second).String(), UptimeMS: float64(up.Microseconds()) / 1e3, Draining: s.draining.Load(),
	}
	if s.link != nil {
		st.ControlPlane = s.toldStatus()
	}
	if text := s.reloadError.Load(); text != nil {
		st.ReloadError = *text
	}
	return st
}

func (s *Sidecar) collector() *telemetry.Collector {
	src := telemetry.Source{
		Version: s.opts.Version, AccessLog: s.accessLog, Clusters: s.discovery.Clusters, Draining: s.draining.Load,
		Refused: s.refusals,
		Reloads: func() (uint64, uint64) { return s.accepted.Load(), s.refused.Load() },
		ControlPlane: func() (wanted, resources, reports bool) {
			if s.link == nil {
				return false, false, false
			}
			return true, s.discovery.Status().Connected, s.reporter.Connected()
		},
		Listeners: func() []telemetry.Listener {
			s.mu.Lock()
			defer s.mu.Unlock()
			all := make([]telemetry.Listener, 0, len(s.doors))
			for _, d := range s.doors {
				all = append(all, d.numbers())
			}
			return all
		},
	}
	if s.reporter != nil {
		src.Reports = s.reporter.Stats
	}
	if s.spans != nil {
		src.Spans = s.spans.Stats
	}
	return telemetry.NewCollector(src)
}
