package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"
)

// protocol is what is spoken on one side of a proxy.
type protocol uint8

const (
	http1 protocol = iota
	http2
	opaque // TCP
)

// work is what is asked of the products.
type work struct {
	name, title string
	unit        string // of which a turn counts how many were done
	down, up    protocol
	grpc        bool
	connections int
	streams     int // at one time on each connection

	server func(w work, dir string) (server, error)
	drive  drive
	// gauge takes the place of drive where a product is started for each turn.
	gauge    func(ctx context.Context, w work, p *process, o options) (turn, error)
	clusters int // beside the one that is used: a large configuration

	columns  []column
	base     string // whom the others are compared with; "": envoy
	variants bool   // of ours alone, beside itself
	direct   bool   // once without a proxy, too
	syscalls bool   // count them, where the machine lets us
	needs    []string
	rounds   float64 // part of the rounds that it gets; 0: all
}

// drive loads an address for so long, in what counts units of work.
type drive func(ctx context.Context, w work, address, dir string, d time.Duration) (turn, error)

const (
	idleMost   = 10_000
	rateFixed  = 2000 // requests per second, well below what any product can bear
	postSize   = 16 << 10
	smallSize  = 128
	streamSize = 100
	bulkUnit   = 64 << 10
	manyNames  = 1000 // clusters of a large mesh
	manyHosts  = 10   // endpoints of each
)

func works(connections int) []work {
	h2load := []string{"h2load", "nghttpd"}
	get, post := getRequest(), postRequest()
	return []work{
		{name: "http1", title: "HTTP/1.1 GET, 1 KB", connections: connections, streams: 1, server: startHTTP1, drive: closed(get), columns: cost, syscalls: true},
		{name: "post", title: "HTTP/1.1 POST, 16 KB", connections: connections, streams: 1, server: startHTTP1, drive: closed(post), columns: cost},
		{name: "http2", title: "HTTP/2 GET, 1 KB", down: http2, up: http2, connections: 8, streams: 32, server: startNghttpd, drive: driveH2, columns: cost, needs: h2load, syscalls: true},
		{name: "grpc", title: "gRPC unary", down: http2, up: http2, grpc: true, connections: 8, streams: 32, server: startNghttpd, drive: driveH2, columns: cost, needs: h2load},
		{name: "grpc-wide", title: "gRPC unary", down: http2, up: http2, grpc: true, connections: 64, streams: 1, server: startNghttpd, drive: driveH2, columns: cost, needs: h2load},
		{name: "grpc-stream", title: "gRPC streaming, messages of 100 bytes there and back", unit: "message", down: http2, up: http2, grpc: true, connections: 8, streams: 8, server: startEcho, drive: driveStreams, columns: cost},
		{name: "http1-http2", title: "HTTP/1.1 GET to servers of HTTP/2", up: http2, connections: connections, streams: 1, server: startNghttpd, drive: closed(get), columns: cost, needs: h2load},
		{name: "http2-http1", title: "HTTP/2 GET to servers of HTTP/1.1", down: http2, connections: 8, streams: 32, server: startHTTP1, drive: driveH2, columns: cost, needs: h2load},
		{name: "tcp", title: "TCP, 128 bytes there and back", unit: "exchange", down: opaque, up: opaque, connections: connections, streams: 1, server: startTCP, drive: driveSmall, columns: cost},
		{name: "tcp-bulk", title: "TCP, downloads", unit: "64 KiB", down: opaque, up: opaque, connections: 4, streams: 1, server: startTCP, drive: driveBulk, columns: cost},
		{name: "rate", title: fmt.Sprintf("HTTP/1.1 GET, 1 KB, %d requests/s", rateFixed), connections: connections, streams: 1, server: startHTTP1, drive: drivePaced, columns: paced, direct: true},
		{name: "traced", title: "HTTP/1.1 GET, 1 % of the requests traced", connections: connections, streams: 1, server: startHTTP1, drive: closed(get), columns: cost, base: "overhear", variants: true},
		{name: "cores", title: "HTTP/1.1 GET, two cores", connections: connections, streams: 1, server: startHTTP1, drive: closed(get), columns: throughput, base: "overhear", variants: true},
		{name: "held", title: fmt.Sprintf("HTTP/1.1 GET beside %d idle connections", options{}.idleCount()), connections: connections, streams: 1, server: startHTTP1, gauge: gaugeHeld, columns: held, rounds: 0.5},
		{name: "idle", title: "idle connections of HTTP/1.1", server: startHTTP1, gauge: gaugeIdle, columns: idle, rounds: 0.5},
		{name: "idle-http2", title: "idle connections of HTTP/2", down: http2, up: http2, server: startNghttpd, gauge: gaugeIdle, columns: idle, rounds: 0.5, needs: h2load},
		{name: "start", title: fmt.Sprintf("start with %d clusters of %d endpoints", manyNames, manyHosts), server: startHTTP1, gauge: gaugeStart, clusters: manyNames, columns: started, rounds: 0.5},
	}
}

// groups name several works at once.
var groups = map[string]func(work) bool{
	"all":    func(work) bool { return true },
	"quick":  func(w work) bool { return w.gauge == nil && !w.variants },
	"memory": func(w work) bool { return w.gauge != nil },
}

// chosen are the works of those names.
func chosen(names []string, all []work) ([]work, error) {
	wanted := map[string]bool{}
	for _, name := range names {
		member := groups[name]
		if member == nil {
			member = func(w work) bool { return w.name == name }
		}
		found := false
		for _, w := range all {
			if member(w) {
				wanted[w.name], found = true, true
			}
		}
		if !found {
			var known []string
			for _, w := range all {
				known = append(known, w.name)
			}
			return nil, fmt.Errorf("-work %q: want all, quick, memory or some of %v", name, known)
		}
	}
	return slices.DeleteFunc(all, func(w work) bool { return !wanted[w.name] }), nil
}

// missing says what the machine lacks for the work.
func (w work) missing() error {
	var errs []error
	for _, program := range w.needs {
		if _, err := exec.LookPath(program); err != nil {
			errs = append(errs, fmt.Errorf("%w (apt install nghttp2-server nghttp2-client)", err))
		}
	}
	return errors.Join(errs...)
}

// turn is what one product did in one round; what a work does not measure is 0.
type turn struct {
	Units    int     `json:"units,omitempty"`
	Rate     float64 `json:"units_per_second,omitempty"`
	CPU      float64 `json:"cpu_us_per_unit,omitempty"`
	Busy     float64 `json:"cores_busy,omitempty"`
	P50      float64 `json:"p50_us,omitempty"`
	P99      float64 `json:"p99_us,omitempty"`
	P999     float64 `json:"p999_us,omitempty"`
	Added50  float64 `json:"added_p50_us,omitempty"`
	Added99  float64 `json:"added_p99_us,omitempty"`
	Added999 float64 `json:"added_p999_us,omitempty"`
	RSS      float64 `json:"rss_mb,omitempty"`
	Idle     float64 `json:"bytes_per_idle_connection,omitempty"`
	First    float64 `json:"first_answer_ms,omitempty"`
	Kept     float64 `json:"rate_to_rate_without,omitempty"`
	Syscalls float64 `json:"syscalls_per_unit,omitempty"`
}

// errNothing is a turn that was too short for the machine.
var errNothing = errors.New("nothing was answered")

// turnOf has the percentiles of what was measured in microseconds.
func turnOf(micros []float64) (turn, error) {
	if len(micros) == 0 {
		return turn{}, errNothing
	}
	slices.Sort(micros)
	at := func(q float64) float64 { return micros[int(q*float64(len(micros)-1))] }
	return turn{Units: len(micros), P50: at(0.5), P99: at(0.99), P999: at(0.999)}, nil
}

// column is one figure of a table.
type column struct {
	title, format string
	value         func(turn) float64
	ratio         bool // compare it with the base's of the same round
}

var (
	cpuColumn  = column{"CPU µs", "%.1f", func(t turn) float64 { return t.CPU }, true}
	rateColumn = column{"per second", "%.0f", func(t turn) float64 { return t.Rate }, false}

	cost = []column{
		cpuColumn, rateColumn,
		{"p50 µs", "%.0f", func(t turn) float64 { return t.P50 }, false},
		{"p99 µs", "%.0f", func(t turn) float64 { return t.P99 }, false},
		{"syscalls", "%.2f", func(t turn) float64 { return t.Syscalls }, false},
	}
	paced = []column{
		cpuColumn,
		{"added p50 µs", "%.0f", func(t turn) float64 { return t.Added50 }, true},
		{"added p99 µs", "%.0f", func(t turn) float64 { return t.Added99 }, true},
		{"added p99.9 µs", "%.0f", func(t turn) float64 { return t.Added999 }, false},
	}
	throughput = []column{{"per second", "%.0f", func(t turn) float64 { return t.Rate }, true}}
	held       = []column{
		cpuColumn, rateColumn,
		{"rate to rate without", "%.2f", func(t turn) float64 { return t.Kept }, false},
	}
	idle = []column{
		{"bytes per connection", "%.0f", func(t turn) float64 { return t.Idle }, true},
		{"RSS after start MB", "%.1f", func(t turn) float64 { return t.RSS }, true},
	}
	started = []column{
		{"first answer ms", "%.0f", func(t turn) float64 { return t.First }, true},
		{"RSS MB", "%.1f", func(t turn) float64 { return t.RSS }, true},
	}
)
