package server

import (
	"maps"
	"slices"
)

// SentTo lists the services of which a client with that node id has accepted
// endpoints, sorted: those for which Sent is true.
func (s *Server) SentTo(node string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := map[string]struct{}{}
	for st := range s.byNode[node] {
		if sub := st.subs[endpoints]; sub != nil {
			for _, t := range sub.topics() {
				if e, _ := sub.entry(t); e.acked {
					names[t.name] = struct{}{}
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}
