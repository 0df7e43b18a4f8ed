package world

import (
	"math/rand/v2"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/proxy/balancer"
)

// service is the name of the one service of a world.
const service = "api"

// Options change Overhear, for sweeps and comparisons.
type Options struct {
	// Policy changes how the service is judged.
	Policy func(*merge.Policy)
	// Alone leaves the control plane out.
	Alone bool
	// OnChange hears of every change of belief of the fleet, refused ones too.
	OnChange func(merge.Change)
	// OnLocal hears of every change of belief of a caller.
	OnLocal func(caller int, c outlier.Change)
	// OnEvent hears of the table's other news.
	OnEvent func(merge.Event)
}

// Overhear makes the product of this repository.
func Overhear(name string, o Options) Maker {
	return Maker{Name: name, New: func(w *World) Product { return newOverhear(w, o) }}
}

// overhear is all sidecars and the control plane.
type overhear struct {
	w        *World
	opts     Options
	policy   merge.Policy
	balancer balancer.Config
	sidecars []*sidecar
	hosts    []*host  // the sidecars beside the endpoints, if there are any that report
	control  *control // nil: none
}

// Timers of sidecars and of the control plane, in the low bits of their ids.
const (
	timerStep uint32 = iota
	timerReport
	timerPing
	timerControl
	timerHost
	timerKinds
)

func newOverhear(w *World, opts Options) *overhear {
	o := &overhear{w: w, opts: opts, policy: merge.DefaultPolicy(), balancer: balancer.DefaultConfig()}
	o.balancer.Policy, o.balancer.PreferZone = w.Balance, w.PreferZone
	o.policy.LeaveOut = w.LeaveOut
	o.policy.Ping = merge.PingKind(w.Ping)
	if opts.Policy != nil {
		opts.Policy(&o.policy)
	}
	if !opts.Alone && w.Control {
		o.control = newControl(o)
	}
	for i := range w.Callers {
		o.sidecars = append(o.sidecars, newSidecar(o, i))
	}
	for _, s := range o.sidecars {
		s.members()
		s.wake()
	}
	if o.control != nil {
		o.control.up(false)
		for _, s := range o.sidecars {
			s.connect()
		}
		if w.Inbound {
			for i := range w.Endpoints {
				o.hosts = append(o.hosts, newHost(o, i))
			}
		}
		for _, h := range o.hosts {
			h.connect()
		}
	}
	return o
}

// dice are a sidecar's own.
func (o *overhear) dice() *rand.Rand {
	return rand.New(rand.NewPCG(o.w.rng.Uint64(), o.w.rng.Uint64()))
}

func (o *overhear) Wake(id, gen uint32) {
	switch kind, i := id%timerKinds, id/timerKinds; kind {
	case timerStep:
		o.sidecars[i].stepTimer(gen)
	case timerReport:
		o.sidecars[i].reporter.timer(gen)
	case timerPing:
		o.sidecars[i].pingTimer(gen)
	case timerHost:
		o.hosts[i].timer(gen)
	case timerControl:
		o.control.timer(gen)
	}
}

func (o *overhear) Changed() {
	for _, s := range o.sidecars {
		s.members()
	}
	if o.control != nil {
		o.control.registry()
	}
	for _, h := range o.hosts {
		h.changed()
	}
}

func (o *overhear) Control(up bool) {
	switch {
	case o.control == nil:
	case up:
		o.control.up(true)
		for _, s := range o.sidecars {
			// A client finds out and comes back after its back-off.
			o.w.At(o.w.now+time.Duration(o.w.rng.Int64N(int64(time.Second))), s.connect)
		}
		for _, h := range o.hosts {
			o.w.At(o.w.now+time.Duration(o.w.rng.Int64N(int64(time.Second))), h.connect)
		}
	default:
		o.control.down()
		for _, s := range o.sidecars {
			s.disconnect()
		}
		for _, h := range o.hosts {
			h.connected = false
		}
	}
}

// Skew has all that a caller says of time off by so much more.
func (o *overhear) Skew(caller int, by time.Duration) { o.sidecars[caller].skew += by }

// Closed is that an endpoint has closed a connection that a caller had left idle.
func (o *overhear) Closed(caller, endpoint int, idle time.Duration) {
	o.sidecars[caller].closed(endpoint, idle)
}

// Beside is a hard failure of an application, seen by the sidecar in front of it.
func (o *overhear) Beside(endpoint int) {
	if o.hosts != nil {
		o.hosts[endpoint].saw(outlier.Conn)
	}
}

func (o *overhear) Pick(r *Request) int {
	s := o.sidecars[r.Caller]
	if s.picker == nil {
		return -1
	}
	tried := &r.Tried
	if r.Attempts == 0 {
		tried = nil
	}
	if o.balancer.Policy.Hashes() {
		s.keys.See(r.Key)
		return s.picker.PickKeyed(r.Key, o.w.rng.Uint64(), o.w.now, tried)
	}
	return s.picker.Pick(o.w.rng.Uint64(), o.w.now, tried)
}

func (o *overhear) Start(r *Request) {
	ep := o.sidecars[r.Caller].stats[r.Endpoint]
	r.Attempt = ep.StartOn(r.Route, o.w.now, true)
	r.Tried.Add(ep)
}

func (o *overhear) Headers(r *Request) {
	o.sidecars[r.Caller].stats[r.Endpoint].Headers(&r.Attempt, o.w.now)
}

func (o *overhear) End(r *Request, how outlier.HTTPResult) {
	s := o.sidecars[r.Caller]
	ep := s.stats[r.Endpoint]
	class := outlier.OK
	if how.Ending != outlier.EndComplete || how.Status >= 400 || how.GRPC {
		how.Overdue = ep.Overdue(r.Route)
		class = outlier.ClassifyHTTP(how)
	}
	if how.HeadersSeen {
		ep.Headers(&r.Attempt, o.w.now)
	}
	if how.Ending == outlier.EndComplete {
		s.closes[r.Endpoint].Kept(r.Idle)
	}
	out := outlier.Outcome{Class: class, Now: o.w.now, Level: how.Level(), Gateway: how.Gateway(), Route: r.Route, Conn: r.Conn}
	if how.Ending == outlier.EndConnectRefused || how.Ending == outlier.EndUnreachable {
		out.Conn = 0 // there never was one
	}
	if ep.End(&r.Attempt, out) {
		s.wake()
	}
	if o.hosts != nil && how.HeadersSeen && how.Origin == "" {
		o.hosts[r.Endpoint].saw(class)
	}
}
