package reporting

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
)

// Config is who reports, and how often.
type Config struct {
	// Node is the xDS node id, which ADS uses as well.
	Node         string
	Region, Zone string
	// Labels: "node" names the machine, the others are for people.
	Labels map[string]string
	// Incarnation must be larger than in any earlier life: the start time.
	Incarnation uint64

	// Config is how often; zero durations mean the default.
	cadence.Config
}

const (
	askWithin  = time.Second // a cluster that has not answered by then is left out
	maxRunning = 16          // ordered probes under way
	maxResults = 256         // results that wait; the newest win
)

// Deps is what a reporter gets from the sidecar around it.
type Deps struct {
	Clock clock.Clock
	// Conn is the connection to the control plane, that of the ADS stream; nil: there
	// is none, and Recorder gets what would be told.
	Conn grpc.ClientConnInterface
	// Recorder keeps all that is told; nil: nobody does. Run runs it.
	Recorder *report.Recorder
	// Log. Default: discarded.
	Log *slog.Logger
}

// Reporter ties clusters to the report stream. Its methods may be called from any
// goroutine, before and during Run.
type Reporter struct {
	cfg    Config
	deps   Deps
	client *report.Client
	ready  chan struct{} // the client should build
	moved  chan struct{} // the time to do so has changed
	sem    chan struct{} // slots for ordered probes
	stats  stats
	drain  atomic.Bool

	// ctx ends what Run has started; set before anything uses it.
	ctx context.Context
	wg  sync.WaitGroup

	// memory of what was told, by service, is Build's alone.
	memory map[string]*cadence.Memory

	mu        sync.Mutex // guards what follows
	connected bool
	members   []*member // that the control plane knows
	own       []*cadence.Own
	schedule  cadence.Schedule
	results   []report.Probed
	asked     cadence.Questions
	leases    map[merge.Key]merge.OrderID
	trials    map[merge.Key]*cadence.Trial
	running   map[merge.OrderID]context.CancelFunc // ordered probes
}

// member is one cluster.
type member struct {
	*cluster.Cluster
	service string // by which the control plane knows it; empty: it does not
	topic   cadence.Topic
}

// New starts nothing. Zero durations of cfg mean the default.
func New(cfg Config, deps Deps) *Reporter {
	cfg.Config = cfg.Or(cadence.DefaultConfig())
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	r := &Reporter{
		cfg: cfg, deps: deps,
		ready: make(chan struct{}, 1), moved: make(chan struct{}, 1), sem: make(chan struct{}, maxRunning),
		memory:   map[string]*cadence.Memory{},
		schedule: cadence.NewSchedule(cfg.Config), asked: cadence.NewQuestions(),
		leases: map[merge.Key]merge.OrderID{}, trials: map[merge.Key]*cadence.Trial{}, running: map[merge.OrderID]context.CancelFunc{},
	}
	r.client = report.NewClient(deps.Conn, report.ClientConfig{
		Incarnation: cfg.Incarnation, Now: deps.Clock.Now, Log: deps.Log, Recorder: deps.Recorder,
	}, source{r})
	return r
}

// Add has a cluster reported, if the control plane knows it. It is to be called before
// the cluster runs; one that has stopped is forgotten by itself.
func (r *Reporter) Add(c *cluster.Cluster) {
	m := &member{Cluster: c}
	c.Subscribe(func(e cluster.Event) { r.hear(m, e) })
}

// Deaf says whether there is a control plane that takes no reports.
func (r *Reporter) Deaf() bool { return r.client.Deaf() }

// Connected says whether a control plane hears this sidecar.
func (r *Reporter) Connected() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connected
}

// Drain says, at once, that the instances beside this sidecar are on their way out.
func (r *Reporter) Drain() {
	r.drain.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wakeLocked()
}

// Run reports until ctx ends, and returns nil when all that it started has ended. It
// may be called once.
func (r *Reporter) Run(ctx context.Context) error {
	// The recorder outlives those who bring it messages.
	recording, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	recorded := make(chan error, 1)
	go func() { recorded <- r.record(recording) }()

	group, ctx := errgroup.WithContext(ctx)
	r.ctx = ctx
	group.Go(func() error { return r.client.Run(ctx) })
	group.Go(func() error { r.tick(ctx); return nil })
	err := group.Wait()
	r.wg.Wait()
	end()
	return errors.Join(err, <-recorded)
}

// record writes the recording, if there is one.
func (r *Reporter) record(ctx context.Context) error {
	if r.deps.Recorder == nil {
		return nil
	}
	return r.deps.Recorder.Run(ctx)
}

// tick calls for a report when it is time.
func (r *Reporter) tick(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.moved:
		case <-timer.C:
		}
		now := r.deps.Clock.Now()
		r.mu.Lock()
		r.lookLocked(now)
		due := r.schedule.Due(now)
		wait := r.schedule.Next() - now
		r.mu.Unlock()
		if due {
			select {
			case r.ready <- struct{}{}:
			default: // it has been called for already
			}
		}
		timer.Reset(wait)
	}
}

// wakeLocked has a report built at once.
func (r *Reporter) wakeLocked() { r.movedLocked(r.schedule.Wake(0)) }

// movedLocked has the timer set anew if the time of the next report is sooner.
func (r *Reporter) movedLocked(sooner bool) {
	if !sooner {
		return
	}
	select {
	case r.moved <- struct{}{}:
	default:
	}
}

// hear takes in an event of a cluster. It is called on the cluster's goroutine.
func (r *Reporter) hear(m *member, e cluster.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Members {
		r.introduceLocked(m)
	}
	if m.service == "" {
		return
	}
	r.heldLocked(m, e.Changes)
	for _, p := range e.Pings {
		r.pingedLocked(m, p)
	}
	r.movedLocked(r.schedule.Hear(&m.topic, e.Urgency, e.At))
}

// heldLocked records changes of belief.
func (r *Reporter) heldLocked(m *member, changes []outlier.Change) {
	if r.deps.Recorder == nil {
		return
	}
	for _, c := range changes {
		if c.Refused == "" && !c.Shadow && c.From != c.To {
			r.deps.Recorder.Held(report.HeldChange{
				Key: merge.Key{Service: m.service, Instance: c.ID}, From: c.From, To: c.To, Rule: c.Rule,
				Fleet: c.Fleet, Epoch: c.Explain.Epoch, At: c.At,
			})
		}
	}
}

// serviceOf is the name by which a cluster is reported; empty: it is not. Where nobody
// but a recorder listens, one of the file has its own name.
func (r *Reporter) serviceOf(cfg cluster.Config) string {
	if r.deps.Conn == nil {
		return cmp.Or(cfg.Service, cfg.Name)
	}
	return cfg.Service
}

// link tells a cluster whether a control plane hears of it. One that never had any is
// not told that it has lost it.
func (r *Reporter) link(m *member, up bool) {
	if r.deps.Conn != nil {
		m.SetLink(cluster.Reports, up)
	}
}

// introduceLocked looks who a cluster is and what it has: the control plane may only
// now have said so, or no longer.
func (r *Reporter) introduceLocked(m *member) {
	before := m.service
	m.service = r.serviceOf(m.Config())
	m.topic.Rename()
	switch {
	case m.service == "" && before != "":
		r.members = slices.DeleteFunc(r.members, func(o *member) bool { return o == m })
		r.link(m, false)
		return
	case m.service == "":
		return
	case before == "":
		r.members = append(r.members, m)
		r.link(m, r.connected)
	}
	if r.connected {
		r.wakeLocked() // orders can name the new ones once they are told
	}
}

// findLocked is a cluster with this service.
func (r *Reporter) findLocked(service string) *member {
	i := slices.IndexFunc(r.members, func(m *member) bool { return m.service == service })
	if i < 0 {
		return nil
	}
	return r.members[i]
}

// source is the reporter as the client sees it.
type source struct{ *Reporter }

// Ready is where the client waits.
func (s source) Ready() <-chan struct{} { return s.ready }

// Hello says who this sidecar is, and forgets what it told on an earlier stream.
func (s source) Hello() report.Hello {
	r := s.Reporter
	clear(r.memory)
	h := report.Hello{Node: r.cfg.Node, Region: r.cfg.Region, Zone: r.cfg.Zone, Labels: r.cfg.Labels}
	now := r.deps.Clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.schedule.Begin(r.cfg.Node, now)
	r.results = nil
	r.asked.Forget()
	clear(r.leases)
	for _, t := range r.trials {
		t.Retell()
	}
	for _, o := range r.own {
		h.Own = append(h.Own, report.Own{Key: o.Key, Age: now})
	}
	for _, m := range r.members {
		m.topic.Rename()
		if snapshot := m.Snapshot(); snapshot != nil {
			h.Held = append(h.Held, held(m.service, snapshot)...)
		}
	}
	slices.SortStableFunc(h.Held, func(a, b merge.Verdict) int { return cmp.Compare(rank(a), rank(b)) })
	return h
}

// rank puts those who are out first: that nobody readmits them matters most.
func rank(v merge.Verdict) int {
	if v.State.Out() {
		return 0
	}
	return 1
}

// held are the verdicts that a cluster was told, by a control plane that may have
// forgotten them.
func held(service string, s *cluster.Snapshot) []merge.Verdict {
	var all []merge.Verdict
	for _, e := range s.Endpoints {
		if v := e.Verdict; v.Epoch > 0 {
			all = append(all, merge.Verdict{
				Key: merge.Key{Service: service, Instance: e.ID}, State: v.State, Epoch: v.Epoch, Rule: v.Rule, RampFrom: v.RampFrom,
			})
		}
	}
	return all
}

// Link tells the clusters whether a control plane hears of them.
func (s source) Link(up bool) {
	r := s.Reporter
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.connected == up {
		return
	}
	r.connected = up
	for _, m := range r.members {
		m.SetLink(cluster.Reports, up)
	}
	if up {
		// Clusters that came between Hello and now have named nothing yet, and what
		// has no name cannot be spoken of.
		r.wakeLocked()
		r.deps.Log.Info("report stream heard")
		return
	}
	for _, cancel := range r.running {
		cancel()
	}
}
