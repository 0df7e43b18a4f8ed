package main

import (
	"bytes"
	"embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/overhear-mesh/overhear/test/envoy"
	program "github.com/overhear-mesh/overhear/test/process"
)

//go:embed products/*
var configurations embed.FS

// product is a proxy that can be measured.
type product struct {
	name    string
	config  string                            // file in products/, a template over settings; "": it has none
	find    func(dir string) (string, error)  // path of the program
	args    func(s settings) []string         // its arguments
	version func(path string) (string, error) // what it says of itself
	does    func(w work) bool
	cores   int  // that it gets; 0 is 1
	traced  bool // its spans are sent to settings.Sink
}

// settings fill a configuration's template.
type settings struct {
	Listen, ListenHost, ListenPort    string
	Admin, AdminHost, AdminPort       string
	Backend, BackendHost, BackendPort string
	Dir, Config                       string
	TCP, DownHTTP2, UpHTTP2           bool
	Cores                             int
	Connections                       int      // that clients may hold
	Sink                              string   // where spans go; "": nowhere
	Clusters                          []string // that nobody calls
	Hosts                             []string // of these, by their last byte
}

func onPath(name string) func(string) (string, error) {
	return func(string) (string, error) {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", fmt.Errorf("not on the PATH: %w", err)
		}
		return path, nil
	}
}

func products() []product {
	ours := product{
		name: "overhear", config: "overhear.yaml",
		find:    func(dir string) (string, error) { return program.Build(filepath.Dir(dir), "sidecar") }, // the same for all variants
		args:    func(s settings) []string { return []string{"run", "-c", s.Config} },
		version: says("version"),
		does:    func(work) bool { return true },
	}
	traced, two := ours, ours
	traced.name, traced.traced, traced.does = "overhear, 1 % traced", true, func(w work) bool { return w.name == "traced" }
	two.name, two.cores, two.does = "overhear, two cores", 2, func(w work) bool { return w.name == "cores" }
	return []product{
		ours, traced, two,
		{
			name: "envoy", config: "envoy.yaml",
			find: func(string) (string, error) { return envoy.Locate() },
			args: func(s settings) []string {
				return []string{"-c", s.Config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"}
			},
			version: says("--version"),
			does:    func(w work) bool { return !w.variants },
		},
		{
			name: "haproxy", config: "haproxy.cfg", find: onPath("haproxy"),
			args:    func(s settings) []string { return []string{"-db", "-f", s.Config} },
			version: says("-v"),
			does:    func(w work) bool { return !w.variants },
		},
		{
			name: "nginx", config: "nginx.conf", find: onPath("nginx"), // HTTP/1.1 to servers
			args:    func(s settings) []string { return []string{"-c", s.Config, "-e", "/dev/null"} },
			version: says("-v"),
			does:    func(w work) bool { return !w.variants && w.up == http1 },
		},
		{
			name: "nghttpx", config: "nghttpx.conf", find: onPath("nghttpx"),
			args:    func(s settings) []string { return []string{"--conf=" + s.Config} },
			version: says("--version"),
			does: func(w work) bool {
				return !w.variants && w.down != opaque && (w.down == http2 || w.up == http2)
			},
		},
		{
			name: "floor", find: compileFloor,
			args:    func(s settings) []string { return []string{s.ListenPort, s.BackendPort} },
			version: func(string) (string, error) { return "a forwarder of 100 lines of C", nil },
			does:    func(w work) bool { return !w.variants && w.down == w.up && w.gauge == nil },
		},
	}
}

func says(argument string) func(string) (string, error) {
	return func(path string) (string, error) { return program.Version(path, argument) }
}

func compileFloor(dir string) (string, error) {
	source, err := configurations.ReadFile("products/floor.c")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "floor")
	compile := exec.Command("cc", "-O2", "-x", "c", "-o", path, "-")
	compile.Stdin = bytes.NewReader(source)
	if out, err := compile.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cc: %w\n%s", err, out)
	}
	return path, nil
}

// settingsFor are those of a product that does the work, with ports of its own.
func (p product) settingsFor(w work, dir, backend, sink string) (s settings, err error) {
	s = settings{
		Dir: dir, Config: filepath.Join(dir, p.config), Backend: backend, Cores: max(1, p.cores), Connections: min(idleMost+idleRoom, descriptors()),
		TCP: w.down == opaque, DownHTTP2: w.down == http2, UpHTTP2: w.up == http2,
	}
	if p.traced {
		s.Sink = sink
	}
	for i := range w.clusters {
		s.Clusters = append(s.Clusters, fmt.Sprintf("%d.%d", i/250, i%250))
	}
	if w.clusters > 0 {
		for i := range manyHosts {
			s.Hosts = append(s.Hosts, fmt.Sprint(i+1))
		}
	}
	if s.Listen, err = program.FreeAddress(); err != nil {
		return s, err
	}
	if s.Admin, err = program.FreeAddress(); err != nil {
		return s, err
	}
	for address, parts := range map[string][2]*string{
		s.Listen: {&s.ListenHost, &s.ListenPort}, s.Admin: {&s.AdminHost, &s.AdminPort}, s.Backend: {&s.BackendHost, &s.BackendPort},
	} {
		if *parts[0], *parts[1], err = net.SplitHostPort(address); err != nil {
			return s, err
		}
	}
	if p.config == "" {
		return s, nil
	}
	text, err := template.New(p.config).Delims("{{", "}}").ParseFS(configurations, "products/"+p.config)
	if err != nil {
		return s, err
	}
	var filled bytes.Buffer
	if err := text.Execute(&filled, s); err != nil {
		return s, err
	}
	return s, os.WriteFile(s.Config, filled.Bytes(), 0o600)
}

// doing are the products that can do the work.
func doing(w work, only string) []product {
	return slices.DeleteFunc(products(), func(p product) bool {
		return !p.does(w) || only != "" && p.name != only && !strings.HasPrefix(p.name, "overhear")
	})
}

func named(name string) func(product) bool {
	return func(p product) bool { return p.name == name }
}
