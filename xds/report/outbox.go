package report

import (
	"maps"
	"sync"
	"time"
	"unique"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

const (
	ringSize = 256  // orders that wait; the newest win
	fullDown = 2000 // leases, watches and shares in one message
)

// outbox holds the orders of one stream until they can be sent. What is to be done
// once waits in a ring; what describes a state is kept once per endpoint, so that it
// is bounded by their number.
type outbox struct {
	wake chan struct{}

	mu      sync.Mutex // guards what follows
	refs    map[unique.Handle[merge.Key]]uint32
	offset  time.Duration // table's clock - reporter's
	greeted bool
	first   *reportpb.Welcome // not sent yet
	ring    []order
	leases  map[uint64]*reportpb.PingLease // by id
	watches map[uint32]*reportpb.Watch     // by ref, as the shares
	shares  map[uint32]*reportpb.Share
	weights map[uint32]*reportpb.Weight
	// settings by service
	settings map[string]*reportpb.Settings
	mute     *reportpb.Mute
	again    *reportpb.Reincarnate
}

// order is one thing to do once.
type order struct {
	probe  *reportpb.ProbeOrder
	poll   *reportpb.Poll
	cancel uint64
}

func newOutbox() *outbox {
	return &outbox{
		wake: make(chan struct{}, 1),
		refs: map[unique.Handle[merge.Key]]uint32{}, leases: map[uint64]*reportpb.PingLease{},
		watches: map[uint32]*reportpb.Watch{}, shares: map[uint32]*reportpb.Share{},
		weights: map[uint32]*reportpb.Weight{}, settings: map[string]*reportpb.Settings{},
	}
}

// learn takes up what a message taught: names of endpoints, and how the clocks differ.
func (o *outbox) learn(declared map[unique.Handle[merge.Key]]uint32, offset time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.Copy(o.refs, declared)
	o.offset = offset
}

// welcome is the first message.
func (o *outbox) welcome() {
	o.put(func() { o.first = &reportpb.Welcome{Version: version()} })
}

// put changes what waits, and wakes the sender.
func (o *outbox) put(write func()) {
	o.mu.Lock()
	write()
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// pushLocked adds to the ring and reports whether the oldest had to go.
func (o *outbox) pushLocked(next order) (overrun bool) {
	if len(o.ring) == ringSize {
		copy(o.ring, o.ring[1:])
		o.ring = o.ring[:ringSize-1]
		overrun = true
	}
	o.ring = append(o.ring, next)
	return overrun
}

// take is the next message, nil if nothing waits. Nothing goes before the welcome.
func (o *outbox) take() *reportpb.Down {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.first == nil && !o.greeted {
		return nil
	}
	if o.first == nil && len(o.ring)+len(o.leases)+len(o.watches)+len(o.shares)+len(o.weights)+len(o.settings) == 0 && o.mute == nil && o.again == nil {
		return nil
	}
	down := &reportpb.Down{Welcome: o.first, Mute: o.mute, Reincarnate: o.again}
	o.first, o.mute, o.again, o.greeted = nil, nil, nil, true
	for _, next := range o.ring {
		switch {
		case next.probe != nil:
			down.Probes = append(down.Probes, next.probe)
		case next.poll != nil:
			down.Polls = append(down.Polls, next.poll)
		default:
			down.Cancels = append(down.Cancels, next.cancel)
		}
	}
	o.ring = nil
	room := fullDown
	down.Shares = drain(o.shares, &room)
	down.Watches = drain(o.watches, &room)
	down.Weights = drain(o.weights, &room)
	down.Settings = drain(o.settings, &room)
	down.Leases = drain(o.leases, &room)
	return down
}

// drain moves as much out of m as there is room for.
func drain[K comparable, V any](m map[K]V, room *int) []V {
	var list []V
	for k, v := range m {
		if *room == 0 {
			break
		}
		*room--
		list = append(list, v)
		delete(m, k)
	}
	return list
}

// to finds the short name of an endpoint on this stream and has write put an order for
// it. An endpoint without a name cannot be spoken of: the sidecar does not have it.
func (s *Stream) to(k merge.Key, write func(ref uint32)) {
	o := s.outbox
	o.mu.Lock()
	ref := o.refs[unique.Make(k)]
	o.mu.Unlock()
	if ref == 0 {
		s.c.metrics.drop(NotNamed)
		return
	}
	o.put(func() { write(ref) })
}

func (s *Stream) pushLocked(next order) {
	if s.outbox.pushLocked(next) {
		s.c.metrics.drop(Overrun)
	}
}

// Order asks for a probe.
func (s *Stream) Order(p merge.ProbeOrder) {
	s.to(p.Key, func(ref uint32) {
		s.pushLocked(order{probe: &reportpb.ProbeOrder{
			Order: uint64(p.ID), Ref: ref, Level: encodeLevel(p.Level), Ping: encodePing(p.Ping),
			TimeoutMs: span(p.Timeout), Epoch: p.Epoch, Reason: p.Reason,
		}})
	})
}

// Cancel withdraws an order.
func (s *Stream) Cancel(id merge.OrderID) {
	s.outbox.put(func() { s.pushLocked(order{cancel: uint64(id)}) })
}

// Poll asks for counts. The polled instant is of the table's clock.
func (s *Stream) Poll(p merge.Poll) {
	s.to(p.Key, func(ref uint32) {
		s.pushLocked(order{poll: &reportpb.Poll{Poll: uint64(p.ID), Ref: ref, ThenMs: millis(p.At - s.outbox.offset)}})
	})
}

// Lease makes the sidecar a pinger of an endpoint, or ends that.
func (s *Stream) Lease(l merge.PingLease) {
	now := s.c.now()
	s.to(l.Key, func(ref uint32) {
		s.outbox.leases[uint64(l.ID)] = &reportpb.PingLease{
			Lease: uint64(l.ID), Ref: ref, Ping: encodePing(l.Kind), EveryMs: span(l.Every), PhaseMs: span(l.Phase),
			TimeoutMs: span(l.Timeout), ForMs: span(l.Until - now),
		}
	})
}

// Watch asks for frequent reports of an endpoint.
func (s *Stream) Watch(w merge.Watch) {
	s.to(w.Key, func(ref uint32) {
		s.outbox.watches[ref] = &reportpb.Watch{Ref: ref, ForMs: span(w.For)}
	})
}

// Share lets the sidecar use an endpoint that is out for others.
func (s *Stream) Share(sh merge.Share) {
	s.to(sh.Key, func(ref uint32) {
		s.outbox.shares[ref] = &reportpb.Share{
			Ref: ref, Epoch: sh.Epoch, Weight: sh.Weight, TrickleMs: span(sh.Trickle), ForMs: span(sh.For),
		}
	})
}

// Weight gives an endpoint that is slow for all callers a part of its weight.
func (s *Stream) Weight(w merge.Weight) {
	s.to(w.Key, func(ref uint32) {
		s.outbox.weights[ref] = &reportpb.Weight{Ref: ref, Weight: w.Weight, ForMs: span(w.For), Reason: w.Reason}
	})
}

// Settings tells what all sidecars together know of a service.
func (s *Stream) Settings(p merge.Settings) {
	s.outbox.put(func() {
		s.outbox.settings[p.Service] = &reportpb.Settings{
			Service: p.Service, P50Us: inMicros(p.Latency.P50), P90Us: inMicros(p.Latency.P90), P99Us: inMicros(p.Latency.P99),
		}
	})
}

// Mute tells the sidecar that its evidence is set aside until an instant of the
// table's clock; zero ends it.
func (s *Stream) Mute(m merge.Mute) {
	left := max(0, m.Until-s.c.now())
	s.outbox.put(func() { s.outbox.mute = &reportpb.Mute{Reason: m.Reason, ForMs: span(left)} })
}

// Reincarnate asks the sidecar to come again under another incarnation, because its
// counters contradict what it said before.
func (s *Stream) Reincarnate(reason string) {
	s.outbox.put(func() { s.outbox.again = &reportpb.Reincarnate{Reason: reason} })
}
