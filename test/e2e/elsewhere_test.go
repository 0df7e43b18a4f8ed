package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/overhear-mesh/overhear/test/envoy"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// elsewhere is another control plane, which has the clusters of an Envoy: a file.
type elsewhere struct {
	t         *testing.T
	file      string
	endpoints string // where those of its cluster come from
}

// tell changes the cluster: Envoy makes it anew.
func (e elsewhere) tell(connectTimeout string) {
	e.t.Helper()
	text := fmt.Sprintf(`
resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: own-name
  type: EDS
  connect_timeout: %s
  eds_cluster_config: { service_name: api, eds_config: %s }`, connectTimeout, e.endpoints)
	// Envoy looks when a file takes the place of another.
	err := os.WriteFile(e.file+".new", []byte(text), 0o600)
	if err == nil {
		err = os.Rename(e.file+".new", e.file)
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

// A cluster that another control plane changes is made anew beside the old one, which has
// the same endpoints, and is used when it has been sent them.
func TestAnEnvoyWhoseClusterIsChangedElsewhereFollowsVerdicts(t *testing.T) {
	envoy.Find(t)
	ads := func(apiType string) string {
		return fmt.Sprintf("ads_config: { api_type: %s, transport_api_version: V3, grpc_services: [ { envoy_grpc: { cluster_name: xds } } ] }", apiType)
	}
	for name, test := range map[string]struct{ dynamic, endpoints string }{
		"SotW":          {"", ownStream("GRPC")},
		"delta":         {"", ownStream("DELTA_GRPC")},
		"SotW over ADS": {ads("GRPC"), "{ resource_api_version: V3, ads: {} }"},
		// Envoy asks for nothing, and goes on with what it has when it has waited.
		"delta over ADS": {ads("DELTA_GRPC"), "{ resource_api_version: V3, ads: {}, initial_fetch_timeout: 1s }"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, backends := newFeed(t), httpBackends(t, 4)
			f.publish(backends)
			f.Ready()
			other := elsewhere{t: t, file: filepath.Join(t.TempDir(), "clusters.yaml"), endpoints: test.endpoints}
			other.tell("1s")
			p := envoy.Start(t, bootstrap(f.address, fmt.Sprintf(`
dynamic_resources:
  cds_config: { path_config_source: { path: %s }, resource_api_version: V3 }
  %s`, other.file, test.dynamic), ownListener, ""))
			requests := throughEnvoy(t, p, "api")
			requests.reaches(backends...)
			f.publish(backends, ejected)
			requests.leaves(backends[0])

			for i := range 3 {
				other.tell(fmt.Sprint(2+i, "s"))
				eventually(t, "the changed cluster is in use", func() bool {
					requests.send(5)
					return stat(t, p, "cluster_manager.cluster_modified") == fmt.Sprint(1+i) && stat(t, p, "cluster_manager.warming_clusters") == "0"
				})
				requests.leaves(backends[0])
			}
			requests.reaches(backends[1:]...)
			f.publish(backends, in, ejected)
			requests.leaves(backends[1])
			requests.reaches(backends[0], backends[2], backends[3])
			eventually(t, "nothing more is sent to who asks no more", func() bool {
				before := f.Stats().Responses[resource.TypeEndpoints]
				requests.send(50)
				return f.Stats().Responses[resource.TypeEndpoints] == before
			})
			if got := f.Stats().NACKs[resource.TypeEndpoints]; got != 0 {
				t.Errorf("Envoy refused %d responses", got)
			}
		})
	}
}
