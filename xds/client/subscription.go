package client

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
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
	// receive passes a response on to who takes these resources, and says what of it was
	// refused.
	receive func(*discoveryv3.DeltaDiscoveryResponse) error
}

// newSubscription is that of one type: nameOf reads the name of a resource, and take
// gets those that are wanted.
func newSubscription[M any, P message[M]](url string, names []string, nameOf func(P) string, take func(changed []P, removed []string) Refused) *subscription {
	s := &subscription{url: url, names: map[string]struct{}{}, versions: map[string]string{}, waiting: map[string]time.Time{}}
	s.receive = func(m *discoveryv3.DeltaDiscoveryResponse) error {
		resources, removed := s.wanted(m.GetResources()), s.gone(m.GetRemovedResources())
		changed, refused := legible(resources, nameOf)
		if len(changed) > 0 || len(removed) > 0 || len(m.GetResources()) == 0 {
			maps.Copy(refused, take(changed, removed))
		}
		return s.settle(resources, removed, refused)
	}
	for _, name := range names {
		if name == wildcard {
			s.wildcard = true
		} else {
			s.names[name] = struct{}{}
		}
	}
	return s
}

// wanted are the resources that somebody subscribes to (still).
func (s *subscription) wanted(all []*discoveryv3.Resource) []*discoveryv3.Resource {
	var wanted []*discoveryv3.Resource
	for _, r := range all {
		delete(s.waiting, r.GetName())
		if _, named := s.names[r.GetName()]; named || s.wildcard {
			wanted = append(wanted, r)
		}
	}
	return wanted
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

// settle notes what was accepted, and joins why the rest was not.
func (s *subscription) settle(resources []*discoveryv3.Resource, removed []string, refused Refused) error {
	var errs []error
	for _, r := range resources {
		if err := refused[r.GetName()]; err != nil {
			errs = append(errs, err)
		} else {
			s.versions[r.GetName()] = r.GetVersion()
		}
	}
	for _, name := range removed {
		delete(s.versions, name)
	}
	return errors.Join(errs...)
}

type message[M any] interface {
	*M
	proto.Message
}

// legible are the resources that are what they should be, and what is wrong with the
// others.
func legible[M any, P message[M]](all []*discoveryv3.Resource, nameOf func(P) string) ([]P, Refused) {
	var good []P
	bad := Refused{}
	for _, r := range all {
		m := P(new(M))
		if err := r.GetResource().UnmarshalTo(m); err != nil {
			bad[r.GetName()] = fmt.Errorf("resource %q: %w", r.GetName(), err)
		} else if nameOf(m) != r.GetName() {
			bad[r.GetName()] = fmt.Errorf("resource %q: calls itself %q", r.GetName(), nameOf(m))
		} else {
			good = append(good, m)
		}
	}
	return good, bad
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
