package server

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// maxUnanswered bounds how many responses of one type a client may leave without
// an answer and still have them remembered. Only a client that subscribes again
// and again without acknowledging gets there; its oldest are forgotten, and then
// count as never acknowledged.
const maxUnanswered = 16

// stream is one xDS stream of a client. Everything in it is guarded by Server.mu.
type stream struct {
	delta bool
	id    *corev3.Node // see front; nil until the first request
	node  string       // its node.id
	view  resource.View
	peer  string
	url   string // of a stream per type; "" for ADS
	since time.Time
	subs  [numTypes]*subscription
	// queued says in which lanes of Server.pending it stands.
	queued [numLanes]bool
	// strangers are the types asked for that are not served here.
	strangers map[string]struct{}
}

// subscription is one type on one stream.
type subscription struct {
	stream *stream
	typ    typeIndex
	table  *table

	asked    uint64 // digest of the names of the last request, in state of the world
	wildcard bool
	named    int // entries subscribed by name
	entries  map[*topic]entry
	dirty    []*topic // those whose entry is dirty
	gone     []string // names that a reconnecting client holds and that are not there
	answer   bool     // the client waits for an answer even if it is empty

	watch    *watch   // open when the client may be sent something
	queued   *batch   // given to go-control-plane, not yet sent
	inFlight []*batch // sent and not answered, oldest first
	sum      uint64   // of what was sent; see encoded.sum

	acked    string // version of the last response that the client accepted
	version  string // of the last response
	nacks    uint64
	lastNACK string
	nackedAt time.Time
	returned map[string]string // see response.GetReturnedResources
}

// entry is what a subscription knows of a topic.
type entry struct {
	sent  *encoded // what the client holds or is about to; nil: nothing
	named bool     // subscribed by name
	acked bool     // the client accepted some version of it
	dirty bool     // in subscription.dirty
	force bool     // send also what the client holds already
}

// batch is one response.
type batch struct {
	nonce   string
	version string
	sum     uint64 // of the subscription after it
	items   []item
	gone    []string
	answer  bool
	// announced are the endpoints of the clusters in it, which an Envoy wants to
	// hear again; nil for other types and clients.
	announced map[string]struct{}
}

// item is one topic of a batch: its content, or nil for its removal.
type item struct {
	topic *topic
	sent  *encoded
	force bool
}

// mark notes that the topic must be looked at before the next response.
func (s *subscription) mark(t *topic, force bool) {
	e, known := s.entries[t]
	if e.dirty && (e.force || !force) {
		return
	}
	if !e.dirty {
		s.dirty = append(s.dirty, t)
	}
	e.dirty = true
	e.force = e.force || force
	s.entries[t] = e
	if !known {
		t.interested[s] = struct{}{}
	}
}

func (s *subscription) put(t *topic, e entry) {
	s.entries[t] = e
	t.interested[s] = struct{}{}
}

// hold notes that the client holds the content, without having been sent it here.
func (s *subscription) hold(t *topic, held *encoded) {
	e := s.entries[t]
	e.sent, e.acked = held, true
	s.put(t, e)
	s.sum += held.sum
}

// drop forgets a topic.
func (s *subscription) drop(t *topic) {
	e := s.entries[t]
	if e.sent != nil {
		s.sum -= e.sent.sum
	}
	if e.named {
		s.named--
	}
	delete(s.entries, t)
	delete(t.interested, s)
	t.release()
}

// name subscribes by name.
func (s *subscription) name(name string) *topic {
	t := s.table.topic(name)
	e := s.entries[t]
	if !e.named {
		e.named = true
		s.named++
	}
	s.put(t, e)
	return t
}

// unname ends a subscription by name. Under a wildcard the client is told once
// more what there is, as the protocol wants.
func (s *subscription) unname(t *topic) {
	e := s.entries[t]
	if !e.named {
		return
	}
	if !s.wildcard {
		s.drop(t)
		return
	}
	e.named = false
	s.named--
	s.put(t, e)
	s.mark(t, true)
}

// setWildcard begins or ends the subscription to everything.
func (s *subscription) setWildcard(on bool) {
	if on == s.wildcard {
		return
	}
	s.wildcard = on
	if on {
		s.answer = true // also when there is nothing: it could wait for it
		s.table.wildcards[s] = struct{}{}
		for _, t := range s.table.topics {
			if t.in(s.stream.view.Zone) != nil {
				s.mark(t, false)
			}
		}
		return
	}
	delete(s.table.wildcards, s)
	for t, e := range s.entries {
		if !e.named {
			s.drop(t)
		}
	}
}

// close ends the subscription.
func (s *subscription) close() {
	delete(s.table.wildcards, s)
	for t := range s.entries {
		s.drop(t)
	}
}

// busy says that the client has not yet answered, or not yet been sent, what there
// is of this type.
func (s *subscription) busy() bool {
	return s != nil && (len(s.dirty) > 0 || s.queued != nil || len(s.inFlight) > 0)
}

// mustWait says that what refers to clusters must not be sent yet: an Envoy uses a
// new cluster only when it is warm, which is also when it acknowledges it, and
// answers 503 on a route to one that is not.
func (s *subscription) mustWait() bool {
	c := s.stream.subs[clusters]
	return (s.typ == listeners || s.typ == routes) && s.stream.view.Kind == resource.Envoy &&
		c != nil && (c.queued != nil || len(c.inFlight) > 0)
}

// next takes what is dirty and makes it into a batch; nil when there is nothing to
// say.
func (s *subscription) next() *batch {
	delta := s.stream.delta
	if len(s.dirty) == 0 && len(s.gone) == 0 && !s.answer {
		return nil
	}
	// Make before break: no cluster goes while a listener or a route may name it.
	holdRemovals := s.typ == clusters && (s.stream.subs[listeners].busy() || s.stream.subs[routes].busy())
	// What has come since the client asked, as it does while a new server fills, is
	// among what is dirty.
	s.gone = slices.DeleteFunc(s.gone, func(name string) bool {
		t := s.table.topics[name]
		return t != nil && t.in(s.stream.view.Zone) != nil
	})
	b := &batch{sum: s.sum, gone: s.gone, answer: s.answer}
	var held []*topic
	for _, t := range s.dirty {
		e, ok := s.entries[t]
		if !ok || !e.dirty {
			continue // dropped, or dropped and marked again: it stands in the list twice
		}
		now := t.in(s.stream.view.Zone)
		if now == nil && e.sent != nil && holdRemovals {
			held = append(held, t)
			continue
		}
		force := e.force
		e.dirty, e.force = false, false
		s.entries[t] = e
		switch {
		case now == nil && e.sent == nil && (!force || !delta):
			// It does not exist, and the client does not hold it. Only delta can say so,
			// to who asks.
			if !e.named {
				s.drop(t)
			}
			continue
		case now != nil && e.sent != nil && now.version == e.sent.version && !force:
			continue
		case now == nil && !delta && !s.typ.whole():
			// State of the world cannot say that endpoints or a route are gone: they go
			// with the cluster or the listener that named them.
			s.sum -= e.sent.sum
			b.sum -= e.sent.sum
			e.sent, e.acked = nil, false
			s.entries[t] = e
			if !e.named {
				s.drop(t)
			}
			continue
		}
		if e.sent != nil {
			b.sum -= e.sent.sum
		}
		if now != nil {
			b.sum += now.sum
		}
		b.items = append(b.items, item{topic: t, sent: now, force: force})
	}
	s.dirty, s.gone, s.answer = held, nil, false
	if len(b.items) == 0 && len(b.gone) == 0 && !b.answer {
		return nil
	}
	slices.SortFunc(b.items, func(x, y item) int { return cmp.Compare(x.topic.name, y.topic.name) })
	b.version = versionOf(b.sum)
	return b
}

// versionOf is the version of a set of resources.
func versionOf(sum uint64) string { return fmt.Sprintf("%016x", sum) }

// takeBack undoes next for a batch that was never sent.
func (s *subscription) takeBack(b *batch) {
	for _, i := range b.items {
		if _, ok := s.entries[i.topic]; ok {
			s.mark(i.topic, i.force)
		}
	}
	s.gone = append(s.gone, b.gone...)
	s.answer = s.answer || b.answer
}

// has says whether the topic is in the batch; a nil batch is empty.
func (b *batch) has(t *topic) bool {
	return b != nil && slices.ContainsFunc(b.items, func(i item) bool { return i.topic == t })
}

// announced says of the name of endpoints that clusters which refer to it were
// sent on the same stream, and the endpoints not since.
func (s *subscription) announced(name string) bool {
	c := s.stream.subs[clusters]
	if s.typ != endpoints || c == nil {
		return false
	}
	return slices.ContainsFunc(c.inFlight, func(b *batch) bool {
		_, ok := b.announced[name]
		return ok
	})
}

// sent notes that the queued batch went out under a nonce, and returns it.
func (s *subscription) sent(nonce string) *batch {
	b := s.queued
	if b == nil {
		return nil
	}
	s.queued = nil
	b.nonce = nonce
	for _, i := range b.items {
		e, ok := s.entries[i.topic]
		if !ok {
			continue
		}
		if e.sent != nil {
			s.sum -= e.sent.sum
		}
		if i.sent != nil {
			s.sum += i.sent.sum
		}
		e.sent = i.sent
		if i.sent == nil {
			e.acked = false
		}
		s.entries[i.topic] = e
		if i.sent == nil && !e.named && !e.dirty {
			s.drop(i.topic)
		}
	}
	s.version = b.version
	if s.typ == clusters && s.stream.view.Kind == resource.Envoy {
		b.announced = map[string]struct{}{}
		for _, i := range b.items {
			if i.sent != nil && i.sent.eds != "" {
				b.announced[i.sent.eds] = struct{}{}
			}
		}
	}
	if s.typ == endpoints {
		// These follow the clusters that were sent before on this stream: no need to
		// send them again.
		if c := s.stream.subs[clusters]; c != nil {
			for _, earlier := range c.inFlight {
				for _, i := range b.items {
					delete(earlier.announced, i.topic.name)
				}
			}
		}
	}
	s.inFlight = append(s.inFlight, b)
	if n := len(s.inFlight) - maxUnanswered; n > 0 {
		s.inFlight = slices.Delete(s.inFlight, 0, n)
	}
	return b
}

// answered takes the client's answer to a response and returns the batch that it
// was; nil for a nonce that is unknown or was answered before. Responses are
// answered in order, so those sent before will not be any more.
func (s *subscription) answered(nonce string, refusal string, now time.Time) *batch {
	at := slices.IndexFunc(s.inFlight, func(b *batch) bool { return b.nonce == nonce })
	if at < 0 {
		return nil
	}
	b := s.inFlight[at]
	for _, earlier := range s.inFlight[:at] {
		maps.Copy(b.announced, earlier.announced)
	}
	s.inFlight = slices.Delete(s.inFlight, 0, at+1)
	if refusal != "" {
		s.nacks++
		s.lastNACK, s.nackedAt = refusal, now
		return b
	}
	s.acked = b.version
	for _, i := range b.items {
		if e, ok := s.entries[i.topic]; ok && i.sent != nil && e.sent != nil {
			e.acked = true
			s.entries[i.topic] = e
		}
	}
	return b
}

// stateOfTheWorld is the response that tells a batch to a client of that variant.
func (s *subscription) stateOfTheWorld(b *batch) *discoveryv3.DiscoveryResponse {
	m := &discoveryv3.DiscoveryResponse{VersionInfo: b.version, TypeUrl: typeURLs[s.typ]}
	if !s.typ.whole() {
		for _, i := range b.items {
			if i.sent != nil {
				m.Resources = append(m.Resources, i.sent.delta.GetResource())
			}
		}
		return m
	}
	all := make([]*encoded, 0, len(s.entries))
	changed := make(map[*topic]bool, len(b.items))
	for _, i := range b.items {
		changed[i.topic] = true
		if i.sent != nil {
			all = append(all, i.sent)
		}
	}
	for t, e := range s.entries {
		// What is held back or has changed again meanwhile is told as it was.
		if !changed[t] && e.sent != nil {
			all = append(all, e.sent)
		}
	}
	slices.SortFunc(all, func(x, y *encoded) int { return cmp.Compare(x.delta.GetName(), y.delta.GetName()) })
	m.Resources = make([]*anypb.Any, len(all))
	for i, e := range all {
		m.Resources[i] = e.delta.GetResource()
	}
	return m
}

// incremental is the response that tells a batch to a delta client.
func (s *subscription) incremental(b *batch) *discoveryv3.DeltaDiscoveryResponse {
	m := &discoveryv3.DeltaDiscoveryResponse{SystemVersionInfo: b.version, TypeUrl: typeURLs[s.typ], RemovedResources: b.gone}
	for _, i := range b.items {
		if i.sent != nil {
			m.Resources = append(m.Resources, i.sent.delta)
		} else {
			m.RemovedResources = append(m.RemovedResources, i.topic.name)
		}
	}
	return m
}
