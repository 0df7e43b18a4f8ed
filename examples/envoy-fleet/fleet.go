package main

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/test/envoy"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/plane"
	"github.com/overhear-mesh/overhear/test/trial"
	"github.com/overhear-mesh/overhear/xds/controlplane"
	"github.com/overhear-mesh/overhear/xds/registry"
)

//go:embed envoy.yaml
var bootstrap string

// fleet is everything that runs: the control plane and the backends in this process,
// Envoys in their own.
type fleet struct {
	plane    *plane.Plane // nil: nobody overhears
	backends []*fakeupstream.Backend
	entries  []string // where the Envoys listen
	running  sync.WaitGroup
	ends     []func() // what else must end, in reverse
	ledger   *trial.Ledger
	lookout  lookout
	timeout  time.Duration // of requests
}

// start starts everything and waits until each Envoy has endpoints and the control plane
// has heard of each.
func start(ctx context.Context, o options, s side, binary, dir string, l *trial.Ledger) (*fleet, error) {
	f := &fleet{ledger: l, timeout: o.timeout}
	if err := f.startAll(ctx, o, s, binary, dir); err != nil {
		f.stop()
		return nil, err
	}
	return f, nil
}

func (f *fleet) startAll(ctx context.Context, o options, s side, binary, dir string) error {
	for i := range o.backends {
		b, err := fakeupstream.Start(ctx, fakeupstream.Config{Name: name(i), Latency: 2 * time.Millisecond, Seed: uint64(i) + 1})
		if err != nil {
			return err
		}
		f.backends = append(f.backends, b)
		f.ends = append(f.ends, b.Close)
	}
	if s.detection == nil {
		if err := f.startControl(ctx); err != nil {
			return err
		}
	}
	for i := range o.envoys {
		if err := f.startEnvoy(ctx, i, s, binary, dir); err != nil {
			return err
		}
	}
	for _, entry := range f.entries {
		if err := trial.Wait(ctx, "an answer through each Envoy", func() error { return get(http.DefaultClient, "http://"+entry) }); err != nil {
			return err
		}
	}
	if s.detection != nil {
		return nil
	}
	return trial.Wait(ctx, "load reports of each Envoy", func() error {
		// What came before the control plane knew that an Envoy has the endpoints was not believed.
		for _, entry := range f.entries {
			if err := get(http.DefaultClient, "http://"+entry); err != nil {
				return err
			}
		}
		return f.plane.Heard(o.envoys)
	})
}

func name(i int) string { return fmt.Sprintf("api-%d", i+1) }

// startControl runs a control plane that knows the backends.
func (f *fleet) startControl(ctx context.Context) error {
	s := registry.NewService("api")
	for i, b := range f.backends {
		s.Endpoints = append(s.Endpoints, registry.Endpoint{Address: netip.MustParseAddrPort(b.Addr()), Instance: name(i), Zone: "a", Weight: 1})
	}
	p, err := plane.Start(controlplane.DefaultConfig(), controlplane.Options{Version: "envoy-fleet"}, s)
	if err != nil {
		return err
	}
	f.plane = p
	ctx, cancel := context.WithCancel(ctx)
	f.running.Go(func() { p.Verdicts(ctx, f.ledger.Verdict) })
	f.ends = append(f.ends, func() {
		cancel()
		_ = p.Stop() // what it was to show has been seen
	})
	return nil
}

// bootstrapOf is what one Envoy is started with.
func (f *fleet) bootstrapOf(id string, s side) (string, error) {
	values := map[string]string{"NAME": id, "ZONE": "a", "MACHINE": "host-" + id, "TIMEOUT": f.timeout.String()}
	fill := func(key string) string { return values[key] }
	if s.detection != nil {
		values["CONTROL_HOST"], values["CONTROL_PORT"] = "127.0.0.1", "1" // nobody's; it is left out
		var addresses []string
		for _, b := range f.backends {
			addresses = append(addresses, b.Addr())
		}
		return alone(os.Expand(bootstrap, fill), s.detection, addresses)
	}
	host, port, err := net.SplitHostPort(f.plane.XDS)
	if err != nil {
		return "", err
	}
	values["CONTROL_HOST"], values["CONTROL_PORT"] = host, port
	return os.Expand(bootstrap, fill), nil
}

// startEnvoy runs one Envoy with the bootstrap of this example, and looks at what it does.
func (f *fleet) startEnvoy(ctx context.Context, i int, s side, binary, dir string) error {
	id := fmt.Sprintf("envoy-%d", i+1)
	text, err := f.bootstrapOf(id, s)
	if err != nil {
		return err
	}
	home := filepath.Join(dir, id)
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	p, end, err := envoy.Launch(binary, home, text)
	if err != nil {
		return err
	}
	f.ends = append(f.ends, end)
	entry, err := p.Listener("in")
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	if entry == "" {
		return fmt.Errorf("%s does not listen", id)
	}
	f.entries = append(f.entries, entry)
	names := map[string]string{}
	for i, b := range f.backends {
		names[b.Addr()] = name(i)
	}
	ctx, cancel := context.WithCancel(ctx)
	f.running.Go(func() { f.lookout.watch(ctx, i, p, names) })
	f.ends = append(f.ends, cancel)
	return nil
}

// stop ends everything.
func (f *fleet) stop() {
	for i := len(f.ends) - 1; i >= 0; i-- {
		f.ends[i]()
	}
	f.running.Wait()
}
