package main

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/test/envoy"
	"github.com/overhear-mesh/overhear/test/trial"
)

// lookEvery is how often each Envoy is asked what it thinks of its endpoints: the times of
// the comparison are as coarse as that.
const lookEvery = 50 * time.Millisecond

// sighting is an Envoy that was seen to have taken an endpoint out of use.
type sighting struct {
	at       time.Time
	envoy    int
	endpoint string
}

// lookout asks the Envoys' own admin pages which endpoints they send no requests to,
// whoever has told them so. It sees both sides of the comparison alike.
type lookout struct {
	mu   sync.Mutex // guards what follows
	seen []sighting
}

// watch asks one Envoy until ctx ends. names are the endpoints by address.
func (l *lookout) watch(ctx context.Context, number int, asked *envoy.Process, names map[string]string) {
	out := map[string]bool{}
	for trial.Sleep(ctx, lookEvery) == nil {
		text, err := asked.Get("/clusters?format=json")
		var page hosts
		if err != nil || json.Unmarshal([]byte(text), &page) != nil {
			continue // an Envoy that is busy is asked again
		}
		now := time.Now()
		for at, is := range page.out() {
			if is && !out[at] {
				l.note(sighting{now, number, names[at]})
			}
			out[at] = is
		}
	}
}

func (l *lookout) note(s sighting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, s)
}

// between gives what was seen from one instant to another.
func (l *lookout) between(from, to time.Time) []sighting {
	l.mu.Lock()
	defer l.mu.Unlock()
	var some []sighting
	for _, s := range l.seen {
		if !s.at.Before(from) && s.at.Before(to) {
			some = append(some, s)
		}
	}
	return some
}

// takers counts the Envoys that took an endpoint out since an instant.
func (l *lookout) takers(endpoint string, since time.Time) int {
	envoys := map[int]struct{}{}
	for _, s := range l.between(since, time.Now()) {
		if s.endpoint == endpoint {
			envoys[s.envoy] = struct{}{}
		}
	}
	return len(envoys)
}

// hosts is the part of Envoy's /clusters that says who gets requests.
type hosts struct {
	Clusters []struct {
		Name  string `json:"name"`
		Hosts []struct {
			Address struct {
				Socket struct {
					Address string      `json:"address"`
					Port    json.Number `json:"port_value"`
				} `json:"socket_address"`
			} `json:"address"`
			Health struct {
				EDS     string `json:"eds_health_status"`
				Outlier bool   `json:"failed_outlier_check"`
			} `json:"health_status"`
			Weight float64 `json:"weight"`
		} `json:"host_statuses"`
	} `json:"cluster_statuses"`
}

// out says of each endpoint of the service whether it is out of use: marked by EDS, ejected
// by the Envoy itself, or at a weight so low that it is merely tried.
func (h *hosts) out() map[string]bool {
	all := map[string]bool{}
	for _, c := range h.Clusters {
		if c.Name != "api" {
			continue
		}
		full := 0.0
		for _, e := range c.Hosts {
			full = max(full, e.Weight)
		}
		for _, e := range c.Hosts {
			marked := e.Health.EDS != "" && e.Health.EDS != "HEALTHY"
			all[e.Address.Socket.Address+":"+e.Address.Socket.Port.String()] = marked || e.Health.Outlier || e.Weight < full/10
		}
	}
	return all
}
