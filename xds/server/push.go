package server

import "runtime"

// atOnce is how many streams are told before what they were told gets its turn to be
// written. Were a thousand streams made ready at once, each would stand behind all
// others at each of its steps, and nobody would hear anything before nearly
// everybody does.
const atOnce = 8

// lane is a place in the order of pushes.
type lane int

const (
	users lane = iota // those who use what has changed
	others
	numLanes
)

// pending are the streams that are still to be told of a change.
type pending struct {
	lanes [numLanes][]*stream
	going bool // push runs
}

// add queues a stream, unless it has such a place already.
func (p *pending) add(st *stream, l lane) {
	if !st.queued[l] {
		st.queued[l] = true
		p.lanes[l] = append(p.lanes[l], st)
	}
}

func (p *pending) empty() bool { return len(p.lanes[users])+len(p.lanes[others]) == 0 }

// next takes out whose turn it is; nil: nobody is left.
func (p *pending) next() *stream {
	for l := range p.lanes {
		if q := p.lanes[l]; len(q) > 0 {
			st := q[0]
			q[0] = nil // what has left must not be held on to
			p.lanes[l] = q[1:]
			st.queued[l] = false
			return st
		}
		p.lanes[l] = nil
	}
	return nil
}

// startPush has the queued streams flushed, by a goroutine that ends with the queue.
// Called under s.mu.
func (s *Server) startPush() {
	if !s.pending.going && !s.pending.empty() {
		s.pending.going = true
		go s.pushAll()
	}
}

// pushAll flushes the queued streams, one after the other in the order of the queue.
// The lock is free in between: the streams need it to write what they are given.
func (s *Server) pushAll() {
	for n := 1; s.pushOne(); n++ {
		if n%atOnce == 0 {
			runtime.Gosched()
		}
	}
}

func (s *Server) pushOne() (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.pending.next()
	if st == nil {
		s.pending.going = false
		return false
	}
	s.flush(st)
	return true
}

// byConnection orders streams so that those of one connection follow one another: what
// they are told then takes a few packets, where it took one for each.
func byConnection(streams map[*stream]struct{}) []*stream {
	groups := map[string][]*stream{}
	for st := range streams {
		groups[st.peer] = append(groups[st.peer], st)
	}
	all := make([]*stream, 0, len(streams))
	for _, g := range groups {
		all = append(all, g...)
	}
	return all
}
