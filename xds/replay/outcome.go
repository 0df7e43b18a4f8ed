package replay

import (
	"cmp"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Outcome is what one policy would have done.
type Outcome struct {
	From     time.Time  `json:"from"`
	To       time.Time  `json:"to"`
	Sidecars []*Sidecar `json:"sidecars"`
	Problems []Problem  `json:"problems,omitempty"`
	Repeats  []Repeat   `json:"repeats,omitempty"`
	// Judged is the number of endpoints. Unknown are those of them that only the
	// recordings name: the mesh file has no such endpoint.
	Judged  int         `json:"judged"`
	Unknown []merge.Key `json:"unknown,omitempty"`
	// Changes are what the policy would have decided, also what a guard or a cap
	// would have held back, in the order of time.
	Changes []Change `json:"changes"`
	// Held are the control plane's verdicts that sidecars held, in the order of time.
	Held []Held `json:"held"`
	// Endpoints are those that either would have been out or was.
	Endpoints []Endpoint `json:"endpoints"`
	Answers   Answers    `json:"answers"`
	// Refused counts what the table did not believe, by reason.
	Refused map[merge.Refusal]int `json:"refused,omitempty"`
}

// Change is one decision of the policy.
type Change struct {
	Time     time.Time     `json:"time"`
	Key      merge.Key     `json:"endpoint"`
	Scope    merge.Scope   `json:"scope,omitempty"` // empty: the whole fleet
	From     outlier.State `json:"from"`
	To       outlier.State `json:"to"`
	Rule     outlier.Rule  `json:"rule"`
	HeldBack string        `json:"held_back_by,omitempty"` // by what; To did not come about
	Reason   string        `json:"reason"`
	N        int           `json:"n"` // ejections on record
}

// Held is a verdict that sidecars held.
type Held struct {
	Time     time.Time     `json:"time"` // of the first of them
	Key      merge.Key     `json:"endpoint"`
	To       outlier.State `json:"to"`
	Rule     outlier.Rule  `json:"rule"`
	Epoch    uint64        `json:"epoch"`
	Sidecars int           `json:"sidecars"` // that held it
}

// Endpoint compares what would have been with what was.
type Endpoint struct {
	Key   merge.Key `json:"endpoint"`
	Would []Spell   `json:"would"`
	Held  []Spell   `json:"held"`
	// Alone is how often a sidecar took it out by itself.
	Alone int `json:"alone"`
}

// Spell is a time in which an endpoint was out, in some scope.
type Spell struct {
	From  time.Time    `json:"from"`
	To    time.Time    `json:"to,omitzero"` // zero: it was still out at the end
	Scope merge.Scope  `json:"scope,omitempty"`
	Rule  outlier.Rule `json:"rule"`
}

// Answers counts how the stand-ins answered what the table asked.
type Answers struct {
	Probes  int `json:"probes"`  // ordered
	Own     int `json:"own"`     // answered by a result of the same sidecar
	Traffic int `json:"traffic"` // by its traffic
	Others  int `json:"others"`  // by what other sidecars knew
	NotRun  int `json:"not_run"` // not answered
	Pings   int `json:"pings"`   // results that went to the holder of a lease
	Polls   int `json:"polls"`   // sidecars asked for counts
	Counted int `json:"counted"` // of those, answered
	Shares  int `json:"shares"`  // results of shares on probation that counted
	Unused  int `json:"unused"`  // results of probes in the record that fitted nothing
}

// believed builds the verdicts that sidecars held out of their changes.
type believed struct {
	held  map[heldKey]*Held
	who   map[heldKey]map[string]bool
	alone map[merge.Key]int
}

type heldKey struct {
	key   merge.Key
	epoch uint64
	to    outlier.State
}

func newBelieved() *believed {
	return &believed{held: map[heldKey]*Held{}, who: map[heldKey]map[string]bool{}, alone: map[merge.Key]int{}}
}

func (b *believed) note(reporter string, k merge.Key, to outlier.State, rule outlier.Rule, epoch uint64, at time.Time) {
	id := heldKey{k, epoch, to}
	h := b.held[id]
	if h == nil {
		h = &Held{Time: at, Key: k, To: to, Rule: rule, Epoch: epoch}
		b.held[id], b.who[id] = h, map[string]bool{}
	}
	if at.Before(h.Time) {
		h.Time = at
	}
	b.who[id][reporter] = true
	h.Sidecars = len(b.who[id])
}

func (b *believed) list() []Held {
	all := []Held{}
	for _, h := range b.held {
		all = append(all, *h)
	}
	slices.SortFunc(all, func(a, b Held) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Epoch, b.Epoch), compareKeys(a.Key, b.Key), cmp.Compare(a.To, b.To))
	})
	return all
}

// endpoints compares what would have been with what was.
func endpoints(changes []Change, held []Held, alone map[merge.Key]int) []Endpoint {
	all := map[merge.Key]*Endpoint{}
	of := func(k merge.Key) *Endpoint {
		e := all[k]
		if e == nil {
			e = &Endpoint{Key: k, Would: []Spell{}, Held: []Spell{}, Alone: alone[k]}
			all[k] = e
		}
		return e
	}
	for _, c := range changes {
		if c.HeldBack == "" {
			e := of(c.Key)
			e.Would = spell(e.Would, c.Scope, c.To, c.Rule, c.Time)
		}
	}
	for _, h := range held {
		e := of(h.Key)
		e.Held = spell(e.Held, merge.Fleet, h.To, h.Rule, h.Time)
	}
	for k := range alone {
		of(k)
	}
	list := []Endpoint{}
	for _, e := range all {
		if len(e.Would)+len(e.Held)+e.Alone > 0 {
			list = append(list, *e)
		}
	}
	slices.SortFunc(list, func(a, b Endpoint) int { return compareKeys(a.Key, b.Key) })
	return list
}

// spell lets a change of state begin or end a time out.
func spell(all []Spell, scope merge.Scope, to outlier.State, rule outlier.Rule, at time.Time) []Spell {
	open := slices.IndexFunc(all, func(s Spell) bool { return s.Scope == scope && s.To.IsZero() })
	switch {
	case to.Out() && open < 0:
		return append(all, Spell{From: at, Scope: scope, Rule: rule})
	case !to.Out() && open >= 0:
		all[open].To = at
	}
	return all
}
