package translation

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A message inside a honoured field is either walked, a value, or said to be opaque:
// otherwise what is in it would pass unseen.
func TestNoHonouredFieldHidesAMessageWithoutATable(t *testing.T) {
	for name, p := range plans() {
		for _, f := range p.fields {
			m := f.descriptor.Message()
			if !f.listed || f.use != honoured || m == nil || f.descriptor.IsMap() {
				continue
			}
			if f.sub == nil && !f.opaque && m.ParentFile().Package() != wellKnown {
				t.Errorf("%s.%s is honoured, and %s has no table", name, f.descriptor.Name(), m.FullName())
			}
		}
	}
}

// samples are the messages of testdata.
func samples(t testing.TB) []proto.Message {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files: %v", err)
	}
	var all []proto.Message
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			m := map[string]proto.Message{"listener.json": new(listenerv3.Listener), "routes.json": new(routev3.RouteConfiguration), "cluster.json": new(clusterv3.Cluster)}[f.Name]
			if m == nil {
				continue
			}
			if err := protojson.Unmarshal(f.Data, m); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			all = append(all, m)
		}
	}
	return all
}

// What a table promises stands in a file of testdata, where it is compared with ours.
func TestEveryHonouredFieldIsInAFileOfTestdata(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	for _, m := range samples(t) {
		err := protorange.Range(m.ProtoReflect(), func(v protopath.Values) error { // also into Any
			if last := v.Index(-1); last.Step.Kind() == protopath.FieldAccessStep {
				seen[last.Step.FieldDescriptor().FullName()] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range plans() {
		for _, f := range p.fields {
			if f.listed && f.use == honoured && !seen[f.descriptor.FullName()] {
				t.Errorf("%s is honoured, and in no file of testdata", f.descriptor.FullName())
			}
		}
	}
}

func TestWhatANewerAPIHasAddedIsRefused(t *testing.T) {
	for _, m := range samples(t) {
		m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 9999, protowire.VarintType), 1))
		p := newProblems("resource", "x")
		if walk(m, "", p); p.Err() == nil || !strings.Contains(p.Err().Error(), "field 9999") {
			t.Errorf("%s with an unknown field: %v, want that it is named", m.ProtoReflect().Descriptor().Name(), p.Err())
		}
	}
}

func TestTenThousandProblemsMakeAShortText(t *testing.T) {
	vh := &routev3.VirtualHost{}
	for range 10_000 {
		vh.Domains = append(vh.Domains, strings.Repeat("*", 10_000))
	}
	_, err := Rules(&routev3.RouteConfiguration{Name: "r", VirtualHosts: []*routev3.VirtualHost{vh}})
	if err == nil || len(err.Error()) > 8192 || !strings.Contains(err.Error(), "more") {
		t.Errorf("%d bytes, want a few problems and how many more", len(fmt.Sprint(err)))
	}
}

// Whatever the bytes: no panic, and what is accepted is good for the sidecar.
func FuzzTranslation(f *testing.F) {
	for _, m := range samples(f) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m := new(listenerv3.Listener); proto.Unmarshal(b, m) == nil {
			if l, err := Listener(m); err == nil {
				if err := l.check(newProblems("listener", "")); err != nil {
					t.Errorf("accepted, and not good: %v", err)
				}
			}
		}
		if m := new(routev3.RouteConfiguration); proto.Unmarshal(b, m) == nil {
			if rules, err := Rules(m); err == nil {
				for i := range rules {
					if err := rules[i].Validate(); err != nil {
						t.Errorf("rule %d was accepted, and is not good: %v", i, err)
					}
				}
			}
		}
		if m := new(clusterv3.Cluster); proto.Unmarshal(b, m) == nil {
			if c, err := Cluster(m); err == nil {
				if err := c.Config.Validate(); err != nil {
					t.Errorf("accepted, and not good: %v", err)
				}
			}
		}
		if m := new(endpointv3.ClusterLoadAssignment); proto.Unmarshal(b, m) == nil {
			_ = checkEndpoints(m)
		}
	})
}

func BenchmarkCheckEndpoints(b *testing.B) {
	m := &endpointv3.ClusterLoadAssignment{ClusterName: "api"}
	var one endpointv3.LbEndpoint
	if err := protojson.Unmarshal([]byte(`{"endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}}}, "load_balancing_weight": 1, "health_status": "HEALTHY"}`), &one); err != nil {
		b.Fatal(err)
	}
	m.Endpoints = []*endpointv3.LocalityLbEndpoints{{LbEndpoints: slices.Repeat([]*endpointv3.LbEndpoint{&one}, 1000)}}
	for b.Loop() {
		if err := checkEndpoints(m); err != nil {
			b.Fatal(err)
		}
	}
}
