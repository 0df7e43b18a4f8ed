package client

import (
	"maps"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// subscription is one type: what is wanted and what is held.
type subscription struct {
	url      string
	wildcard bool
	names    map[string]struct{} // wanted by name
	versions map[string]string   // of what was accepted
	// waiting are the names of which the server has not spoken on this stream, with
	// the instant from which they count as missing.
	waiting map[string]time.Time
	// refusals are the responses in a row that were refused.
	refusals int
}

func newSubscription(url string, names []string) *subscription {
	s := &subscription{url: url, names: map[string]struct{}{}, versions: map[string]string{}, waiting: map[string]time.Time{}}
	for _, name := range names {
		if name == wildcard {
			s.wildcard = true
		} else {
			s.names[name] = struct{}{}
		}
	}
	return s
}

// gone are the names that the server says do not exist, as far as anybody cares.
func (s *subscription) gone(names []string) []string {
	var removed []string
	for _, name := range names {
		delete(s.waiting, name)
		_, wanted := s.names[name]
		_, held := s.versions[name]
		if wanted || held {
			removed = append(removed, name)
		}
	}
	return removed
}

// settle notes what the handler accepted.
func (s *subscription) settle(versions map[string]string, removed []string, refused error) {
	if refused != nil {
		return
	}
	maps.Copy(s.versions, versions)
	for _, name := range removed {
		delete(s.versions, name)
	}
}

// follow makes a subscription by names ask for just these; nil when it does already.
func (s *subscription) follow(names []string, missing time.Duration) *discoveryv3.DeltaDiscoveryRequest {
	r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: s.url}
	wanted := make(map[string]struct{}, len(names))
	for _, name := range names {
		if _, ok := s.names[name]; !ok {
			r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, name)
			s.names[name] = struct{}{}
			s.waiting[name] = time.Now().Add(missing)
		}
		wanted[name] = struct{}{}
	}
	for name := range s.names {
		if _, ok := wanted[name]; !ok {
			r.ResourceNamesUnsubscribe = append(r.ResourceNamesUnsubscribe, name)
			delete(s.names, name)
			delete(s.versions, name)
			delete(s.waiting, name)
		}
	}
	if len(r.GetResourceNamesSubscribe()) == 0 && len(r.GetResourceNamesUnsubscribe()) == 0 {
		return nil
	}
	slices.Sort(r.GetResourceNamesSubscribe())
	slices.Sort(r.GetResourceNamesUnsubscribe())
	return r
}
