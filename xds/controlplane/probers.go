package controlplane

import (
	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/ingest"
	"github.com/overhear-mesh/overhear/xds/registry"
)

// probers are the Envoys that probe what they are asked to, by id. An Envoy is known by
// its load reports; who asks for probes under the same id must be of the same principal.
type probers map[string]*ingest.Prober

// probeSink hands what Envoys have probed to the loop.
type probeSink struct{ loop *loop }

func (k probeSink) Arrive(p *ingest.Prober) {
	k.loop.send(func(l *loop) { l.probers[p.ID()] = p })
}

func (k probeSink) Probed(p *ingest.Prober, a ingest.Answer) {
	k.loop.send(func(l *loop) {
		if l.prober(p.ID()) == p {
			l.answer(p.ID(), a)
		}
	})
}

func (k probeSink) Depart(p *ingest.Prober) {
	k.loop.send(func(l *loop) {
		if l.probers[p.ID()] == p {
			delete(l.probers, p.ID())
		}
	})
}

// prober is the Envoy of that id, if it reports and probes.
func (l *loop) prober(id string) *ingest.Prober {
	p, r := l.probers[id], l.streams[id]
	if p == nil || !r.envoy() || r.voice.Reporter().Principal != p.Principal() {
		return nil
	}
	return p
}

// entrust gives an order to an Envoy. One that makes no probes, or has too many, says so
// at once: that nobody could tell is an answer too.
func (l *loop) entrust(o merge.ProbeOrder) {
	if !l.streams[o.Reporter].envoy() {
		return
	}
	if p := l.prober(o.Reporter); p != nil {
		if one, known := l.probe(o.ID, o.Key, o.Level, o.Ping); known {
			one.Timeout = o.Timeout
			if p.Order(one) {
				l.numbers.orders["envoy_probe"]++
				return
			}
		}
	}
	now := l.now()
	l.refuse(l.table.Probed(o.ID, o.Reporter, o.Level, outlier.NotRun, now, now, now))
	l.urgent = true
}

// probe is what an Envoy must know to probe an endpoint.
func (l *loop) probe(id merge.OrderID, k merge.Key, level outlier.Level, kind merge.PingKind) (one ingest.Probe, known bool) {
	s := l.services[k.Service]
	if s == nil {
		return ingest.Probe{}, false
	}
	one.ID = id
	// Health discovery knows no gRPC checks: a connection must do.
	if level == outlier.LevelApp && kind == merge.PingHTTP {
		one.Check = ingest.Check{HTTP: true, HTTP2: s.Protocol == registry.HTTP2 || s.Protocol == registry.GRPC, Path: s.Ping.Path, Host: s.Ping.Host}
	}
	for _, e := range s.Endpoints {
		if e.ID() == k.Instance {
			one.Address = e.Address
			return one, true
		}
	}
	return ingest.Probe{}, false
}

// withdraw takes an order back from an Envoy.
func (l *loop) withdraw(c merge.Cancel) {
	if p := l.prober(c.Reporter); p != nil {
		p.Cancel(c.ID)
	}
}

// let gives an Envoy a lease of pings. One that has no room for it leaves its turns to
// the others.
func (l *loop) let(p merge.PingLease) {
	prober := l.prober(p.Reporter)
	if prober == nil {
		return
	}
	one, known := l.probe(p.ID, p.Key, outlier.LevelApp, p.Kind)
	if !known {
		return
	}
	one.Timeout = p.Timeout
	if prober.Lease(ingest.Lease{Probe: one, Every: p.Every, Phase: p.Phase, Until: p.Until}) {
		l.numbers.orders["envoy_lease"]++
	}
}

// answer takes in what an Envoy has found.
func (l *loop) answer(id string, a ingest.Answer) {
	l.numbers.envoyProbes[a.Result]++
	l.refuse(l.table.Probed(a.ID, id, a.Level, a.Result, a.Start, a.End, l.now()))
	l.urgent = true
}
