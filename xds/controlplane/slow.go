package controlplane

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
)

// weightEvery is the least time between two publications of one service that change
// nothing but weights: an Envoy builds its schedule anew for each.
const weightEvery = 5 * time.Second

// slow are endpoints that get a part of their share for being slow. Sidecars are told so
// over their report streams; Envoys have none, and are told a lower weight with the
// endpoints.
type slow struct {
	weights map[merge.Key]slowed
	news    map[string]time.Duration // when services are to be published for it
	told    map[string]time.Duration // when they last were
}

type slowed struct {
	weight float64
	until  time.Duration // it lapses, as it does at the sidecars, unless it is said again
}

func newSlow() slow {
	return slow{weights: map[merge.Key]slowed{}, news: map[string]time.Duration{}, told: map[string]time.Duration{}}
}

// rung is the nearest weight of a ladder on which each is √2 times the one below: a
// weight that wavers is not worth a publication.
func rung(weight float64) float64 {
	const lowest = 1.0 / 16
	return min(math.Exp2(math.Round(2*math.Log2(max(weight, lowest)))/2), 1)
}

// note takes in a weight that the table gives.
func (s *slow) note(w merge.Weight, now time.Duration) {
	s.set(w.Key, slowed{weight: rung(w.Weight), until: now + w.For}, now)
}

func (s *slow) set(k merge.Key, to slowed, now time.Duration) {
	if s.share(k) != to.weight {
		at := now
		if told, ok := s.told[k.Service]; ok {
			at = max(now, told+weightEvery)
		}
		if have, waits := s.news[k.Service]; !waits || at < have {
			s.news[k.Service] = at
		}
	}
	if to.weight == 1 {
		delete(s.weights, k)
		return
	}
	s.weights[k] = to
}

// share is the part of its weight that an endpoint gets.
func (s *slow) share(k merge.Key) float64 {
	if one, ok := s.weights[k]; ok {
		return one.weight
	}
	return 1
}

// due ends what has lapsed and gives the services that are to be published now.
func (s *slow) due(now time.Duration) []string {
	for k, one := range s.weights {
		if now >= one.until {
			s.set(k, slowed{weight: 1}, now)
		}
	}
	var names []string
	for name, at := range s.news {
		if now >= at {
			names = append(names, name)
			delete(s.news, name)
			s.told[name] = now
		}
	}
	slices.Sort(names)
	return names
}

// next is when due has something to do.
func (s *slow) next() time.Duration {
	next := never
	for _, one := range s.weights {
		next = min(next, one.until)
	}
	for _, at := range s.news {
		next = min(next, at)
	}
	return next
}

// forget drops the endpoints and services that are no more.
func (s *slow) forget(gone func(merge.Key) bool, known func(service string) bool) {
	maps.DeleteFunc(s.weights, func(k merge.Key, _ slowed) bool { return gone(k) })
	for _, list := range []map[string]time.Duration{s.news, s.told} {
		maps.DeleteFunc(list, func(name string, _ time.Duration) bool { return !known(name) })
	}
}
