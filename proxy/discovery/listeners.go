package discovery

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/proxy/discovery/translation"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/xds/client"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// listening is what the control plane says of one listener.
type listening struct {
	*version // what was said last
	message  *listenerv3.Listener
	since    time.Time // when it was said
	saved    bool      // it is from the state directory, and not confirmed yet
	failed   failure   // zero: nothing was tried, or it could be opened

	active plan // what runs, which may be what was said before; zero: nothing
}

// failure is a plan that could not be opened.
type failure struct {
	plan  plan
	why   string
	retry time.Time // when to try again
}

// version is a listener as it was told of at one time.
type version struct {
	translation.Listening
	clusters map[string]bool // to which it leads without a route configuration
}

// routeTable is a route configuration as it was told of at one time.
type routeTable struct {
	message  *routev3.RouteConfiguration
	rules    []router.Rule
	clusters map[string]bool // to which they lead
	since    time.Time
}

// plan is a listener as it runs or should run.
type plan struct {
	name    string
	version *version
	routes  *routeTable // nil if it needs none
}

func (p plan) outbound() config.Outbound {
	if p.routes == nil {
		return p.version.Outbound
	}
	return p.version.With(p.routes.rules)
}

func (p plan) leadsTo() map[string]bool {
	switch {
	case p.version == nil:
		return nil
	case p.routes == nil:
		return p.version.clusters
	}
	return p.routes.clusters
}

// newListening reads a listener.
func newListening(m *listenerv3.Listener) (*listening, error) {
	l, err := translation.Listener(m)
	if err != nil {
		return nil, err
	}
	return &listening{version: &version{l, clustersOf(l.Outbound.Cluster, l.Outbound.Routes)}, message: m}, nil
}

// newRouteTable reads a route configuration.
func newRouteTable(m *routev3.RouteConfiguration) (*routeTable, error) {
	rules, err := translation.Rules(m)
	if err != nil {
		return nil, err
	}
	return &routeTable{message: m, rules: rules, clusters: clustersOf("", rules)}, nil
}

func (d *Discovery) asksForListeners() bool { return len(d.cfg.XDS.Listeners) > 0 }

// Listeners takes in listeners. One whose routes are not known yet, or whose clusters
// are not, does not take the place of what runs before they are.
func (h *handler) Listeners(changed []*listenerv3.Listener, removed []string) client.Refused {
	good, refused, said := read(changed, removed, (*listenerv3.Listener).GetName, newListening)
	if !said {
		return refused
	}
	d := (*Discovery)(h)
	d.mu.Lock()
	before := maps.Clone(d.listeners)
	now := time.Now()
	for _, next := range good {
		next.since = now
		if last := d.listeners[next.message.GetName()]; last != nil {
			next.active = last.active
		}
		d.listeners[next.message.GetName()] = next
	}
	for _, name := range removed {
		delete(d.listeners, name)
	}
	d.heard = true
	if len(d.listeners) > 0 {
		d.missing.told = false
	}
	d.heardLocked()
	d.mu.Unlock()

	failed := d.applyListeners()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range good {
		name := l.message.GetName()
		if failed[name] == nil {
			continue
		}
		refused[name] = failed[name]
		if before[name] != nil {
			d.listeners[name] = before[name]
		} else {
			delete(d.listeners, name)
		}
	}
	d.dropRoutesLocked()
	return refused
}

// Routes takes in route configurations. One that is withdrawn while a listener asks for
// it stays: there is a reason to have no routes, an empty configuration, and this is not
// it.
func (h *handler) Routes(changed []*routev3.RouteConfiguration, removed []string) client.Refused {
	good, refused, said := read(changed, removed, (*routev3.RouteConfiguration).GetName, newRouteTable)
	if !said {
		return refused
	}
	d := (*Discovery)(h)
	d.mu.Lock()
	now := time.Now()
	for _, table := range good {
		table.since = now
		d.routes[table.message.GetName()] = table
	}
	for _, name := range removed {
		if d.routes[name] != nil {
			d.deps.Log.Warn("routes withdrawn without their listener, kept", "routes", name)
		}
	}
	d.heardLocked()
	d.mu.Unlock()
	d.retryListeners()
	return refused
}

// RouteNames are the route configurations that listeners ask for, those that run and
// those that are to take their place.
func (h *handler) RouteNames() []string {
	d := (*Discovery)(h)
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.routeNamesLocked()))
}

func (d *Discovery) routeNamesLocked() map[string]bool {
	names := map[string]bool{}
	for _, l := range d.listeners {
		names[l.Routes] = true
		if l.active.version != nil {
			names[l.active.version.Routes] = true
		}
	}
	delete(names, "")
	return names
}

// dropRoutesLocked forgets the routes that no listener asks for.
func (d *Discovery) dropRoutesLocked() {
	names := d.routeNamesLocked()
	maps.DeleteFunc(d.routes, func(name string, _ *routeTable) bool { return !names[name] })
}

// planLocked is a version of a listener with its routes; ok is false as long as they
// have not come.
func (d *Discovery) planLocked(name string, v *version) (p plan, ok bool) {
	if v == nil {
		return plan{}, false
	}
	p = plan{name, v, d.routes[v.Routes]}
	return p, v.Routes == "" || p.routes != nil
}

// nextLocked is what a listener should be now, why that is not what was said last, and
// from when on it may be something else; zero: not by itself. A zero plan: it should not
// be open.
func (d *Discovery) nextLocked(name string, l *listening, now time.Time) (next plan, why string, until time.Time) {
	next, complete := d.planLocked(name, l.version)
	if complete && next == l.active {
		return next, "", time.Time{}
	}
	if !complete {
		why = fmt.Sprintf("waits for the route configuration %q", l.Routes)
	} else if now.Before(l.failed.retry) {
		why, until = l.failed.why, l.failed.retry
	} else {
		since := l.since
		if next.routes != nil && next.routes.since.After(since) {
			since = next.routes.since
		}
		cold := d.coldLocked(next)
		if until = since.Add(d.cfg.XDS.Missing); cold == "" || !now.Before(until) {
			return next, l.failed.why, time.Time{}
		}
		why = fmt.Sprintf("waits for the cluster %q and its endpoints", cold)
	}
	// The version that runs goes on, also with news of its own routes, unless these are
	// what has failed.
	next, complete = d.planLocked(name, l.active.version)
	failed := next == l.failed.plan && now.Before(l.failed.retry)
	if complete && !failed && d.coldLocked(next) == "" {
		return next, why, until
	}
	return l.active, why, until
}

// coldLocked names a cluster to which a listener would lead, and of which the
// endpoints are not known; "": there is none.
func (d *Discovery) coldLocked(p plan) string {
	for name := range p.leadsTo() {
		e := d.entries[name]
		switch {
		case e == nil || !e.static && e.remote == nil:
			return name
		case e.static || e.remote.Static:
		default:
			if _, known := d.assigned[e.remote.Config.Service]; !known {
				return name
			}
		}
	}
	return ""
}

func clustersOf(cluster string, rules []router.Rule) map[string]bool {
	names := map[string]bool{cluster: true}
	for _, r := range rules {
		names[r.Cluster] = true
		for _, share := range r.Clusters {
			names[share.Cluster] = true
		}
		if r.Mirror != nil {
			names[r.Mirror.Cluster] = true
		}
	}
	delete(names, "")
	return names
}

// leadsToLocked reports whether the control plane's listeners lead to a cluster.
func (d *Discovery) leadsToLocked(name string) bool {
	for _, l := range d.listeners {
		if l.active.leadsTo()[name] {
			return true
		}
	}
	return false
}

// plansLocked are all listeners that should be open now, by name.
func (d *Discovery) plansLocked() []plan {
	var all []plan
	now := time.Now()
	for _, name := range slices.Sorted(maps.Keys(d.listeners)) {
		if next, _, _ := d.nextLocked(name, d.listeners[name], now); next.version != nil {
			all = append(all, next)
		}
	}
	return all
}

// applyListeners makes the listeners what they should be. Those that cannot be opened
// are returned by name; they stay as they were.
func (d *Discovery) applyListeners() (failed map[string]error) {
	if d.deps.Listeners == nil {
		return nil
	}
	d.applying.Lock()
	defer d.applying.Unlock()
	d.mu.Lock()
	wanted := d.plansLocked()
	d.mu.Unlock()
	plans := wanted
	if err := d.deps.Listeners(outbounds(wanted)); err != nil {
		plans, failed = d.oneByOne(wanted)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range plans {
		if l := d.listeners[p.name]; l != nil && l.active != p {
			if l.active = p; p.version == l.version {
				l.failed = failure{}
			}
		}
	}
	for _, p := range wanted {
		if l, err := d.listeners[p.name], failed[p.name]; l != nil && err != nil {
			l.failed = failure{p, err.Error(), time.Now().Add(d.cfg.XDS.Missing)}
		}
	}
	d.applied = plans
	d.dropWithdrawnLocked()
	if d.clustered {
		d.becomeReadyLocked()
	}
	d.poke()
	return failed
}

// poke lets awaitListeners see what it waits for now.
func (d *Discovery) poke() {
	select {
	case d.poked <- struct{}{}:
	default:
	}
}

// oneByOne finds out which of the listeners cannot be opened, and applies the others.
func (d *Discovery) oneByOne(plans []plan) (applied []plan, failed map[string]error) {
	d.mu.Lock()
	for _, p := range d.applied {
		if d.listeners[p.name] != nil {
			applied = append(applied, p)
		}
	}
	d.mu.Unlock()
	failed = map[string]error{}
	changed := false
	for _, p := range plans {
		i := slices.IndexFunc(applied, func(a plan) bool { return a.name == p.name })
		with := slices.Clone(applied)
		if i < 0 {
			with = append(with, p)
		} else if with[i] = p; p == applied[i] {
			continue
		}
		if err := d.deps.Listeners(outbounds(with)); err != nil {
			failed[p.name] = err
			d.deps.Log.Error("listener of the control plane cannot be opened, what ran before stays", "listener", p.name, "error", err)
			continue
		}
		applied, changed = with, true
	}
	if !changed && d.deps.Listeners(outbounds(applied)) != nil {
		applied = d.applied // nothing has changed
	}
	return applied, failed
}

func outbounds(plans []plan) []config.Outbound {
	all := make([]config.Outbound, len(plans))
	for i, p := range plans {
		all[i] = p.outbound()
	}
	return all
}

// retryListeners applies listeners if a change of what they wait for lets them be
// something else.
func (d *Discovery) retryListeners() {
	if !d.asksForListeners() {
		return
	}
	d.mu.Lock()
	same := slices.Equal(d.plansLocked(), d.applied)
	d.mu.Unlock()
	if same {
		d.poke()
		return
	}
	d.applyListeners() // what cannot be opened is in the log, and tried again
}

// dropWithdrawnLocked lets the clusters go that were withdrawn, and that no route leads
// to any more or has led to for long enough.
func (d *Discovery) dropWithdrawnLocked() {
	now := time.Now()
	for name, e := range d.entries {
		if e.until.IsZero() || d.leadsToLocked(name) && now.Before(e.until) {
			continue
		}
		d.forgetLocked(e, withdrawn)
	}
}

// awaitListeners applies what is due by time until ctx ends: a listener whose clusters
// do not come, one that could not be opened, a cluster that was withdrawn.
func (d *Discovery) awaitListeners(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if at := d.due(); at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
		select {
		case <-timer.C:
			d.applyListeners()
			d.tellMissing()
		case <-d.poked:
		case <-ctx.Done():
			return
		}
	}
}

// due is when applyListeners may do something by itself.
func (d *Discovery) due() (at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	earlier := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for name, l := range d.listeners {
		_, _, until := d.nextLocked(name, l, now)
		earlier(until)
	}
	for _, e := range d.entries {
		earlier(e.until)
	}
	earlier(d.missing.at)
	return at
}

// missing is how it stands with a control plane that is asked for listeners and may tell
// of none: of a name that it does not know, or because it knows nothing of listeners, as
// our own.
type missing struct {
	at   time.Time // when to tell; zero: it is told, or there is nothing to wait for
	told bool
}

// tellMissing says that no listener has come, if it is time to.
func (d *Discovery) tellMissing() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.missing.at.IsZero() || time.Now().Before(d.missing.at) {
		return
	}
	d.missing.at = time.Time{}
	if len(d.listeners) == 0 {
		d.missing.told = true
		d.deps.Log.Warn("the control plane tells of no listener", "asked_for", d.cfg.XDS.Listeners)
	}
}

// listenersReadyLocked reports whether the control plane's listeners can be counted on.
func (d *Discovery) listenersReadyLocked() bool {
	if !d.asksForListeners() || d.deps.ControlPlane == nil {
		return true
	}
	for _, l := range d.listeners {
		if l.active.version == nil && time.Since(l.since) < d.cfg.XDS.Missing {
			return false
		}
	}
	return d.heard || d.source == Saved
}

// restoreListenersLocked takes the listeners of the state directory.
func (d *Discovery) restoreListenersLocked(s state) {
	if !d.asksForListeners() {
		return
	}
	for _, m := range s.Routes {
		table, err := newRouteTable(m)
		if err != nil {
			d.deps.Log.Error("saved routes are not usable, ignored", "error", err)
			continue
		}
		d.routes[m.GetName()] = table
	}
	for _, m := range s.Listeners {
		l, err := newListening(m)
		if err != nil {
			d.deps.Log.Error("saved listener is not usable, ignored", "error", err)
			continue
		}
		l.saved = true
		d.listeners[m.GetName()] = l
	}
}

// Refusal is what was said to the responses of one kind that were not accepted.
type Refusal struct {
	Total uint64
	Last  string // why the last response was refused; "" if it was accepted
}

// kinds are what responses bring, by type.
var kinds = map[string]string{
	resource.TypeCluster: "cluster", resource.TypeEndpoints: "endpoints", resource.TypeListener: "listener", resource.TypeRoute: "route configuration",
}

// Answered notes what became of a response.
func (h *handler) Answered(url string, refused error) {
	d := (*Discovery)(h)
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.refused[kinds[url]]
	r.Last = ""
	if refused != nil {
		r.Total++
		r.Last = refused.Error()
	}
	d.refused[kinds[url]] = r
}
