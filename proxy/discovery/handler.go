package discovery

import (
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/discovery/translation"
	"github.com/overhear-mesh/overhear/xds/client"
)

// handler is the side of a Discovery that the xDS client sees.
type handler Discovery

// read reads the resources of a response, and says what is wrong with those that cannot
// be honoured. said is false if nothing is left: then the response has said nothing.
func read[M, V any](changed []M, removed []string, nameOf func(M) string, reader func(M) (V, error)) (good []V, refused client.Refused, said bool) {
	refused = client.Refused{}
	for _, m := range changed {
		v, err := reader(m)
		if err != nil {
			refused[nameOf(m)] = err
			continue
		}
		good = append(good, v)
	}
	return good, refused, len(refused) == 0 || len(good) > 0 || len(removed) > 0
}

// Clusters takes in clusters. Those that this sidecar cannot serve are refused;
// the others of the same response are taken.
func (h *handler) Clusters(changed []*clusterv3.Cluster, removed []string) client.Refused {
	good, refused, said := read(changed, removed, (*clusterv3.Cluster).GetName, newRemote)
	if !said {
		return refused
	}
	d := (*Discovery)(h)
	defer d.retryListeners()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range good {
		e := d.entryLocked(c.Config.Name)
		if e.static && e.remote == nil {
			d.deps.Log.Info("cluster of the file hides the control plane's", "cluster", e.Name())
		}
		if len(c.Ignored) > 0 && (e.remote == nil || !slices.Equal(c.Ignored, e.remote.Ignored)) {
			d.deps.Log.Info("cluster of the control plane has fields that are not used here", "cluster", e.Name(), "fields", c.Ignored)
		}
		e.remote, e.saved, e.until = c, false, time.Time{}
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
	return refused
}

// Endpoints takes in the endpoints of services. An assignment that is withdrawn
// while its cluster stays keeps its endpoints: there is a reason to have no
// endpoints, an empty assignment, and this is not it.
func (h *handler) Endpoints(changed []*endpointv3.ClusterLoadAssignment, removed []string) client.Refused {
	good, refused, said := read(changed, removed, (*endpointv3.ClusterLoadAssignment).GetClusterName, translation.Endpoints)
	if !said {
		return refused
	}
	d := (*Discovery)(h)
	defer d.retryListeners()
	d.mu.Lock()
	defer d.mu.Unlock()
	told := make(map[string]bool, len(good))
	for _, a := range good {
		d.assigned[a.Service] = a
		told[a.Service] = true
	}
	for _, e := range d.entries {
		if !e.static && e.remote != nil && !e.remote.Static && told[e.remote.Config.Service] {
			e.Update(translation.Specs(d.assigned[e.remote.Config.Service]))
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
	return refused
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
	d.missing = missing{}
	if up && d.asksForListeners() {
		d.missing.at = time.Now().Add(d.cfg.XDS.Missing)
		d.poke()
	}
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
