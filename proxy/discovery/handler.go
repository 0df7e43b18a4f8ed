package discovery

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// handler is the side of a Discovery that the xDS client sees.
type handler Discovery

// Clusters takes in clusters. Those that this sidecar cannot serve are refused;
// the others of the same response are taken.
func (h *handler) Clusters(changed []resource.Cluster, removed []string) error {
	d := (*Discovery)(h)
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, c := range changed {
		if _, err := configOf(c); err != nil {
			errs = append(errs, err)
			continue
		}
		e := d.entryLocked(c.Name)
		if e.static && e.remote == nil {
			d.deps.Log.Info("cluster of the file hides the control plane's", "cluster", c.Name)
		}
		if len(c.Ignored) > 0 && (e.remote == nil || !slices.Equal(c.Ignored, e.remote.Ignored)) {
			d.deps.Log.Info("cluster of the control plane has fields that are not used here", "cluster", c.Name, "fields", c.Ignored)
		}
		e.remote, e.saved = &c, false
		d.settleLocked(e)
	}
	for _, name := range removed {
		if e := d.entries[name]; e != nil && e.remote != nil {
			e.remote, e.saved = nil, false
			d.settleLocked(e)
			d.deps.Log.Info("cluster withdrawn by the control plane", "cluster", name)
		}
	}
	d.dropUnusedLocked()
	d.heardLocked()
	select {
	case <-d.answered:
	default:
		close(d.answered)
	}
	return errors.Join(errs...)
}

// Endpoints takes in the endpoints of services. An assignment that is withdrawn
// while its cluster stays keeps its endpoints: there is a reason to have no
// endpoints, an empty assignment, and this is not it.
func (h *handler) Endpoints(changed []resource.Endpoints, removed []string) error {
	d := (*Discovery)(h)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range changed {
		d.assigned[a.Service] = a
		for _, e := range d.entries {
			if !e.static && e.remote != nil && e.remote.EDSName() == a.Service {
				e.Update(specsOf(a))
			}
		}
	}
	for _, service := range removed {
		if _, ok := d.assigned[service]; ok {
			d.deps.Log.Warn("endpoints withdrawn without their cluster, kept", "service", service)
		}
	}
	d.heardLocked()
	if len(d.assigned) > 0 {
		d.becomeReadyLocked()
	}
	return nil
}

// Stream tells the clusters whether the control plane is heard.
func (h *handler) Stream(up bool, why error) {
	d := (*Discovery)(h)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.linked == up {
		return
	}
	d.linked = up
	for _, e := range d.entries {
		if e.remote != nil && !e.static {
			e.SetLink(cluster.ADS, up)
		}
	}
	if up {
		d.deps.Log.Info("control plane heard")
		return
	}
	d.deps.Log.Warn("control plane lost, serving from what it said last", slog.Any("error", why))
}

// heardLocked notes that the control plane has said something.
func (d *Discovery) heardLocked() {
	d.source = Control
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// dropUnusedLocked forgets the endpoints of services that no cluster has.
func (d *Discovery) dropUnusedLocked() {
	used := make(map[string]bool, len(d.entries))
	for _, e := range d.entries {
		if e.remote != nil {
			used[e.remote.EDSName()] = true
		}
	}
	for service := range d.assigned {
		if !used[service] {
			delete(d.assigned, service)
		}
	}
}

var (
	protocols = map[resource.Protocol]cluster.Protocol{"": cluster.HTTP1, resource.HTTP1: cluster.HTTP1, resource.TCP: cluster.TCP, resource.HTTP2: cluster.HTTP2, resource.GRPCWire: cluster.HTTP2}
	pings     = map[resource.PingKind]ping.Kind{"": ping.TCP, resource.PingTCP: ping.TCP, resource.PingHTTP: ping.HTTP, resource.PingGRPC: ping.GRPC, resource.PingOff: ping.Off}
)

// configOf is the policy of a cluster that the control plane offers, or what
// this sidecar cannot do about it.
func configOf(c resource.Cluster) (cluster.Config, error) {
	cfg := cluster.DefaultConfig()
	cfg.Name, cfg.Service = c.Name, c.EDSName()
	if c.ConnectTimeout > 0 {
		cfg.ConnectTimeout = c.ConnectTimeout
	}
	var ok bool
	if cfg.Protocol, ok = protocols[c.Policy.Protocol]; !ok {
		return cfg, fmt.Errorf("cluster %q: protocol %q is not supported, want http1, http2, grpc or tcp", c.Name, c.Policy.Protocol)
	}
	if cfg.Ping.Kind, ok = pings[c.Policy.Ping.Kind]; !ok {
		return cfg, fmt.Errorf("cluster %q: ping %q is not supported, want tcp, http, grpc or off", c.Name, c.Policy.Ping.Kind)
	}
	if c.Policy.Ping.Path != "" {
		cfg.Ping.Path = c.Policy.Ping.Path
	}
	cfg.Ping.Host, cfg.Ping.Service = c.Policy.Ping.Host, c.Policy.Ping.Service
	cfg.Outlier = c.Policy.Outlier
	if err := strictyaml.Validate(cfg); err != nil {
		return cfg, fmt.Errorf("cluster %q: %w", c.Name, err)
	}
	return cfg, nil
}

// specsOf are the endpoints of an assignment.
func specsOf(a resource.Endpoints) []cluster.Spec {
	specs := make([]cluster.Spec, 0, len(a.Endpoints))
	for _, e := range a.Endpoints {
		specs = append(specs, cluster.Spec{
			ID: e.ID(), Address: e.Address.String(), Zone: e.Zone, Node: e.Node,
			Priority: e.Priority, Weight: e.Weight, Inbound: e.Inbound, Draining: e.Draining,
			Labels: e.Labels, Verdict: e.Verdict,
		})
	}
	return specs
}
