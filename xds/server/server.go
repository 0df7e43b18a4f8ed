// Package server serves xDS to sidecars, Envoys and gRPC clients.
package server

import (
	"log/slog"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// Config bounds what a client may ask for.
type Config struct {
	MaxNames int `yaml:"max_names"` // resource names that one stream may subscribe to, for each type
}

// DefaultConfig returns the bounds for a fleet of ordinary size.
func DefaultConfig() Config { return Config{MaxNames: 100_000} }

// Validate says what is wrong with the configuration.
func (c Config) Validate() error { return nil }

// Server keeps the resources of every view and the streams of every client.
// All methods may be called from any goroutine.
type Server struct {
	cfg Config
	log *slog.Logger
}

// New returns a server that answers nothing until Ready was called.
func New(cfg Config, log *slog.Logger) *Server { return &Server{cfg: cfg, log: log} }

// Register adds ADS and the streams of each type to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {}

// Change sets or removes one resource of one view.
type Change struct {
	View    resource.View
	TypeURL string // one of resource.Type…
	Name    string
	Message proto.Message // nil removes; never changed after it was handed over
}

// Apply makes all changes and then pushes, so that a client gets what belongs
// together at once. A view with a zone holds what differs from the view of the
// same kind without a zone. A Change whose content is what the view holds already
// pushes nothing.
func (s *Server) Apply(changes ...Change) error { return nil }

// SetResources makes the resources of one type and view exactly those given,
// by name.
func (s *Server) SetResources(v resource.View, typeURL string, all map[string]proto.Message) error {
	return nil
}

// SetEndpoints sets one assignment of a view; nil removes it.
func (s *Server) SetEndpoints(v resource.View, name string, m *endpointv3.ClusterLoadAssignment) error {
	return nil
}

// Ready opens the gate: before it, requests are noted and not answered. An Envoy
// keeps what it has while a server is silent, and drops all of it when a server
// answers with an empty world.
func (s *Server) Ready() {}

// Sent says whether a client with that node id has acknowledged endpoints of the
// service.
func (s *Server) Sent(node, service string) bool { return false }

// ClientStatus is one stream, for an operator.
type ClientStatus struct {
	Node  string       `json:"node"`
	Kind  string       `json:"kind"`
	Zone  string       `json:"zone,omitempty"`
	Peer  string       `json:"peer"`
	Delta bool         `json:"delta"`
	Since time.Time    `json:"since"`
	Types []TypeStatus `json:"types"`
}

// TypeStatus is what one stream holds of one type.
type TypeStatus struct {
	TypeURL   string    `json:"type_url"`
	Wildcard  bool      `json:"wildcard,omitempty"`
	Names     int       `json:"names"`     // subscribed by name
	Resources int       `json:"resources"` // sent
	Version   string    `json:"version"`   // of the last response
	Acked     string    `json:"acked"`     // the last version that the client accepted
	Waiting   int       `json:"waiting"`   // changes that wait for the client to acknowledge
	NACKs     uint64    `json:"nacks"`
	LastNACK  string    `json:"last_nack,omitempty"`
	NACKedAt  time.Time `json:"nacked_at,omitzero"`
}

// Clients lists the streams, by node id.
func (s *Server) Clients() []ClientStatus { return nil }

// Stats counts since the start.
type Stats struct {
	Streams   int               // open now
	Opened    uint64            // streams
	Responses map[string]uint64 // sent, by type URL
	ACKs      map[string]uint64
	NACKs     map[string]uint64
	Resources map[string]int // held, by type URL, each distinct content once
}

// Stats counts what the server did.
func (s *Server) Stats() Stats { return Stats{} }
