package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// work is what is asked of the products.
type work struct {
	name, title string
	http2       bool
	grpc        bool // a unary call: a message of five bytes, an answer with trailers
	connections int
	streams     int // at one time on each connection
}

func works(connections int) []work {
	return []work{
		{name: "http1", title: "HTTP/1.1 GET", connections: connections, streams: 1},
		{name: "http2", title: "HTTP/2 GET", http2: true, connections: 8, streams: 32},
		{name: "grpc", title: "gRPC unary", http2: true, grpc: true, connections: 8, streams: 32},
		{name: "grpc-wide", title: "gRPC unary", http2: true, grpc: true, connections: 64, streams: 1},
	}
}

// server is what stands behind the proxies.
type server interface {
	address() string
	close()
}

// startServer starts the server of a work.
func startServer(w work, dir string) (server, error) {
	if !w.http2 {
		return startBackend()
	}
	return startNghttpd(w, dir)
}

// nghttpd is nghttp2's server, on the core of the load: what a request costs it was
// measured to be a third of what it costs the fastest proxy. It comes with h2load, in
// Debian's packages nghttp2-server and nghttp2-client.
type nghttpd struct {
	at      string
	command *exec.Cmd
}

func startNghttpd(w work, dir string) (*nghttpd, error) {
	path, err := exec.LookPath("nghttpd")
	if err == nil {
		_, err = exec.LookPath("h2load")
	}
	if err != nil {
		return nil, fmt.Errorf("%s needs nghttpd and h2load (apt install nghttp2-server nghttp2-client): %w", w.name, err)
	}
	root := filepath.Join(dir, "www")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(root, "work"), bytes.Repeat([]byte("x"), bodySize), 0o644); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	args := []string{"--no-tls", "--address=127.0.0.1", "-d", root}
	if w.grpc {
		args = append(args, "--trailer=grpc-status:0")
	}
	n := &nghttpd{at: address, command: exec.Command(path, append(args, port)...)}
	if err := n.command.Start(); err != nil {
		return nil, err
	}
	for range 100 {
		if c, err := net.Dial("tcp", address); err == nil {
			return n, c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	n.close()
	return nil, errors.New("nghttpd does not listen")
}

func (n *nghttpd) address() string { return n.at }

func (n *nghttpd) close() {
	_ = n.command.Process.Kill() // it has no other end
	_ = n.command.Wait()
}

// run loads an address with the work for so long.
func (w work) run(ctx context.Context, address, dir string, d time.Duration) (turn, error) {
	if !w.http2 {
		return load(ctx, address, w.connections, d)
	}
	log := filepath.Join(dir, "h2load.log")
	defer func() { _ = os.Remove(log) }() // it is in a folder that goes anyway
	// A number of requests instead of a duration: h2load breaks off what is under way
	// at the end of a duration, which would look like failures.
	n := max(2000, w.requests(d))
	args := []string{"-n", strconv.Itoa(n), "-c", strconv.Itoa(w.connections), "-m", strconv.Itoa(w.streams), "--log-file=" + log}
	if w.grpc {
		body := filepath.Join(dir, "message")
		if err := os.WriteFile(body, []byte("\x00\x00\x00\x00\x05hello"), 0o644); err != nil {
			return turn{}, err
		}
		args = append(args, "-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers")
	}
	out, err := exec.CommandContext(ctx, "h2load", append(args, "http://"+address+"/work")...).CombinedOutput()
	if err != nil {
		return turn{}, fmt.Errorf("h2load: %w\n%s", err, out)
	}
	if !bytes.Contains(out, []byte(fmt.Sprintf("%d 2xx, 0 3xx, 0 4xx, 0 5xx", n))) {
		return turn{}, fmt.Errorf("not every request was answered with 200:\n%s", out)
	}
	return readLog(log)
}

// requests is how many take about so long, at a rate that a good proxy reaches.
func (w work) requests(d time.Duration) int { return int(30_000 * d.Seconds()) }

// readLog reads what h2load says of each request: start, status, microseconds.
func readLog(path string) (turn, error) {
	f, err := os.Open(path)
	if err != nil {
		return turn{}, err
	}
	defer f.Close()
	var micros []int
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			return turn{}, fmt.Errorf("h2load: %q is no line of its log", lines.Text())
		}
		us, err := strconv.Atoi(fields[2])
		if err != nil {
			return turn{}, err
		}
		micros = append(micros, us)
	}
	if err := lines.Err(); err != nil {
		return turn{}, err
	}
	if len(micros) == 0 {
		return turn{}, errors.New("no request was answered")
	}
	slices.Sort(micros)
	at := func(q float64) float64 { return float64(micros[int(q*float64(len(micros)-1))]) }
	return turn{Requests: len(micros), P50: at(0.5), P99: at(0.99)}, nil
}
