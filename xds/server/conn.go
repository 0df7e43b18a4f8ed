package server

import "slices"

// conn is a node on a connection: where all proxies of a fleet have one node id, it tells
// one of them from the others.
type conn struct{ node, peer string }

// What follows is called under s.mu.

func (s *Server) join(st *stream) {
	join(s.byNode, st.node, st)
	join(s.byConn, conn{st.node, st.peer}, st)
}

func (s *Server) leave(st *stream) {
	leave(s.byNode, st.node, st)
	leave(s.byConn, conn{st.node, st.peer}, st)
}

func join[K comparable](index map[K]map[*stream]struct{}, of K, st *stream) {
	if index[of] == nil {
		index[of] = map[*stream]struct{}{}
	}
	index[of][st] = struct{}{}
}

func leave[K comparable](index map[K]map[*stream]struct{}, of K, st *stream) {
	delete(index[of], st)
	if len(index[of]) == 0 {
		delete(index, of)
	}
}

// besides are the streams of endpoints of the client that has its clusters on st: those on
// the same connection, else, since it may use one for each type, all of its node that
// could be its.
func (s *Server) besides(st *stream) []*stream {
	if found := endpointStreams(s.byConn[conn{st.node, st.peer}]); len(found) > 0 {
		return found
	}
	return slices.DeleteFunc(endpointStreams(s.byNode[st.node]), func(other *stream) bool {
		for beside := range s.byConn[conn{other.node, other.peer}] {
			if beside.hasClusters() {
				return true
			}
		}
		return false
	})
}

// endpointStreams are those that have endpoints, and no clusters before them.
func endpointStreams(streams map[*stream]struct{}) []*stream {
	var found []*stream
	for st := range streams {
		if st.subs[endpoints] != nil && !st.hasClusters() {
			found = append(found, st)
		}
	}
	return found
}

func (st *stream) hasClusters() bool { return st.subs[clusters] != nil }
