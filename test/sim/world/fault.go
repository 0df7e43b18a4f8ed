package world

import (
	"fmt"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

func instance(index, life int) string {
	if life == 0 {
		return fmt.Sprintf("e%03d", index)
	}
	return fmt.Sprintf("e%03d-%d", index, life)
}

// apply is one step of the story.
func (w *World) apply(s Step) {
	switch {
	case s.Fault.Kind == ControlDown || s.Fault.Kind == ControlUp:
		w.product.Control(s.Fault.Kind == ControlUp)
		return
	case s.Fault.Kind == Clock:
		if p, ok := w.product.(interface {
			Skew(caller int, by time.Duration)
		}); ok {
			for _, c := range s.From {
				p.Skew(c, s.Fault.For)
			}
		}
		return
	case s.From != nil:
		w.breakPaths(s)
	default:
		for _, e := range s.To {
			w.strike(w.Endpoints[e], s.Fault)
		}
	}
	w.Ledger.note(s)
}

// breakPaths makes the ways from callers to endpoints faulty, or heals them.
func (w *World) breakPaths(s Step) {
	if w.links == nil {
		w.links = make([]uint16, w.Callers*w.Scenario.Endpoints)
	}
	place := uint16(0)
	if s.Fault.Kind != Heal {
		place = uint16(len(w.paths))
		w.paths = append(w.paths, s.Fault)
	}
	for _, c := range s.From {
		for _, e := range s.To {
			w.links[c*w.Scenario.Endpoints+e] = place
		}
	}
}

// strike lets a fault happen to an endpoint.
func (w *World) strike(host *Endpoint, f Fault) {
	switch f.Kind {
	case Heal:
		w.heal(host)
	case Crash:
		host.mode = Crash
		w.reset(host)
	case Hang, Blackhole, Listener, Unreachable:
		host.mode = f.Kind
		if f.Kind == Listener {
			return
		}
	case Errors:
		host.errors = f.Share
	case Stall:
		host.stall = f.Share
	case Cut:
		host.cut = f.Share
	case Alternate:
		host.alt = true
	case Slow:
		host.slow, host.slowPart = f.Factor, f.Share
	case Pause:
		host.pausing++
		w.pause(host, f, host.pausing, time.Duration(w.rng.Float64()*float64(f.Every)))
	case Trailers:
		host.trailers = f.Share
	case NoTrailers:
		host.bare = f.Share
	case Limit:
		host.limit = f.Share
	case Overload:
		host.overload = f.Share
	case Capacity:
		host.service = float64(time.Second) / f.Number
	case Poison:
		w.poisoned[host.Index] = uint16(f.Number)
	case Reset:
		w.reset(host)
	case Drain, Undrain:
		host.Draining = f.Kind == Drain
		w.product.Changed()
	case Restart:
		host.Started = w.now
		w.product.Changed()
	case Replace:
		host.lives++
		host.ID, host.Started, host.New, host.Draining = instance(host.Index, host.lives), w.now, true, false
		w.reset(host)
		w.product.Changed()
	}
}

// heal ends every fault of an endpoint. What it had not answered it answers now.
func (w *World) heal(host *Endpoint) {
	*host = Endpoint{
		Index: host.Index, ID: host.ID, Started: host.Started, Draining: host.Draining, New: host.New,
		slow: 1, parked: host.parked, lives: host.lives, inflight: host.inflight, pausing: host.pausing + 1,
	}
	delete(w.poisoned, host.Index)
	parked := host.parked
	host.parked = nil
	for _, p := range parked {
		r := &w.requests[p.id]
		if !r.live || r.gen != p.gen {
			continue
		}
		// One end for each attempt: the timer that waits for it finds another generation.
		r.gen++
		r.how = outlier.HTTPResult{Status: 200, HeadersSeen: true}
		w.endAt(r, w.oneWay(w.Zone(r.Caller), w.Zone(r.Endpoint)))
	}
}

// shed closes the idle connections between a caller and an endpoint. The caller has them
// in its pool if it did not close them itself, and hears of it when the news arrives;
// the sidecar in front of an application takes no news from there.
func (w *World) shed(caller int, host *Endpoint) {
	p := w.pair(caller, host.Index)
	idle := w.now - p.used
	there := p.idle > 0 && idle <= idleTimeout
	p.idle = 0
	product, hears := w.product.(interface {
		Closed(caller, endpoint int, idle time.Duration)
	})
	if !there || !hears || w.Inbound || w.path(caller, host.Index).Kind == Blackhole {
		return
	}
	way, id := w.oneWay(w.Zone(caller), w.Zone(host.Index)), host.ID
	w.At(w.now+way, func() {
		if host.ID == id { // else nobody asks for it any more
			product.Closed(caller, host.Index, idle+way)
		}
	})
}

// expire has an endpoint close what a caller leaves idle for too long.
func (w *World) expire(caller int, host *Endpoint) {
	p := w.pair(caller, host.Index)
	p.timed = true
	w.At(p.used+w.KeepAlive, func() {
		p.timed = false
		switch {
		case p.idle == 0:
		case w.now-p.used < w.KeepAlive:
			w.expire(caller, host)
		case host.mode != Hang && host.mode != Blackhole:
			w.shed(caller, host)
		}
	})
}

// reset breaks all connections of an endpoint: what is in flight dies, one news each.
func (w *World) reset(host *Endpoint) {
	for c := range w.Callers {
		w.shed(c, host)
	}
	host.parked = nil
	if p, ok := w.product.(interface{ Lost(endpoint int) }); ok {
		w.At(w.now+w.Far, func() { p.Lost(host.Index) })
	}
	for i := range w.requests {
		r := &w.requests[i]
		if !r.live || !r.flying || r.Endpoint != host.Index {
			continue
		}
		r.gen++
		r.how = outlier.HTTPResult{Ending: outlier.EndResetBeforeHeaders}
		if r.headed {
			r.how = outlier.HTTPResult{Ending: outlier.EndBodyCut, HeadersSeen: true, Status: 200}
		} else if w.Inbound {
			w.beside(r.Endpoint, 0)
			r.how = outlier.HTTPResult{Status: 503, HeadersSeen: true, Origin: outlier.OriginReset}
		}
		w.endAt(r, w.oneWay(w.Zone(r.Caller), w.Zone(r.Endpoint)))
	}
}

// pause makes an endpoint stand still now and then, for as long as it has the fault.
func (w *World) pause(host *Endpoint, f Fault, gen uint32, in time.Duration) {
	w.At(w.now+in, func() {
		if host.pausing != gen {
			return
		}
		host.frozen = w.now + f.For
		w.pause(host, f, gen, f.Every)
	})
}

// Probe asks an endpoint over a connection of its own: to accept, or to answer.
// then is called when the answer is there, or at the timeout.
func (w *World) Probe(caller, endpoint int, level outlier.Level, timeout time.Duration, then func(Answer)) {
	w.Ledger.probes++
	start := w.now
	host := w.Endpoints[endpoint]
	mode := host.mode
	way := w.path(caller, endpoint)
	if way.Kind == Blackhole || way.Kind == Unreachable {
		mode = way.Kind
	}
	took, result := w.roundTrip(caller, endpoint), outlier.ProbeOK
	app := level == outlier.LevelApp
	if app {
		took += w.roundTrip(caller, endpoint) + w.service(host)
	}
	switch {
	case mode == Crash && w.Inbound && !app:
		// The sidecar accepts; that it has nobody behind it only an answer tells.
	case mode == Crash, mode == Listener:
		result = outlier.Refused
	case mode == Unreachable:
		result = outlier.Unreachable
	case mode == Blackhole, mode == Hang && app:
		result = outlier.TimedOut
	case app && host.frozen > w.now:
		took += host.frozen - w.now
	}
	if result == outlier.ProbeOK && took > timeout {
		result = outlier.TimedOut
	}
	if result == outlier.TimedOut {
		took = timeout
	}
	w.At(start+took, func() { then(Answer{Result: result, Level: level, Start: start, End: w.now}) })
}

// Stands reports whether a caller has connections to an endpoint that live although
// its listener is gone.
func (w *World) Stands(caller, endpoint int) bool {
	p := w.pair(caller, endpoint)
	return w.Endpoints[endpoint].mode == Listener && p.idle > 0 && w.now-p.used <= idleTimeout
}

// Bad says whether an endpoint, or a caller's way to it, has a fault for which it
// should be left alone, or had until a moment ago.
func (w *World) Bad(caller, endpoint int) bool {
	return w.Ledger.bad(caller, endpoint)
}
