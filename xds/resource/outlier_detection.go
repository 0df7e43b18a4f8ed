package resource

import (
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/overhear-mesh/overhear/outlier"
)

// Envoy's own values for fields that are left out, where they matter here.
const (
	envoyRun      = 5 // failures in a row
	envoyEnforced = 1 // of consecutive_5xx and consecutive_local_origin_failure
)

// longest is the longest hold-off that can be configured. Envoy knows no limit.
const longest = time.Hour

// Unheeded are the fields of Envoy's outlier_detection that mean nothing here: the
// package documentation says of each why.
var Unheeded = []protoreflect.Name{
	"interval",
	"enforcing_success_rate", "success_rate_minimum_hosts", "success_rate_request_volume", "success_rate_stdev_factor",
	"enforcing_local_origin_success_rate",
	"failure_percentage_threshold", "enforcing_failure_percentage", "enforcing_failure_percentage_local_origin",
	"failure_percentage_minimum_hosts", "failure_percentage_request_volume",
	"successful_active_health_check_uneject_host", "monitors", "detect_degraded_hosts",
}

// decodeOutlierDetection reads the outlier detection of a cluster that came from a
// control plane of Envoys over our defaults, by the table in the package documentation.
// It returns the names of the fields that are set and ignored.
func decodeOutlierDetection(m *clusterv3.OutlierDetection, into *outlier.Config, p *Problems) (ignored []string) {
	d := envoyDetection{m: m, problems: p}
	into.RunAny = d.run("consecutive_5xx", m.GetConsecutive_5Xx(), 0)
	into.RunAnyEnforced = d.share("enforcing_consecutive_5xx", m.GetEnforcingConsecutive_5Xx(), envoyEnforced)

	into.RunGatewayEnforced = d.share("enforcing_consecutive_gateway_failure", m.GetEnforcingConsecutiveGatewayFailure(), 0)
	unset := 0
	if into.RunGatewayEnforced > 0 {
		unset = envoyRun
	}
	into.RunGateway = d.run("consecutive_gateway_failure", m.GetConsecutiveGatewayFailure(), unset)

	local := d.run("consecutive_local_origin_failure", m.GetConsecutiveLocalOriginFailure(), envoyRun)
	enforced := d.share("enforcing_consecutive_local_origin_failure", m.GetEnforcingConsecutiveLocalOriginFailure(), envoyEnforced)
	if m.GetSplitExternalLocalOriginErrors() {
		into.RunLocal, into.RunLocalEnforced = local, enforced
	} else {
		d.ignore("consecutive_local_origin_failure", "enforcing_consecutive_local_origin_failure")
	}

	d.holdOff(into)
	if percent := m.GetMaxEjectionPercent(); percent != nil {
		into.MaxOut = d.share("max_ejection_percent", percent, 0)
		into.AlwaysEjectOne = true
	}
	if one := m.GetAlwaysEjectOneHost(); one != nil {
		into.AlwaysEjectOne = one.GetValue()
	}
	d.ignore(Unheeded...)
	return d.ignored
}

// envoyDetection reads one outlier_detection.
type envoyDetection struct {
	m        *clusterv3.OutlierDetection
	problems *Problems
	ignored  []string
}

func (d *envoyDetection) wrong(field, format string, args ...any) {
	d.problems.Add("outlier_detection."+field, format, args...)
}

// ignore notes those of the fields that are set.
func (d *envoyDetection) ignore(names ...protoreflect.Name) {
	r := d.m.ProtoReflect()
	for i := range r.Descriptor().Fields().Len() {
		if f := r.Descriptor().Fields().Get(i); slices.Contains(names, f.Name()) && r.Has(f) {
			d.ignored = append(d.ignored, "outlier_detection."+string(f.Name()))
		}
	}
}

func (d *envoyDetection) run(field string, v *wrapperspb.UInt32Value, unset int) int {
	const most = 1<<16 - 1 // of which a longer run cannot be told
	if v == nil {
		return unset
	}
	if v.GetValue() > most {
		d.wrong(field, "is %d: want at most %d", v.GetValue(), most)
	}
	return int(v.GetValue())
}

func (d *envoyDetection) share(field string, percent *wrapperspb.UInt32Value, unset float64) float64 {
	if percent == nil {
		return unset
	}
	if percent.GetValue() > 100 {
		d.wrong(field, "is %d: want 0 to 100, a percentage", percent.GetValue())
	}
	return float64(percent.GetValue()) / 100
}

// duration reads a time that must not be negative, nor zero unless zero is none.
func (d *envoyDetection) duration(field string, v *durationpb.Duration, none bool) time.Duration {
	if v == nil {
		return 0
	}
	if err := v.CheckValid(); err != nil {
		d.wrong(field, "is no duration: %v", err)
		return 0
	}
	t := v.AsDuration()
	switch {
	case t < 0, t == 0 && !none:
		d.wrong(field, "is %v: want more than 0s", t)
		return 0
	case t == 0:
		return 0
	case t > longest:
		d.ignored = append(d.ignored, "outlier_detection."+field+" above "+longest.String())
	}
	return min(max(t, time.Millisecond), longest)
}

// holdOff reads how long an ejected endpoint stays out. A limit that is left out gives
// way to one that is set.
func (d *envoyDetection) holdOff(into *outlier.Config) {
	base := d.duration("base_ejection_time", d.m.GetBaseEjectionTime(), false)
	most := d.duration("max_ejection_time", d.m.GetMaxEjectionTime(), false)
	into.HoldJitter = d.duration("max_ejection_time_jitter", d.m.GetMaxEjectionTimeJitter(), true)
	switch {
	case base > 0 && most > 0:
		if a, b := d.m.GetBaseEjectionTime().AsDuration(), d.m.GetMaxEjectionTime().AsDuration(); a > b {
			d.wrong("base_ejection_time", "is %v, more than max_ejection_time, which is %v", a, b)
			return
		}
		into.HoldBase, into.HoldMax = base, most
	case base > 0:
		into.HoldBase, into.HoldMax = base, max(into.HoldMax, base)
	case most > 0:
		into.HoldBase, into.HoldMax = min(into.HoldBase, most), most
	}
}
