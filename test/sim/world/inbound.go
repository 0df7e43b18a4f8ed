package world

import (
	"fmt"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
)

// host is the sidecar beside an endpoint, which reports its own application at first
// hand and judges nobody.
type host struct {
	o         *overhear
	w         *World
	index     int
	id        string // of the instance
	stats     *outlier.Endpoint
	own       *cadence.Own
	schedule  cadence.Schedule
	at        time.Duration // of the pending timer
	gen       uint32
	seq       uint64
	life      uint64 // incarnation
	connected bool
}

func newHost(o *overhear, index int) *host {
	h := &host{o: o, w: o.w, index: index, at: never}
	h.changed()
	return h
}

// changed looks whether another instance has taken the endpoint's place.
func (h *host) changed() {
	id := h.w.Endpoints[h.index].ID
	if id == h.id {
		return
	}
	h.id = id
	h.life++
	d := outlier.New(outlier.DefaultConfig(), h.o.dice()) // for the counters; it is never stepped
	d.SetMembers([]outlier.Member{{ID: id, Weight: 1}}, h.w.now)
	h.stats = d.Endpoint(id)
	h.own = cadence.NewOwn(merge.Key{Service: service, Instance: id}, h.stats, nil)
	h.schedule, h.at = cadence.NewSchedule(cadence.DefaultConfig()), never
	h.gen++
	h.connected = false
	h.connect()
}

func (h *host) name() string { return fmt.Sprintf("s%d", h.index) }

// connect opens the report stream.
func (h *host) connect() {
	if h.connected || !h.o.control.running {
		return
	}
	h.connected = true
	h.o.control.meet(merge.Reporter{
		ID: h.name(), Incarnation: h.life, Principal: fmt.Sprintf("10.0.1.%d", h.index),
		Node: fmt.Sprintf("server-%d", h.index), Zone: zoneName(h.w.Zone(h.index)),
	}, nil)
	h.schedule.Begin(h.name(), h.w.now)
	h.schedule.Wake(h.w.now)
	h.moved(true) // the timer has been idle
}

// saw takes in how a request of the application went.
func (h *host) saw(class outlier.Class) {
	now := h.w.now
	a := h.stats.Start(now, false)
	h.stats.End(&a, outlier.Outcome{Class: class, Now: now})
	if class == outlier.Conn && h.own.Look(now) {
		h.moved(h.schedule.WakeUrgent())
	}
}

// moved sets the timer anew if the time of the next report is sooner.
func (h *host) moved(sooner bool) {
	at := max(h.schedule.Next(), h.w.now)
	if !sooner || !h.connected || at >= h.at {
		return
	}
	h.at = at
	h.gen++
	h.w.Timer(at, uint32(h.index)*timerKinds+timerHost, h.gen)
}

func (h *host) timer(gen uint32) {
	if gen != h.gen {
		return
	}
	h.at = never
	now := h.w.now
	if h.own.Look(now) {
		h.schedule.WakeUrgent()
	}
	if !h.connected {
		return
	}
	if !h.schedule.Due(now) {
		h.moved(true)
		return
	}
	turn := h.schedule.Turn(now)
	rep := &merge.Report{Reporter: h.name(), Incarnation: h.life, At: now}
	if c, news := h.own.Weigh(&turn, false); news {
		rep.Own = append(rep.Own, c)
	}
	if turn.Tell {
		h.seq++
		rep.Seq = h.seq
		h.o.control.hear(rep, h.w.oneWay(h.w.Zone(h.index), -1))
	}
	h.moved(h.schedule.End(&turn))
}
