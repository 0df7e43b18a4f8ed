package main

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"text/template"
	"time"

	"github.com/overhear-mesh/overhear/test/envoy"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	program "github.com/overhear-mesh/overhear/test/process"
)

//go:embed products/*
var configurations embed.FS

// product is what stands between the users and the service.
type product struct {
	name   string
	config string // file in products/; "": callers choose by themselves
	find   func(dir string) (string, error)
	args   func(s site) []string
	says   []string // arguments that make it tell its version
	tune   func(s *site)
	counts saying // of what it takes out, by its own word
	plane  bool   // with Overhear's control plane
	http1  bool   // what it asks endpoints is a request of HTTP/1.1
	http2  bool   // many requests share a connection to an endpoint, over HTTP/2
	// library is a file in products/ where callers do without a proxy, by gRPC's client.
	library string
}

// site fills the configuration of one proxy.
type site struct {
	Index                          int
	Zone                           string // of the caller
	Dir, Config                    string
	Listen, ListenHost, ListenPort string
	Admin, AdminHost, AdminPort    string
	Control                        string // where the control plane serves xDS; "": there is none
	Endpoints                      []endpoint
	TimeoutMS, TryMS               int64 // of a request, and where there are retries of an attempt
	TimeoutSeconds, TrySeconds     float64
	Retries, RoundRobin            bool
	Detects, Tuned, Eager          bool
	Checks, HTTP2, RPC             bool
}

type endpoint struct{ Name, Address, Host, Port, Zone, Version string }

// none is the way without a proxy: callers go round by themselves.
const none = "none"

func products() []product {
	sidecar := product{config: "overhear.yaml", http2: true, find: command("sidecar"), args: func(s site) []string { return []string{"run", "-c", s.Config} }, says: []string{"version"}, counts: sidecarSays}
	envoyed := product{
		config: "envoy.yaml", http2: true, find: func(string) (string, error) { return envoy.Locate() }, says: []string{"--version"}, counts: envoySays,
		args: func(s site) []string {
			return []string{"-c", s.Config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"}
		},
	}
	nginx := product{config: "nginx.conf", find: onPath("nginx"), says: []string{"-v"}, args: func(s site) []string { return []string{"-c", s.Config, "-e", "/dev/null"} }}
	as := func(p product, name string, tune func(*site)) product {
		p.name, p.tune = name, tune
		return p
	}
	fleet := sidecar
	fleet.plane = true
	checking := fleet
	checking.http1 = true
	haproxy := product{config: "haproxy.cfg", http2: true, find: onPath("haproxy"), says: []string{"-v"}, counts: haproxySays, args: func(s site) []string { return []string{"-db", "-f", s.Config} }}
	rr := func(more func(*site)) func(*site) {
		return func(s *site) {
			s.RoundRobin = true
			if more != nil {
				more(s)
			}
		}
	}
	tuned, eager := func(s *site) { s.Tuned = true }, func(s *site) { s.Eager = true }
	return []product{
		as(fleet, "overhear", nil),
		as(fleet, "overhear rr", rr(nil)),
		as(checking, "overhear checks", func(s *site) { s.Checks = true }),
		as(sidecar, "overhear alone", nil),
		as(sidecar, "overhear alone rr", rr(nil)),
		as(sidecar, "overhear off", func(s *site) { s.Detects = false }),
		as(envoyed, "envoy", nil),
		as(envoyed, "envoy rr", rr(nil)),
		as(envoyed, "envoy tuned", tuned),
		as(envoyed, "envoy tuned rr", rr(tuned)),
		as(envoyed, "envoy eager", eager),
		as(envoyed, "envoy eager rr", rr(eager)),
		as(envoyed, "envoy tuned+checks", func(s *site) { s.Tuned, s.Checks = true, true }),
		as(haproxy, "haproxy", nil),
		as(haproxy, "haproxy rr", rr(nil)),
		as(haproxy, "haproxy tuned", tuned),
		as(haproxy, "haproxy tuned rr", rr(tuned)),
		as(nginx, "nginx", nil),
		as(nginx, "nginx rr", rr(nil)),
		as(nginx, "nginx 5xx", tuned),
		{name: "grpc", library: "grpc.json", http2: true},
		{name: "grpc tuned", library: "grpc.json", http2: true, tune: tuned},
		{name: "grpc eager", library: "grpc.json", http2: true, tune: eager},
		{name: none},
	}
}

// abstains says why a product cannot be part of a scenario; "": it can.
func (p product) abstains(s scenario) string {
	switch {
	case p.library != "" && s.fault.Body != fakeupstream.Whole:
		return "an answer that is cut in its body is one of HTTP/1.1, which gRPC takes for a wrong server at once"
	case p.http1 && (s.rpc || s.streams > 0):
		return "its ping is a request of HTTP/1.1"
	case s.rpc && !p.http2:
		return "it speaks HTTP/1.1 to endpoints"
	case s.streams > 0 && !p.http2:
		return "each connection to an endpoint carries one request at a time"
	}
	return ""
}

// command builds one of ours, once per run of the benchmark.
func command(name string) func(string) (string, error) {
	return func(dir string) (string, error) { return program.Build(dir, name) }
}

func onPath(name string) func(string) (string, error) {
	return func(string) (string, error) { return exec.LookPath(name) }
}

// write fills a configuration of products/ and returns where it lies.
func (s *site) write(name string) (err error) {
	for address, parts := range map[*string][2]*string{&s.Listen: {&s.ListenHost, &s.ListenPort}, &s.Admin: {&s.AdminHost, &s.AdminPort}} {
		if *address, err = program.FreeAddress(); err != nil {
			return err
		}
		if *parts[0], *parts[1], err = net.SplitHostPort(*address); err != nil {
			return err
		}
	}
	return s.fill(name)
}

// fill is write with the addresses that there are, at once for who watches the file.
func (s *site) fill(name string) error {
	text, err := template.ParseFS(configurations, "products/"+name)
	if err != nil {
		return err
	}
	var filled bytes.Buffer
	if err := text.Execute(&filled, s); err != nil {
		return err
	}
	s.Config = filepath.Join(s.Dir, name)
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(s.Config+".new", filled.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(s.Config+".new", s.Config)
}

// fleet is the proxies of one product that run.
type fleet struct {
	proxies []*program.Process
	entries []string // where they listen
	control *program.Process
	mesh    *site  // the control plane's
	api     string // where it is asked; "": there is none
	admins  []string
	counts  saying
}

// startFleet starts a product's proxies, and waits until each gets an answer.
func startFleet(ctx context.Context, p product, bin, dir string, t setting, endpoints []endpoint) (*fleet, error) {
	f := &fleet{counts: p.counts}
	if p.config == "" {
		return f, nil
	}
	path, err := p.find(bin)
	if err != nil {
		return nil, err
	}
	base := site{
		Endpoints: endpoints, TimeoutMS: t.Timeout.Milliseconds(), TimeoutSeconds: t.Timeout.Seconds(),
		TryMS: t.Timeout.Milliseconds() / 3, TrySeconds: t.Timeout.Seconds() / 3,
		Retries: t.Retries, Detects: true, HTTP2: t.HTTP2, RPC: t.RPC,
	}
	if p.tune != nil {
		p.tune(&base)
	}
	if p.plane {
		if err := f.startControl(ctx, bin, filepath.Join(dir, "control"), &base); err != nil {
			f.stop()
			return nil, err
		}
	}
	for i := range t.Proxies {
		s := base
		s.Index, s.Zone, s.Dir = i, fmt.Sprint("z", i/callersOfZone(t.Proxies)), filepath.Join(dir, fmt.Sprint(i))
		if err := f.startProxy(p, path, s); err != nil {
			f.stop()
			return nil, fmt.Errorf("proxy %d: %w", i, err)
		}
	}
	for i := range t.Proxies {
		if err := f.ready(ctx, p, t, i); err != nil {
			f.stop()
			return nil, fmt.Errorf("proxy %d: %w", i, err)
		}
	}
	return f, nil
}

func (f *fleet) startProxy(p product, path string, s site) error {
	if err := s.write(p.config); err != nil {
		return err
	}
	// One thread each: there are many of them.
	run, err := program.Start(append([]string{path}, p.args(s)...), []string{"GOMAXPROCS=1"})
	if err != nil {
		return err
	}
	f.proxies, f.entries, f.admins = append(f.proxies, run), append(f.entries, s.Listen), append(f.admins, s.Admin)
	return nil
}

// ready waits until a proxy passes an answer on.
func (f *fleet) ready(ctx context.Context, p product, t setting, i int) error {
	g := &generator{setting: t, product: p, entries: f.entries}
	return f.proxies[i].Wait(ctx, 20*time.Millisecond, func(context.Context) error {
		c, err := g.caller(i)
		if err != nil {
			return err
		}
		defer c.close()
		if _, why := c.get("/ready", time.Second); why != "" {
			return fmt.Errorf("asked for an answer: %s", why)
		}
		return nil
	})
}

func (f *fleet) startControl(ctx context.Context, bin, dir string, base *site) error {
	path, err := command("controlplane")(bin)
	if err != nil {
		return err
	}
	s := *base
	s.Dir = dir
	if s.Control, err = program.FreeAddress(); err != nil {
		return err
	}
	if err := s.write("controlplane.yaml"); err != nil {
		return err
	}
	f.control, err = program.Start([]string{path, "run", "-c", s.Config}, []string{"GOMAXPROCS=1"})
	if err != nil {
		return err
	}
	f.mesh, f.api, base.Control = &s, s.Admin, s.Control
	return f.control.Wait(ctx, 20*time.Millisecond, func(context.Context) error {
		var c client
		defer c.close()
		if _, why := c.get(f.api, "/ready", time.Second); why != "" {
			return fmt.Errorf("the control plane: %s", why)
		}
		return nil
	})
}

// replace tells the control plane, if there is one, that another process serves at the
// address of an endpoint.
func (f *fleet) replace(endpoint int) error {
	if f.mesh == nil {
		return nil
	}
	f.mesh.Endpoints = slices.Clone(f.mesh.Endpoints)
	f.mesh.Endpoints[endpoint].Name += "-new"
	return f.mesh.fill("controlplane.yaml")
}

// behead kills the control plane, if there is one.
func (f *fleet) behead() {
	if f.control != nil {
		f.control.Kill()
		f.control, f.api = nil, ""
	}
}

// alive says which process has ended by itself, and what it said last; nil: none.
func (f *fleet) alive() error {
	for _, p := range f.all() {
		err := p.Ended()
		if err == nil {
			continue
		}
		who := "the control plane"
		if p != f.control {
			who = fmt.Sprintf("proxy %d", slices.Index(f.proxies, p))
		}
		said := p.Output()
		return fmt.Errorf("%s ended in mid-run, %w: %s", who, err, said[max(0, len(said)-500):])
	}
	return nil
}

// cpu is what the proxies have used.
func (f *fleet) cpu() (total time.Duration, err error) {
	for _, p := range f.proxies {
		used, err := p.CPU()
		if err != nil {
			return 0, err
		}
		total += used
	}
	return total, nil
}

func (f *fleet) all() []*program.Process {
	if f.control != nil {
		return append([]*program.Process{f.control}, f.proxies...)
	}
	return f.proxies
}

func (f *fleet) stop() {
	var ends sync.WaitGroup // some wait for what is still open
	for _, p := range f.all() {
		ends.Go(p.Stop)
	}
	ends.Wait()
}
