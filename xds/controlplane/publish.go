package controlplane

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

var allKinds = []resource.Kind{resource.Overhear, resource.Envoy, resource.GRPC}

// held is a verdict in force.
type held struct {
	merge.Verdict
	// age is how old the state was when we learned of it. A sidecar computes a
	// ramp from there on by itself, so this is what it is told, once: an age that
	// is counted on would make a new version of the endpoints at each push.
	age time.Duration
	// trial is the part of its weight that foreign clients give it to try it: see loans.
	trial float64
}

// beliefs are the verdicts in force that are not "in".
type beliefs map[merge.Key]map[merge.Scope]held

// note takes over a change.
func (b beliefs) note(v merge.Verdict, now time.Duration) {
	scopes := b[v.Key]
	if v.State == outlier.In {
		delete(scopes, v.Scope)
		if len(scopes) == 0 {
			delete(b, v.Key)
		}
		return
	}
	if scopes == nil {
		scopes = map[merge.Scope]held{}
		b[v.Key] = scopes
	}
	scopes[v.Scope] = held{Verdict: v, age: max(0, now-v.Since)}
}

// in is what observers in a scope should believe of k: the severer of the
// fleet's verdict and their zone's.
func (b beliefs) in(k merge.Key, scope merge.Scope) (held, bool) {
	scopes := b[k]
	fleet, ok := scopes[merge.Fleet]
	if scope == merge.Fleet {
		return fleet, ok
	}
	zone, zoned := scopes[scope]
	if zoned && (!ok || severity(zone.State) > severity(fleet.State)) {
		return zone, true
	}
	return fleet, ok
}

// severity orders states by how little traffic they mean.
func severity(s outlier.State) int {
	return slices.Index([]outlier.State{outlier.In, outlier.Ramp, outlier.Suspended, outlier.Probation, outlier.Probing, outlier.Ejected, outlier.Draining}, s)
}

// scopes are the zones of observers that must be told something of their own
// about the endpoints of a service.
func (b beliefs) scopes(s *registry.Service) []merge.Scope {
	zones := map[merge.Scope]struct{}{}
	for _, e := range s.Endpoints {
		for scope := range b[merge.Key{Service: s.Name, Instance: e.ID()}] {
			if scope != merge.Fleet {
				zones[scope] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(zones))
}

// endpoints is what clients of a kind in a scope are told of a service. share gives the
// part of its weight that an endpoint gets for being slow.
func (b beliefs) endpoints(s *registry.Service, scope merge.Scope, kind resource.Kind, share func(merge.Key) float64, now time.Duration) resource.Endpoints {
	lowered := s.WeighsEnvoys() && s.Detection.Outlier.Mode != outlier.Shadow
	all := resource.Endpoints{Service: s.Name, Ramp: s.Detection.Outlier.Ramp, Ring: ring(s), Endpoints: make([]resource.Endpoint, len(s.Endpoints))}
	for i, e := range s.Endpoints {
		all.Endpoints[i] = resource.Endpoint{
			Instance: e.Instance, Address: e.Address, Region: e.Region, Zone: e.Zone, Node: e.Node,
			Priority: e.Priority, Weight: e.Weight, Inbound: e.Inbound, Draining: e.Draining, Labels: e.Labels,
		}
		k := merge.Key{Service: s.Name, Instance: e.ID()}
		if lowered {
			all.Endpoints[i].Share = share(k)
		}
		v, ok := b.in(k, scope)
		if !ok {
			continue
		}
		age := v.age
		if kind != resource.Overhear {
			age = now - v.Since
		}
		all.Endpoints[i].Draining = e.Draining || v.State == outlier.Draining
		all.Endpoints[i].Trial = v.trial
		all.Endpoints[i].Verdict = outlier.Verdict{
			State: v.State, Epoch: v.Epoch, Rule: v.Rule, Reason: reason(v.Verdict), RampFrom: v.RampFrom, RampAge: age,
		}
	}
	return all
}

// assignments are the endpoints of a service as every view of the kinds is told
// them.
func (b beliefs) assignments(s *registry.Service, kinds []resource.Kind, share func(merge.Key) float64, now time.Duration) []server.Change {
	var all []server.Change
	for _, scope := range append([]merge.Scope{merge.Fleet}, b.scopes(s)...) {
		for _, kind := range kinds {
			all = append(all, server.Change{
				View:    resource.View{Kind: kind, Zone: string(scope)},
				TypeURL: resource.TypeEndpoints,
				Name:    s.Name,
				Message: resource.EncodeEndpoints(b.endpoints(s, scope, kind, share, now), kind),
			})
		}
	}
	return all
}

// clusters is everything but endpoints that clients are told of a service.
func clusters(s *registry.Service) []server.Change {
	c := resource.Cluster{
		Name: s.Name, ConnectTimeout: s.ConnectTimeout, Ring: ring(s),
		Policy: resource.Policy{
			Protocol: resource.Protocol(s.Protocol),
			Ping:     resource.Ping{Kind: resource.PingKind(s.Ping.Kind), Path: s.Ping.Path, Host: s.Ping.Host, Service: s.Ping.Service},
			Balancer: resource.Balancer{Policy: resource.Balancing(s.Balancer.Policy), BoundedLoad: s.Balancer.BoundedLoad},
			Outlier:  s.Detection.Outlier,
		},
	}
	var all []server.Change
	add := func(kind resource.Kind, typeURL, name string, m proto.Message) {
		all = append(all, server.Change{View: resource.View{Kind: kind}, TypeURL: typeURL, Name: name, Message: m})
	}
	for _, kind := range allKinds {
		add(kind, resource.TypeCluster, c.Name, resource.EncodeCluster(c, kind))
	}

	if s.Listen.IsValid() {
		l := resource.Listener{Name: s.Name, Address: s.Listen}
		if s.Protocol == registry.TCP {
			l.Cluster = s.Name
		} else {
			l.Route = s.Name
			domains := s.Hosts
			if len(domains) == 0 {
				domains = []string{"*"}
			}
			add(resource.Envoy, resource.TypeRoute, s.Name, resource.EncodeRoute(route(s, domains), resource.Envoy))
		}
		add(resource.Envoy, resource.TypeListener, s.Name, resource.EncodeListener(l, resource.Envoy))
	}

	// A gRPC client asks for a listener named like the target that it dials, and
	// looks for that target among the domains of the route.
	dialed := targets(s)
	for _, target := range dialed {
		l := resource.Listener{Name: target, Route: s.Name}
		add(resource.GRPC, resource.TypeListener, target, resource.EncodeListener(l, resource.GRPC))
	}
	add(resource.GRPC, resource.TypeRoute, s.Name, resource.EncodeRoute(route(s, dialed), resource.GRPC))
	return all
}

// targets are what gRPC clients dial to reach a service.
func targets(s *registry.Service) []string {
	all := append([]string{s.Name}, s.Hosts...)
	slices.Sort(all)
	return slices.Compact(all)
}

func route(s *registry.Service, domains []string) resource.Route {
	return resource.Route{Name: s.Name, Hosts: []resource.VirtualHost{{Name: s.Name, Domains: domains, Cluster: s.Name, Hash: hashes(s)}}}
}

func hashes(s *registry.Service) (all []resource.Hash) {
	for _, h := range s.Hash {
		all = append(all, resource.Hash(h))
	}
	return all
}

// ring reports whether gRPC clients of a service choose by ring_hash: where hashing is
// wanted and they have a header field to go by. They know neither other keys nor Maglev.
func ring(s *registry.Service) bool {
	return s.Balancer.Policy.Hashes() && slices.ContainsFunc(s.Hash, func(h registry.Hash) bool { return h.Header != "" })
}

// slot is a place in the server that holds one resource.
type slot struct {
	view    resource.View
	typeURL string
	name    string
}

// placed is what the server holds, by the service that it belongs to, so that
// what is no longer wanted can be taken away.
type placed map[string]map[slot]struct{}

// replace returns the changes after which the server holds, of what concerns a
// service, what is wanted, and nothing else for which about holds.
func (p placed) replace(service string, wanted []server.Change, about func(slot) bool) []server.Change {
	have := p[service]
	if have == nil {
		have = map[slot]struct{}{}
		p[service] = have
	}
	stay := make(map[slot]struct{}, len(wanted))
	for _, c := range wanted {
		at := slot{c.View, c.TypeURL, c.Name}
		stay[at], have[at] = struct{}{}, struct{}{}
	}
	var gone []slot
	for at := range have {
		if _, ok := stay[at]; !ok && about(at) {
			gone = append(gone, at)
		}
	}
	slices.SortFunc(gone, slot.compare)
	for _, at := range gone {
		delete(have, at)
		wanted = append(wanted, server.Change{View: at.view, TypeURL: at.typeURL, Name: at.name})
	}
	if len(have) == 0 {
		delete(p, service)
	}
	return wanted
}

func (a slot) compare(b slot) int {
	return cmp.Or(cmp.Compare(a.typeURL, b.typeURL), cmp.Compare(a.name, b.name),
		cmp.Compare(a.view.Kind, b.view.Kind), cmp.Compare(a.view.Zone, b.view.Zone))
}
