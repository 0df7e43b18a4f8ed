package server

// ledger is what a subscription knows of its topics. Nearly always the client holds what
// there is: such entries are at rest, and three sets of numbers keep them. What is to be
// told, or differs from what there is, is written out.
type ledger struct {
	known, byName, accepted bits // by topic.id
	moving                  map[*topic]entry
	grown                   bool // moving has held many
}

// fewMoving is how many entries a map holds in the room that it has from the first on.
const fewMoving = 8

// entry is what a subscription knows of a topic.
type entry struct {
	sent  *encoded // what the client holds or is about to; nil: nothing
	named bool     // subscribed by name
	acked bool     // the client accepted some version of it
	dirty bool     // to be looked at before the next response
	force bool     // send also what the client holds already
}

// entry is the zero one, and false, for a topic that is not known.
func (s *subscription) entry(t *topic) (entry, bool) {
	if e, ok := s.moving[t]; ok {
		return e, true
	}
	// A response may remember a topic that is gone, and whose number another has.
	if t == nil || s.table.topicIDs.all[t.id] != t || !s.known.has(t.id) {
		return entry{}, false
	}
	return entry{sent: t.in(s.stream.view.Zone), named: s.byName.has(t.id), acked: s.accepted.has(t.id)}, true
}

func (s *subscription) put(t *topic, e entry) {
	if !s.known.has(t.id) {
		s.known.put(t.id, true)
		t.interested.put(s.id, true)
	}
	s.byName.put(t.id, e.named)
	if !e.dirty && !e.force && e.sent == t.in(s.stream.view.Zone) {
		s.accepted.put(t.id, e.acked)
		s.settle(t)
		return
	}
	s.write(t, e)
}

// unsettle writes out what is at rest, because what there is will change.
func (s *subscription) unsettle(t *topic) {
	if e, ok := s.entry(t); ok {
		s.write(t, e)
	}
}

func (s *subscription) write(t *topic, e entry) {
	if s.moving == nil {
		s.moving = map[*topic]entry{}
	}
	s.moving[t] = e
	s.grown = s.grown || len(s.moving) > fewMoving
}

func (s *subscription) settle(t *topic) {
	delete(s.moving, t)
	if s.grown && len(s.moving) == 0 {
		s.moving, s.grown = nil, false // a map never gets smaller
	}
}

// forget takes a topic out.
func (s *subscription) forget(t *topic) {
	s.known.put(t.id, false)
	s.byName.put(t.id, false)
	s.accepted.put(t.id, false)
	s.settle(t)
	t.interested.put(s.id, false)
}

// topics lists those that are known.
func (s *subscription) topics() []*topic {
	var all []*topic
	for id := range s.known.all() {
		all = append(all, s.table.topicIDs.all[id])
	}
	return all
}
