package translation_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/proxy/discovery/translation"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// scenario is a file of testdata: resources, and what they would be in the sidecar's
// file.
type scenario struct {
	name      string
	listeners []*listenerv3.Listener
	routes    []*routev3.RouteConfiguration
	clusters  []*clusterv3.Cluster
	file      config.Config
}

func scenarios(t testing.TB) []scenario {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	var all []scenario
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s := scenario{name: strings.TrimSuffix(filepath.Base(path), ".txtar")}
		for _, f := range archive.Files {
			switch f.Name {
			case "listener.json":
				s.listeners = append(s.listeners, decoded(t, path, f.Data, new(listenerv3.Listener)))
			case "routes.json":
				s.routes = append(s.routes, decoded(t, path, f.Data, new(routev3.RouteConfiguration)))
			case "cluster.json":
				s.clusters = append(s.clusters, decoded(t, path, f.Data, new(clusterv3.Cluster)))
			default:
				text := string(f.Data) + "control_plane: {addresses: [\"127.0.0.1:2\"]}\n"
				if s.file, err = config.Decode(path, []byte(text), func(string) (string, bool) { return "", false }); err != nil {
					t.Fatal(err)
				}
			}
		}
		all = append(all, s)
	}
	return all
}

func decoded[M proto.Message](t testing.TB, path string, data []byte, m M) M {
	t.Helper()
	if err := protojson.Unmarshal(data, m); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return m
}

func TestStandardResourcesAreWhatTheFileWouldSay(t *testing.T) {
	equal := cmp.Options{cmpopts.EquateEmpty()}
	for _, s := range scenarios(t) {
		t.Run(s.name, func(t *testing.T) {
			rules := map[string][]router.Rule{}
			for _, m := range s.routes {
				got, err := translation.Rules(m)
				if err != nil {
					t.Fatal(err)
				}
				rules[m.GetName()] = got
			}
			for i, m := range s.listeners {
				l, err := translation.Listener(m)
				if err != nil {
					t.Fatal(err)
				}
				got := l.Outbound
				if l.Routes != "" {
					got = l.With(rules[l.Routes])
				}
				if diff := cmp.Diff(s.file.Outbound[i], got, equal); diff != "" {
					t.Errorf("listener %s (-file +xDS):\n%s", got.Name, diff)
				}
			}
			for i, m := range s.clusters {
				got, err := translation.Cluster(m)
				if err != nil {
					t.Fatal(err)
				}
				want := s.file.Clusters[i]
				if !got.Static {
					want.Service = "api.eds"
				}
				if diff := cmp.Diff(want.Config, got.Config, equal); diff != "" {
					t.Errorf("cluster %s (-file +xDS):\n%s", want.Name, diff)
				}
				ignoreOwn := cmpopts.IgnoreFields(cluster.Spec{}, "Verdict") // nobody has judged it
				if diff := cmp.Diff(want.Specs(), got.Endpoints, equal, ignoreOwn); diff != "" {
					t.Errorf("endpoints of %s (-file +xDS):\n%s", want.Name, diff)
				}
			}
		})
	}
}

func TestWhatIsRefusedIsNamed(t *testing.T) {
	for _, tc := range []struct{ kind, edit, want string }{
		{"listener", `{"name": ""}`, `listener "": name: is empty`},
		{"listener", `{"address": {"pipe": {"path": "/x"}}}`, "address.pipe: is not supported"},
		{"listener", `{"use_original_dst": true}`, "use_original_dst: is not supported: "},
		{"listener", `{"filter_chains": [{"filters": [{"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "common_http_protocol_options": {"idle_timeout": "1s"}}}]}]}`,
			"http_connection_manager.common_http_protocol_options.idle_timeout: is not supported of a listener"},
		{"listener", `{"filter_chains": [{"filters": [{"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "common_http_protocol_options": {"max_connection_duration": "0.5s"}}}]}]}`,
			"http_connection_manager.common_http_protocol_options: max_connection_duration: is 500ms: want 1s to 720h"},
		{"listener", `{"traffic_direction": "INBOUND"}`, "traffic_direction: is INBOUND: want OUTBOUND"},
		{"listener", `{"filter_chains": [{"filter_chain_match": {"server_names": ["a"]}}]}`, "filter_chains[0].filter_chain_match.server_names: is not supported"},
		{"listener", `{"filter_chains": [{"transport_socket": {"typed_config": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {}}}}]}`, "filter_chains[0].transport_socket.typed_config: google.protobuf.Struct is not supported"},
		{"listener", `{"filter_chains": [{"filters": [{"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster": "x", "idle_timeout": "1s"}}]}]}`,
			"filter_chains[0].filters[0].tcp_proxy.idle_timeout: is not supported: tcp.idle_timeout is a setting of the sidecar's file"},
		{"listener", `{"filter_chains": [{}, {}]}`, "filter_chains: are 2"},
		{"routes", `{"virtual_hosts": [{"domains": ["a.*"]}]}`, `route configuration "r": virtual_hosts[0].domains[0]: is "a.*": want a name`},
		{"routes", `{"virtual_hosts": [{"domains": ["a:80"]}, {"domains": ["a:81"]}]}`, "virtual_hosts[1].domains[0]"},
		{"routes", `{"virtual_hosts": [{"domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a", "cluster_not_found_response_code": "NOT_FOUND"}}]}]}`,
			"virtual_hosts[0].routes[0].route.cluster_not_found_response_code: is not supported"},
		{"routes", `{"virtual_hosts": [{"domains": ["*"], "routes": [{"match": {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": 5}}}, "route": {"cluster": "a"}}]}]}`,
			"virtual_hosts[0].routes[0].match.runtime_fraction.default_value: is 5 of 100"},
		{"routes", `{"virtual_hosts": [{"domains": ["*"], "routes": [{"match": {"prefix": "/", "case_sensitive": false}, "route": {"cluster": "a"}}]}]}`,
			"virtual_hosts[0].routes[0].match.case_sensitive: is false: want true"},
		{"routes", `{"virtual_hosts": [{"domains": ["*"], "routes": [{"match": {"prefix": "/", "headers": [{"name": "a", "range_match": {"start": "1", "end": "2"}}]}, "route": {"cluster": "a"}}]}]}`,
			"virtual_hosts[0].routes[0].match.headers[0].range_match: is not supported"},
		{"routes", `{"virtual_hosts": [{"domains": ["*"], "routes": [{"match": {"prefix": "/", "headers": [{"name": ":authority", "present_match": true}]}, "route": {"cluster": "a"}}]}]}`,
			"virtual_hosts[0].routes[0].match.headers[0].name"},
		{"routes", `{"virtual_hosts": [{"domains": ["*"], "routes": [{"match": {"safe_regex": {"regex": "("}}, "route": {"cluster": "a"}}]}]}`, "virtual_hosts[0].routes[0]: regex: "},
		{"routes", `{"virtual_hosts": [{"domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a", "retry_policy": {"retry_on": "envoy-ratelimited"}}}]}]}`,
			`virtual_hosts[0].routes[0].route.retry_policy.retry_on: has "envoy-ratelimited"`},
		{"routes", `{"virtual_hosts": [{"domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}, "typed_per_filter_config": {"x": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {}}}}]}]}`,
			`virtual_hosts[0].routes[0].typed_per_filter_config["x"]: google.protobuf.Struct is not supported`},
		{"routes", `{"request_headers_to_remove": ["X-A"], "virtual_hosts": [{"domains": ["*"], "request_headers_to_add": [{"header": {"key": "x-a", "value": "1"}}], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]}]}`,
			"virtual_hosts[0].request_headers_to_add[0]: changes x-a, and so does request_headers_to_remove[0]"},
		{"routes", `{"request_headers_to_add": [{"header": {"key": "x-a", "value": "%DOWNSTREAM_REMOTE_ADDRESS%"}}]}`, "request_headers_to_add[0].header.value: "},
		{"cluster", `{"type": "STRICT_DNS"}`, `cluster "c": type: is STRICT_DNS: want EDS, STATIC`},
		{"cluster", `{"lb_subset_config": {}}`, "lb_subset_config: is not supported: want clusters of their own"},
		{"cluster", `{"circuit_breakers": {"thresholds": [{"priority": "HIGH"}]}}`, "circuit_breakers.thresholds[0].priority: is not supported"},
		{"cluster", `{"health_checks": [{"http_health_check": {"path": "/", "expected_statuses": [{"start": "200", "end": "201"}]}}]}`, "health_checks[0].http_health_check.expected_statuses: is not supported: "},
		{"cluster", `{"load_balancing_policy": {}}`, "load_balancing_policy.policies: has none"},
		{"cluster", `{"common_lb_config": {"locality_weighted_lb_config": {}}}`, "common_lb_config.locality_weighted_lb_config: is not supported"},
		{"cluster", `{"connect_timeout": "7200s"}`, "connect_timeout"},
	} {
		err := refusal(t, tc.kind, tc.edit)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s with %s: %v, want %s", tc.kind, tc.edit, err, tc.want)
		}
	}
}

// refusal is what is said to a good resource that some fields were changed of.
func refusal(t *testing.T, kind, edit string) error {
	t.Helper()
	base := map[string]string{
		"listener": `{"name": "in", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}}`,
		"routes":   `{"name": "r"}`,
		"cluster":  `{"name": "c", "type": "STATIC", "load_assignment": {"cluster_name": "c"}}`,
	}[kind]
	switch kind {
	case "listener":
		m := decoded(t, kind, []byte(base), new(listenerv3.Listener))
		overlay(t, m, edit)
		_, err := translation.Listener(m)
		return err
	case "routes":
		m := decoded(t, kind, []byte(base), new(routev3.RouteConfiguration))
		overlay(t, m, edit)
		_, err := translation.Rules(m)
		return err
	}
	m := decoded(t, kind, []byte(base), new(clusterv3.Cluster))
	overlay(t, m, edit)
	_, err := translation.Cluster(m)
	return err
}

// overlay sets the fields of a text in a message.
func overlay(t *testing.T, m proto.Message, text string) {
	t.Helper()
	with := decoded(t, text, []byte(text), m.ProtoReflect().New().Interface())
	r := m.ProtoReflect()
	for i := range r.Descriptor().Fields().Len() {
		if fd := r.Descriptor().Fields().Get(i); with.ProtoReflect().Has(fd) || strings.Contains(text, fmt.Sprintf("{%q: \"\"}", fd.Name())) {
			r.Set(fd, with.ProtoReflect().Get(fd))
		}
	}
}
