package ingest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// asides are what was set aside of one message: how often, by reason, and the first of
// each in words.
type asides struct {
	n     map[Refusal]int
	first map[Refusal]string
}

func (a *asides) add(why Refusal, n int, format string, args ...any) {
	if n == 0 {
		return
	}
	if a.n == nil {
		a.n, a.first = map[Refusal]int{}, map[Refusal]string{}
	}
	if a.n[why] += n; a.n[why] == n {
		a.first[why] = fmt.Sprintf(format, args...)
	}
}

func (a *asides) clear() {
	clear(a.n)
	clear(a.first)
}

// Refusals are what was set aside of an Envoy's words since its stream began. What is
// usual is not among them: clusters that are no services of the mesh, of which most
// Envoys have some, and records that say nothing.
type Refusals struct {
	Counts map[Refusal]uint64
	Newest string    // its reason, and what was wrong the first time in that message
	At     time.Time // of the newest
	// UnknownClusters are the first of those that the newest load report spoke of and that
	// are no services of the mesh, sorted.
	UnknownClusters []string
}

// refusals are those of one stream.
type refusals struct {
	mu sync.Mutex // guards what follows
	Refusals
	met bool // it has spoken of clusters that are no services
}

func (r *refusals) get() Refusals {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.Refusals
	all.Counts = maps.Clone(all.Counts)
	return all
}

// add takes in what was set aside, and gives the reasons that are new on the stream.
func (r *refusals) add(all *asides, now time.Time) (news []Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, why := range slices.Sorted(maps.Keys(all.n)) {
		if why == UnknownCluster || why == SaysNothing {
			continue
		}
		if r.Counts[why] == 0 {
			news = append(news, why)
		}
		if r.Counts == nil {
			r.Counts = map[Refusal]uint64{}
		}
		r.Counts[why] += uint64(all.n[why])
		r.Newest, r.At = string(why)+": "+all.first[why], now
	}
	return news
}

// meet takes in which clusters are no services; first says that it is the first time that
// there are any. It keeps a copy.
func (r *refusals) meet(clusters []string) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(clusters, r.UnknownClusters) {
		r.UnknownClusters = slices.Clone(clusters)
	}
	first = len(clusters) > 0 && !r.met
	r.met = r.met || first
	return first
}

// setAside counts what was set aside of an Envoy's words, and logs the first of each reason
// on its stream.
func (g *streams) setAside(ctx context.Context, id string, of *refusals, all *asides) {
	g.metrics.refuse(all.n)
	for _, why := range of.add(all, time.Now()) {
		g.faults.Write(ctx, slog.LevelWarn, id+" "+string(why), "what an envoy says is set aside",
			slog.String("reporter", id), slog.String("reason", string(why)), slog.String("detail", all.first[why]))
	}
}
