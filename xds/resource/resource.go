package resource

import (
	"errors"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// Type URLs of the resources that this mesh speaks.
const (
	TypeCluster   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	TypeEndpoints = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	TypeListener  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	TypeRoute     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// MetadataKey is the name under which our own metadata travels, in endpoints,
// clusters and nodes.
const MetadataKey = "overhear"

// Kind is what a client is. It decides how a verdict is told.
type Kind uint8

// The zero Kind is GRPC: it is the strictest, and a client that does not say
// what it is gets what the strictest understands.
const (
	GRPC     Kind = iota // proxyless gRPC
	Envoy                // an unmodified Envoy
	Overhear             // our sidecar
)

var kindNames = [...]string{GRPC: "grpc", Envoy: "envoy", Overhear: "overhear"}

// String is the lower-case word that node metadata and operators use.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// KindOf says what the node is: by the field "kind" of its metadata under
// [MetadataKey] if it holds one, else by its user agent. Whatever is not
// recognised is GRPC.
func KindOf(n *corev3.Node) Kind {
	if said := n.GetMetadata().GetFields()[MetadataKey].GetStructValue().GetFields()["kind"].GetStringValue(); said != "" {
		for k, name := range kindNames {
			if said == name {
				return Kind(k)
			}
		}
	}
	switch n.GetUserAgentName() {
	case "overhear":
		return Overhear
	case "envoy":
		return Envoy
	default: // "gRPC Go", "gRPC C-core", and everybody else
		return GRPC
	}
}

// View is a group of clients that are told the same: a kind, and the zone they
// observe from. The empty zone is the whole fleet's view, which every client
// gets whose zone has none of its own.
type View struct {
	Kind Kind
	Zone string
}

// ViewOf is the view that a node belongs to.
func ViewOf(n *corev3.Node) View {
	return View{Kind: KindOf(n), Zone: n.GetLocality().GetZone()}
}

func (v View) String() string {
	if v.Zone == "" {
		return v.Kind.String()
	}
	return v.Kind.String() + "/" + v.Zone
}

// FieldError is one thing that is wrong with one resource.
type FieldError struct {
	Resource string // kind and name: `cluster "api"`
	Field    string // path inside it: endpoints[0].lb_endpoints[3].endpoint.address
	Problem  string // what was found, and what was wanted
}

func (e *FieldError) Error() string { return e.Resource + ": " + e.Field + ": " + e.Problem }

// Problems collects what is wrong with one resource. A peer can be wrong in ten thousand
// places: the first few are enough for it to find the rest.
type Problems struct {
	Resource string // as in [FieldError]

	errs []error
	more int // beyond these
}

// Add notes one thing that is wrong.
func (p *Problems) Add(field, format string, args ...any) {
	const enough = 8
	if len(p.errs) == enough {
		p.more++
		return
	}
	p.errs = append(p.errs, &FieldError{Resource: p.Resource, Field: field, Problem: fmt.Sprintf(format, args...)})
}

// Len is how many things are wrong.
func (p *Problems) Len() int { return len(p.errs) + p.more }

// Err joins a [FieldError] for each of the first, and how many more there are. It is nil
// when nothing is wrong.
func (p *Problems) Err() error {
	if p.more > 0 {
		return errors.Join(append(p.errs[:len(p.errs):len(p.errs)], fmt.Errorf("%s: and %d more", p.Resource, p.more))...)
	}
	return errors.Join(p.errs...)
}

// clip bounds a string of a peer's for an error text.
func clip(s string) string {
	const most = 128
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}
