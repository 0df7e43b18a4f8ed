package merge

import (
	"cmp"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// recentFor is how far Recent looks back.
const recentFor = 10 * time.Second

// Recent is what an endpoint's attempts of the newest seconds came to. Failures are
// told at once, what goes well each ten seconds: sidecars that are silent count as ones
// whose usual attempts go well. An error rate of which all is known is older.
type Recent struct {
	Within Span  `json:"within"`
	N      int64 `json:"n"`
	K      int64 `json:"k"` // of these, failures
}

// Share is the part that failed; 0 without attempts.
func (r Recent) Share() float64 { return outlier.Tally{N: r.N, K: r.K}.Rate() }

func (e *endpoint) recent(now time.Duration) Recent {
	var all outlier.Tally
	if e.fleet.state.Out() { // there is no usual traffic
		e.series.advance(now)
		all = e.series.since(now - recentFor)
		if e.fleet.away < now-recentFor && e.onlyProbed(all.N, all.K) { // before that it had traffic
			all = outlier.Tally{}
		}
	} else {
		// Who looks must not change what is decided next, which goes by the share of a
		// moment ago.
		silence := e.silence
		all = e.tally(now-recentFor, now)
		e.silence = silence
	}
	return Recent{Within: Span(recentFor), N: all.N, K: all.K}
}

// measuredFrom is how many attempts an error rate must rest on to be called measured:
// with fewer, most of it is what every endpoint is taken for at first.
const measuredFrom = 100

// measured says whether the usual error rate of a group is more than an assumption.
func (g *group) measured() bool {
	return g.baseline.Attempts >= measuredFrom*int64(max(g.baseline.Endpoints, 1))
}

// Avoider is a reporter that keeps its traffic off an endpoint by its own judgement,
// whatever the fleet believes.
type Avoider struct {
	Reporter string `json:"reporter"`
	Zone     string `json:"zone,omitempty"`
	State    string `json:"state"`
	Told     Span   `json:"told"` // ago: that it was so then is what is known
}

// avoiders are the live reporters that have taken e out by themselves. In shadow mode
// they only say that they would.
func (t *Table) avoiders(e *endpoint, now time.Duration) []Avoider {
	if e.shadowed() {
		return nil
	}
	var all []Avoider
	for i := range e.cells {
		c := &e.cells[i]
		if r := t.slots[c.reporter]; r.live && c.x != nil && c.x.state.Out() {
			all = append(all, Avoider{Reporter: r.ID, Zone: r.Zone, State: c.x.state.String(), Told: Span(now - c.at)})
		}
	}
	slices.SortFunc(all, func(a, b Avoider) int { return cmp.Compare(a.Reporter, b.Reporter) })
	return all
}
