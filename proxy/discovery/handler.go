package discovery

import (
	"errors"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/discovery/translation"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// handler is the side of a Discovery that the xDS client sees.
type handler Discovery

// Check refuses what cannot be honoured, whatever else is there.
func (h *handler) Check(m proto.Message) error {
	var err error
	switch m := m.(type) {
	case *clusterv3.Cluster:
		_, err = translation.Cluster(m)
	case *endpointv3.ClusterLoadAssignment:
		err = translation.CheckEndpoints(m)
	case *listenerv3.Listener:
		_, err = translation.Listener(m)
	case *routev3.RouteConfiguration:
		_, err = translation.Rules(m)
	}
	return err
}

// Clusters takes in clusters. Those that this sidecar cannot serve are refused;
// the others of the same response are taken.
func (h *handler) Clusters(changed []*clusterv3.Cluster, removed []string) error {
	d := (*Discovery)(h)
	defer d.retryListeners()
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, m := range changed {
		c, err := translation.Cluster(m)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		e := d.entryLocked(c.Config.Name)
		if e.static && e.remote == nil {
			d.deps.Log.Info("cluster of the file hides the control plane's", "cluster", e.Name())
		}
		if len(c.Ignored) > 0 && (e.remote == nil || !slices.Equal(c.Ignored, e.remote.Ignored)) {
			d.deps.Log.Info("cluster of the control plane has fields that are not used here", "cluster", e.Name(), "fields", c.Ignored)
		}
		e.remote, e.saved, e.until = &remote{c, m}, false, time.Time{}
		d.settleLocked(e)
	}
	for _, name := range removed {
		e := d.entries[name]
		switch {
		case e == nil || e.remote == nil:
		case d.leadsToLocked(name):
			// The routes that it was withdrawn with may come after it.
			e.until = time.Now().Add(d.cfg.XDS.Missing)
		default:
			d.forgetLocked(e, withdrawn)
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
	defer d.retryListeners()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range changed {
		d.assigned[a.Service] = a
		for _, e := range d.entries {
			if !e.static && e.remote != nil && !e.remote.Static && e.remote.Config.Service == a.Service {
				e.Update(translation.Specs(a))
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

// Stream tells the clusters whether the control plane is heard; the client logs it.
func (h *handler) Stream(up bool, _ error) {
	d := (*Discovery)(h)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.linked == up {
		return
	}
	d.linked = up
	for _, e := range d.entries {
		if e.remote != nil && !e.static && !e.remote.Static {
			e.SetLink(cluster.ADS, up)
		}
	}
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
			used[e.remote.Config.Service] = true
		}
	}
	for service := range d.assigned {
		if !used[service] {
			delete(d.assigned, service)
		}
	}
}
