package resource_test

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// envoyCluster is a cluster as another control plane sends it: the outlier_detection is
// written as an Envoy's configuration would write it.
func envoyCluster(t *testing.T, detection string) *clusterv3.Cluster {
	t.Helper()
	m := &clusterv3.Cluster{
		Name:                 "api",
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: &corev3.ConfigSource{
			ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		}},
		OutlierDetection: &clusterv3.OutlierDetection{},
	}
	if err := prototext.Unmarshal([]byte(detection), m.OutlierDetection); err != nil {
		t.Fatalf("%s: %v", detection, err)
	}
	return m
}

func TestTheOutlierDetectionOfAnotherControlPlaneIsReadAsNearAsItCanBeSaid(t *testing.T) {
	for _, tc := range []struct {
		says string
		want func(*outlier.Config)
	}{
		{"", func(*outlier.Config) {}},
		{"consecutive_5xx{value:7}", func(c *outlier.Config) { c.RunAny = 7 }},
		{"consecutive_5xx{value:0}", func(*outlier.Config) {}},
		{"consecutive_5xx{value:7} enforcing_consecutive_5xx{value:0}", func(c *outlier.Config) { c.RunAny, c.RunAnyEnforced = 7, 0 }},
		{"consecutive_5xx{value:7} enforcing_consecutive_5xx{value:25}", func(c *outlier.Config) { c.RunAny, c.RunAnyEnforced = 7, 0.25 }},
		// Envoy counts gateway failures by default, and enforces nothing.
		{"consecutive_gateway_failure{value:3}", func(c *outlier.Config) { c.RunGateway, c.RunGatewayEnforced = 3, 0 }},
		{"consecutive_gateway_failure{value:3} enforcing_consecutive_gateway_failure{value:100}", func(c *outlier.Config) { c.RunGateway, c.RunGatewayEnforced = 3, 1 }},
		{"enforcing_consecutive_gateway_failure{value:100}", func(c *outlier.Config) { c.RunGateway, c.RunGatewayEnforced = 5, 1 }},
		{"split_external_local_origin_errors:true", func(c *outlier.Config) { c.RunLocal, c.RunLocalEnforced = 5, 1 }},
		{"split_external_local_origin_errors:true consecutive_local_origin_failure{value:2}", func(c *outlier.Config) { c.RunLocal, c.RunLocalEnforced = 2, 1 }},
		{"split_external_local_origin_errors:true consecutive_local_origin_failure{value:2} enforcing_consecutive_local_origin_failure{value:50}", func(c *outlier.Config) { c.RunLocal, c.RunLocalEnforced = 2, 0.5 }},
		{"split_external_local_origin_errors:true consecutive_local_origin_failure{value:0}", func(c *outlier.Config) { c.RunLocal, c.RunLocalEnforced = 0, 1 }},
		{"base_ejection_time{seconds:30} max_ejection_time{seconds:300}", func(c *outlier.Config) { c.HoldBase, c.HoldMax = 30*time.Second, 300*time.Second }},
		{"base_ejection_time{seconds:5} max_ejection_time{seconds:5}", func(c *outlier.Config) { c.HoldBase, c.HoldMax = 5*time.Second, 5*time.Second }},
		// What is set moves the other limit, if that is in its way.
		{"base_ejection_time{seconds:30}", func(c *outlier.Config) { c.HoldBase = 30 * time.Second }},
		{"base_ejection_time{seconds:300}", func(c *outlier.Config) { c.HoldBase, c.HoldMax = 300*time.Second, 300*time.Second }},
		{"max_ejection_time{seconds:300}", func(c *outlier.Config) { c.HoldMax = 300 * time.Second }},
		{"max_ejection_time{nanos:500000000}", func(c *outlier.Config) { c.HoldBase, c.HoldMax = 500*time.Millisecond, 500*time.Millisecond }},
		{"base_ejection_time{nanos:1}", func(c *outlier.Config) { c.HoldBase = time.Millisecond }},
		{"max_ejection_time_jitter{seconds:10}", func(c *outlier.Config) { c.HoldJitter = 10 * time.Second }},
		{"max_ejection_time_jitter{}", func(*outlier.Config) {}},
		{"max_ejection_percent{value:10}", func(c *outlier.Config) { c.MaxOut, c.AlwaysEjectOne = 0.1, true }},
		{"max_ejection_percent{value:10} always_eject_one_host{value:true}", func(c *outlier.Config) { c.MaxOut, c.AlwaysEjectOne = 0.1, true }},
		{"max_ejection_percent{value:10} always_eject_one_host{value:false}", func(c *outlier.Config) { c.MaxOut = 0.1 }},
		{"always_eject_one_host{value:true}", func(c *outlier.Config) { c.AlwaysEjectOne = true }},
		{"max_ejection_percent{value:100}", func(c *outlier.Config) { c.MaxOut, c.AlwaysEjectOne = 1, true }},
	} {
		want := outlier.DefaultConfig()
		tc.want(&want)
		got, err := resource.DecodeCluster(envoyCluster(t, tc.says))
		if err != nil {
			t.Errorf("%q: %v", tc.says, err)
			continue
		}
		// A rule that is not there has no share: what it would be does not matter.
		for _, c := range []*outlier.Config{&want, &got.Policy.Outlier} {
			for n, enforced := range map[*int]*float64{&c.RunAny: &c.RunAnyEnforced, &c.RunGateway: &c.RunGatewayEnforced, &c.RunLocal: &c.RunLocalEnforced} {
				if *n == 0 {
					*enforced = 1
				}
			}
		}
		if diff := cmp.Diff(want, got.Policy.Outlier); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tc.says, diff)
		}
		if len(got.Ignored) != 0 {
			t.Errorf("%q: %v are ignored, want none", tc.says, got.Ignored)
		}
		if err := got.Policy.Outlier.Validate(); err != nil {
			t.Errorf("%q is read as a policy that is none: %v", tc.says, err)
		}
	}
}

// Each field that exists is either read or listed as ignored, one that a later version
// of the message brings included.
func TestEveryFieldOfAnOutlierDetectionIsReadOrListedAsIgnored(t *testing.T) {
	plain, err := resource.DecodeCluster(envoyCluster(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	fields := (&clusterv3.OutlierDetection{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		m := envoyCluster(t, "")
		switch f.Name() {
		case "enforcing_consecutive_5xx", "enforcing_consecutive_local_origin_failure":
			// Read together with the rule's number alone.
			m = envoyCluster(t, "consecutive_5xx{value:3} split_external_local_origin_errors:true")
		}
		r := m.OutlierDetection.ProtoReflect()
		before, err := resource.DecodeCluster(m)
		if err != nil {
			t.Fatal(err)
		}
		another(r, f)
		got, err := resource.DecodeCluster(m)
		if err != nil {
			t.Errorf("%s: %v", f.Name(), err)
			continue
		}
		name := "outlier_detection." + string(f.Name())
		listed := len(got.Ignored) == 1 && got.Ignored[0] == name
		read := !cmp.Equal(got.Policy.Outlier, before.Policy.Outlier)
		if listed == read {
			t.Errorf("%s: read %t, listed as ignored %t (%v), want one of the two", f.Name(), read, listed, got.Ignored)
		}
		if listed && !cmp.Equal(got.Policy, plain.Policy) {
			t.Errorf("%s is listed as ignored and changes the policy", f.Name())
		}
	}
}

// mapping reads the table of outlier_detection in the package documentation: the field
// of the policy, by that of the message; "-" for what is ignored.
func mapping(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]string{}
	_, rest, found := strings.Cut(string(text), "//\tfield of outlier_detection ")
	if !found {
		t.Fatal("doc.go has no table of outlier_detection")
	}
	for line := range strings.Lines(rest[strings.IndexByte(rest, '\n')+1:]) {
		row, isRow := strings.CutPrefix(line, "//\t")
		if !isRow {
			break
		}
		columns := strings.Fields(row)
		if len(columns) < 3 {
			t.Fatalf("a row without an explanation: %q", row)
		}
		if _, twice := table[columns[0]]; twice {
			t.Errorf("%s is in the table twice", columns[0])
		}
		table[columns[0]] = columns[1]
	}
	return table
}

// policyFields are the fields of a policy by their names in a file.
func policyFields(c outlier.Config) map[string]any {
	fields := map[string]any{}
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		fields[v.Type().Field(i).Tag.Get("yaml")] = v.Field(i).Interface()
	}
	return fields
}

// another sets a field to a value that is different from the one that it has.
func another(r protoreflect.Message, f protoreflect.FieldDescriptor) {
	switch {
	case f.IsList():
		r.Mutable(f).List().AppendMutable()
	case f.Kind() == protoreflect.BoolKind:
		r.Set(f, protoreflect.ValueOfBool(!r.Get(f).Bool()))
	case f.Message().FullName() == "google.protobuf.Duration":
		d := r.Mutable(f).Message()
		seconds := d.Descriptor().Fields().ByName("seconds")
		d.Set(seconds, protoreflect.ValueOfInt64(d.Get(seconds).Int()+17))
	default:
		value := r.Mutable(f).Message()
		inner := value.Descriptor().Fields().ByName("value")
		if inner.Kind() == protoreflect.BoolKind {
			value.Set(inner, protoreflect.ValueOfBool(!value.Get(inner).Bool()))
		} else {
			value.Set(inner, protoreflect.ValueOfUint32(uint32(value.Get(inner).Uint()+1)))
		}
	}
}

func TestTheTableOfTheDocumentationSaysWhatBecomesOfEachField(t *testing.T) {
	const all = `consecutive_5xx{value:7} enforcing_consecutive_5xx{value:60}
		consecutive_gateway_failure{value:8} enforcing_consecutive_gateway_failure{value:70}
		split_external_local_origin_errors:true
		consecutive_local_origin_failure{value:9} enforcing_consecutive_local_origin_failure{value:80}
		base_ejection_time{seconds:30} max_ejection_time{seconds:300} max_ejection_time_jitter{seconds:4}
		max_ejection_percent{value:40} always_eject_one_host{value:true}`
	table := mapping(t)
	fields := (&clusterv3.OutlierDetection{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := string(f.Name())
		says, ok := table[name]
		if !ok {
			t.Errorf("%s is not in the table", name)
			continue
		}
		delete(table, name)
		m := envoyCluster(t, all)
		before, err := resource.DecodeCluster(m)
		if err != nil {
			t.Fatal(err)
		}
		another(m.OutlierDetection.ProtoReflect(), f)
		after, err := resource.DecodeCluster(m)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if ignored := slices.Contains(after.Ignored, "outlier_detection."+name); ignored != (says == "-") {
			t.Errorf("%s: ignored %t, the table says %q", name, ignored, says)
		}
		changed := false
		was, is := policyFields(before.Policy.Outlier), policyFields(after.Policy.Outlier)
		for field := range was {
			if reflect.DeepEqual(was[field], is[field]) {
				continue
			}
			changed = true
			if !strings.HasPrefix(field, says) {
				t.Errorf("%s changes %s, the table says %q", name, field, says)
			}
		}
		if changed != (says != "-") {
			t.Errorf("%s: changes the policy %t, the table says %q", name, changed, says)
		}
	}
	for name := range table {
		t.Errorf("%s is in the table and no field of the message", name)
	}
}

func TestNonsenseInAnOutlierDetectionIsRefusedByItsField(t *testing.T) {
	for says, want := range map[string]string{
		"base_ejection_time{seconds:30} max_ejection_time{seconds:10}":       `cluster "api": outlier_detection.base_ejection_time: is 30s, more than max_ejection_time, which is 10s`,
		"base_ejection_time{seconds:20000} max_ejection_time{seconds:10000}": `outlier_detection.base_ejection_time: is 5h33m20s, more than max_ejection_time`,
		"base_ejection_time{}":                                          `outlier_detection.base_ejection_time: is 0s: want more than 0s`,
		"max_ejection_time{seconds:-1}":                                 `outlier_detection.max_ejection_time: is -1s: want more than 0s`,
		"max_ejection_time_jitter{seconds:-1}":                          `outlier_detection.max_ejection_time_jitter: is -1s`,
		"base_ejection_time{seconds:1 nanos:-1}":                        `outlier_detection.base_ejection_time: is no duration`,
		"max_ejection_percent{value:101}":                               `outlier_detection.max_ejection_percent: is 101: want 0 to 100, a percentage`,
		"consecutive_5xx{value:5} enforcing_consecutive_5xx{value:200}": `outlier_detection.enforcing_consecutive_5xx: is 200: want 0 to 100`,
		"enforcing_consecutive_gateway_failure{value:101}":              `outlier_detection.enforcing_consecutive_gateway_failure: is 101`,
		"split_external_local_origin_errors:true enforcing_consecutive_local_origin_failure{value:101}": `outlier_detection.enforcing_consecutive_local_origin_failure: is 101`,
		"consecutive_5xx{value:4000000000}": `outlier_detection.consecutive_5xx: is 4000000000: want at most 65535`,
	} {
		_, err := resource.DecodeCluster(envoyCluster(t, says))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", says, err, want)
			continue
		}
		if _, ok := errors.AsType[*resource.FieldError](err); !ok {
			t.Errorf("%q: the error is a %T, want one that names the field", says, err)
		}
	}
	// Longer than can be had here is no nonsense.
	got, err := resource.DecodeCluster(envoyCluster(t, "base_ejection_time{seconds:7200} max_ejection_time{seconds:86400}"))
	if err != nil || got.Policy.Outlier.HoldBase != time.Hour || got.Policy.Outlier.HoldMax != time.Hour {
		t.Errorf("two hours: got %v, %v; want one", got.Policy.Outlier.HoldBase, err)
	}
	if want := []string{"outlier_detection.base_ejection_time above 1h0m0s", "outlier_detection.max_ejection_time above 1h0m0s"}; !cmp.Equal(want, got.Ignored) {
		t.Errorf("ignored %q, want %q", got.Ignored, want)
	}
}

func TestOurOwnPolicyGoesBeforeAnOutlierDetection(t *testing.T) {
	m := resource.EncodeCluster(resource.Cluster{Name: "api", Policy: resource.DefaultPolicy()}, resource.Overhear)
	m.OutlierDetection = envoyCluster(t, "consecutive_5xx{value:7}").OutlierDetection
	got, err := resource.DecodeCluster(m)
	if err != nil || got.Policy.Outlier.RunAny != 0 || !cmp.Equal(got.Ignored, []string{"outlier_detection"}) {
		t.Errorf("run %d, ignored %v, %v; want the policy of the metadata alone", got.Policy.Outlier.RunAny, got.Ignored, err)
	}
}
