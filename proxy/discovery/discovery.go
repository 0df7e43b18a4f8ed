package discovery

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/proxy/discovery/translation"
	"github.com/overhear-mesh/overhear/xds/client"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// Config is where clusters come from.
type Config struct {
	// Static are the clusters of the file.
	Static []Static
	// XDS is how to ask the control plane.
	XDS client.Config
	// StateDir is where the last accepted resources are kept; empty: nowhere.
	StateDir string
}

// Static is a cluster of the file.
type Static struct {
	Config    cluster.Config
	Endpoints []cluster.Spec
}

// Deps is what discovery gets from the sidecar around it.
type Deps struct {
	// Cluster is handed to each cluster. What clusters share is made if missing.
	Cluster cluster.Deps
	// ControlPlane is the connection to ask on; nil: there is none.
	ControlPlane grpc.ClientConnInterface
	// Added is called with each new cluster before it runs; may be nil. It must
	// not call back.
	Added func(*cluster.Cluster)
	// Listeners makes the listeners that the control plane tells of just these. With an
	// error nothing has changed. It is called by one goroutine at a time, which holds
	// nothing. Needed only where listeners are asked for.
	Listeners func([]config.Outbound) error
	// Log. Default: discarded.
	Log *slog.Logger
}

// Discovery owns all clusters of a sidecar. Its methods may be called from any
// goroutine, before and during Run.
type Discovery struct {
	cfg  Config
	deps Deps

	ready chan struct{} // closed when there is something to serve from
	poked chan struct{} // there is a listener to wait for

	applying sync.Mutex // held while listeners are applied; before mu

	mu        sync.Mutex // guards what follows
	entries   map[string]*entry
	assigned  map[string]resource.Endpoints // by service
	linked    bool                          // the control plane is heard
	applied   []plan                        // the listeners that run
	listeners map[string]*listening         // what the control plane says of listeners
	routes    map[string]*routeTable        // and of their routes
	heard     bool                          // it has spoken of listeners
	missing   missing
	clustered bool               // there are clusters to serve from
	refused   map[string]Refusal // by type
	source    Source
	saved     time.Time // when the state in use was written, if it came from the file
	kept      bool      // Keep has said what is looked at
	isReady   bool
	answered  chan struct{} // closed when the control plane has told of clusters
	changed   chan struct{} // the state file is out of date
	run       func(*entry)  // starts a cluster; nil before and after Run
}

// entry is one cluster.
type entry struct {
	*cluster.Cluster
	wanted bool    // somebody looked it up: it stays, if only empty
	static bool    // it is the file's
	remote *remote // what the control plane says of it; nil: nothing
	saved  bool    // remote is from the state directory, and not confirmed yet
	// until it stays, although it was withdrawn: routes that are about to change lead
	// to it.
	until time.Time
	stop  context.CancelFunc
}

// remote is a cluster as the control plane told of it.
type remote struct {
	translation.Clustered
	message *clusterv3.Cluster
}

// newRemote reads a cluster.
func newRemote(m *clusterv3.Cluster) (*remote, error) {
	c, err := translation.Cluster(m)
	if err != nil {
		return nil, err
	}
	return &remote{c, m}, nil
}

// Source is where the control plane's resources came from.
type Source uint8

const (
	None    Source = iota // nothing has come yet
	Saved                 // the state directory
	Control               // the control plane itself
)

var sources = [...]string{None: "none", Saved: "state", Control: "control plane"}

func (s Source) String() string { return sources[s] }

// Status is where the resources in use come from.
type Status struct {
	Source    Source
	Connected bool          // the control plane is heard
	Age       time.Duration // of resources from the state directory
	Listeners []Listener    // that the control plane tells of, by name
	Missing   []string      // listeners that are asked for, if it has told of none for a while
	Refused   map[string]Refusal
}

// Listener is one of the control plane's listeners.
type Listener struct {
	Name    string
	Open    bool   // as it was told of last, or before
	Problem string // why what was told last is not in use
}

// New returns a Discovery that knows the clusters of the file. It starts nothing.
func New(cfg Config, deps Deps) *Discovery {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Cluster.Pacing == nil {
		deps.Cluster.Pacing = cluster.NewPacing()
	}
	if deps.Cluster.Self == nil {
		deps.Cluster.Self = outlier.NewSelf()
	}
	d := &Discovery{
		cfg:       cfg,
		deps:      deps,
		ready:     make(chan struct{}),
		poked:     make(chan struct{}, 1),
		listeners: make(map[string]*listening),
		routes:    make(map[string]*routeTable),
		refused:   make(map[string]Refusal),
		entries:   make(map[string]*entry),
		assigned:  make(map[string]resource.Endpoints),
		answered:  make(chan struct{}),
		changed:   make(chan struct{}, 1),
	}
	d.SetStatic(cfg.Static)
	d.cfg.Static = nil // the clusters have it
	if deps.ControlPlane == nil {
		d.mu.Lock()
		d.becomeReadyLocked()
		d.mu.Unlock()
	}
	return d
}

// Lookup returns the cluster of that name, always the same one. If nobody has
// told of it yet, it has no endpoints.
func (d *Discovery) Lookup(name string) *cluster.Cluster {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entryLocked(name)
	e.wanted = true
	return e.Cluster
}

// Keep says which clusters are still looked at, of all that were looked up: the
// others go, unless the file or the control plane has them. Who holds one that goes
// can finish with it.
func (d *Discovery) Keep(names map[string]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, e := range d.entries {
		if e.wanted && !names[name] {
			e.wanted = false
			d.settleLocked(e)
		}
	}
	d.kept = true
	d.sufficeLocked()
}

// Clusters are all clusters, by name.
func (d *Discovery) Clusters() []*cluster.Cluster {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*cluster.Cluster, 0, len(d.entries))
	for _, name := range slices.Sorted(maps.Keys(d.entries)) {
		all = append(all, d.entries[name].Cluster)
	}
	return all
}

// Told is a cluster as the control plane told of it.
type Told struct {
	cluster.Config `yaml:",inline"`
	// Service is the name of its endpoints.
	Service string `yaml:"service"`
	// Hidden: the file has a cluster of that name, which holds.
	Hidden bool `yaml:"hidden_by_file,omitempty"`
	// Ignored are fields that ask for something which is not done here.
	Ignored []string `yaml:"ignored,omitempty"`
}

// Told are the control plane's clusters, by name.
func (d *Discovery) Told() []Told {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Told
	for _, name := range slices.Sorted(maps.Keys(d.entries)) {
		e := d.entries[name]
		if e.remote == nil {
			continue
		}
		all = append(all, Told{Config: e.remote.Config, Service: e.remote.Config.Service, Hidden: e.static, Ignored: e.remote.Ignored})
	}
	return all
}

// Ready is closed as soon as there is something to serve from: at once without a
// control plane, or once Run has begun and Keep has said what is looked at, if the file
// has all of that; else when resources have come from the control plane or from the state directory.
func (d *Discovery) Ready() <-chan struct{} { return d.ready }

// Status tells where the resources in use come from.
func (d *Discovery) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Status{Source: d.source, Connected: d.linked}
	if d.source == Saved {
		s.Age = time.Since(d.saved)
	}
	now := time.Now()
	for _, name := range slices.Sorted(maps.Keys(d.listeners)) {
		l := d.listeners[name]
		_, problem, _ := d.nextLocked(name, l, now)
		s.Listeners = append(s.Listeners, Listener{Name: name, Open: l.active.version != nil, Problem: problem})
	}
	if d.missing.told {
		s.Missing = d.cfg.XDS.Listeners
	}
	s.Refused = maps.Clone(d.refused)
	return s
}

// SetStatic replaces the clusters of the file.
func (d *Discovery) SetStatic(static []Static) {
	d.mu.Lock()
	defer d.mu.Unlock()
	listed := make(map[string]bool, len(static))
	for _, s := range static {
		listed[s.Config.Name] = true
		e := d.entryLocked(s.Config.Name)
		if e.remote != nil && !e.static {
			e.SetLink(cluster.ADS, false) // the control plane does not look after it any more
		}
		e.static = true
		e.SetKnown(true)
		e.SetConfig(s.Config)
		e.Update(s.Endpoints)
	}
	for _, e := range d.entries {
		if e.static && !listed[e.Name()] {
			e.static = false
			d.settleLocked(e)
		}
	}
}

// Run serves from the state directory, keeps up with the control plane and runs
// all clusters until ctx ends. It returns nil when all that it started has ended.
func (d *Discovery) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	d.start(ctx, group)
	if d.deps.ControlPlane != nil {
		d.restore()
		xds := client.New(d.deps.ControlPlane, d.cfg.XDS, (*handler)(d), d.deps.Log)
		group.Go(func() error { return xds.Run(ctx) })
		if d.asksForListeners() {
			group.Go(func() error { d.awaitListeners(ctx); return nil })
		}
		if d.cfg.StateDir != "" {
			group.Go(func() error { d.keepState(ctx); return nil })
			group.Go(func() error { d.dropUnconfirmed(ctx); return nil })
		}
	}
	<-ctx.Done()
	d.mu.Lock()
	d.run = nil // who is looked up from now on is not run
	d.mu.Unlock()
	return group.Wait()
}

// start runs the clusters that are there, and lets those that come be run.
func (d *Discovery) start(ctx context.Context, group *errgroup.Group) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.run = func(e *entry) {
		own, stop := context.WithCancel(ctx)
		e.stop = stop
		group.Go(func() error {
			defer stop()
			return e.Run(own)
		})
	}
	for _, e := range d.entries {
		d.run(e)
	}
	d.sufficeLocked()
}

// sufficeLocked makes it ready if the file has all that is looked at: whether a control
// plane answers does not matter then.
func (d *Discovery) sufficeLocked() {
	if d.run == nil || !d.kept {
		return
	}
	wanted := 0
	for _, e := range d.entries {
		if e.wanted && !e.static {
			return
		}
		if e.wanted {
			wanted++
		}
	}
	if wanted > 0 {
		d.becomeReadyLocked()
	}
}

// entryLocked returns the entry of a name, a new one if need be.
func (d *Discovery) entryLocked(name string) *entry {
	if e := d.entries[name]; e != nil {
		return e
	}
	cfg := cluster.DefaultConfig()
	cfg.Name = name
	e := &entry{Cluster: cluster.New(cfg, d.deps.Cluster)}
	e.SetKnown(false) // who tells of it says so
	d.entries[name] = e
	if d.deps.Added != nil {
		d.deps.Added(e.Cluster)
	}
	if d.run != nil {
		d.run(e)
	}
	return e
}

// settleLocked makes a cluster that is not the file's what the control plane
// says of it; it goes if that is nothing and nobody wants it.
func (d *Discovery) settleLocked(e *entry) {
	switch {
	case e.static:
	case e.remote != nil:
		e.SetKnown(true)
		e.SetConfig(e.remote.Config)
		e.SetLink(cluster.ADS, d.linked && !e.remote.Static)
		if e.remote.Static {
			e.Update(e.remote.Endpoints)
		} else if a, ok := d.assigned[e.remote.Config.Service]; ok {
			e.Update(translation.Specs(a))
		}
	case e.wanted:
		e.SetKnown(false)
		e.Update(nil)
	default:
		delete(d.entries, e.Name())
		if e.stop != nil {
			e.stop()
		}
	}
}

const withdrawn = "cluster withdrawn by the control plane"

// forgetLocked takes back what the control plane has said of a cluster.
func (d *Discovery) forgetLocked(e *entry, why string) {
	e.remote, e.saved, e.until = nil, false, time.Time{}
	d.settleLocked(e)
	d.deps.Log.Info(why, "cluster", e.Name())
}

func (d *Discovery) becomeReadyLocked() {
	d.clustered = true
	if !d.isReady && d.listenersReadyLocked() {
		d.isReady = true
		close(d.ready)
	}
}
