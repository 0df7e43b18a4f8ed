package merge

import (
	"cmp"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const never = outlier.Never

// Table is the evidence of a fleet and what follows from it. One goroutine owns
// it.
type Table struct {
	cfg  Config
	seed uint64
	now  time.Duration // newest instant that the owner named

	epoch  uint64
	lastID OrderID
	steps  uint64 // number of Steps

	services  map[string]*service
	endpoints map[Key]*endpoint
	reporters map[string]*reporter
	slots     []*reporter // by cell.reporter
	freeSlots []int32
	domains   map[string]*domain
	stamp     uint64 // of the newest count of domains
	zones     names
	observed  map[string]int // how many reporters each zone has

	// What rows are added up with: by slot, and by domain.index.
	observers   []observer
	domainList  []*domain
	freeDomains []int32
	sums        []domainSum
	lone        []bool // domains of one reporter

	touched  []*endpoint // news since the last Step
	byJoin   []uint64    // room for the order of what is taken over
	came     []*reporter // whose first report came since, or one of an earlier time
	orders   map[OrderID]*order
	probes   bucket        // of the whole fleet
	mutes    []string      // domains that are muted, sorted
	muteTill time.Duration // until then every tick looks whom to mute, not each second only
	// restored verdicts of services that the registry has not named yet.
	restored map[Key][]Verdict

	nextTick, nextSecond time.Duration
	wake                 time.Duration // the next instant between ticks

	out     Result
	acc     []int32 // domains with evidence in the row read last
	top     largest
	tallies []outlier.Tally // room for those of a group
}

// NewTable makes an empty table. The seed decides which of several equal
// reporters are chosen and how waiting times are spread; replicas share it.
func NewTable(cfg Config, seed uint64) *Table {
	return &Table{
		cfg:       cfg,
		seed:      seed,
		services:  make(map[string]*service),
		endpoints: make(map[Key]*endpoint),
		reporters: make(map[string]*reporter),
		domains:   make(map[string]*domain),
		observed:  make(map[string]int),
		orders:    make(map[OrderID]*order),
		restored:  make(map[Key][]Verdict),
		zones:     names{"": 0},
		probes:    fullBucket(float64(cfg.FleetProbeMin), 0),
	}
}

// service is the endpoints of one name and the reporters that use it.
type service struct {
	name      string
	policy    Policy
	zones     names
	known     bool // SetService has named it
	groups    []*group
	reporters []*reporter // by id
	ping      pingPath
	stalls    pauses
	latency   *latencies    // nil: nobody has told of any
	slowerAt  time.Duration // when a reporter last told that its answers take longer than usual; never
}

func (t *Table) newService(name string) *service {
	s := &service{name: name, policy: DefaultPolicy(), zones: t.zones, slowerAt: never}
	t.services[name] = s
	return s
}

func compareReporters(a, b *reporter) int { return cmp.Compare(a.ID, b.ID) }

func (s *service) join(r *reporter) {
	if i, found := slices.BinarySearchFunc(s.reporters, r, compareReporters); !found {
		s.reporters = slices.Insert(s.reporters, i, r)
	}
}

// leave takes a reporter off the service; a name that neither the registry nor
// anybody else knows is forgotten.
func (t *Table) leave(s *service, r *reporter) {
	if i, found := slices.BinarySearchFunc(s.reporters, r, compareReporters); found {
		s.reporters = slices.Delete(s.reporters, i, i+1)
	}
	if !s.known && len(s.reporters) == 0 {
		delete(t.services, s.name)
	}
}

// group is the endpoints of one priority of a service: they carry the same
// traffic, so each is the measure of the others.
type group struct {
	service   *service
	priority  uint32
	endpoints []*endpoint // by instance
	baseline  outlier.Baseline
	usual     outlier.Usual // of baseline.Pg
	storm     bool          // a large part of it was suspected at the last Step
	toldFails time.Duration // when it was told that all of it fails; never: not yet
	census    *census       // of this Step; nil: there was none yet
	scores    scores        // of this decision

	// Error rates since the beginning of each bucket of the histories, as far as this
	// Step has needed them.
	windowsAt uint64
	windows   map[time.Duration]outlier.Ratios
}

func (s *service) group(priority uint32) *group {
	i, found := slices.BinarySearchFunc(s.groups, priority, func(g *group, p uint32) int { return cmp.Compare(g.priority, p) })
	if !found {
		s.groups = slices.Insert(s.groups, i, &group{
			service: s, priority: priority, windows: make(map[time.Duration]outlier.Ratios), baseline: outlier.Baseline{Pg: outlier.FirstErrorRate}, toldFails: never,
		})
	}
	return s.groups[i]
}

func (s *service) endpoints(yield func(*endpoint) bool) {
	for _, g := range s.groups {
		for _, e := range g.endpoints {
			if !yield(e) {
				return
			}
		}
	}
}

// judged is the number of endpoints of the group that are not draining.
func (g *group) judged() int {
	n := 0
	for _, e := range g.endpoints {
		if !e.leaving() {
			n++
		}
	}
	return n
}

// SetService tells what the registry says of a service. Endpoints keep what was
// learned of them as long as they are named; one that is named no more is
// forgotten in full, so that a reused address inherits nothing. What follows from
// it comes with the next Step.
func (t *Table) SetService(name string, policy Policy, specs []Endpoint, now time.Duration) {
	s := t.services[name]
	if s == nil {
		s = t.newService(name)
	}
	fresh := s.known && t.steps > 0 // an endpoint that appears now is a new instance
	s.policy, s.known = policy, true

	named := make(map[Key]bool, len(specs))
	for _, spec := range specs {
		spec.Key.Service = name
		named[spec.Key] = true
		e := t.endpoints[spec.Key]
		if e == nil {
			t.addEndpoint(s, spec, fresh, now)
			continue
		}
		if e.Priority != spec.Priority {
			e.group.remove(e)
			e.group = s.group(spec.Priority)
			e.group.add(e)
		}
		if e.Draining && !spec.Draining {
			e.susp.shutUntil = now + witnessFor // what failed while it was leaving is no news
		}
		restarted := spec.Started != 0 && e.Started != 0 && spec.Started != e.Started
		e.Endpoint = spec
		if restarted {
			e.restartedAt = now
			t.touch(e)
		}
	}
	var gone []*endpoint
	for e := range s.endpoints {
		if !named[e.Key] {
			gone = append(gone, e)
		}
	}
	for _, e := range gone {
		t.removeEndpoint(e)
	}
	s.groups = slices.DeleteFunc(s.groups, func(g *group) bool { return len(g.endpoints) == 0 })
	t.sizeProbes(now)
	t.due(now)
}

// RemoveService forgets a service and its endpoints.
func (t *Table) RemoveService(name string) {
	s := t.services[name]
	if s == nil {
		return
	}
	var gone []*endpoint
	for e := range s.endpoints {
		gone = append(gone, e)
	}
	for _, e := range gone {
		t.removeEndpoint(e)
	}
	if len(s.reporters) == 0 {
		delete(t.services, name)
		return
	}
	// Reporters still use the name: keep who they are for when it comes back.
	s.groups, s.known, s.policy = nil, false, DefaultPolicy()
}

func (t *Table) addEndpoint(s *service, spec Endpoint, fresh bool, now time.Duration) {
	e := newEndpoint(spec, now)
	e.group = s.group(spec.Priority)
	fresh = fresh && len(e.group.endpoints) > 0 && !spec.Draining
	e.group.add(e)
	t.endpoints[spec.Key] = e
	if vs, ok := t.restored[spec.Key]; ok {
		delete(t.restored, spec.Key)
		for _, v := range vs {
			t.restore(e, v, now)
		}
		return
	}
	if fresh {
		e.newAt = now
		t.touch(e)
	}
}

// removeEndpoint forgets everything about e, in this one place.
func (t *Table) removeEndpoint(e *endpoint) {
	e.group.remove(e)
	delete(t.endpoints, e.Key)
	delete(t.restored, e.Key)
	for id, o := range t.orders {
		if o.endpoint == e {
			t.out.Cancels = append(t.out.Cancels, Cancel{ID: id, Reporter: o.reporter.ID})
			delete(t.orders, id)
		}
	}
	e.removed = true
}

func compareEndpoints(a, b *endpoint) int { return a.Key.compare(b.Key) }

func (g *group) add(e *endpoint) {
	i, _ := slices.BinarySearchFunc(g.endpoints, e, compareEndpoints)
	g.endpoints = slices.Insert(g.endpoints, i, e)
}

func (g *group) remove(e *endpoint) {
	if i, found := slices.BinarySearchFunc(g.endpoints, e, compareEndpoints); found {
		g.endpoints = slices.Delete(g.endpoints, i, i+1)
	}
}

// sizeProbes fits the bound on the fleet's probes to the number of endpoints.
func (t *Table) sizeProbes(now time.Duration) {
	t.probes.fill(now)
	t.probes.rate = max(float64(t.cfg.FleetProbeMin), t.cfg.FleetProbeRatio*float64(len(t.endpoints)))
}

// touch marks an endpoint as one that the next Step must look at.
func (t *Table) touch(e *endpoint) {
	if !e.touched {
		e.touched = true
		t.touched = append(t.touched, e)
	}
}

// due notes an instant at which Step has something to do.
func (t *Table) due(at time.Duration) {
	t.wake = min(t.wake, at)
}

func (t *Table) id() OrderID {
	t.lastID++
	return t.lastID
}
