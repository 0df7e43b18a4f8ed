package cluster

import (
	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/tiers"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// picker is what requests choose from. It is immutable.
type picker struct {
	*tiers.Picker
	endpoints []*upstream.Endpoint // by place
}

// newPicker offers the endpoints of records as the detector's views admit them.
func (l *loop) newPicker(views []outlier.Admission, before *picker) *picker {
	p := &picker{endpoints: make([]*upstream.Endpoint, len(l.records))}
	all := make([]tiers.Choice, len(views))
	for i, a := range views {
		r := l.records[i]
		p.endpoints[i] = r.endpoint
		all[i] = tiers.Choice{
			Stats: r.endpoint.Stats, Gate: r.gate, Priority: r.spec.Priority, Weight: max(r.spec.Weight, 1),
			Away: r.spec.Zone != l.c.deps.Zone, Hash: r.hash, Rank: r.rank, Admission: a,
		}
	}
	var old *tiers.Picker
	if before != nil {
		old = before.Picker
	}
	p.Picker = tiers.New(all, l.cfg.Balancer, old)
	return p
}

// endpoint is the one at a place; nil at -1.
func (p *picker) endpoint(place int) *upstream.Endpoint {
	if place < 0 {
		return nil
	}
	return p.endpoints[place]
}
