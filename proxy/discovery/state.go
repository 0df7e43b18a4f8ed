package discovery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/overhear-mesh/overhear/xds/resource"
)

const (
	stateFile   = "resources.json"
	stateFormat = 1
	stateMax    = 256 << 20
	// stateDelay gathers the changes that come together, such as all first
	// answers after a start, into one write.
	stateDelay = time.Second
)

// state is what a sidecar needs to serve while its control plane is away.
type state struct {
	Saved     time.Time
	Clusters  []*clusterv3.Cluster
	Endpoints []resource.Endpoints
	Listeners []*listenerv3.Listener
	Routes    []*routev3.RouteConfiguration
}

// envelope is the file. Resources is kept as it is written, so that its sum can
// be checked before anything in it is believed.
type envelope struct {
	Format    int             `json:"format"`
	Saved     time.Time       `json:"saved"`
	SHA256    string          `json:"sha256"`
	Resources json.RawMessage `json:"resources"`
}

// resources are xDS messages in their JSON form: what is read back goes through
// the same checks as what comes over the wire.
type resources struct {
	Clusters  []json.RawMessage `json:"clusters"`
	Endpoints []json.RawMessage `json:"endpoints"`
	// Listeners and Routes are not in JSON: what is harmless in them may be of types
	// that this program does not know.
	Listeners [][]byte `json:"listeners,omitempty"`
	Routes    [][]byte `json:"routes,omitempty"`
}

func encodeState(s state) ([]byte, error) {
	var r resources
	for _, c := range s.Clusters {
		m, err := protojson.Marshal(c)
		if err != nil {
			return nil, fmt.Errorf("cluster %q: %w", c.GetName(), err)
		}
		r.Clusters = append(r.Clusters, m)
	}
	for _, e := range s.Endpoints {
		m, err := protojson.Marshal(resource.EncodeEndpoints(e, resource.Overhear))
		if err != nil {
			return nil, fmt.Errorf("endpoints of %q: %w", e.Service, err)
		}
		r.Endpoints = append(r.Endpoints, m)
	}
	var errL, errR error
	r.Listeners, errL = marshalAll(s.Listeners)
	r.Routes, errR = marshalAll(s.Routes)
	if err := errors.Join(errL, errR); err != nil {
		return nil, err
	}
	body, err := json.Marshal(r) // compact: as it will stand in the envelope
	if err != nil {
		return nil, err
	}
	return json.Marshal(envelope{Format: stateFormat, Saved: s.Saved.UTC(), SHA256: sum(body), Resources: body})
}

// decodeState reads what encodeState wrote; half a state is none.
func decodeState(data []byte) (state, error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return state{}, err
	}
	if e.Format != stateFormat {
		return state{}, fmt.Errorf("format %d, want %d", e.Format, stateFormat)
	}
	if got := sum(e.Resources); got != e.SHA256 {
		return state{}, fmt.Errorf("sha256 of the resources is %s, written as %q", got, e.SHA256)
	}
	var r resources
	if err := json.Unmarshal(e.Resources, &r); err != nil {
		return state{}, err
	}
	s := state{Saved: e.Saved}
	var errC, errL, errR error
	s.Clusters, errC = unmarshalAll[*clusterv3.Cluster](r.Clusters, protojson.Unmarshal)
	assignments, errE := unmarshalAll[*endpointv3.ClusterLoadAssignment](r.Endpoints, protojson.Unmarshal)
	s.Listeners, errL = unmarshalAll[*listenerv3.Listener](r.Listeners, proto.Unmarshal)
	s.Routes, errR = unmarshalAll[*routev3.RouteConfiguration](r.Routes, proto.Unmarshal)
	if err := errors.Join(errC, errE, errL, errR); err != nil {
		return state{}, err
	}
	for _, m := range assignments {
		e, err := resource.DecodeEndpoints(m)
		if err != nil {
			return state{}, err
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s, nil
}

func marshalAll[M proto.Message](all []M) ([][]byte, error) {
	var out [][]byte
	for _, m := range all {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// unmarshalAll reads messages of one type in either form.
func unmarshalAll[M proto.Message, B ~[]byte](all []B, unmarshal func([]byte, proto.Message) error) ([]M, error) {
	var out []M
	for i, b := range all {
		var none M
		m := none.ProtoReflect().New().Interface().(M)
		if err := unmarshal(b, m); err != nil {
			return nil, fmt.Errorf("resource %d: %w", i, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// restore serves from the state directory until the control plane answers.
func (d *Discovery) restore() {
	if d.cfg.StateDir == "" {
		return
	}
	path := filepath.Join(d.cfg.StateDir, stateFile)
	s, err := readState(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			d.deps.Log.Error("saved resources are not usable, ignored", slog.String("file", path), slog.Any("error", err))
		}
		return
	}
	defer d.retryListeners()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range s.Endpoints {
		d.assigned[a.Service] = a
	}
	for _, m := range s.Clusters {
		c, err := newRemote(m)
		if err != nil {
			d.deps.Log.Error("saved cluster is not usable, ignored", slog.Any("error", err))
			continue
		}
		e := d.entryLocked(c.Config.Name)
		e.remote, e.saved = c, true
		d.settleLocked(e)
	}
	d.restoreListenersLocked(s)
	d.source, d.saved = Saved, s.Saved
	d.becomeReadyLocked()
	d.deps.Log.Info("serving from saved resources until the control plane answers",
		slog.String("file", path), slog.Duration("age", time.Since(s.Saved).Round(time.Second)),
		slog.Int("clusters", len(s.Clusters)))
}

// dropUnconfirmed lets those saved clusters go that the control plane does not
// have any more. It does not say so, because it does not know what was saved; and
// its first answer may come in parts, so they get as long as any resource that
// was asked for.
func (d *Discovery) dropUnconfirmed(ctx context.Context) {
	select {
	case <-d.answered:
	case <-ctx.Done():
		return
	}
	select {
	case <-time.After(d.cfg.XDS.Missing):
	case <-ctx.Done():
		return
	}
	defer d.retryListeners()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.entries {
		if e.saved {
			d.forgetLocked(e, "saved cluster is not known to the control plane, dropped")
		}
	}
	d.dropUnusedLocked()
	for name, l := range d.listeners {
		if l.saved {
			delete(d.listeners, name)
			d.deps.Log.Info("saved listener is not known to the control plane, dropped", "listener", name)
		}
	}
	d.heardLocked()
}

func readState(path string) (state, error) {
	f, err := os.Open(path)
	if err != nil {
		return state{}, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return state{}, err
	}
	if info.Size() > stateMax {
		return state{}, fmt.Errorf("%d bytes, want at most %d", info.Size(), stateMax)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return state{}, err
	}
	return decodeState(data)
}

// keepState writes the state whenever it has changed, until ctx ends; what
// changed last is written then.
func (d *Discovery) keepState(ctx context.Context) {
	for last := false; !last; {
		select {
		case <-d.changed:
			select {
			case <-time.After(stateDelay):
			case <-ctx.Done():
				last = true
			}
		case <-ctx.Done():
			last = true
			select {
			case <-d.changed:
			default:
				return
			}
		}
		if err := d.save(); err != nil {
			d.deps.Log.Error("resources not saved", slog.Any("error", err))
		}
	}
}

func (d *Discovery) save() error {
	data, err := encodeState(d.accepted())
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(d.cfg.StateDir, stateFile), data)
}

// accepted is what the control plane said last, in an order of its own.
func (d *Discovery) accepted() state {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := state{Saved: time.Now()}
	for _, name := range slices.Sorted(maps.Keys(d.entries)) {
		if remote := d.entries[name].remote; remote != nil {
			s.Clusters = append(s.Clusters, keptOf(remote.message))
		}
	}
	for _, service := range slices.Sorted(maps.Keys(d.assigned)) {
		s.Endpoints = append(s.Endpoints, d.assigned[service])
	}
	for _, name := range slices.Sorted(maps.Keys(d.listeners)) {
		s.Listeners = append(s.Listeners, d.listeners[name].message)
	}
	for _, name := range slices.Sorted(maps.Keys(d.routes)) {
		s.Routes = append(s.Routes, d.routes[name].message)
	}
	return s
}

// keptOf is a cluster without what others write into its metadata, which may be of
// types that this program does not know.
func keptOf(m *clusterv3.Cluster) *clusterv3.Cluster {
	c := proto.CloneOf(m)
	own := m.GetMetadata().GetTypedFilterMetadata()[resource.MetadataKey]
	if c.Metadata = nil; own != nil {
		c.Metadata = &corev3.Metadata{TypedFilterMetadata: map[string]*anypb.Any{resource.MetadataKey: own}}
	}
	return c
}

// writeFile puts data in the place of the file at path, so that whoever reads it
// at any time, also after a power cut, finds the old or the new one whole.
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = io.Copy(f, bytes.NewReader(data))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	// The rename itself is on disk when the directory is.
	parent, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}
