package telemetry

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/tcp"
)

// AccessLog writes one JSON object a line. Its methods may be called from any
// goroutine.
//
// A line is made on its request's goroutine, in a buffer of its own, and then
// copied to those that wait; Run writes all of them at once every 100 ms. To wake
// a writer for each line would cost more than the line.
type AccessLog struct {
	clock   clock.Clock
	path    string    // "" if the output was given
	buffers sync.Pool // of *[]byte, for lines being made
	dropped atomic.Uint64

	mu      sync.Mutex // guards what follows; held for the copy of a line
	waiting []byte
	lines   uint64 // in waiting

	output sync.Mutex // guards what follows; held while writing, never by a request
	w      io.Writer
	file   *os.File // what Run and Reopen close; nil for a standard stream
	spare  []byte   // takes the place of waiting
}

const (
	flushEvery = 100 * time.Millisecond
	// maxWaiting is how many bytes may wait for the writer; then lines are dropped.
	maxWaiting = 4 << 20
)

// OpenAccessLog opens the log at path, appending: a file, "stdout" or "stderr".
func OpenAccessLog(path string, clk clock.Clock) (*AccessLog, error) {
	switch path {
	case "stdout":
		return NewAccessLog(os.Stdout, clk), nil
	case "stderr":
		return NewAccessLog(os.Stderr, clk), nil
	}
	l := NewAccessLog(nil, clk)
	l.path = path
	return l, l.Reopen()
}

// NewAccessLog writes to w, which it does not close.
func NewAccessLog(w io.Writer, clk clock.Clock) *AccessLog {
	return &AccessLog{clock: clk, w: w, buffers: sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}}
}

// Reopen opens the log's path again, for log rotation; a standard stream stays.
// If that fails, the old file stays in use.
func (l *AccessLog) Reopen() error {
	if l.path == "" {
		return nil
	}
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	l.output.Lock()
	defer l.output.Unlock()
	old := l.file
	l.file, l.w = file, file
	if old != nil {
		return old.Close()
	}
	return nil
}

// Dropped is how many lines were lost because the output could not keep up, or
// did not take them.
func (l *AccessLog) Dropped() uint64 { return l.dropped.Load() }

// Run writes until ctx ends and everything that was logged before has been
// written, then closes the file.
func (l *AccessLog) Run(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			l.flush()
		}
	}
	l.flush()
	l.output.Lock()
	defer l.output.Unlock()
	if l.file != nil {
		return l.file.Close()
	}
	return nil
}

// flush writes the lines that wait.
func (l *AccessLog) flush() {
	l.output.Lock()
	defer l.output.Unlock()
	l.mu.Lock()
	text, lines := l.waiting, l.lines
	l.waiting, l.lines = l.spare[:0], 0
	l.mu.Unlock()
	l.spare = text
	if len(text) == 0 {
		return
	}
	if _, err := l.w.Write(text); err != nil {
		l.dropped.Add(lines)
	}
}

// add hands a line that was made in one of the buffers to the writer.
func (l *AccessLog) add(line *[]byte) {
	l.mu.Lock()
	full := len(l.waiting)+len(*line) > maxWaiting
	if !full {
		l.waiting = append(l.waiting, *line...)
		l.lines++
	}
	l.mu.Unlock()
	if full {
		l.dropped.Add(1)
	}
	l.buffers.Put(line)
}

// http logs a request.
func (l *AccessLog) http(listener string, r *exchange.Record) {
	line := l.buffers.Get().(*[]byte)
	o := object{buf: (*line)[:0]}
	o.open()
	o.time("time", l.clock.Time(r.Start))
	o.text("listener", listener)
	o.text("direction", direction(r.Inbound))
	o.text("protocol", version(r))
	o.bytes("method", r.Method)
	o.bytes("host", r.Host)
	o.bytes("path", r.Path)
	o.number("status", int64(r.Status))
	if r.GRPC && r.GRPCStatus >= 0 {
		o.number("grpc_status", int64(r.GRPCStatus))
	}
	o.text("flags", r.Flags.String())
	if r.Detail != "" {
		o.text("detail", r.Detail)
	}
	o.millis("duration_ms", r.Duration)
	o.number("bytes_received", r.BodyReceived)
	o.number("bytes_sent", r.BodySent)
	o.address("client", r.Client)
	if len(r.RequestID) > 0 {
		o.bytes("request_id", r.RequestID)
	}
	if r.Trace.Valid() {
		var id [32]byte
		hex.Encode(id[:], r.Trace.Trace[:])
		o.bytes("trace_id", id[:])
	}
	if len(r.UserAgent) > 0 {
		o.bytes("user_agent", r.UserAgent)
	}
	if r.Route != nil {
		o.text("route", r.Route.Name)
		o.text("cluster", r.Route.ClusterName)
	}
	if len(r.Attempts) > 0 {
		o.text("endpoint", r.Attempts[r.Final].Endpoint.ID)
		o.text("upstream", r.Attempts[r.Final].Endpoint.Address)
		o.key("attempts")
		o.openList()
		for i := range r.Attempts {
			a := &r.Attempts[i]
			o.open()
			o.text("endpoint", a.Endpoint.ID)
			o.millis("at_ms", a.Offset)
			o.millis("duration_ms", a.Duration)
			o.text("class", a.Class.String())
			o.text("ending", a.Ending.String())
			if a.Status != 0 {
				o.number("status", int64(a.Status))
			}
			if a.Hedge {
				o.flag("hedge")
			}
			o.close()
		}
		o.closeList()
	}
	o.close()
	*line = append(o.buf, '\n')
	l.add(line)
}

// tcp logs a connection.
func (l *AccessLog) tcp(listener string, inbound bool, r *tcp.Record) {
	line := l.buffers.Get().(*[]byte)
	o := object{buf: (*line)[:0]}
	o.open()
	o.time("time", l.clock.Time(r.Start))
	o.text("listener", listener)
	o.text("direction", direction(inbound))
	o.text("protocol", "TCP")
	o.text("flags", r.Flags.String())
	o.millis("duration_ms", r.End-r.Start)
	o.number("bytes_received", r.Sent) // from the client, as for a request
	o.number("bytes_sent", r.Received)
	o.text("client", r.Client)
	if r.Meant != "" {
		o.text("destination", r.Meant)
	}
	if r.Cluster != "" {
		o.text("cluster", r.Cluster)
	}
	if r.Endpoint != "" {
		o.text("endpoint", r.Endpoint)
		o.text("upstream", r.Upstream)
	}
	o.key("attempts")
	o.openList()
	for _, a := range r.Attempts {
		o.open()
		o.text("endpoint", a.Endpoint)
		o.millis("at_ms", a.Offset)
		o.text("class", a.Class.String())
		o.text("ending", a.Ending.String())
		o.close()
	}
	o.closeList()
	o.close()
	*line = append(o.buf, '\n')
	l.add(line)
}

// version is what the client speaks.
func version(r *exchange.Record) string {
	switch {
	case r.Major == 2:
		return "HTTP/2"
	case r.Minor == 0:
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

func direction(inbound bool) string {
	if inbound {
		return "inbound"
	}
	return "outbound"
}
