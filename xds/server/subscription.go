package server

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// maxUnanswered bounds how many responses of one type a client may leave without
// an answer and still have them remembered. Only a client that subscribes again
// and again without acknowledging gets there; its oldest are forgotten, and then
// count as never acknowledged.
const maxUnanswered = 16

// subscription is one type on one stream.
type subscription struct {
	stream *stream
	typ    typeIndex
	table  *table
	id     uint32 // in table.subIDs.all
	ledger

	asked    uint64 // digest of the names of the last request, in state of the world
	claims   claims // not yet compared
	wildcard bool
	// legacy: the client has asked for nothing by name yet, and a request without names
	// is one for everything.
	legacy bool
	gone   []string // names that a reconnecting client holds and that are not there
	answer bool     // the client waits for an answer even if it is empty

	armed    bool     // the client may be sent something: it has spoken since the last response
	inFlight []*batch // sent and not answered, oldest first
	sum      uint64   // of what was sent; see encoded.sum

	nonce    string // of the last response
	heard    string // nonce of the last response that the client answered, and has not asked again after; for state of the world
	acked    string // version of the last response that the client accepted
	version  string // of the last response
	nacks    uint64
	lastNACK string
	nackedAt time.Time
	refused  map[*topic]refusal // the last of each that the client refused, until it accepts it
}

// refusal is why a client did not take a content.
type refusal struct {
	sent *encoded
	text string
	at   time.Time
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
}

// mark notes that the topic must be looked at before the next response.
func (s *subscription) mark(t *topic, force bool) {
	e, known := s.entry(t)
	if e.dirty && (e.force || !force) {
		return
	}
	e.dirty = true
	e.force = e.force || force
	if known {
		s.write(t, e) // what is dirty is never at rest
		return
	}
	s.put(t, e)
}

// hold notes that the client holds what there is, without having been sent it here.
func (s *subscription) hold(t *topic) {
	e, _ := s.entry(t)
	e.sent, e.acked = t.in(s.stream.view.Zone), true
	e.force = s.announced(t.name)
	e.dirty = e.force
	s.put(t, e)
	s.sum += e.sent.sum
}

// drop forgets a topic.
func (s *subscription) drop(t *topic) {
	if e, _ := s.entry(t); e.sent != nil {
		s.sum -= e.sent.sum
	}
	s.forget(t)
	delete(s.refused, t)
	t.release()
}

// name subscribes by name.
func (s *subscription) name(name string) *topic {
	_, known := s.table.topics[name]
	t := s.table.topic(name)
	if !known {
		s.table.unknown.charge(t, s.stream.address)
	}
	e, _ := s.entry(t)
	e.named = true
	s.put(t, e)
	return t
}

// unname ends a subscription by name. Under a wildcard the client is told once
// more what there is, as the protocol wants.
func (s *subscription) unname(t *topic) {
	e, _ := s.entry(t)
	if !e.named {
		return
	}
	if !s.wildcard {
		s.drop(t)
		return
	}
	e.named = false
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
	for _, t := range s.topics() {
		if e, _ := s.entry(t); !e.named {
			s.drop(t)
		}
	}
}

// close ends the subscription.
func (s *subscription) close() {
	delete(s.table.wildcards, s)
	for _, t := range s.topics() {
		s.drop(t)
	}
	s.table.subIDs.release(s.id)
}

// busy says that the client has not yet answered, or not yet been sent, what there
// is of this type.
func (s *subscription) busy() bool {
	return s != nil && (len(s.moving) > 0 || len(s.inFlight) > 0)
}

// mustWait says that what refers to clusters must not be sent yet: an Envoy uses a
// new cluster only when it is warm, which is also when it acknowledges it, and
// answers 503 on a route to one that is not.
func (s *subscription) mustWait() bool {
	c := s.stream.subs[clusters]
	return (s.typ == listeners || s.typ == routes) && s.stream.view.Kind == resource.Envoy &&
		c != nil && len(c.inFlight) > 0
}

// next takes what is dirty and makes it into a batch; nil when there is nothing to
// say.
func (s *subscription) next() *batch {
	delta := s.stream.delta
	if len(s.moving) == 0 && len(s.gone) == 0 && !s.answer {
		return nil
	}
	// Make before break: no cluster goes while a listener or a route may name it.
	holdRemovals := s.typ == clusters && (s.stream.subs[listeners].busy() || s.stream.subs[routes].busy())
	// What has come since is among what is dirty.
	s.gone = slices.DeleteFunc(s.gone, func(name string) bool {
		t := s.table.topics[name]
		return t != nil && t.in(s.stream.view.Zone) != nil
	})
	b := &batch{sum: s.sum, gone: s.gone, answer: s.answer}
	for t, e := range s.moving {
		now := t.in(s.stream.view.Zone)
		if now == nil && e.sent != nil && holdRemovals {
			continue
		}
		force := e.force
		e.dirty, e.force = false, false
		if now != nil && e.sent != nil && now.version == e.sent.version {
			e.sent = now // it has been something else meanwhile
		}
		s.put(t, e)
		switch {
		case now == nil && e.sent == nil && (!force || !delta):
			// It does not exist, and the client does not hold it. Only delta can say so,
			// to who asks.
			if !e.named {
				s.drop(t)
			}
			continue
		case now != nil && e.sent == now && !force:
			continue
		case now == nil && !delta && !s.typ.whole():
			// State of the world cannot say that endpoints or a route are gone: they go
			// with the cluster or the listener that named them.
			s.sum -= e.sent.sum
			b.sum -= e.sent.sum
			e.sent, e.acked = nil, false
			s.put(t, e)
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
		b.items = append(b.items, item{topic: t, sent: now})
	}
	s.gone, s.answer = nil, false
	if len(b.items) == 0 && len(b.gone) == 0 && !b.answer {
		return nil
	}
	slices.SortFunc(b.items, func(x, y item) int { return cmp.Compare(x.topic.name, y.topic.name) })
	b.version = versionOf(b.sum)
	return b
}

// versionOf is the version of a set of resources.
func versionOf(sum uint64) string { return fmt.Sprintf("%016x", sum) }

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

// sent notes that the batch goes out under a nonce.
func (s *subscription) sent(b *batch, nonce string) {
	b.nonce = nonce
	for _, i := range b.items {
		e, ok := s.entry(i.topic)
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
		s.put(i.topic, e)
		if i.sent == nil && !e.named && !e.dirty {
			s.drop(i.topic)
		}
	}
	s.armed, s.nonce, s.version = false, nonce, b.version
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
}

// answered takes the client's answer to a response and returns the batch that it
// was; nil for a nonce that is unknown or was answered before. Responses are
// answered in order, so those sent before will not be any more.
func (s *subscription) answered(nonce string, why string, now time.Time) *batch {
	at := slices.IndexFunc(s.inFlight, func(b *batch) bool { return b.nonce == nonce })
	if at < 0 {
		return nil
	}
	s.heard = nonce
	b := s.inFlight[at]
	for _, earlier := range s.inFlight[:at] {
		maps.Copy(b.announced, earlier.announced)
	}
	s.inFlight = slices.Delete(s.inFlight, 0, at+1)
	if why != "" {
		s.refuse(b, why, now)
		return b
	}
	s.acked = b.version
	for _, i := range b.items {
		if e, ok := s.entry(i.topic); ok && i.sent != nil && e.sent != nil {
			e.acked = true
			s.put(i.topic, e)
		}
		delete(s.refused, i.topic)
	}
	return b
}

// refuse notes a NACK.
func (s *subscription) refuse(b *batch, why string, now time.Time) {
	s.nacks++
	s.lastNACK, s.nackedAt = why, now
	for _, i := range b.items {
		if _, known := s.entry(i.topic); known && i.sent != nil {
			if s.refused == nil {
				s.refused = map[*topic]refusal{}
			}
			s.refused[i.topic] = refusal{sent: i.sent, text: why, at: now}
		}
	}
}

// response tells a batch to the client.
func (s *subscription) response(b *batch) *response {
	if s.stream.delta {
		return s.incremental(b)
	}
	return s.stateOfTheWorld(b)
}

func (s *subscription) stateOfTheWorld(b *batch) *response {
	var all []*encoded
	changed := make(map[*topic]bool, len(b.items))
	for _, i := range b.items {
		changed[i.topic] = true
		if i.sent != nil {
			all = append(all, i.sent)
		}
	}
	if s.typ.whole() {
		for _, t := range s.topics() {
			// What is held back or has changed again meanwhile is told as it was.
			if e, _ := s.entry(t); !changed[t] && e.sent != nil {
				all = append(all, e.sent)
			}
		}
		slices.SortFunc(all, func(x, y *encoded) int { return cmp.Compare(x.name, y.name) })
	}
	r := &response{
		own:       &discoveryv3.DiscoveryResponse{VersionInfo: b.version, TypeUrl: typeURLs[s.typ], Nonce: b.nonce},
		resources: make(mem.BufferSlice, len(all)),
	}
	for i, e := range all {
		r.resources[i] = e.sotw
	}
	return r
}

func (s *subscription) incremental(b *batch) *response {
	own := &discoveryv3.DeltaDiscoveryResponse{SystemVersionInfo: b.version, TypeUrl: typeURLs[s.typ], Nonce: b.nonce, RemovedResources: b.gone}
	r := &response{own: own}
	for _, i := range b.items {
		if i.sent != nil {
			r.resources = append(r.resources, i.sent.delta)
		} else {
			own.RemovedResources = append(own.RemovedResources, i.topic.name)
		}
	}
	return r
}
