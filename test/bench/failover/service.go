package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
)

// service is the backends, and the relays before the first of them where the fault is one
// of the network.
type service struct {
	setting
	scenario
	backends  []*fakeupstream.Backend
	relays    []*relay
	endpoints []endpoint // as callers are told them
	// stop ends a rolling restart, and tells what went wrong in it; nil: there is none.
	stop func() error
}

func startService(ctx context.Context, p product, s scenario, t setting) (*service, error) {
	v := &service{setting: t, scenario: s}
	v.RPC = v.RPC || p.library != ""
	for i := range t.Endpoints {
		if err := v.add(ctx, i); err != nil {
			v.close()
			return nil, err
		}
	}
	return v, nil
}

func (v *service) add(ctx context.Context, i int) error {
	name := nameOf(i)
	cfg := fakeupstream.Config{Name: name, Latency: v.Latency, Seed: rand.Uint64(), HTTP2: v.HTTP2}
	if v.RPC {
		cfg.HTTP2, cfg.Handler, cfg.Failure = true, answerRPC(codes.OK, true), answerRPC(codes.Unavailable, !v.mute)
	}
	b, err := fakeupstream.Start(ctx, cfg)
	if err != nil {
		return err
	}
	v.backends = append(v.backends, b)
	address := b.Addr()
	if v.cut != (cut{}) && v.takes(i) {
		r, err := startRelay(address)
		if err != nil {
			return err
		}
		v.relays = append(v.relays, r)
		address = r.addr()
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	e := endpoint{Name: name, Address: address, Host: host, Port: port, Zone: fmt.Sprint("z", 1+i/endpointsOfZone), Version: "v1"}
	if v.canary && v.takes(i) {
		e.Version = "v2"
	}
	v.endpoints = append(v.endpoints, e)
	return b.Set(v.usual(fakeupstream.Fault{}))
}

// harm brings the fault.
func (v *service) harm(ctx context.Context, f *fleet) error {
	for _, r := range v.relays {
		hit := func(net.Conn) bool { return true }
		if v.callers != everyone {
			hit = func(c net.Conn) bool { return f.isFrom(v.callers, c) }
		}
		if err := r.set(ctx, v.cut, hit); err != nil {
			return fmt.Errorf("a relay brings no fault: %w", err)
		}
	}
	if v.rolling {
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- v.roll(ctx) }()
		v.stop = func() error { cancel(); return <-ended }
		return nil
	}
	fault := v.usual(v.faultAt(v.setting))
	for i, b := range v.backends {
		if v.takes(i) {
			if err := b.Set(fault); err != nil {
				return err
			}
		}
	}
	return nil
}

// roll restarts one endpoint after the other, until ctx ends.
func (v *service) roll(ctx context.Context) error {
	began := time.Now()
	for _, r := range v.restarts(v.setting) {
		if wait := time.Until(began.Add(r.after)); wait > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
		if err := v.backends[r.backend].Set(v.usual(r.fault)); err != nil {
			return fmt.Errorf("backend %d is not restarted: %w", r.backend, err)
		}
	}
	return nil
}

// stopped waits for the end of what harm has begun.
func (v *service) stopped() error {
	if v.stop == nil {
		return nil
	}
	defer func() { v.stop = nil }()
	return v.stop()
}

// heal ends it.
func (v *service) heal(f *fleet) error {
	if err := v.stopped(); err != nil {
		return err
	}
	for _, r := range v.relays {
		if err := r.heal(); err != nil {
			return fmt.Errorf("a relay does not come back: %w", err)
		}
	}
	for _, b := range v.backends {
		if err := b.Set(v.usual(fakeupstream.Fault{})); err != nil {
			return fmt.Errorf("a backend does not come back: %w", err)
		}
	}
	if v.reused {
		return f.replace(0)
	}
	return nil
}

// pings are requests for health, and connections without a word.
func (v *service) pings() (n int) {
	for _, b := range v.backends {
		c := b.Counts()
		n += c.Pings + c.Silent
	}
	return n
}

func (v *service) close() {
	_ = v.stopped() // heal has told what it says, or the run has ended for another reason
	for _, r := range v.relays {
		r.close()
	}
	for _, b := range v.backends {
		b.Close()
	}
}
