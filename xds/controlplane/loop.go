package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

const (
	// inboxSize bounds what waits for the loop. A stream that finds it full waits,
	// is then not read, and HTTP/2 flow control makes its sidecar wait: sidecars
	// build a message when they can send it, so that it is late but not old.
	inboxSize = 1024
	// turnSize bounds what one turn of the loop takes from the inbox before it
	// decides and publishes.
	turnSize = 256
	// batchFor is how long news that takes nothing away waits for more of it.
	batchFor = 50 * time.Millisecond
	// keepEvery is how often coming and going reporters are written down.
	keepEvery = time.Second
	// headStart is what the table's clock shows when the process begins.
	headStart = 30 * 24 * time.Hour
	// never is an instant that does not come.
	never = time.Duration(math.MaxInt64)
)

// errClosed is the answer to whoever asks a loop that has ended.
var errClosed error = closed{}

type closed struct{}

func (closed) Error() string { return "the control plane is closing" }

// GRPCStatus ends a stream as the loss of its connection does.
func (c closed) GRPCStatus() *status.Status { return status.New(codes.Unavailable, c.Error()) }

// loop owns the evidence table and all that follows from it. Its goroutine, run,
// alone touches the fields below the line; others hand it tasks.
type loop struct {
	cfg      Config
	log      *slog.Logger
	registry *registry.Registry
	server   *server.Server
	history  *history
	store    *store
	begun    time.Time
	inbox    chan func(*loop)
	ended    chan struct{} // closed when run has returned
	opened   chan struct{} // closed when the gate opens
	owners   owners
	// addresses is what load reports are understood by.
	addresses addresses

	// ------------------------------------------------------------------
	table    *merge.Table
	mesh     *registry.Mesh
	services map[string]*registry.Service
	streams  map[string]*reporter // live, by id
	probers  probers
	beliefs  beliefs
	slow     slow
	loans    loans
	traces   traces
	placed   placed // in the server
	// before has, by epoch, when the verdicts of an earlier life began. The table
	// dates them from the restart.
	before  map[uint64]time.Time
	returns returns
	numbers numbers

	stepAt   time.Duration // when the table must be stepped
	urgent   bool          // and that it should be now
	batch    map[string]struct{}
	batchAt  time.Duration
	rampAt   time.Duration
	keepAt   time.Duration
	followAt time.Duration // when subscriptions are looked at again
}

func newLoop(cfg Config, opts Options, srv *server.Server, hist *history, st *store) *loop {
	l := &loop{
		cfg: cfg, log: opts.Log, registry: opts.Registry, server: srv, history: hist, store: st,
		begun: time.Now(), inbox: make(chan func(*loop), inboxSize), ended: make(chan struct{}), opened: make(chan struct{}),
		table: merge.NewTable(cfg.Merge, opts.Seed), mesh: &registry.Mesh{}, services: map[string]*registry.Service{},
		streams: map[string]*reporter{}, probers: probers{}, beliefs: beliefs{}, slow: newSlow(), loans: loans{}, traces: traces{}, placed: placed{}, before: map[uint64]time.Time{},
		returns: returns{awaited: map[string]struct{}{}}, numbers: newNumbers(), batch: map[string]struct{}{},
		batchAt: never, rampAt: never, keepAt: never,
	}
	l.owners.server, l.owners.addresses = srv, &l.addresses
	l.owners.byKey.Store(&map[merge.Key]owner{})
	return l
}

// now is the table's clock. It has a head start, because sidecars report what
// happened before this process began, and a negative instant means never.
func (l *loop) now() time.Duration { return headStart + time.Since(l.begun) }

// wall is an instant of the table's clock for people.
func (l *loop) wall(at time.Duration) time.Time { return l.begun.Add(at - headStart) }

// send hands the loop a task. It blocks while the inbox is full, and says
// whether the loop will come to it.
func (l *loop) send(task func(*loop)) bool {
	select {
	case l.inbox <- task:
		return true
	case <-l.ended:
		return false
	}
}

// ask runs f on the loop's goroutine and waits for it.
func (l *loop) ask(ctx context.Context, f func(*loop)) error {
	done := make(chan struct{})
	select {
	case l.inbox <- func(l *loop) { f(l); close(done) }:
	case <-l.ended:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-l.ended:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// load takes in the mesh and what was kept over a restart. It comes before run, and
// before the first client, who may hold what a server that is still empty does not
// know.
func (l *loop) load() {
	l.reload()
	l.remember()
}

// run owns the table until ctx ends.
func (l *loop) run(ctx context.Context) error {
	defer close(l.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case task := <-l.inbox:
			l.take(ctx, task)
		case <-l.registry.Changed():
			l.reload()
		case <-timer.C:
		}
		l.turn()
		timer.Reset(max(0, l.next()-l.now()))
	}
	l.keep()
	return nil
}

// take runs a task and what else is waiting, so that one step serves many
// reports. Once ctx has ended it runs nothing: that streams end is then our own
// doing, and must not be remembered as reporters that have gone.
func (l *loop) take(ctx context.Context, task func(*loop)) {
	for n := 1; ctx.Err() == nil; n++ {
		task(l)
		if n == turnSize {
			return
		}
		select {
		case task = <-l.inbox:
		default:
			return
		}
	}
}

// turn does what is due.
func (l *loop) turn() {
	now := l.now()
	if !l.returns.over {
		if !l.returns.complete() && now < l.returns.until {
			return // nothing is judged or said before the world is whole
		}
		l.open(now)
	}
	if l.urgent || now >= l.stepAt {
		l.step(now)
	}
	if now >= l.batchAt {
		l.publish(slices.Sorted(maps.Keys(l.batch)), allKinds)
	}
	if now >= l.rampAt {
		l.publish(l.ramping(), []resource.Kind{resource.Envoy, resource.GRPC})
	}
	if now >= l.loans.next() {
		for _, k := range l.loans.lapse(now) {
			l.lend(k, now)
		}
	}
	if now >= l.slow.next() {
		if names := l.slow.due(now); len(names) > 0 {
			l.publish(names, []resource.Kind{resource.Envoy})
		}
	}
	if now >= l.keepAt {
		l.keep()
	}
	if now >= l.followAt {
		l.followAt = now + subscribeEvery
		l.traces.forget(l.beliefs, now)
		for _, r := range l.streams {
			l.subscribe(r)
		}
	}
}

// next is when turn has something to do though nothing arrives.
func (l *loop) next() time.Duration {
	if !l.returns.over {
		return l.returns.until
	}
	return min(l.stepAt, l.batchAt, l.rampAt, l.keepAt, l.followAt, l.slow.next(), l.loans.next())
}

// step lets the table decide and carries out what it decided.
func (l *loop) step(now time.Duration) {
	began := time.Now()
	r := l.table.Step(now)
	l.numbers.step.observe(time.Since(began))
	l.urgent, l.stepAt = false, max(r.Next, now+time.Millisecond)

	l.traces.note(r.Samples)
	var away []string  // services to publish before anything else
	var users []string // reporters that use what goes away, most of all first
	for _, c := range r.Changes {
		l.tell(c)
		if c.Refused != "" {
			continue
		}
		l.beliefs.note(c.Verdict, now)
		l.traces.verdict(c)
		service := c.Verdict.Key.Service
		if severity(c.To) > severity(c.From) {
			away = append(away, service)
			users = append(users, l.table.Senders(c.Verdict.Key, now)...)
		} else {
			l.later(service, now)
		}
	}
	l.borrow(r.Shares, now)
	// What takes traffic away goes first and at once. So does what a share belongs
	// to: it counts only for a sidecar that has heard of its epoch.
	for _, s := range r.Shares {
		if _, waits := l.batch[s.Key.Service]; waits {
			away = append(away, s.Key.Service)
		}
	}
	if len(away) > 0 {
		slices.Sort(away)
		l.publish(slices.Compact(away), allKinds, users...)
	}
	l.order(r)
	for _, e := range r.Events {
		l.note(e)
	}
	if slices.ContainsFunc(r.Changes, func(c merge.Change) bool { return c.Refused == "" }) {
		l.keep()
	}
}

// later publishes a service soon, together with what else changes till then.
func (l *loop) later(service string, now time.Duration) {
	l.batch[service] = struct{}{}
	l.batchAt = min(l.batchAt, now+batchFor)
}

// order carries orders to the streams of those whom they are for. A reporter
// that has gone meanwhile does not answer, which the table takes for what it is.
func (l *loop) order(r merge.Result) {
	to := func(reporter, what string, give func(*report.Stream)) {
		r := l.streams[reporter]
		if r == nil {
			return
		}
		if stream, ok := r.voice.(*report.Stream); ok {
			give(stream)
			l.numbers.orders[what]++
		}
	}
	for _, c := range r.Cancels {
		l.withdraw(c)
		to(c.Reporter, "cancel", func(s *report.Stream) { s.Cancel(c.ID) })
	}
	for _, o := range r.Orders {
		to(o.Reporter, "probe", func(s *report.Stream) { s.Order(o) })
	}
	for _, p := range r.Polls {
		for _, reporter := range p.Reporters {
			to(reporter, "poll", func(s *report.Stream) { s.Poll(p) })
		}
	}
	for _, w := range r.Watches {
		for _, reporter := range w.Reporters {
			to(reporter, "watch", func(s *report.Stream) { s.Watch(w) })
		}
	}
	for _, p := range r.Leases {
		l.let(p)
		to(p.Reporter, "lease", func(s *report.Stream) { s.Lease(p) })
	}
	for _, o := range r.Orders {
		l.entrust(o)
	}
	for _, p := range r.Shares {
		to(p.Reporter, "share", func(s *report.Stream) { s.Share(p) })
	}
	for _, w := range r.Weights {
		l.slow.note(w, l.now())
		for _, reporter := range w.Reporters {
			to(reporter, "weight", func(s *report.Stream) { s.Weight(w) })
		}
	}
	for _, p := range r.Settings {
		for _, reporter := range p.Reporters {
			to(reporter, "settings", func(s *report.Stream) { s.Settings(p) })
		}
	}
	for _, m := range r.Mutes {
		to(m.Reporter, "mute", func(s *report.Stream) { s.Mute(m) })
	}
}

// publish tells every view of the kinds what is now believed of the services, and
// the nodes named before the others.
func (l *loop) publish(names []string, kinds []resource.Kind, first ...string) {
	now := l.now()
	began := time.Now()
	var changes []server.Change
	for _, name := range names {
		var wanted []server.Change
		if s := l.services[name]; s != nil {
			wanted = l.beliefs.assignments(s, kinds, l.slow.share, now)
		}
		changes = append(changes, l.placed.replace(name, wanted, func(at slot) bool {
			return at.typeURL == resource.TypeEndpoints && slices.Contains(kinds, at.view.Kind)
		})...)
	}
	l.apply(changes, began, first...)
	if len(kinds) == len(allKinds) {
		for _, name := range names {
			delete(l.batch, name)
		}
		if len(l.batch) == 0 {
			l.batchAt = never
		}
	}
	l.rampAt = l.nextRamp(now)
}

// apply gives changes to the server; the nodes named hear of them first.
func (l *loop) apply(changes []server.Change, began time.Time, first ...string) {
	if err := l.server.ApplyFirst(first, changes...); err != nil {
		// The encoders make only what the server takes: this is a bug of ours, and
		// what is published already is better than nothing.
		l.log.Error("resources not published", "error", err)
		return
	}
	l.numbers.pushes++
	l.numbers.push.observe(time.Since(began))
}

// ramping are the services that have an endpoint on the ramp.
func (l *loop) ramping() []string {
	names := map[string]struct{}{}
	for k, scopes := range l.beliefs {
		for _, v := range scopes {
			if v.State == outlier.Ramp {
				names[k.Service] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// nextRamp is when the next endpoint rises a step for clients that cannot
// compute it.
func (l *loop) nextRamp(now time.Duration) time.Duration {
	next := never
	for k, scopes := range l.beliefs {
		s := l.services[k.Service]
		if s == nil {
			continue
		}
		for _, v := range scopes {
			if v.State != outlier.Ramp {
				continue
			}
			for _, age := range resource.RampSteps(s.Detection.Outlier.Ramp) {
				if at := v.Since + age; at > now {
					next = min(next, at)
				}
			}
		}
	}
	return next
}

// reload takes over the registry's mesh: tells the table, then the clients.
func (l *loop) reload() {
	now, began := l.now(), time.Now()
	l.mesh = l.registry.Current()
	services := make(map[string]*registry.Service, len(l.mesh.Services))
	known := map[merge.Key]owner{}
	for i := range l.mesh.Services {
		s := &l.mesh.Services[i]
		services[s.Name] = s
		endpoints := make([]merge.Endpoint, len(s.Endpoints))
		for j, e := range s.Endpoints {
			k := merge.Key{Service: s.Name, Instance: e.ID()}
			known[k] = owner{e.Sidecar, e.Address.Addr()}
			endpoints[j] = merge.Endpoint{
				Key: k, Zone: e.Zone, Node: e.Node, Priority: e.Priority, Weight: e.Weight,
				Draining: e.Draining, Inbound: e.Inbound, Labels: e.Labels,
			}
		}
		l.table.SetService(s.Name, s.Policy(), endpoints, now)
	}
	for name := range l.services {
		if services[name] == nil {
			l.table.RemoveService(name)
		}
	}
	l.services = services
	l.owners.byKey.Store(&known)
	l.addresses.learn(l.mesh, now)
	gone := func(k merge.Key) bool { _, ok := known[k]; return !ok }
	maps.DeleteFunc(l.beliefs, func(k merge.Key, _ map[merge.Scope]held) bool { return gone(k) })
	maps.DeleteFunc(l.loans, func(k merge.Key, _ *lent) bool { return gone(k) })
	l.slow.forget(gone, func(name string) bool { return services[name] != nil })
	l.history.add(Event{Time: l.wall(now), Kind: "registry",
		Text: fmt.Sprintf("mesh in force: %s, %s", count(len(services), "service"), count(l.mesh.Len(), "endpoint"))})
	// Before the gate is open this answers nobody. But a client that comes back with
	// the versions that it holds can then be known to hold them.
	l.publishAll(now, began)
	l.stepAt = now
	l.keep()
}

// publishAll makes the server hold exactly what the mesh and the beliefs say.
func (l *loop) publishAll(now time.Duration, began time.Time) {
	var changes []server.Change
	everything := func(slot) bool { return true }
	for i := range l.mesh.Services {
		s := &l.mesh.Services[i]
		wanted := append(clusters(s), l.beliefs.assignments(s, allKinds, l.slow.share, now)...)
		changes = append(changes, l.placed.replace(s.Name, wanted, everything)...)
	}
	for _, name := range slices.Sorted(maps.Keys(l.placed)) {
		if l.services[name] == nil {
			changes = append(changes, l.placed.replace(name, nil, everything)...)
		}
	}
	l.apply(changes, began)
	clear(l.batch)
	l.batchAt, l.rampAt = never, l.nextRamp(now)
}
