package resource

import (
	"errors"
	"reflect"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/xds/policypb"
)

// Protocol is what an endpoint of a cluster speaks.
type Protocol string

// The protocols; the empty Protocol is HTTP1.
const (
	HTTP1    Protocol = "http1"
	HTTP2    Protocol = "http2"
	GRPCWire Protocol = "grpc"
	TCP      Protocol = "tcp"
)

// PingKind is how an endpoint is pinged when there is no traffic to listen to.
type PingKind string

// The kinds of pings; the empty PingKind is PingTCP.
const (
	PingOff  PingKind = "off"
	PingTCP  PingKind = "tcp"
	PingHTTP PingKind = "http"
	PingGRPC PingKind = "grpc"
)

// Ping says how to ping an endpoint.
type Ping struct {
	Kind    PingKind
	Path    string // of an HTTP ping; "" means /
	Host    string // the Host header of an HTTP ping; "" means the address
	Service string // of a gRPC health check; "" is the whole server
}

// Balancing is a rule by which an endpoint is chosen.
type Balancing string

// The rules; the empty Balancing is P2C.
const (
	P2C          Balancing = "p2c"
	LeastRequest Balancing = "least_request"
	RoundRobin   Balancing = "round_robin"
	Random       Balancing = "random"
	RingHash     Balancing = "ring_hash"
	Maglev       Balancing = "maglev"
)

// Balancer says how an endpoint is chosen.
type Balancer struct {
	Policy      Balancing
	BoundedLoad float64 // of RingHash and Maglev: how many times its fair part an endpoint may have in flight; 0: no bound
}

// Policy is how a sidecar treats a cluster. It travels inside the cluster, to
// sidecars only; a foreign client is told of Protocol and Balancer in its own terms.
type Policy struct {
	Protocol Protocol
	Ping     Ping
	Balancer Balancer
	// Outlier is when an endpoint is out and how it comes back. Its Timeout does
	// not travel: it is that of the sidecar's own routes.
	Outlier outlier.Config
}

// DefaultPolicy is the policy of a cluster that brings none.
func DefaultPolicy() Policy {
	return Policy{Protocol: HTTP1, Ping: Ping{Kind: PingTCP}, Balancer: Balancer{Policy: P2C}, Outlier: outlier.DefaultConfig()}
}

func encodePolicy(policy Policy) *policypb.Policy {
	m := &policypb.Policy{
		Protocol: new(valid(string(policy.Protocol))),
		Ping: &policypb.Ping{
			Kind:    new(valid(string(policy.Ping.Kind))),
			Path:    new(valid(policy.Ping.Path)),
			Host:    new(valid(policy.Ping.Host)),
			Service: new(valid(policy.Ping.Service)),
		},
		Balancer: &policypb.Balancer{
			Policy:      new(valid(string(policy.Balancer.Policy))),
			BoundedLoad: new(policy.Balancer.BoundedLoad),
		},
		Outlier: &policypb.Outlier{},
	}
	for field, value := range paired(m.Outlier, &policy.Outlier) {
		switch field.Kind() {
		case protoreflect.StringKind:
			m.Outlier.ProtoReflect().Set(field, protoreflect.ValueOfString(valid(value.String())))
		case protoreflect.DoubleKind:
			m.Outlier.ProtoReflect().Set(field, protoreflect.ValueOfFloat64(value.Float()))
		case protoreflect.BoolKind:
			m.Outlier.ProtoReflect().Set(field, protoreflect.ValueOfBool(value.Bool()))
		case protoreflect.Int32Kind:
			m.Outlier.ProtoReflect().Set(field, protoreflect.ValueOfInt32(int32(value.Int())))
		default:
			d := durationpb.New(time.Duration(value.Int()))
			m.Outlier.ProtoReflect().Set(field, protoreflect.ValueOfMessage(d.ProtoReflect()))
		}
	}
	return m
}

// decodePolicy reads a policy over the defaults that into holds.
func decodePolicy(a *anypb.Any, into *Policy, p *Problems) {
	const at = "metadata." + MetadataKey
	m := new(policypb.Policy)
	if err := a.UnmarshalTo(m); err != nil {
		p.Add(at, "is no %s: %v", proto.MessageName(m), err)
		return
	}
	if m.GetProtocol() != "" {
		into.Protocol = Protocol(m.GetProtocol())
	}
	if !slices.Contains([]Protocol{HTTP1, HTTP2, GRPCWire, TCP}, into.Protocol) {
		p.Add(at+".protocol", "is %q: want http1, http2, grpc or tcp", clip(string(into.Protocol)))
	}
	if m.GetPing().GetKind() != "" {
		into.Ping.Kind = PingKind(m.GetPing().GetKind())
	}
	if !slices.Contains([]PingKind{PingOff, PingTCP, PingHTTP, PingGRPC}, into.Ping.Kind) {
		p.Add(at+".ping.kind", "is %q: want off, tcp, http or grpc", clip(string(into.Ping.Kind)))
	}
	into.Ping.Path = m.GetPing().GetPath()
	into.Ping.Host = m.GetPing().GetHost()
	into.Ping.Service = m.GetPing().GetService()
	if m.GetBalancer().GetPolicy() != "" {
		into.Balancer.Policy = Balancing(m.GetBalancer().GetPolicy())
	}
	if !slices.Contains([]Balancing{P2C, LeastRequest, RoundRobin, Random, RingHash, Maglev}, into.Balancer.Policy) {
		p.Add(at+".balancer.policy", "is %q: want p2c, least_request, round_robin, random, ring_hash or maglev", clip(string(into.Balancer.Policy)))
	}
	into.Balancer.BoundedLoad = m.GetBalancer().GetBoundedLoad()

	for field, value := range paired(m.GetOutlier(), &into.Outlier) {
		if !m.GetOutlier().ProtoReflect().Has(field) {
			continue
		}
		v := m.GetOutlier().ProtoReflect().Get(field)
		switch field.Kind() {
		case protoreflect.StringKind:
			value.SetString(v.String())
		case protoreflect.DoubleKind:
			value.SetFloat(v.Float())
		case protoreflect.BoolKind:
			value.SetBool(v.Bool())
		case protoreflect.Int32Kind:
			value.SetInt(v.Int())
		default:
			d, ok := v.Message().Interface().(*durationpb.Duration)
			if !ok || d.CheckValid() != nil {
				p.Add(at+".outlier."+string(field.Name()), "is no duration")
				continue
			}
			value.SetInt(int64(d.AsDuration()))
		}
	}
	for _, err := range unjoin(into.Outlier.Validate()) {
		if wrong, ok := errors.AsType[*outlier.FieldError](err); ok {
			p.Add(at+".outlier."+wrong.Path, "%s", clip(wrong.Message))
		} else {
			p.Add(at+".outlier", "%s", clip(err.Error()))
		}
	}
}

// paired goes through the fields of an Outlier message, each with the field of
// the configuration that has the same name in YAML. A test holds the two to each
// other; a field without a partner is a bug of this program.
func paired(m *policypb.Outlier, c *outlier.Config) func(yield func(protoreflect.FieldDescriptor, reflect.Value) bool) {
	return func(yield func(protoreflect.FieldDescriptor, reflect.Value) bool) {
		fields := m.ProtoReflect().Descriptor().Fields()
		v := reflect.ValueOf(c).Elem()
		for i := range v.NumField() {
			name := v.Type().Field(i).Tag.Get("yaml")
			if name == "-" {
				continue
			}
			field := fields.ByName(protoreflect.Name(name))
			if field == nil {
				panic("resource: policy.proto has no field " + name)
			}
			if !yield(field, v.Field(i)) {
				return
			}
		}
	}
}

func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}
