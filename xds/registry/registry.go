package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookEvery is how often Run looks at the file. It reads the bytes and does
	// not ask for the modification time: a mesh file is small and in the page
	// cache, and two writes within one tick of the file system's clock have the
	// same time.
	lookEvery = time.Second
	// settle is how long a new content must stand unchanged before it is
	// believed: half of a file that is just being written can be a valid mesh
	// that lacks its last endpoints.
	settle = 100 * time.Millisecond
	// maxFile bounds a mesh file; 100 000 endpoints with labels fit.
	maxFile = 64 << 20
)

// Decode turns the bytes of a mesh file into a mesh. name is for error messages.
type Decode func(name string, data []byte) (*Mesh, error)

// Registry holds the current mesh and says when there is another one.
type Registry struct {
	path    string // "" for a static registry
	decode  Decode
	log     *slog.Logger
	current atomic.Pointer[Mesh]
	changed chan struct{} // capacity 1: a receipt means "look again"
	reload  chan struct{} // capacity 1

	content []byte // of the file that runs; only Run touches it after Open
	refused string // of the file that was refused last, or why it was not read

	mu     sync.Mutex
	status Status // guarded by mu
}

// Status says what a registry runs on and whether its last reload worked.
type Status struct {
	Path     string    `json:"path,omitempty"` // empty: no file
	Loaded   time.Time `json:"loaded"`         // when the current mesh was accepted
	Loads    uint64    `json:"loads"`          // meshes accepted
	Failures uint64    `json:"failures"`       // files refused
	// LastError is every problem of the file as it is on disk; empty when that
	// file is what runs.
	LastError string    `json:"last_error,omitempty"`
	FailedAt  time.Time `json:"failed_at,omitzero"`
}

// Static returns a registry without a file: only Set changes it.
func Static(m *Mesh) *Registry {
	r := &Registry{changed: make(chan struct{}, 1), reload: make(chan struct{}, 1), log: slog.New(slog.DiscardHandler)}
	r.accept(m)
	return r
}

// Open reads the mesh file and returns a registry that Run keeps current. A
// file that is refused here is an error: there is no mesh of before to keep.
func Open(path string, decode Decode, log *slog.Logger) (*Registry, error) {
	content, err := read(path)
	if err != nil {
		return nil, err
	}
	m, err := decode(path, content)
	if err != nil {
		return nil, err
	}
	r := Static(m)
	r.path, r.decode, r.log, r.content = path, decode, log, content
	r.status.Path = path
	return r, nil
}

// Current is the newest mesh that was accepted. It must not be changed.
func (r *Registry) Current() *Mesh { return r.current.Load() }

// Changed receives after Current has changed; several changes may be one
// receipt. It has one reader.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// Set makes m current. The caller gives m away.
func (r *Registry) Set(m *Mesh) {
	r.accept(m)
	select {
	case r.changed <- struct{}{}:
	default: // the reader has not yet looked: it will see this mesh
	}
}

func (r *Registry) accept(m *Mesh) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current.Store(m)
	r.status.Loads++
	r.status.Loaded = time.Now()
	r.status.LastError, r.status.FailedAt = "", time.Time{}
}

// Status says what the registry runs on. Any goroutine may ask.
func (r *Registry) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Reload asks Run to read the file now, also when its content is the one that
// was refused before. It does not wait.
func (r *Registry) Reload() {
	select {
	case r.reload <- struct{}{}:
	default: // one is already asked for
	}
}

// Run looks at the file each second, and at once when Reload was called, until
// ctx ends. It returns nil.
func (r *Registry) Run(ctx context.Context) error {
	if r.path == "" {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.reload:
			r.refused = ""
		}
		r.look(ctx)
	}
}

// look reads the file and takes over what is new in it.
func (r *Registry) look(ctx context.Context) {
	content, err := read(r.path)
	if r.known(content, err) {
		return
	}
	if err == nil {
		content, err = r.settled(ctx, content)
	}
	if ctx.Err() != nil || r.known(content, err) {
		return
	}
	if err != nil {
		r.refuse(err.Error(), err)
		return
	}
	m, err := r.decode(r.path, content)
	if err != nil {
		r.refuse(string(content), err)
		return
	}
	r.content, r.refused = content, ""
	r.Set(m)
	r.log.LogAttrs(ctx, slog.LevelInfo, "mesh file loaded", slog.String("path", r.path),
		slog.Int("services", len(m.Services)), slog.Int("endpoints", m.Len()))
}

// known says whether what was read is what runs, or what was refused already.
func (r *Registry) known(content []byte, err error) bool {
	switch {
	case err != nil:
		return r.refused == err.Error()
	case bytes.Equal(content, r.content):
		r.refused = ""
		r.restored()
		return true
	}
	return r.refused != "" && r.refused == string(content)
}

// settled waits until two readings of the file are the same.
func (r *Registry) settled(ctx context.Context, content []byte) ([]byte, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(settle):
		}
		again, err := read(r.path)
		if err != nil || bytes.Equal(again, content) {
			return again, err
		}
		content = again
	}
}

// refuse keeps what runs and says why. mark is what makes the same refusal
// known again.
func (r *Registry) refuse(mark string, err error) {
	r.refused = mark
	r.mu.Lock()
	r.status.Failures++
	r.status.LastError, r.status.FailedAt = err.Error(), time.Now()
	r.mu.Unlock()
	r.log.Error("mesh file refused, the one of before stays in force", "path", r.path, "problems", err.Error())
}

// restored notes that the file on disk is again what runs.
func (r *Registry) restored() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.LastError, r.status.FailedAt = "", time.Time{}
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("%s: larger than %d MiB", path, maxFile>>20)
	}
	return content, nil
}
