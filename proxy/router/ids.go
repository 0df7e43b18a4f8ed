package router

import (
	"math"
	"sync"
)

// IDs gives routes the small numbers by which the detector tells them apart. All
// tables of a sidecar share one, since they share clusters, and a route keeps
// its number when a table is made anew, unless it leads to another cluster: then it
// is another route, in the detector's counters as in metrics. The zero IDs is ready; its methods may
// be called from any goroutine.
type IDs struct {
	mu     sync.Mutex // guards what follows
	byName map[string]uint16
}

// of returns the number of a name. Numbers begin at 1 and are never reused; once
// they are used up, 0 is the number of every further name, which to the detector
// is a request without a route.
func (i *IDs) of(name string) uint16 {
	i.mu.Lock()
	defer i.mu.Unlock()
	id, ok := i.byName[name]
	if !ok && len(i.byName) < math.MaxUint16 {
		if i.byName == nil {
			i.byName = map[string]uint16{}
		}
		id = uint16(len(i.byName) + 1)
		i.byName[name] = id
	}
	return id
}
