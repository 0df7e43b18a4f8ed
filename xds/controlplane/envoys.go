package controlplane

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/ingest"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/report"
)

// envoySink hands what Envoys' load reports say to the loop.
type envoySink struct{ sink }

func (k envoySink) Join(s *ingest.Stream) error { return k.join(s, nil) }

func (k envoySink) Evidence(s *ingest.Stream, r merge.Report) {
	k.loop.send(func(l *loop) { l.evidence(s, r) })
}

func (k envoySink) Leave(s *ingest.Stream) {
	k.loop.send(func(l *loop) { l.left(s) })
}

// clash says why a reporter cannot join: an Envoy must not take the place of the sidecar
// whose id it has.
func (l *loop) clash(s voice) error {
	have := l.streams[s.Reporter().ID]
	if have == nil {
		return nil
	}
	_, sidecar := have.voice.(*report.Stream)
	if _, envoy := s.(*ingest.Stream); envoy && sidecar {
		return fmt.Errorf("reporter %q: the id is that of a sidecar", s.Reporter().ID)
	}
	return nil
}

// borrow takes in what of endpoints under test the table gives to those who take it with
// their endpoints.
func (l *loop) borrow(shares []merge.Share, now time.Duration) {
	lent := map[merge.Key]struct{}{}
	for _, p := range shares {
		if l.streams[p.Reporter].foreign() {
			l.loans.note(p, now)
			lent[p.Key] = struct{}{}
		}
	}
	for k := range lent { // once for all who share it
		l.lend(k, now)
	}
}

// envoy says whether a reporter is an Envoy; nil is none.
func (r *reporter) envoy() bool {
	if r == nil {
		return false
	}
	_, envoy := r.voice.(*ingest.Stream)
	return envoy
}

// foreign says whether a reporter takes no shares over a stream of its own: an Envoy, or a
// gRPC client that only tells.
func (r *reporter) foreign() bool { return r != nil && r.voice.Reporter().Observes }

// addresses is the mesh as those speak of it who know endpoints by their addresses. The
// loop replaces it when the mesh changes; their streams read it.
type addresses struct{ known atomic.Pointer[spoken] }

// spoken is what they may speak of in one state of the mesh.
type spoken struct {
	services map[string]ingest.Service
	targets  map[string]string // of gRPC clients, to services
}

func (a *addresses) learn(m *registry.Mesh, now time.Duration) {
	before := a.known.Load()
	all := make(map[string]ingest.Service, len(m.Services))
	names := make(map[string]string, len(m.Services))
	for i := range m.Services {
		s := &m.Services[i]
		one := ingest.Service{
			Instances: make(map[netip.AddrPort]string, len(s.Endpoints)),
			Answers:   s.Protocol == registry.HTTP1 || s.Protocol == registry.HTTP2,
		}
		for _, e := range s.Endpoints {
			at := netip.AddrPortFrom(e.Address.Addr().Unmap(), e.Address.Port())
			if _, doubled := one.Instances[at]; !doubled { // of two the first is told to clients
				one.Instances[at] = e.ID()
			}
		}
		one.Former = former(before, s.Name, one.Instances, now)
		all[s.Name] = one
		for _, target := range targets(s) {
			names[target] = s.Name
		}
	}
	for name := range all {
		names[name] = name // whatever host another service has
	}
	a.known.Store(&spoken{all, names})
}

// former are the addresses of a service that left it a while ago at most.
func former(before *spoken, service string, now map[netip.AddrPort]string, at time.Duration) map[netip.AddrPort]time.Duration {
	if before == nil {
		return nil
	}
	all := map[netip.AddrPort]time.Duration{}
	add := func(address netip.AddrPort, left time.Duration) {
		if _, here := now[address]; !here && at-left < ingest.FormerFor {
			all[address] = left
		}
	}
	last := before.services[service]
	for address, left := range last.Former {
		add(address, left)
	}
	for address := range last.Instances {
		add(address, at)
	}
	return all
}

// Service is what load reports on a service are understood by.
func (a *addresses) Service(name string) (ingest.Service, bool) {
	all := a.known.Load()
	if all == nil {
		return ingest.Service{}, false
	}
	s, ok := all.services[name]
	return s, ok
}

// named is the endpoint of which a gRPC client speaks by its target and an address.
func (a *addresses) named(k merge.Key) (merge.Key, bool) {
	all := a.known.Load()
	if all == nil {
		return merge.Key{}, false
	}
	name, ok := all.targets[k.Service]
	if !ok || k.Instance == "" {
		return merge.Key{Service: name}, ok
	}
	at, err := netip.ParseAddrPort(k.Instance)
	if err != nil {
		return merge.Key{}, false
	}
	instance, ok := all.services[name].Instances[netip.AddrPortFrom(at.Addr().Unmap(), at.Port())]
	return merge.Key{Service: name, Instance: instance}, ok
}
