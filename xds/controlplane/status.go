package controlplane

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/server"
)

// Status is what the control plane knows, as an overview.
type Status struct {
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Now      time.Time `json:"now"`
	Ready    bool      `json:"ready"`
	Awaiting []string  `json:"awaiting,omitempty"` // reporters of before a restart, while not ready

	Registry  registry.Status `json:"registry"`
	Reporters int             `json:"reporters"` // with a live stream
	Services  []ServiceStatus `json:"services"`
}

// ServiceStatus is a service with its endpoints.
type ServiceStatus struct {
	Name      string            `json:"name"`
	Protocol  registry.Protocol `json:"protocol"`
	Mode      outlier.Mode      `json:"mode"`
	Reporters int               `json:"reporters"`       // that use it and were heard lately
	BaseRate  float64           `json:"base_error_rate"` // of its better endpoints
	// Measured says that the base rate is that; else most of it is what is assumed of a
	// service of which little was seen.
	Measured  bool             `json:"measured"`
	Endpoints []EndpointStatus `json:"endpoints"`
}

// EndpointStatus is what the control plane believes of an endpoint.
type EndpointStatus struct {
	Service  string `json:"service"`
	Address  string `json:"address"`
	Draining bool   `json:"draining,omitempty"` // says the registry
	// SinceTime is when the state began; zero for one that is in.
	SinceTime time.Time `json:"since_time,omitzero"`
	// Override is an operator's order that stands.
	Override *Standing `json:"override,omitempty"`
	merge.EndpointStatus
}

// Standing is an operator's order that stands.
type Standing struct {
	Kind   merge.OverrideKind `json:"kind"`
	Reason string             `json:"reason"`
	By     string             `json:"by,omitempty"`
	Until  time.Time          `json:"until,omitzero"` // zero: until it is released
}

// Why is why an endpoint is where it is.
type Why struct {
	Now      time.Time         `json:"now"`
	Endpoint EndpointStatus    `json:"endpoint"`
	Explain  merge.Explanation `json:"explain"`
	Mode     outlier.Mode      `json:"mode"` // of the service: shadow acts upon nothing
	// Scores are how its score went: up to the newest verdict, and in excursions since.
	// None for an endpoint that has been well for a minute.
	Scores []Trace `json:"scores,omitempty"`
	Events []Event `json:"events"` // its newest, oldest first
}

// Reporters are those who report.
type Reporters struct {
	Now       time.Time        `json:"now"`
	Reporters []ReporterStatus `json:"reporters"`
}

// ReporterStatus is one who reports. Refused counts also what the streams that it has now
// said and nobody believed.
type ReporterStatus struct {
	merge.ReporterStatus
	LastRefusal   string    `json:"last_refusal,omitempty"` // of a stream: the reason, and what was wrong
	LastRefusedAt time.Time `json:"last_refused_at,omitzero"`
	// UnknownClusters are the first clusters, sorted, of which an Envoy reports and that are
	// no services of the mesh. Most Envoys have such: the one that leads here is one.
	UnknownClusters []string `json:"unknown_clusters,omitempty"`
}

// hear adds what was set aside of the words of a stream.
func (r *ReporterStatus) hear(aside report.Refusals) {
	if r.Refused == nil {
		r.Refused = map[merge.Refusal]uint64{}
	}
	for why, n := range aside.Counts {
		r.Refused[merge.Refusal(why)] += n
	}
	if aside.At.After(r.LastRefusedAt) {
		r.LastRefusal, r.LastRefusedAt = aside.Newest, aside.At
	}
}

// Clients are those who are told.
type Clients struct {
	Now     time.Time             `json:"now"`
	Clients []server.ClientStatus `json:"clients"`
}

// status is an overview of the services whose name is wanted; of all, if it is
// empty.
func (l *loop) status(wanted, version string) Status {
	now := l.now()
	st := Status{
		Version: version, Started: l.begun, Now: l.wall(now), Ready: l.returns.over, Registry: l.registry.Status(),
		Reporters: len(l.streams), Services: []ServiceStatus{},
	}
	if !st.Ready {
		st.Awaiting = slices.Sorted(maps.Keys(l.returns.awaited))
	}
	known := map[string]merge.ServiceStatus{}
	for _, s := range l.table.Status(now) {
		known[s.Service] = s
	}
	for i := range l.mesh.Services {
		s := &l.mesh.Services[i]
		if wanted != "" && s.Name != wanted {
			continue
		}
		k := known[s.Name]
		believed := map[string]merge.EndpointStatus{}
		for _, e := range k.Endpoints {
			believed[e.Instance] = e
		}
		one := ServiceStatus{
			Name: s.Name, Protocol: s.Protocol, Mode: s.Detection.Outlier.Mode, Reporters: k.Reporters, BaseRate: k.Pg, Measured: k.Measured,
			Endpoints: make([]EndpointStatus, len(s.Endpoints)),
		}
		for j, e := range s.Endpoints {
			one.Endpoints[j] = l.endpointStatus(s, e, believed[e.ID()], now)
		}
		slices.SortFunc(one.Endpoints, func(a, b EndpointStatus) int {
			return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Instance, b.Instance))
		})
		st.Services = append(st.Services, one)
	}
	return st
}

// only leaves of a service that stands alone the endpoints that an operator may mean by
// name; if there is none, it returns what may have been meant.
func (st *Status) only(name string) error {
	s := &st.Services[0]
	address, _ := netip.ParseAddrPort(name)
	var names []string
	found := slices.DeleteFunc(slices.Clone(s.Endpoints), func(e EndpointStatus) bool {
		names = append(names, e.Instance)
		return e.Instance != name && (!address.IsValid() || e.Address != address.String())
	})
	if len(found) == 0 {
		return fmt.Errorf("there is no endpoint %q in service %q%s", name, s.Name, strictyaml.DidYouMean(name, names))
	}
	s.Endpoints = found
	return nil
}

func (l *loop) endpointStatus(s *registry.Service, e registry.Endpoint, believed merge.EndpointStatus, now time.Duration) EndpointStatus {
	st := EndpointStatus{Service: s.Name, Address: e.Address.String(), Draining: e.Draining, EndpointStatus: believed}
	st.Instance, st.Zone = e.ID(), e.Zone
	if o := believed.Override; o != nil {
		st.Override = &Standing{Kind: o.Kind, Reason: o.Reason, By: o.By}
		if o.Until != 0 {
			st.Override.Until = l.wall(o.Until)
		}
	}
	if e.Draining {
		st.State = outlier.Draining
	}
	if _, judged := l.beliefs.in(merge.Key{Service: s.Name, Instance: e.ID()}, merge.Fleet); judged {
		st.SinceTime = l.wall(now - time.Duration(believed.Since))
		if since, ok := l.before[believed.Epoch]; ok {
			st.SinceTime = since
		}
	}
	return st
}

// find returns the endpoints that an operator may mean by a name: an instance,
// an address, or either with the service before it.
func find(m *registry.Mesh, name string) []merge.Key {
	var found []merge.Key
	address, _ := netip.ParseAddrPort(name)
	for _, s := range m.Services {
		inside, qualified := strings.CutPrefix(name, s.Name+"/")
		insideAddress, _ := netip.ParseAddrPort(inside)
		for _, e := range s.Endpoints {
			if e.ID() == name || address.IsValid() && e.Address == address ||
				qualified && (e.ID() == inside || insideAddress.IsValid() && e.Address == insideAddress) {
				found = append(found, merge.Key{Service: s.Name, Instance: e.ID()})
			}
		}
	}
	return found
}

// meant is what an operator may have meant by a name that no endpoint has.
func meant(m *registry.Mesh, name string) string {
	service, inside, qualified := strings.Cut(name, "/")
	var names []string
	for _, s := range m.Services {
		for _, e := range s.Endpoints {
			switch {
			case !qualified:
				names = append(names, e.ID())
			case s.Name == service || e.ID() == inside:
				names = append(names, s.Name+"/"+e.ID())
			}
		}
	}
	return cmp.Or(strictyaml.DidYouMean(name, names), ": want an instance, an address, or SERVICE/INSTANCE")
}

// why explains one endpoint.
func (l *loop) why(k merge.Key, version string) (Why, bool) {
	now := l.now()
	explain, ok := l.table.Explain(k, now)
	if !ok {
		return Why{}, false
	}
	explain.Override = nil // its instants are of the table's clock; the endpoint has it in the world's
	w := Why{Now: l.wall(now), Explain: explain, Scores: l.traces.of(k, l.wall), Events: l.history.about(k, 10)}
	for _, s := range l.status(k.Service, version).Services {
		w.Mode = s.Mode
		for _, e := range s.Endpoints {
			if e.Instance == k.Instance {
				w.Endpoint = e
			}
		}
	}
	return w, true
}
