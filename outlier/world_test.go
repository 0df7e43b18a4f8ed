package outlier

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// world is one sidecar and the endpoints of one cluster in virtual time: real
// counters, the real Detector, a picker that obeys its View. Nothing runs but
// what the test's goroutine runs, so each seed is one exact story.
type world struct {
	t         *testing.T
	d         *Detector
	rng       *rand.Rand
	now       time.Duration
	events    events
	seq       int
	hosts     map[string]*host
	order     []string
	members   []Member
	step      time.Duration // of the pending Step
	stepSeq   int
	changes   []Change
	routeNews []RouteChange
	failed    int // requests that failed for the user
	app       bool
	timeout   time.Duration
	after     func() // called after each Step
	probes    int
	routes    int                      // among which requests are spread evenly
	bad       map[uint16]float64       // the share of a route's requests that fail wherever they go
	patience  time.Duration            // after which a client leaves; 0: never
	slow      map[uint16]time.Duration // how long a route takes by nature
	only      map[string]uint16        // the route of all requests to a host
	pinned    map[uint16]int           // routes that are hashed: they go to this place, or the next that is in
}

// host is one endpoint's true nature.
type host struct {
	id         string
	refuse     bool
	deaf       bool // refuses new connections; those that are open answer
	hang       bool
	errors     float64
	resets     float64 // the share of requests whose connection dies instead of an answer
	latency    time.Duration
	capacity   float64         // requests per second; 0: unlimited
	busy       time.Duration   // until when its queue keeps it
	picks      []time.Duration // instants of attempts
	failures   int
	tail       float64 // the share of answers that take tailFactor as long
	tailFactor time.Duration
	trickled   time.Duration // the last pick through a trickle
	waiting    []func(class Class)
}

type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func newWorld(t *testing.T, n int, seed uint64, edit ...func(*Config)) *world {
	t.Helper()
	cfg := DefaultConfig()
	for _, f := range edit {
		f(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Second,
		d:     New(cfg, rand.New(rand.NewPCG(seed, 2))),
		hosts: make(map[string]*host), app: true, timeout: 5 * time.Second,
	}
	for i := range n {
		id := fmt.Sprintf("e%02d", i)
		w.hosts[id] = &host{id: id, latency: 2 * time.Millisecond}
		w.order = append(w.order, id)
		w.members = append(w.members, Member{ID: id})
	}
	w.d.SetMembers(w.members, w.now)
	w.doStep()
	return w
}

func (w *world) at(t time.Duration, do func()) {
	w.seq++
	heap.Push(&w.events, event{max(t, w.now), w.seq, do})
}

func (w *world) run(until time.Duration) {
	for len(w.events) > 0 && w.events[0].at <= until {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = until
}

func (w *world) runFor(d time.Duration) { w.run(w.now + d) }

// wake brings the next Step forward.
func (w *world) wake(t time.Duration) {
	if w.step != 0 && t >= w.step {
		return
	}
	w.step = t
	w.stepSeq++
	mine := w.stepSeq
	w.at(t, func() {
		if mine == w.stepSeq {
			w.doStep()
		}
	})
}

func (w *world) doStep() {
	w.step = 0
	r := w.d.Step(w.now)
	if r.Next <= w.now {
		w.t.Fatalf("at %v Step wants the next one at %v", w.now, r.Next)
	}
	w.changes = append(w.changes, r.Changes...)
	w.routeNews = append(w.routeNews, r.Routes...)
	for _, p := range r.Probes {
		w.probe(p)
	}
	if w.after != nil {
		w.after()
	}
	w.wake(r.Next)
}

// probe answers as the host would: a port that accepts is no application that answers.
func (w *world) probe(p Probe) {
	w.probes++
	h, start := w.hosts[p.ID], w.now
	level := p.Level
	if !w.app {
		level = min(level, LevelConnect)
	}
	took, res := time.Millisecond, ProbeOK
	switch {
	case h.refuse, h.deaf:
		res = Refused
	case h.hang && level == LevelApp:
		took, res = p.Timeout, TimedOut
	}
	w.at(start+took, func() {
		w.d.Probed(p.ID, level, res, start, w.now)
		w.wake(w.now + time.Millisecond)
	})
}

// load sends rate requests per second, Poisson, until an instant.
func (w *world) load(rate float64, until time.Duration) {
	var next func()
	next = func() {
		if w.now >= until {
			return
		}
		w.request(0, nil)
		w.at(w.now+w.gap(rate), next)
	}
	w.at(w.now+w.gap(rate), next)
}

func (w *world) gap(rate float64) time.Duration {
	return time.Duration(w.rng.ExpFloat64() / rate * float64(time.Second))
}

// request makes an attempt; where nothing was processed it is repeated, three
// times at most, on an endpoint that was not tried.
func (w *world) request(tries int, tried []string) {
	route := uint16(0)
	if w.routes > 0 {
		route = uint16(w.rng.IntN(w.routes))
	}
	h := w.pick(tried)
	if at, ok := w.pinned[route]; ok {
		h = w.pinnedTo(at)
	}
	if h == nil {
		w.failed++
		return
	}
	if only, ok := w.only[h.id]; ok {
		route = only
	}
	h.picks = append(h.picks, w.now)
	ep := w.d.Endpoint(h.id)
	a := ep.StartOn(route, w.now, true)
	conn := w.rng.Uint32N(8) + 1
	end := func(class Class) {
		o := Outcome{Class: class, Now: w.now, Conn: conn, Level: LevelConnect, Route: route}
		if class != Timeout && class != Conn && class != Censored {
			ep.Headers(&a, w.now)
		}
		switch {
		case class == Conn && h.refuse:
			o.Conn = 0
		case class == Conn:
			o.Level = LevelApp
		}
		if ep.End(&a, o) {
			w.wake(w.now + time.Millisecond)
		}
		if !class.Failure() {
			return
		}
		h.failures++
		if class == Conn && tries < 3 {
			w.request(tries+1, append(tried, h.id))
			return
		}
		w.failed++
	}
	switch {
	case h.refuse:
		w.at(w.now+200*time.Microsecond, func() { end(Conn) })
	case h.hang:
		done := false
		once := func(class Class) {
			if !done {
				done = true
				end(class)
			}
		}
		h.waiting = append(h.waiting, once)
		w.at(w.now+w.timeout, func() { once(Timeout) })
		if w.patience > 0 {
			w.at(w.now+w.patience, func() {
				once(ClassifyHTTP(HTTPResult{Ending: EndClientAbort, Age: w.patience, Overdue: ep.Overdue(route)}))
			})
		}
	default:
		class := OK
		switch {
		case w.rng.Float64() < h.errors, w.bad[route] > 0 && w.rng.Float64() < w.bad[route]:
			class = Server
		case h.resets > 0 && w.rng.Float64() < h.resets:
			class = Conn
		}
		// Half of the latency is spread: no two services are that regular.
		mean := max(h.latency, w.slow[route])
		latency := mean/2 + time.Duration(w.rng.ExpFloat64()*float64(mean/2))
		if h.capacity > 0 {
			// A queue of half a second; what does not fit in is turned away at once.
			if wait := max(0, h.busy-w.now); wait > second/2 {
				class = Server
			} else {
				h.busy = w.now + wait + time.Duration(float64(second)/h.capacity)
				latency += wait
			}
		}
		if h.tail > 0 && w.rng.Float64() < h.tail {
			latency *= h.tailFactor
		}
		w.at(w.now+latency, func() { end(class) })
	}
}

// unhang lets a host answer again, also what it was asked before.
func (h *host) unhang() {
	h.hang = false
	for _, answer := range h.waiting {
		answer(OK)
	}
	h.waiting = nil
}

// pinnedTo is the first host that is in, from a place on.
func (w *world) pinnedTo(at int) *host {
	view := w.d.View()
	for i := range view {
		if a := view[(at+i)%len(view)]; a.Weight == 1 {
			return w.hosts[a.ID]
		}
	}
	return nil
}

// pick is two random choices over cost, by weight, with trickles first.
func (w *world) pick(tried []string) *host {
	view := w.d.View()
	var ids []string
	var weights []float64
	total := 0.0
	for i, a := range view {
		if a.ID != w.order[i] {
			w.t.Fatalf("view[%d] is %q, want %q", i, a.ID, w.order[i])
		}
		if has(tried, a.ID) {
			continue
		}
		h := w.hosts[a.ID]
		if a.Trickle > 0 && !a.Panic {
			if w.now-h.trickled >= a.Trickle {
				h.trickled = w.now
				return h
			}
			continue
		}
		if a.State == Probation && !a.Panic && w.d.Endpoint(a.ID).Inflight() > 0 {
			continue
		}
		if a.Weight > 0 {
			ids, weights = append(ids, a.ID), append(weights, a.Weight)
			total += a.Weight
		}
	}
	if len(ids) == 0 {
		return nil
	}
	draw := func() int {
		x := w.rng.Float64() * total
		for i, weight := range weights {
			if x -= weight; x < 0 {
				return i
			}
		}
		return len(ids) - 1
	}
	a, b := draw(), draw()
	if w.d.Endpoint(ids[b]).Cost(w.now) < w.d.Endpoint(ids[a]).Cost(w.now) {
		a = b
	}
	return w.hosts[ids[a]]
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// first is the first change of a member to a state since an instant, that was
// not refused.
func (w *world) first(id string, to State, since time.Duration) (Change, bool) {
	for _, c := range w.changes {
		if c.ID == id && c.To == to && c.Refused == "" && !c.Fleet && c.At >= since && c.From != c.To {
			return c, true
		}
	}
	return Change{}, false
}

// want is first, or the end of the test.
func (w *world) want(id string, to State, since time.Duration) Change {
	w.t.Helper()
	c, ok := w.first(id, to, since)
	if !ok {
		w.t.Fatalf("%s never became %v after %v; changes:\n%s", id, to, since, w.story())
	}
	return c
}

func (w *world) count(to State) (n int) {
	for _, c := range w.changes {
		if c.To == to && c.Refused == "" && !c.Fleet && c.From != c.To {
			n++
		}
	}
	return n
}

// out counts who is out, by local or central belief.
func (w *world) out() (n int) {
	for _, m := range w.d.members {
		if m.out() {
			n++
		}
	}
	return n
}

// atMostOut ends the test as soon as more are out.
func (w *world) atMostOut(most int) {
	w.after = func() {
		if n := w.out(); n > most {
			w.t.Fatalf("at %v %d of %d are out, want at most %d\n%s", w.now, n, len(w.d.members), most, w.story())
		}
	}
}

func (w *world) story() string {
	var b strings.Builder
	for _, c := range w.changes {
		fmt.Fprintf(&b, "%8.3fs %s %v -> %v by %v", c.At.Seconds(), c.ID, c.From, c.To, c.Rule)
		if c.Refused != "" {
			fmt.Fprintf(&b, " refused: %s", c.Refused)
		}
		fmt.Fprintf(&b, " (n=%d k=%d score=%d/%d overdue=%d)\n", c.Explain.Counts.N, c.Explain.Counts.K(), c.Explain.Score, c.Explain.Threshold, c.Explain.Overdue)
	}
	return b.String()
}

// picksSince counts the attempts on a host from an instant on.
func (h *host) picksSince(t time.Duration) (n int) {
	for _, at := range h.picks {
		if at >= t {
			n++
		}
	}
	return n
}
