// Package plane runs a control plane in this process but on sockets of loopback, for
// clients that are processes of their own or open their own connections. Whatever else
// needs a control plane can have one on package pipenet.
package plane

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/overhear-mesh/overhear/xds/controlplane"
	"github.com/overhear-mesh/overhear/xds/registry"
)

// Plane is a control plane that runs.
type Plane struct {
	XDS, HTTP string             // where it listens
	Registry  *registry.Registry // what it knows of services

	cancel context.CancelFunc
	ended  chan struct{}
	err    error // of Run; to be read when ended is closed
}

// Start runs a control plane of these services, and waits until it answers. Ports, and how
// long it waits for those who might come back to it, are not the configuration's to say.
func Start(cfg controlplane.Config, opts controlplane.Options, services ...registry.Service) (*Plane, error) {
	cfg.XDS, cfg.HTTP, cfg.ReturnWait = "127.0.0.1:0", "127.0.0.1:0", 0
	addresses := make(chan string, 2) // xDS comes first
	opts.Registry = registry.Static(&registry.Mesh{Services: services})
	opts.Listen = func(ctx context.Context, network, address string) (net.Listener, error) {
		lis, err := new(net.ListenConfig).Listen(ctx, network, address)
		if err == nil {
			addresses <- lis.Addr().String()
		}
		return lis, err
	}
	cp, err := controlplane.New(cfg, opts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Plane{Registry: opts.Registry, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.err = cp.Run(ctx)
	}()
	select {
	case <-cp.Opened():
	case <-p.ended:
		cancel()
		return nil, errors.Join(errors.New("the control plane does not start"), p.err)
	}
	p.XDS, p.HTTP = <-addresses, <-addresses
	return p, nil
}

// Stop ends it, and waits until it has.
func (p *Plane) Stop() error {
	p.cancel()
	<-p.ended
	return p.err
}

// Ask reads one page of its API.
func (p *Plane) Ask(path string, into any) error {
	res, err := http.Get("http://" + p.HTTP + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(path + ": " + res.Status)
	}
	return json.NewDecoder(res.Body).Decode(into)
}

// Heard is an error until it has heard of so many that report.
func (p *Plane) Heard(reporters int) error {
	var all controlplane.Reporters
	if err := p.Ask("/api/v1/reporters", &all); err != nil {
		return err
	}
	heard := 0
	for _, r := range all.Reporters {
		if r.Live && r.Accepted > 0 {
			heard++
		}
	}
	if heard < reporters {
		return fmt.Errorf("%d of %d report", heard, reporters)
	}
	return nil
}

// Verdicts tells its verdicts, one after another, until ctx or the plane ends.
func (p *Plane) Verdicts(ctx context.Context, tell func(controlplane.Event)) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.HTTP+"/api/v1/events?follow=true", nil)
	if err != nil {
		return
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return // one of them has ended
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		var e controlplane.Event
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Kind == "verdict" {
			tell(e)
		}
	}
}
