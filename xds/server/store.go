package server

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// typeIndex is a type of resources that is served. The order is that of pushes: what
// is referred to comes before what refers to it.
type typeIndex int

const (
	clusters typeIndex = iota
	endpoints
	listeners
	routes
	numTypes
)

var typeURLs = [numTypes]string{
	clusters:  resource.TypeCluster,
	endpoints: resource.TypeEndpoints,
	listeners: resource.TypeListener,
	routes:    resource.TypeRoute,
}

// typeOf finds the index of a type URL; false for one that is not served.
func typeOf(url string) (typeIndex, bool) {
	for i, u := range typeURLs {
		if u == url {
			return typeIndex(i), true
		}
	}
	return 0, false
}

// whole says that a state-of-the-world response holds everything that the client
// subscribes to: what is missing, it deletes.
func (t typeIndex) whole() bool { return t == clusters || t == listeners }

// encoded is the content of a resource, marshalled once and shared by all who are
// sent it. It never changes.
type encoded struct {
	name    string
	version string
	// sum is the version of one (name, content), to be added up to the version of a
	// set of them in any order.
	sum uint64
	// What stands in a response for it: the field resources, number 2 in both variants.
	// The bytes are the same, in delta with a name and a version before them.
	delta, sotw mem.Buffer
	eds         string // of a cluster: the name of its endpoints
}

func encode(typ typeIndex, name string, m proto.Message) (*encoded, error) {
	if got, ok := nameOf(typ, m); !ok {
		return nil, fmt.Errorf("resource %q: is a %s: want %s", name, proto.MessageName(m), typeURLs[typ])
	} else if got != name {
		return nil, fmt.Errorf("resource %q: calls itself %q", name, got)
	}
	// Deterministic: equal content must have equal bytes, also from another process.
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("resource %q: %w", name, err)
	}
	hash := sha256.Sum256(value)
	named := sha256.Sum256(append([]byte(name+"\x00"), hash[:]...))
	e := &encoded{name: name, version: hex.EncodeToString(hash[:8]), sum: binary.BigEndian.Uint64(named[:])}
	e.delta, e.sotw = wire(name, e.version, typeURLs[typ], value)
	if c, ok := m.(*clusterv3.Cluster); ok && c.GetEdsClusterConfig() != nil {
		if e.eds = c.GetEdsClusterConfig().GetServiceName(); e.eds == "" {
			e.eds = name
		}
	}
	return e, nil
}

// nameOf is the name inside the message; false when it is not of that type.
func nameOf(typ typeIndex, m proto.Message) (string, bool) {
	switch m := m.(type) {
	case *clusterv3.Cluster:
		return m.GetName(), typ == clusters
	case *endpointv3.ClusterLoadAssignment:
		return m.GetClusterName(), typ == endpoints
	case *listenerv3.Listener:
		return m.GetName(), typ == listeners
	case *routev3.RouteConfiguration:
		return m.GetName(), typ == routes
	default:
		return "", false
	}
}

// topic is one name of one type for one kind of client. It exists while it has
// content or somebody who is interested.
type topic struct {
	table *table
	name  string
	id    uint32              // in table.topics.all
	fleet *encoded            // nil: does not exist
	zones map[string]*encoded // what zones have of their own
	// interested are the subscriptions that have an entry for it, by id.
	interested bits
	// asker is the address on whose account the topic is, in [unknown]; "": nobody's.
	asker string
}

// in is the content for a zone; nil when there is none.
func (t *topic) in(zone string) *encoded {
	if e, ok := t.zones[zone]; ok {
		return e
	}
	return t.fleet
}

// differs says whether a content for the fleet (zone "") or a zone is news; nil is
// its removal.
func (t *topic) differs(zone string, e *encoded) bool {
	before := t.fleet
	if zone != "" {
		before = t.zones[zone]
	}
	return before != e && (before == nil || e == nil || before.version != e.version)
}

// set changes the content of the fleet or of a zone. Whoever held what it replaces must
// have been unsettled.
func (t *topic) set(zone string, e *encoded) {
	if e != nil {
		e = t.shared(e)
	}
	switch {
	case zone == "":
		t.fleet = e
	case e == nil:
		delete(t.zones, zone)
	default:
		if t.zones == nil {
			t.zones = map[string]*encoded{}
		}
		t.zones[zone] = e
	}
}

// shared is what the topic already holds with the content of e, for another zone
// or for the fleet, else e.
func (t *topic) shared(e *encoded) *encoded {
	if t.fleet != nil && t.fleet.version == e.version {
		return t.fleet
	}
	for _, z := range t.zones {
		if z.version == e.version {
			return z
		}
	}
	return e
}

// release lets a topic go that nobody needs any more.
func (t *topic) release() {
	if t.fleet == nil && len(t.zones) == 0 && len(t.interested) == 0 {
		t.table.unknown.settle(t)
		delete(t.table.topics, t.name)
		t.table.topicIDs.release(t.id)
	}
}

// table holds the topics of one type for one kind of client, and who subscribes to them.
type table struct {
	unknown   unknown
	topics    map[string]*topic
	wildcards map[*subscription]struct{}

	topicIDs ids[*topic]
	subIDs   ids[*subscription]
}

func newTable(u unknown) table {
	return table{unknown: u, topics: map[string]*topic{}, wildcards: map[*subscription]struct{}{}}
}

// topic finds or makes the topic of a name.
func (b *table) topic(name string) *topic {
	t, ok := b.topics[name]
	if !ok {
		t = &topic{table: b, name: name}
		t.id = b.topicIDs.take(t)
		b.topics[name] = t
	}
	return t
}

// concerned lists those who see a topic's content of a view.
func (b *table) concerned(v resource.View, t *topic) []*subscription {
	concerns := func(sub *subscription) bool {
		zone := sub.stream.view.Zone
		if v.Zone != "" {
			return zone == v.Zone
		}
		_, own := t.zones[zone]
		return !own
	}
	var all []*subscription
	for id := range t.interested.all() {
		if sub := b.subIDs.all[id]; concerns(sub) {
			all = append(all, sub)
		}
	}
	for sub := range b.wildcards {
		if !t.interested.has(sub.id) && concerns(sub) {
			all = append(all, sub)
		}
	}
	return all
}
