//go:build !race

package http2

// With the race detector sync.Pool forgets on purpose what it is given.

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// peer speaks as much HTTP/2 as a benchmark needs, and allocates nothing meanwhile.
type peer struct {
	net.Conn
	in   [64 << 10]byte
	r, w int
	out  []byte
}

// frame is the next frame that is about a stream.
func (p *peer) frame() (t frameType, flags byte, id uint32, err error) {
	for {
		if p.w-p.r >= frameHeader {
			head := p.in[p.r:]
			if n := frameHeader + (int(head[0])<<16 | int(head[1])<<8 | int(head[2])); p.w-p.r >= n {
				p.r += n
				t, flags, id = frameType(head[3]), head[4], binary.BigEndian.Uint32(head[5:])
				if t == frameData || t == frameHeaders {
					return t, flags, id, nil
				}
				continue
			}
		}
		p.w = copy(p.in[:], p.in[p.r:p.w])
		p.r = 0
		n, err := p.Read(p.in[p.w:])
		if p.w += n; err != nil {
			return 0, 0, 0, err
		}
	}
}

// block encodes fields, all of which are in the table afterwards: the next one of the same
// fields is another.
func block(enc *hpack.Encoder, buf *bytes.Buffer, pairs ...string) []byte {
	buf.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(buf.Bytes())
}

// message appends a head, some data, and a tail if there is one.
func message(b []byte, id uint32, head, data, tail []byte) []byte {
	b = append(appendFrame(b, len(head), frameHeaders, flagEndHeaders, id), head...)
	if tail == nil {
		return append(appendFrame(b, len(data), frameData, flagEndStream, id), data...)
	}
	b = append(appendFrame(b, len(data), frameData, 0, id), data...)
	return append(appendFrame(b, len(tail), frameHeaders, flagEndHeaders|flagEndStream, id), tail...)
}

// unary is a client in front of a server in front of a backend, on real sockets: only on
// those a write takes no goroutine.
func unary(tb testing.TB) (call func()) {
	tb.Helper()
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = ln.Close() })
		return ln
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	backend, front := listen(), listen()
	wg.Go(func() { answerCalls(backend) })

	k := clock.New()
	cfg, rule := cluster.DefaultConfig(), router.DefaultRule()
	cfg.Name, cfg.Protocol, rule.Cluster = "api", cluster.HTTP2, "api"
	c := cluster.New(cfg, cluster.Deps{Clock: k, Seed: 1})
	c.Update([]cluster.Spec{{ID: "a", Address: backend.Addr().String()}})
	wg.Go(func() { _ = c.Run(ctx) })
	table, err := router.New([]router.Rule{rule}, func(string) *cluster.Cluster { return c }, new(router.IDs))
	if err != nil {
		tb.Fatal(err)
	}
	srv := NewServer(DefaultConfig(), exchange.Deps{Clock: k, Router: func() *router.Table { return table }, Log: discardLog{}}, NewClient(DefaultConfig(), k), nil)
	wg.Go(func() {
		if nc, err := front.Accept(); err == nil {
			srv.ServeConn(ctx, nc)
		}
	})
	nc, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { nc.Close(); backend.Close(); cancel(); wg.Wait() })

	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	fields := []string{
		":method", "POST", ":scheme", "http", ":authority", "api", ":path", "/greeter/hello",
		"content-type", "application/grpc", "te", "trailers", "user-agent", "test", "x-request-id", "7",
	}
	head, next := block(enc, &buf, fields...), block(enc, &buf, fields...)
	p := &peer{Conn: nc, out: append([]byte(preface), appendFrame(nil, 0, frameSettings, 0, 0)...)}
	data := []byte("\x00\x00\x00\x00\x05hello")
	id := uint32(1)
	return func() {
		p.out = message(p.out, id, head, data, nil)
		if _, err := p.Write(p.out); err != nil {
			tb.Fatal(err)
		}
		p.out, head = p.out[:0], next
		for {
			_, flags, _, err := p.frame()
			if err != nil {
				tb.Fatal(err)
			}
			if flags&flagEndStream != 0 {
				id += 2
				return
			}
		}
	}
}

// answerCalls answers one connection's.
func answerCalls(ln net.Listener) {
	nc, err := ln.Accept()
	if err != nil {
		return
	}
	defer nc.Close()
	if _, err := io.ReadFull(nc, make([]byte, len(preface))); err != nil {
		return
	}
	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	begin := func() []byte {
		return block(enc, &buf, ":status", "200", "content-type", "application/grpc", "date", "Sun, 06 Nov 1994 08:49:37 GMT")
	}
	end := func() []byte { return block(enc, &buf, "grpc-status", "0", "grpc-message", "") }
	head, tail := begin(), end() // in the order in which they are sent, and
	nextHead, nextTail := begin(), end()
	p := &peer{Conn: nc, out: appendFrame(nil, 0, frameSettings, 0, 0)}
	data := []byte("\x00\x00\x00\x00\x05hello")
	for {
		if _, err := p.Write(p.out); err != nil {
			return
		}
		_, flags, id, err := p.frame()
		if err != nil {
			return
		}
		p.out = p.out[:0]
		if flags&flagEndStream == 0 {
			continue
		}
		p.out = message(p.out, id, head, data, tail)
		head, tail = nextHead, nextTail
	}
}

// discardLog is an access log that looks at nothing.
type discardLog struct{}

func (discardLog) Log(*exchange.Record) {}

// A unary call whose fields are in the tables of HPACK costs no garbage, from the read of
// its head to the write of its trailers: what an application repeats with each call is
// there.
func TestACallAllocatesNothing(t *testing.T) {
	call := unary(t)
	for range 100 {
		call()
	}
	// The cluster's own goroutine allocates now and then.
	if n := testing.AllocsPerRun(2000, call); n != 0 {
		t.Errorf("allocations per call, client and backend included: got %v, want 0", n)
	}
}

func BenchmarkUnary(b *testing.B) {
	call := unary(b)
	b.ReportAllocs()
	for b.Loop() {
		call()
	}
}
