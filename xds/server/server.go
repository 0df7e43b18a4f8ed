package server

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/internal/refrain"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// Config bounds what a client may ask for.
type Config struct {
	// MaxNames is how many resources of one type a stream may subscribe to by name;
	// default 100 000.
	MaxNames int `yaml:"max_names"`
	// MaxUnknown is how many bytes the names may take, in all streams of one address, that
	// it asked for and that do not exist: each is remembered until it does, or nobody wants
	// it any more. Default 67108864, some 200 000 names.
	MaxUnknown int `yaml:"max_unknown"`
}

// DefaultConfig has bounds that no fleet of ordinary size meets.
func DefaultConfig() Config { return Config{MaxNames: 100_000, MaxUnknown: 64 << 20} }

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	if c.MaxNames < 1 {
		return fmt.Errorf("max_names: is %d: want at least 1", c.MaxNames)
	}
	if c.MaxUnknown < 1 {
		return fmt.Errorf("max_unknown: is %d: want at least 1", c.MaxUnknown)
	}
	return nil
}

// Server keeps the resources of every view and the streams of every client. Its
// methods may be called from any goroutine.
type Server struct {
	cfg    Config
	faults *refrain.Log

	mu      sync.Mutex // guards everything below, and all streams and topics
	ready   bool
	tables  map[resource.Kind]*[numTypes]table
	streams map[*stream]struct{}
	byNode  map[string]map[*stream]struct{} // by node.id; a node may have several
	byConn  map[conn]map[*stream]struct{}   // of one node on one connection
	opened  uint64
	pending pending
	unknown unknown
	// Counts by type.
	acks, nacks, responses [numTypes]uint64
	// Counts by fault: of streams, and of requests.
	refused, ignored map[Fault]uint64
}

// New returns a server that answers nothing until Ready was called.
func New(cfg Config, log *slog.Logger) *Server {
	s := &Server{
		cfg: cfg, faults: refrain.New(log),
		tables:  map[resource.Kind]*[numTypes]table{},
		streams: map[*stream]struct{}{},
		byNode:  map[string]map[*stream]struct{}{},
		byConn:  map[conn]map[*stream]struct{}{},
		unknown: unknown{},
		refused: newFaults(NoNode, NoType, TooLong, TooManyNames, TooManyUnknown, TooManyTypes, Unreadable),
		ignored: newFaults(StaleNonce, TypeNotServed, NodeChanged),
	}
	for _, k := range []resource.Kind{resource.GRPC, resource.Envoy, resource.Overhear} {
		tables := new([numTypes]table)
		for i := range tables {
			tables[i] = newTable(s.unknown)
		}
		s.tables[k] = tables
	}
	return s
}

// Change sets or removes one resource of one view.
type Change struct {
	View    resource.View
	TypeURL string // resource.TypeCluster, …
	Name    string
	Message proto.Message // nil removes; not to be changed after it was handed over
}

// Apply makes all changes, or none if one of them is wrong, and has them pushed: a
// client gets what belongs together at once, each type in one response. It does not
// wait for that: the last of ten thousand streams has its turn a while later.
//
// A view with a zone holds only what differs for that zone; for every other name
// its clients get the view of the same kind without a zone. Removing from a view
// with a zone therefore brings back the fleet's content. A change to what is there
// already pushes nothing.
func (s *Server) Apply(changes ...Change) error { return s.ApplyFirst(nil, changes...) }

// ApplyFirst is Apply for changes of which some nodes, by their ids, should hear before
// the others, the most urgent first.
func (s *Server) ApplyFirst(nodes []string, changes ...Change) error {
	contents := make([]*encoded, len(changes))
	types := make([]typeIndex, len(changes))
	var errs []error
	for i, c := range changes {
		typ, ok := typeOf(c.TypeURL)
		if !ok {
			errs = append(errs, fmt.Errorf("%s %q: type %q is not served", c.View, c.Name, c.TypeURL))
			continue
		}
		types[i] = typ
		if c.Message == nil {
			continue
		}
		e, err := encode(typ, c.Name, c.Message)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.View, err))
		}
		contents[i] = e
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	touched := map[*stream]struct{}{}
	for i, c := range changes {
		s.set(c.View, types[i], c.Name, contents[i], touched)
	}
	for _, node := range nodes {
		for st := range s.byNode[node] {
			if _, ok := touched[st]; ok {
				s.pending.add(st, users)
				delete(touched, st)
			}
		}
	}
	for _, st := range byConnection(touched) {
		s.pending.add(st, others)
	}
	s.startPush()
	return nil
}

// set changes one topic and marks those whom it concerns.
func (s *Server) set(v resource.View, typ typeIndex, name string, e *encoded, touched map[*stream]struct{}) {
	b := &s.tables[v.Kind][typ]
	t := b.topic(name)
	if t.differs(v.Zone, e) {
		concerned := b.concerned(v, t)
		for _, sub := range concerned {
			sub.unsettle(t)
		}
		t.table.unknown.settle(t)
		t.set(v.Zone, e)
		for _, sub := range concerned {
			sub.mark(t, false)
			touched[sub.stream] = struct{}{}
		}
	}
	t.release()
}

// SetResources makes the resources of one type in one view exactly those given, by
// name. For a view with a zone that is what the zone has of its own.
func (s *Server) SetResources(v resource.View, typeURL string, all map[string]proto.Message) error {
	typ, ok := typeOf(typeURL)
	if !ok {
		return fmt.Errorf("%s: type %q is not served", v, typeURL)
	}
	var changes []Change
	for name, m := range all {
		changes = append(changes, Change{View: v, TypeURL: typeURL, Name: name, Message: m})
	}
	for _, name := range s.names(v, typ) {
		if _, stays := all[name]; !stays {
			changes = append(changes, Change{View: v, TypeURL: typeURL, Name: name})
		}
	}
	return s.Apply(changes...)
}

// names of what a view itself holds.
func (s *Server) names(v resource.View, typ typeIndex) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, t := range s.tables[v.Kind][typ].topics {
		held := t.fleet != nil
		if v.Zone != "" {
			_, held = t.zones[v.Zone]
		}
		if held {
			names = append(names, name)
		}
	}
	return names
}

// SetEndpoints sets one assignment of a view; nil removes it.
func (s *Server) SetEndpoints(v resource.View, name string, m *endpointv3.ClusterLoadAssignment) error {
	c := Change{View: v, TypeURL: resource.TypeEndpoints, Name: name}
	if m != nil { // a nil *ClusterLoadAssignment is not a nil proto.Message
		c.Message = m
	}
	return s.Apply(c)
}

// Ready opens the gate: what was asked before is answered now. Before it, requests
// are noted and not answered. An Envoy keeps what it has while a server is silent,
// and drops all of it when a server answers with an empty world.
func (s *Server) Ready() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = true
	for st := range s.streams {
		for _, sub := range st.subs {
			if sub != nil {
				sub.resume()
			}
		}
	}
	for _, st := range byConnection(s.streams) {
		s.pending.add(st, others)
	}
	s.startPush()
}

// Sent says whether a client with that node id has accepted endpoints of the
// service.
func (s *Server) Sent(node, service string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.byNode[node] {
		sub := st.subs[endpoints]
		if sub == nil {
			continue
		}
		if e, _ := sub.entry(sub.table.topics[service]); e.acked {
			return true
		}
	}
	return false
}

// The rest is called under s.mu.

// flush sends what there is to say on a stream, in the order of the types.
func (s *Server) flush(st *stream) {
	if !s.ready {
		return
	}
	// Twice: there are removals of clusters that wait for listeners and routes, and
	// endpoints that follow them.
	for range 2 {
		for _, sub := range st.subs {
			s.push(sub)
		}
	}
}

func (s *Server) push(sub *subscription) {
	if sub == nil || !sub.armed || sub.mustWait() {
		return
	}
	b := sub.next()
	if b == nil {
		return
	}
	st := sub.stream
	st.nonce++
	sub.sent(b, strconv.FormatUint(st.nonce, 10))
	s.responses[sub.typ]++
	st.out.enqueue(sub.response(b), st.wire)
	st.repeat(b)
}

// answered notes an ACK or a NACK. It returns the response that was refused for a
// reason that the client did not give the last time; nil otherwise.
func (s *Server) answered(sub *subscription, nonce, refusal string) (refused *batch) {
	before := sub.lastNACK
	b := sub.answered(nonce, refusal, time.Now())
	if b == nil {
		if sub.stream.delta { // state of the world repeats the last one in each request
			s.ignored[StaleNonce]++
		}
		return nil
	}
	if refusal == "" {
		s.acks[sub.typ]++
	} else {
		s.nacks[sub.typ]++
		if refusal != before {
			refused = b
		}
	}
	// On a stream of their own the endpoints could have overtaken the clusters until
	// now. An aggregated stream has both.
	if len(b.announced) > 0 && sub.stream.url != "" {
		for _, st := range s.besides(sub.stream) {
			st.repeat(b)
			s.flush(st)
		}
	}
	return refused
}

// repeat marks the endpoints of the clusters in a response to be sent again, unless they
// came after that response on some stream already.
func (st *stream) repeat(b *batch) {
	sub := st.subs[endpoints]
	if sub == nil {
		return
	}
	for name := range b.announced {
		t := sub.table.topics[name]
		if e, _ := sub.entry(t); e.named {
			sub.mark(t, true)
		}
	}
}

// TypeStatus is what one stream holds of one type.
type TypeStatus struct {
	TypeURL   string    `json:"type_url"`
	Wildcard  bool      `json:"wildcard,omitempty"`
	Names     int       `json:"names"`             // subscribed by name
	Resources int       `json:"resources"`         // sent
	Version   string    `json:"version,omitempty"` // of the last response
	Acked     string    `json:"acked,omitempty"`   // of the last that the client accepted
	Waiting   int       `json:"waiting,omitempty"` // changes that wait until the client has answered
	NACKs     uint64    `json:"nacks,omitempty"`
	LastNACK  string    `json:"last_nack,omitempty"`
	NACKedAt  time.Time `json:"nacked_at,omitzero"`
	// Missing counts what it subscribes to by name and does not exist; the first of these
	// names are told, sorted.
	Missing      int      `json:"missing,omitempty"`
	MissingNames []string `json:"missing_names,omitempty"`
}

// maxMissing is how many names that do not exist are told.
const maxMissing = 10

// miss notes a name that does not exist.
func (t *TypeStatus) miss(name string) {
	t.Missing++
	if at, _ := slices.BinarySearch(t.MissingNames, name); at < maxMissing {
		t.MissingNames = slices.Insert(t.MissingNames, at, name)
		t.MissingNames = t.MissingNames[:min(len(t.MissingNames), maxMissing)]
	}
}

// ClientStatus is one stream, for an operator.
type ClientStatus struct {
	Node  string       `json:"node"`
	Kind  string       `json:"kind"`
	Zone  string       `json:"zone,omitempty"`
	Peer  string       `json:"peer,omitempty"`
	Delta bool         `json:"delta,omitempty"`
	Since time.Time    `json:"since"`
	Types []TypeStatus `json:"types,omitempty"`
}

// Clients lists the streams that have said who they are, by node id and age.
func (s *Server) Clients() []ClientStatus {
	s.mu.Lock()
	streams := slices.Collect(maps.Keys(s.streams))
	s.mu.Unlock()
	all := make([]ClientStatus, 0, len(streams))
	for _, st := range streams {
		if c, ok := s.client(st); ok {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b ClientStatus) int {
		if c := strings.Compare(a.Node, b.Node); c != 0 {
			return c
		}
		return a.Since.Compare(b.Since)
	})
	return all
}

// client describes one stream; false when it has ended, or not said who it is. The lock is held for one
// stream at a time, so that no push waits for the whole list.
func (s *Server) client(st *stream) (ClientStatus, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.streams[st]; !open || st.node == "" {
		return ClientStatus{}, false
	}
	c := ClientStatus{
		Node: st.node, Kind: st.view.Kind.String(), Zone: st.view.Zone,
		Peer: st.peer, Delta: st.delta, Since: st.since,
	}
	for _, sub := range st.subs {
		if sub == nil {
			continue
		}
		t := TypeStatus{
			TypeURL: typeURLs[sub.typ], Wildcard: sub.wildcard, Names: sub.byName.len(),
			Version: sub.version, Acked: sub.acked, Waiting: len(sub.moving),
			NACKs: sub.nacks, LastNACK: sub.lastNACK, NACKedAt: sub.nackedAt,
		}
		for _, topic := range sub.topics() {
			e, _ := sub.entry(topic)
			if e.sent != nil {
				t.Resources++
			}
			if s.ready && e.named && topic.in(st.view.Zone) == nil {
				t.miss(topic.name)
			}
		}
		c.Types = append(c.Types, t)
	}
	return c, true
}

// Stats counts what the server did since its start.
type Stats struct {
	Streams   int               // open now
	Opened    uint64            // streams
	Responses map[string]uint64 // sent, by type URL
	ACKs      map[string]uint64
	NACKs     map[string]uint64
	Refused   map[Fault]uint64 // streams, by what they were ended for
	Ignored   map[Fault]uint64 // requests, by what was wrong with them
}

// Stats counts what the server did.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	byURL := func(counts [numTypes]uint64) map[string]uint64 {
		return maps.Collect(func(yield func(string, uint64) bool) {
			for typ, n := range counts {
				if !yield(typeURLs[typ], n) {
					return
				}
			}
		})
	}
	return Stats{
		Streams: len(s.streams), Opened: s.opened,
		Responses: byURL(s.responses), ACKs: byURL(s.acks), NACKs: byURL(s.nacks),
		Refused: maps.Clone(s.refused), Ignored: maps.Clone(s.ignored),
	}
}
