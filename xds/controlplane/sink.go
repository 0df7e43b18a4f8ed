package controlplane

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/server"
)

const (
	// endpointsWait is how long a reporter that has joined is waited for until it
	// has accepted endpoints. Its xDS and its report stream begin at the same time;
	// evidence that overtakes the acknowledgement could not be believed, and is told
	// in full only once.
	endpointsWait = 2 * time.Second
	// subscribeEvery is how often the table is told which services each reporter
	// uses, for the sake of those who do not say anything about a new one.
	subscribeEvery = 5 * time.Second
)

// voice is what a reporter speaks by: a report stream, or an Envoy's load reports.
type voice interface{ Reporter() merge.Reporter }

// reporter is one that is live.
type reporter struct {
	voice    voice
	services []string // that the table knows of, sorted
}

// sink hands what report streams say to the loop. A loop that is behind makes
// them wait.
type sink struct {
	loop   *loop
	server *server.Server
}

// Join tells the loop at once that the reporter is back and what it holds, for a
// gate may wait for that, and then lets nothing in from the stream until it is
// known which services the reporter uses.
func (k sink) Join(s *report.Stream) error { return k.join(s, s.Held()) }

func (k sink) join(s voice, held []merge.Verdict) error {
	joined := make(chan error, 1)
	if !k.loop.send(func(l *loop) { joined <- l.join(s, held) }) {
		return errClosed
	}
	select {
	case err := <-joined:
		if err != nil {
			return err
		}
	case <-k.loop.ended:
		return errClosed
	}
	k.accepted(s.Reporter().ID)
	k.loop.send(func(l *loop) { l.follow(s) })
	return nil
}

// accepted waits until the node has accepted endpoints, or, once the gate is
// open, long enough for one that wants none. It asks less and less often, as
// thousands may wait at once.
func (k sink) accepted(node string) {
	const often, seldom = 2 * time.Millisecond, 100 * time.Millisecond
	opened, late := k.loop.opened, (<-chan time.Time)(nil)
	for pause := often; len(k.server.SentTo(node)) == 0; pause = min(2*pause, seldom) {
		select {
		case <-k.loop.ended:
			return
		case <-opened:
			opened, late, pause = nil, time.After(endpointsWait), often
		case <-late:
			return
		case <-time.After(pause):
		}
	}
}

func (k sink) Evidence(s *report.Stream, r merge.Report) {
	k.loop.send(func(l *loop) { l.evidence(s, r) })
}

func (k sink) Probed(s *report.Stream, p report.Probed) {
	k.loop.send(func(l *loop) { l.probed(s, p) })
}

func (k sink) Polled(s *report.Stream, p merge.PollAnswer) {
	k.loop.send(func(l *loop) { l.polled(p) })
}

func (k sink) Probation(s *report.Stream, p report.Probation) {
	k.loop.send(func(l *loop) { l.probation(s, p) })
}

func (k sink) Leave(s *report.Stream) {
	k.loop.send(func(l *loop) { l.left(s) })
}

func (l *loop) join(s voice, held []merge.Verdict) error {
	now, who := l.now(), s.Reporter()
	if err := l.clash(s); err != nil {
		return err
	}
	services := l.server.SentTo(who.ID)
	if err := l.table.Join(who, services, now); err != nil {
		return err
	}
	l.streams[who.ID] = &reporter{voice: s, services: services}
	delete(l.returns.awaited, who.ID)
	if len(held) > 0 {
		l.table.Held(who.ID, held, now)
		if l.returns.over {
			// What several reporters hold and the table had lost is believed again.
			l.believe(now)
			for _, v := range held {
				l.later(v.Key.Service, now)
			}
		}
	}
	text := "reports"
	if who.Zone != "" {
		text += " from zone " + who.Zone
	}
	l.came(who.ID, text, now)
	return nil
}

func (l *loop) left(s voice) {
	id := s.Reporter().ID
	if r := l.streams[id]; r == nil || r.voice != s {
		return
	}
	delete(l.streams, id)
	now := l.now()
	l.table.Leave(id, now)
	l.came(id, "reports no more: silence is no news of anybody's health", now)
}

// came records that a reporter came or went.
func (l *loop) came(id, text string, now time.Duration) {
	l.history.add(Event{Time: l.wall(now), Kind: "reporter", Reporter: id, Text: id + " " + text})
	l.stepAt = min(l.stepAt, now)
	l.keepAt = min(l.keepAt, now+keepEvery)
}

func (l *loop) evidence(s voice, r merge.Report) {
	if l.strange(s, r.Cells) {
		l.follow(s)
	}
	done := l.table.Apply(r, l.now())
	l.numbers.reports++
	l.numbers.cells += uint64(done.Accepted)
	for why, n := range done.Refused {
		l.numbers.unheard[why] += uint64(n)
	}
	if stream, ok := s.(*report.Stream); ok && done.Reincarnate {
		stream.Reincarnate("the evidence table knows higher counters")
	}
	l.urgent = l.urgent || done.Urgent
}

// strange says whether the reporter speaks of a service of which the table does
// not know that the reporter uses it.
func (l *loop) strange(s voice, cells []merge.Cell) bool {
	r := l.streams[s.Reporter().ID]
	if r == nil {
		return false
	}
	last := ""
	for i := range cells {
		if name := cells[i].Key.Service; name != last {
			last = name
			if _, known := slices.BinarySearch(r.services, name); !known {
				return true
			}
		}
	}
	return false
}

// follow tells the table which services the reporter of a stream now uses.
func (l *loop) follow(s voice) {
	if r := l.streams[s.Reporter().ID]; r != nil {
		l.subscribe(r)
	}
}

// subscribe tells the table which services a reporter now uses.
func (l *loop) subscribe(r *reporter) {
	id := r.voice.Reporter().ID
	if services := l.server.SentTo(id); !slices.Equal(services, r.services) {
		r.services = services
		l.table.Subscribe(id, services)
	}
}

func (l *loop) probed(s *report.Stream, p report.Probed) {
	l.numbers.probes[p.Result]++
	l.refuse(l.table.Probed(p.ID, s.Reporter().ID, p.Level, p.Result, p.Start, p.End, l.now()))
	l.urgent = true
}

func (l *loop) polled(p merge.PollAnswer) {
	l.refuse(l.table.Polled(p, l.now()))
	l.urgent = true
}

func (l *loop) probation(s *report.Stream, p report.Probation) {
	l.refuse(l.table.Probation(s.Reporter().ID, p.Key, p.Epoch, p.Counts, l.now()))
	l.urgent = true
}

func (l *loop) refuse(why merge.Refusal) {
	if why != "" {
		l.numbers.unheard[why]++
	}
}

// owners says who may speak first-hand of an instance. The loop replaces it when
// the mesh changes; report streams read it.
type owners struct {
	server    *server.Server
	addresses *addresses
	byKey     atomic.Pointer[map[merge.Key]owner]
}

type owner struct {
	sidecar string
	addr    netip.Addr
}

func (o *owners) Sent(node, service string) bool { return o.server.Sent(node, service) }

func (o *owners) Named(k merge.Key) (merge.Key, bool) { return o.addresses.named(k) }

func (o *owners) Owner(k merge.Key) (node string, addr netip.Addr) {
	at := (*o.byKey.Load())[k]
	return at.sidecar, at.addr
}
