package resource

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/overhear-mesh/overhear/outlier"
)

// maxWeight bounds the sum of the weights of an assignment: beyond 2³²−1 gRPC
// refuses it. Half of that leaves room for those that are rounded up to 1.
const maxWeight = math.MaxUint32 / 2

// EncodeEndpoints tells clients of kind k what is known of the endpoints, in
// their terms (the table in the package comment). Of two endpoints with one
// address the first is told: gRPC refuses the whole assignment for the second.
// The result depends on nothing but the arguments, and endpoints keep their
// order, so equal knowledge has equal bytes.
func EncodeEndpoints(e Endpoints, k Kind) *endpointv3.ClusterLoadAssignment {
	told := tell(e, k)
	// On a ring gRPC goes by the weights of endpoints, multiplied by those of their
	// localities (gRFC A42): all are in one there, so that a zone does not count twice.
	ring := k == GRPC && e.Ring
	split := k == GRPC && !ring && fewPartly(told)

	// Priorities are made dense: gRPC refuses gaps.
	var priorities []uint32
	for _, t := range told {
		priorities = append(priorities, t.Priority)
	}
	slices.Sort(priorities)
	priorities = slices.Compact(priorities)

	type place struct {
		priority              uint32
		region, zone, subZone string
	}
	m := &endpointv3.ClusterLoadAssignment{ClusterName: e.Service}
	at := map[place]*endpointv3.LocalityLbEndpoints{}
	usable := map[place]uint64{} // weight of what gets traffic
	var order []place
	for _, t := range told {
		dense, _ := slices.BinarySearch(priorities, t.Priority)
		p := place{priority: uint32(dense), region: t.Region, zone: t.Zone}
		if ring {
			p.region, p.zone = "", ""
		}
		if split && t.partly(k) {
			p.subZone = "part/" + t.ID()
		}
		l, ok := at[p]
		if !ok {
			l = &endpointv3.LocalityLbEndpoints{
				// Always there, also when empty: gRPC refuses a missing one.
				Locality: &corev3.Locality{Region: p.region, Zone: p.zone, SubZone: p.subZone},
				Priority: p.priority,
			}
			at[p] = l
			order = append(order, p)
		}
		l.LbEndpoints = append(l.LbEndpoints, t.message(k))
		if t.health == corev3.HealthStatus_HEALTHY && !ring {
			usable[p] += uint64(t.weight)
		}
	}
	// Within a priority the order of localities is that of their first endpoint.
	slices.SortStableFunc(order, func(a, b place) int { return cmp.Compare(a.priority, b.priority) })
	for _, p := range order {
		// gRPC spreads over localities by their weight, so the weight follows what
		// can take traffic there. It ignores a locality without weight in silence.
		at[p].LoadBalancingWeight = wrapperspb.UInt32(uint32(max(usable[p], 1)))
		m.Endpoints = append(m.Endpoints, at[p])
	}
	return m
}

// told is an endpoint with what a kind of client is told of it.
type told struct {
	*Endpoint
	health corev3.HealthStatus
	weight uint32 // >= 1
}

// partly says whether the endpoint gets traffic, but for now not its full share.
func (t told) partly(k Kind) bool {
	return t.health == corev3.HealthStatus_HEALTHY && (t.Verdict.State == outlier.Ramp || tried(*t.Endpoint, k))
}

// fewPartly says whether each endpoint that gets a part of its share has to be in a
// locality of its own for gRPC, which spreads over localities by their weights (gRFC A27)
// and, by round_robin, takes no weights of endpoints. An endpoint that changes its
// locality connects anew. That costs little where it is one of many, and is not worth it
// where most rise together, as when a service is new: there the shares are alike.
func fewPartly(all []told) bool {
	usable, partly := 0, 0
	for _, t := range all {
		if t.health == corev3.HealthStatus_HEALTHY {
			usable++
		}
		if t.partly(GRPC) {
			partly++
		}
	}
	return 2*partly <= usable
}

// tell decides health and weight of each endpoint; doubled addresses are left out.
func tell(e Endpoints, k Kind) []told {
	ramp := e.Ramp
	if ramp <= 0 {
		ramp = DefaultRamp
	}
	all := make([]told, 0, len(e.Endpoints))
	seen := make(map[netip.AddrPort]bool, len(e.Endpoints))
	var sum uint64
	for i := range e.Endpoints {
		ep := &e.Endpoints[i]
		if seen[ep.Address] {
			continue
		}
		seen[ep.Address] = true
		sum += uint64(max(ep.Weight, 1)) * WeightScale
		all = append(all, told{Endpoint: ep, health: health(*ep, k)})
	}
	shrink := sum/maxWeight + 1
	for i := range all {
		w := uint64(max(all[i].Weight, 1)) * WeightScale / shrink
		if share := all[i].Share; k == Envoy && share > 0 && share < 1 {
			w = uint64(float64(w) * share)
		}
		if tried(*all[i].Endpoint, k) {
			w = uint64(float64(w) * min(all[i].Trial, 1))
		}
		if k != Overhear && all[i].Verdict.State == outlier.Ramp {
			w = uint64(float64(w) * rampShare(all[i].Verdict, ramp))
		}
		all[i].weight = uint32(max(w, 1))
	}
	if k != Overhear {
		raiseFloor(all)
	}
	return all
}

// health is the table in the package comment.
func health(e Endpoint, k Kind) corev3.HealthStatus {
	if e.Draining || e.Verdict.State == outlier.Draining {
		return corev3.HealthStatus_DRAINING
	}
	switch e.Verdict.State {
	case outlier.In, outlier.Ramp:
		return corev3.HealthStatus_HEALTHY
	}
	if tried(e, k) {
		return corev3.HealthStatus_HEALTHY
	}
	if k == Envoy {
		return corev3.HealthStatus_DRAINING
	}
	return corev3.HealthStatus_UNHEALTHY
}

// tried says whether clients of kind k give the endpoint a small share to try it.
func tried(e Endpoint, k Kind) bool {
	return k != Overhear && e.Trial > 0 && (e.Verdict.State == outlier.Probation || e.Verdict.State == outlier.Suspended)
}

// rampShare is the share of its weight that a ramping endpoint has after
// RampAge, in steps: the last step is the full weight.
func rampShare(v outlier.Verdict, ramp time.Duration) float64 {
	from := min(max(v.RampFrom, 0), 1)
	progress := min(max(float64(v.RampAge)/float64(ramp), 0), 1)
	step := math.Floor(progress * rampSteps)
	return from + (1-from)*step/rampSteps
}

// RampSteps returns the ages, after the start of a ramp of that length, at which
// what foreign clients are told changes. 0 means [DefaultRamp].
func RampSteps(ramp time.Duration) []time.Duration {
	if ramp <= 0 {
		ramp = DefaultRamp
	}
	ages := make([]time.Duration, rampSteps)
	for i := range ages {
		// Rounded up, so that rampShare is past the step at that age.
		ages[i] = (ramp*time.Duration(i+1) + rampSteps - 1) / rampSteps
	}
	return ages
}

// raiseFloor makes the least bad endpoints healthy when none is: gRPC has no
// panic mode, and that of an Envoy depends on settings that may not be ours. Not
// knowing where to send is worse than sending to who was last believed to answer.
func raiseFloor(all []told) {
	least := math.MaxInt
	for _, t := range all {
		if t.health == corev3.HealthStatus_HEALTHY && !tried(*t.Endpoint, Envoy) {
			return
		}
		least = min(least, badness(*t.Endpoint))
	}
	for i := range all {
		if badness(*all[i].Endpoint) == least {
			all[i].health = corev3.HealthStatus_HEALTHY
		}
	}
}

// badness orders endpoints that should get no traffic by how likely they answer
// all the same: stopped without a record or already under test, then failing
// partly, then leaving, then dead.
func badness(e Endpoint) int {
	switch {
	case e.Draining || e.Verdict.State == outlier.Draining:
		return 3
	case e.Verdict.State == outlier.Suspended, e.Verdict.State == outlier.Probation:
		return 1
	case e.Verdict.Rule == outlier.RuleHard, e.Verdict.Rule == outlier.RuleIdle:
		return 4
	default:
		return 2
	}
}

func (t told) message(k Kind) *endpointv3.LbEndpoint {
	m := &endpointv3.LbEndpoint{
		HealthStatus:        t.health,
		LoadBalancingWeight: wrapperspb.UInt32(t.weight),
		HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: SocketAddress(t.Address)}},
	}
	fields := map[string]*structpb.Value{}
	set := func(name string, v *structpb.Value) { fields[name] = v }
	if t.Instance != "" {
		set(fieldInstance, structpb.NewStringValue(t.Instance))
	}
	if k == Overhear {
		// Always there, so that a sidecar knows whose weights these are.
		set(fieldState, structpb.NewStringValue(t.Verdict.State.String()))
		if t.Verdict.Epoch != 0 {
			set(fieldEpoch, structpb.NewNumberValue(float64(t.Verdict.Epoch)))
		}
		if t.Verdict.Rule != outlier.RuleNone {
			set(fieldRule, structpb.NewStringValue(t.Verdict.Rule.String()))
		}
		if t.Verdict.Reason != "" {
			set(fieldReason, structpb.NewStringValue(t.Verdict.Reason))
		}
		if t.Verdict.State == outlier.Ramp {
			set(fieldRampFrom, structpb.NewNumberValue(t.Verdict.RampFrom))
			set(fieldRampAge, structpb.NewNumberValue(float64(t.Verdict.RampAge.Milliseconds())))
		}
		if t.Inbound {
			set(fieldInbound, structpb.NewBoolValue(true))
		}
		if t.Node != "" {
			set(fieldNode, structpb.NewStringValue(t.Node))
		}
		if len(t.Labels) > 0 {
			labels := make(map[string]*structpb.Value, len(t.Labels))
			for name, value := range t.Labels {
				labels[name] = structpb.NewStringValue(value)
			}
			set(fieldLabels, structpb.NewStructValue(&structpb.Struct{Fields: labels}))
		}
	}
	if len(fields) > 0 {
		m.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{MetadataKey: {Fields: fields}}}
	}
	return m
}

// SocketAddress is an address as xDS has it.
func SocketAddress(a netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       a.Addr().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())},
	}}}
}

// Fields of an endpoint's metadata under MetadataKey. Foreign clients get the
// instance alone, which never changes: versions are content hashes, and a
// counter in here would push to everybody.
const (
	fieldInstance = "instance"
	fieldState    = "state"
	fieldEpoch    = "epoch"
	fieldRule     = "rule"
	fieldReason   = "reason"
	fieldRampFrom = "ramp_from"
	fieldRampAge  = "ramp_age_ms"
	fieldInbound  = "inbound"
	fieldNode     = "node"
	fieldLabels   = "labels"
)

// DecodeEndpoints checks an assignment and returns what it says. The error joins
// a [FieldError] for each thing that is wrong.
//
// It takes what Envoy takes, from any control plane: health without our metadata
// becomes a verdict without an epoch, a missing weight is 1, priorities may have
// gaps. What it refuses has no meaning for us: addresses that are no IP and port,
// one identity twice, our own metadata with wrong types.
func DecodeEndpoints(m *endpointv3.ClusterLoadAssignment) (Endpoints, error) {
	e := Endpoints{Service: m.GetClusterName()}
	p := &Problems{Resource: fmt.Sprintf("endpoints %q", clip(e.Service))}
	if e.Service == "" {
		p.Add("cluster_name", "is empty: an assignment needs the name of its service")
	}
	seen := map[string]string{} // identity → where
	for i, l := range m.GetEndpoints() {
		for j, lb := range l.GetLbEndpoints() {
			at := fmt.Sprintf("endpoints[%d].lb_endpoints[%d]", i, j)
			ep, ok := decodeEndpoint(lb, at, p)
			if !ok {
				continue
			}
			ep.Region, ep.Zone, ep.Priority = l.GetLocality().GetRegion(), l.GetLocality().GetZone(), l.GetPriority()
			if first, double := seen[ep.ID()]; double {
				p.Add(at, "is %q, and so is %s: an endpoint may stand in an assignment once", clip(ep.ID()), first)
				continue
			}
			seen[ep.ID()] = at
			e.Endpoints = append(e.Endpoints, ep)
		}
	}
	if err := p.Err(); err != nil {
		return Endpoints{}, err
	}
	return e, nil
}

func decodeEndpoint(lb *endpointv3.LbEndpoint, at string, p *Problems) (Endpoint, bool) {
	before := p.Len()
	var e Endpoint
	e.Address = decodeAddress(lb.GetEndpoint().GetAddress(), at+".endpoint.address", p)
	e.Weight = 1
	if w := lb.GetLoadBalancingWeight(); w != nil {
		e.Weight = max(w.GetValue(), 1)
	}
	fields := lb.GetMetadata().GetFilterMetadata()[MetadataKey].GetFields()
	d := decoder{fields: fields, at: at + ".metadata." + MetadataKey, p: p}
	d.endpoint(&e)
	if fields[fieldState] != nil { // our own control plane's
		e.Weight = max(e.Weight/WeightScale, 1)
	}
	health := lb.GetHealthStatus()
	e.Draining = health == corev3.HealthStatus_DRAINING
	bad := health == corev3.HealthStatus_UNHEALTHY || health == corev3.HealthStatus_TIMEOUT
	state, known := states[d.text(fieldState)]
	switch {
	case known:
		e.Verdict.State = state
	case bad:
		// A foreign control plane, or a state that a newer one of ours knows.
		e.Verdict.State = outlier.Ejected
		if e.Verdict.Reason == "" {
			e.Verdict.Reason = "the control plane says " + health.String()
		}
	}
	return e, p.Len() == before
}

func decodeAddress(a *corev3.Address, at string, p *Problems) netip.AddrPort {
	s := a.GetSocketAddress()
	if s == nil {
		p.Add(at, "has no socket_address: only TCP endpoints with IP and port can be reached")
		return netip.AddrPort{}
	}
	if s.GetProtocol() != corev3.SocketAddress_TCP {
		p.Add(at+".protocol", "is %s: want TCP", s.GetProtocol())
	}
	ip, err := netip.ParseAddr(s.GetAddress())
	if err != nil {
		p.Add(at+".address", "is %q: want an IP address", clip(s.GetAddress()))
	}
	port := s.GetPortValue()
	if port == 0 || port > math.MaxUint16 {
		p.Add(at+".port_value", "is %d: want 1 to 65535", port)
	}
	return netip.AddrPortFrom(ip, uint16(port))
}

// decoder reads our own metadata. Fields that it does not know are left alone:
// two minor versions apart must understand each other.
type decoder struct {
	fields map[string]*structpb.Value
	at     string
	p      *Problems
}

func (d decoder) endpoint(e *Endpoint) {
	e.Instance = d.text(fieldInstance)
	e.Node = d.text(fieldNode)
	e.Inbound = d.flag(fieldInbound)
	v := &e.Verdict
	v.Rule = rules[d.text(fieldRule)] // RuleNone for one that this version does not know
	v.Reason = d.text(fieldReason)
	// A double holds every integer up to 2⁵³, more verdicts than a mesh can give.
	v.Epoch = uint64(d.number(fieldEpoch, 0, 1<<53, true))
	v.RampFrom = d.number(fieldRampFrom, 0, 1, false)
	v.RampAge = time.Duration(d.number(fieldRampAge, 0, float64(time.Hour/time.Millisecond), true)) * time.Millisecond
	labels := d.fields[fieldLabels]
	if labels == nil {
		return
	}
	if labels.GetStructValue() == nil {
		d.p.Add(d.at+"."+fieldLabels, "is no struct")
		return
	}
	e.Labels = map[string]string{}
	for name, value := range labels.GetStructValue().GetFields() {
		if _, ok := value.GetKind().(*structpb.Value_StringValue); !ok {
			d.p.Add(d.at+"."+fieldLabels+"."+clip(name), "is no string")
			continue
		}
		e.Labels[name] = value.GetStringValue()
	}
}

func (d decoder) text(name string) string {
	v := d.fields[name]
	if v == nil {
		return ""
	}
	s, ok := v.GetKind().(*structpb.Value_StringValue)
	if !ok {
		d.p.Add(d.at+"."+name, "is no string")
		return ""
	}
	return s.StringValue
}

func (d decoder) flag(name string) bool {
	v := d.fields[name]
	if v == nil {
		return false
	}
	b, ok := v.GetKind().(*structpb.Value_BoolValue)
	if !ok {
		d.p.Add(d.at+"."+name, "is no bool")
		return false
	}
	return b.BoolValue
}

func (d decoder) number(name string, low, high float64, whole bool) float64 {
	v := d.fields[name]
	if v == nil {
		return 0
	}
	n, ok := v.GetKind().(*structpb.Value_NumberValue)
	if !ok {
		d.p.Add(d.at+"."+name, "is no number")
		return 0
	}
	x := n.NumberValue
	if !(x >= low && x <= high) || whole && x != math.Trunc(x) { // the first also refuses NaN
		d.p.Add(d.at+"."+name, "is %v: want %v to %v", x, low, high)
		return 0
	}
	return x
}

// Words that travel, by the value that prints as them.
var (
	states = spell(outlier.In, outlier.Suspended, outlier.Ejected, outlier.Probing, outlier.Probation, outlier.Ramp, outlier.Draining)
	rules  = spell(outlier.RuleNone, outlier.RuleHard, outlier.RuleStalled, outlier.RuleFast, outlier.RuleSlow, outlier.RuleLatency, outlier.RuleIdle, outlier.RuleRun, outlier.RuleManual)
)

func spell[T fmt.Stringer](values ...T) map[string]T {
	words := make(map[string]T, len(values))
	for _, v := range values {
		words[v.String()] = v
	}
	return words
}
