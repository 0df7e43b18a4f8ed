package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/proxy/config"
)

func none(string) (string, bool) { return "", false }

func TestTheShortestUsefulFileGetsEveryDefault(t *testing.T) {
	got, err := config.Decode("sidecar.yaml", []byte(`
outbound:
  - {address: "127.0.0.1:15001", cluster: api}
clusters:
  - name: api
    endpoints: [{address: "10.0.0.1:8080"}, {id: two, address: "10.0.0.2:8080", weight: 3}]
`), none)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := got.Outbound[0].Name, "127.0.0.1:15001"; got != want {
		t.Errorf("name of the listener is %q, want %q", got, want)
	}
	if got, want := got.Admin.Address, "127.0.0.1:15000"; got != want {
		t.Errorf("admin address is %q, want %q", got, want)
	}
	if got, want := got.Clusters[0].ConnectTimeout, time.Second; got != want {
		t.Errorf("connect timeout is %s, want %s", got, want)
	}
	specs := got.Clusters[0].Specs()
	if len(specs) != 2 || specs[0].ID != "10.0.0.1:8080" || specs[0].Weight != 1 || specs[1].ID != "two" || specs[1].Weight != 3 {
		t.Errorf("endpoints are %+v", specs)
	}
}

func TestEverythingWrongWithAFileIsSaidAtOnce(t *testing.T) {
	_, err := config.Decode("sidecar.yaml", []byte(`
node: {id: ""}
admin: {address: "127.0.0.1:15001"}
control_plane:
  adresses: [127.0.0.1:15010]
log: {level: loud}
outbound:
  - address: 127.0.0.1:15001
    protocol: https
    cluster: api
  - address: nowhere
clusters:
  - name: api
    connect_timeout: 1
    endpoints: [{address: "localhost:80"}]
`), none)
	if err == nil {
		t.Fatal("got no error")
	}
	want := []string{
		`sidecar.yaml:2:8: node.id: is empty: want a name that is unique in the mesh`,
		`sidecar.yaml:5:3: control_plane.adresses: unknown field: did you mean "addresses"?`,
		`sidecar.yaml:6:7: log.level: is "loud": want debug, info, warn, error`,
		`sidecar.yaml:8:5: outbound[0].address: 127.0.0.1:15001 is taken by admin.address: want a port of its own`,
		`sidecar.yaml:9:15: outbound[0].protocol: "https" is not spoken yet: want http1, http2, auto, or tcp, which carries it opaquely`,
		`sidecar.yaml:11:5: outbound[1].address: is "nowhere": want host:port`,
		`sidecar.yaml:11:5: outbound[1].cluster: nowhere to send requests: want cluster or routes`,
		`sidecar.yaml:14:22: clusters[0].connect_timeout: "1" is no duration: want a number with a unit such as 250ms, 10s or 5m`,
		`sidecar.yaml:15:18: clusters[0].endpoints[0].address: is "localhost:80": want ip:port`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems differ (-want +got):\n%s", diff)
	}
}

func TestEveryWrongValueIsSaidAtOnce(t *testing.T) {
	_, err := config.Decode("sidecar.yaml", []byte(`
node: {id: ""}
admin: {address: "127.0.0.1:15001", token: secret}
control_plane:
  addresses: ["10.1.2.3:15010"]
log: {level: loud}
access_log: {path: ""}
tracing: {address: "10.1.2.3:4317", sampling: 101%, propagation: [w3c, w3c], queue: 0}
outbound:
  - address: 127.0.0.1:15001
    cluster: api
  - address: nowhere
  - {address: "127.0.0.1:15002", protocol: tcp, routes: [{prefix: /, cluster: api}]}
inbound:
  - {address: "127.0.0.1:15006", application: "127.0.0.1:15006"}
  - {address: "127.0.0.1:99999", application: "127.0.0.1:1"}
clusters:
  - name: api
    endpoints: [{address: "localhost:80"}, {address: "127.0.0.1:1", weight: 0}]
  - name: api
`), none)
	if err == nil {
		t.Fatal("got no error")
	}
	want := []string{
		`sidecar.yaml:2:8: node.id: is empty: want a name that is unique in the mesh`,
		`sidecar.yaml:3:37: admin.token: is 6 characters long: want 16 or more`,
		`sidecar.yaml:5:15: control_plane.addresses[0]: 10.1.2.3:15010 is not on this machine and the connection has no TLS: want a loopback address, or insecure: true`,
		`sidecar.yaml:6:7: log.level: is "loud": want debug, info, warn, error`,
		`sidecar.yaml:7:14: access_log.path: is empty: want a file, stdout, stderr or off`,
		`sidecar.yaml:8:11: tracing.address: 10.1.2.3:4317 is not on this machine and the connection has no TLS: want a loopback address, or insecure: true`,
		`sidecar.yaml:8:37: tracing.sampling: is 1.01: want 0 to 1, or a percentage`,
		`sidecar.yaml:8:72: tracing.propagation[1]: w3c is there already`,
		`sidecar.yaml:8:78: tracing.queue: is 0: want 1 to 1048576`,
		`sidecar.yaml:10:5: outbound[0].address: 127.0.0.1:15001 is taken by admin.address: want a port of its own`,
		`sidecar.yaml:12:5: outbound[1].address: is "nowhere": want host:port`,
		`sidecar.yaml:12:5: outbound[1].cluster: nowhere to send requests: want cluster or routes`,
		`sidecar.yaml:13:49: outbound[2].routes: tcp has nothing to match routes on: want cluster`,
		`sidecar.yaml:15:34: inbound[0].application: is the listener itself: want the port of the application`,
		`sidecar.yaml:16:6: inbound[1].address: is "127.0.0.1:99999": want a port of 0 to 65535`,
		`sidecar.yaml:19:18: clusters[0].endpoints[0].address: is "localhost:80": want ip:port`,
		`sidecar.yaml:19:69: clusters[0].endpoints[1].weight: is 0: want 1 to 1000`,
		`sidecar.yaml:20:5: clusters[1].name: a second cluster "api": names must be unique`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems differ (-want +got):\n%s", diff)
	}
}

func TestTheEnvironmentOverridesTheFile(t *testing.T) {
	env := map[string]string{"OVERHEAR_NODE_ID": "pod-7", "OVERHEAR_CONTROL_PLANE": "127.0.0.1:1,127.0.0.1:2", "OVERHEAR_NODE_NAME": "host-3"}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	file := []byte("node: {id: from-file}\noutbound: [{address: \"127.0.0.1:15001\", cluster: api}]\ncontrol_plane: {addresses: [\"127.0.0.1:9\"]}\n")
	got, err := config.Decode("sidecar.yaml", file, lookup)
	if err != nil {
		t.Fatal(err)
	}
	if got.Node.ID != "pod-7" || got.Node.Labels["node"] != "host-3" {
		t.Errorf("node is %+v", got.Node)
	}
	if diff := cmp.Diff([]string{"127.0.0.1:1", "127.0.0.1:2"}, got.ControlPlane.Addresses); diff != "" {
		t.Errorf("addresses differ (-want +got):\n%s", diff)
	}
	env["OVERHEAR_LOG_LEVEL"] = "loud"
	_, err = config.Decode("sidecar.yaml", file, lookup)
	if err == nil || !strings.Contains(err.Error(), "log.level") || !strings.Contains(err.Error(), "OVERHEAR_LOG_LEVEL") {
		t.Errorf("a wrong variable gives %v, want an error that names it and its field", err)
	}
}

// An image has one file for all of its containers.
func TestAFileMayNeedTheEnvironment(t *testing.T) {
	env := map[string]string{"OVERHEAR_CONTROL_PLANE": "127.0.0.1:15010", "OVERHEAR_NODE_CLUSTER": "api"}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	file := []byte(`
outbound: [{address: "127.0.0.1:15001", cluster: api}]
inbound: [{address: "127.0.0.1:15006", application: "127.0.0.1:8080"}]
`)
	got, err := config.Decode("sidecar.yaml", file, lookup)
	if err != nil {
		t.Fatal(err)
	}
	if got.Inbound[0].Service != "api" {
		t.Errorf("the inbound listener's service is %q, want the node's cluster, api", got.Inbound[0].Service)
	}
	if _, err := config.Decode("sidecar.yaml", file, none); err == nil || !strings.Contains(err.Error(), `no cluster "api"`) {
		t.Errorf("without the environment got %v, want an error that names the cluster", err)
	}
}

func TestListenersHaveNamesOfTheirOwn(t *testing.T) {
	_, err := config.Decode("f", []byte(`
outbound:
  - {name: a, address: "127.0.0.1:1", cluster: api}
  - {name: a, address: "127.0.0.1:2", cluster: api}
  - {address: "127.0.0.1:0", cluster: api}
  - {address: "127.0.0.1:0", cluster: api}
  - {name: admin, address: "127.0.0.1:0", cluster: api}
inbound: [{address: "127.0.0.1:3", application: "127.0.0.1:4"}, {address: "127.0.0.1:3", application: "127.0.0.1:4"}]
clusters: [{name: api}]
drain: {timeout: 2h, notice: -1s}
`), none)
	if err == nil {
		t.Fatal("got no error")
	}
	want := []string{
		`f:4:6: outbound[1].name: a second listener "a": names must be unique`,
		`f:6:5: outbound[3].name: a second listener "127.0.0.1:0": names must be unique`,
		`f:7:6: outbound[4].name: a second listener "admin": names must be unique`,
		`f:8:66: inbound[1].address: 127.0.0.1:3 is taken by inbound[0].address: want a port of its own`,
		`f:10:9: drain.timeout: is 2h0m0s: want 0s to 1h`,
		`f:10:22: drain.notice: is -1s: want 0s to 1h`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems differ (-want +got):\n%s", diff)
	}
}

func TestAClusterMayComeFromAControlPlaneOnly(t *testing.T) {
	const listener = "outbound: [{address: \"127.0.0.1:15001\", cluster: api}]\n"
	if _, err := config.Decode("f", []byte(listener), none); err == nil || !strings.Contains(err.Error(), `no cluster "api"`) {
		t.Errorf("without a control plane got %v, want an error that names the cluster", err)
	}
	if _, err := config.Decode("f", []byte(listener+"control_plane: {addresses: [\"127.0.0.1:15010\"]}\n"), none); err != nil {
		t.Errorf("with a control plane got %v, want none", err)
	}
}
