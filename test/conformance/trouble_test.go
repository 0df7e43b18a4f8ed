package conformance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// group is a set of endpoints of which one at a time has trouble.
type group struct{ endpoints []*endpoint }

// suffer lets them crash, hang, drain and return.
func (g *group) suffer(ctx context.Context) {
	for ctx.Err() == nil {
		e := g.endpoints[rand.IntN(len(g.endpoints))]
		wait := time.Duration(50+rand.IntN(250)) * time.Millisecond
		switch rand.IntN(4) {
		case 0:
			e.crash()
			time.Sleep(wait)
			e.start()
		case 1:
			e.hang(true)
			time.Sleep(2 * wait)
			e.hang(false)
		case 2:
			e.drain()
			e.start()
		case 3:
			e.reset()
		}
		time.Sleep(wait)
	}
}

// endpoint is a server that can be taken away, at an address that stays.
type endpoint struct {
	t       *testing.T
	address string
	// serve serves ln, and returns what ends that in order.
	serve func(ln net.Listener) (shut func(context.Context) error)

	mu    sync.Mutex
	shut  func(context.Context) error
	ln    net.Listener
	conns map[net.Conn]bool
	gate  chan struct{} // open unless it hangs
}

func newEndpoint(t *testing.T, serve func(net.Listener) func(context.Context) error) *endpoint {
	t.Helper()
	e := &endpoint{t: t, address: "127.0.0.1:0", serve: serve, conns: map[net.Conn]bool{}, gate: make(chan struct{})}
	close(e.gate)
	e.start()
	return e
}

// start listens, again.
func (e *endpoint) start() {
	var ln net.Listener
	for range 200 {
		var err error
		if ln, err = net.Listen("tcp", e.address); err == nil {
			break
		}
		time.Sleep(25 * time.Millisecond) // an outgoing connection may have the port for a moment
	}
	if ln == nil {
		e.t.Errorf("%s: the address is taken", e.address)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.address, e.ln = ln.Addr().String(), ln
	e.shut = e.serve(&listener{ln, e})
}

// crash ends everything at once.
func (e *endpoint) crash() {
	e.mu.Lock()
	ln := e.ln
	e.mu.Unlock()
	ln.Close()
	e.reset()
}

// reset breaks the connections off.
func (e *endpoint) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.conns {
		_ = c.(*conn).Conn.(*net.TCPConn).SetLinger(0)
		_ = c.(*conn).Conn.Close()
	}
}

// hang lets the server read no more, or go on.
func (e *endpoint) hang(hung bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if hung {
		e.gate = make(chan struct{})
	} else {
		close(e.gate)
	}
}

// drain lets it finish what it has.
func (e *endpoint) drain() {
	e.mu.Lock()
	shut := e.shut
	e.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if shut(ctx) != nil {
		e.reset()
	}
}

func (e *endpoint) wait() {
	e.mu.Lock()
	gate := e.gate
	e.mu.Unlock()
	<-gate
}

type listener struct {
	net.Listener
	e *endpoint
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	w := &conn{c, l.e}
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	l.e.conns[w] = true
	return w, nil
}

// conn reads nothing while its server hangs.
type conn struct {
	net.Conn
	e *endpoint
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.e.wait()
	return n, err
}

func (c *conn) Close() error {
	c.e.mu.Lock()
	delete(c.e.conns, c)
	c.e.mu.Unlock()
	return c.Conn.Close()
}

func (c *conn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// web serves HTTP of both versions, gRPC, and a protocol to upgrade to.
func (s *soak) web(ln net.Listener) func(context.Context) error {
	calls := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(calls, &service{soak: s})
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: both, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
			calls.ServeHTTP(w, r)
		case r.Header.Get("Upgrade") != "":
			s.upgraded(w, r)
		default:
			s.answer(w, r)
		}
	})}
	go func() { _ = srv.Serve(ln) }()
	return srv.Shutdown
}

// answer echoes a request that is as it was sent.
func (s *soak) answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != r.Header.Get("Sum") {
		s.t.Errorf("%s %s: %d bytes came that are not what was sent", r.Method, r.URL, len(body))
	}
	s.carriedOut(r.Header.Get("Id"))
	w.Header().Set("Id", r.Header.Get("Id"))
	_, _ = w.Write(body)
}

// upgraded echoes what follows the handshake.
func (s *soak) upgraded(w http.ResponseWriter, r *http.Request) {
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		s.t.Errorf("upgrade: %v", err)
		return
	}
	defer c.Close()
	s.carriedOut(r.Header.Get("Id"))
	_, err = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\nId: %s\r\n\r\n",
		acceptOf(r.Header.Get("Sec-WebSocket-Key")), r.Header.Get("Id"))
	if err == nil {
		_, err = io.Copy(c, rw)
	}
	if err == nil {
		_ = c.(*conn).CloseWrite()
	}
}

// service echoes messages.
type service struct {
	testgrpc.UnimplementedTestServiceServer
	soak *soak
}

// called notes a call by its id.
func (s *soak) called(ctx context.Context) {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		for _, id := range md.Get("id") {
			s.carriedOut(id)
		}
	}
}

// UnaryCall implements testgrpc.TestServiceServer.
func (v *service) UnaryCall(ctx context.Context, q *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	v.soak.called(ctx)
	return &testgrpc.SimpleResponse{Payload: q.GetPayload()}, nil
}

// FullDuplexCall implements testgrpc.TestServiceServer.
func (v *service) FullDuplexCall(stream testgrpc.TestService_FullDuplexCallServer) error {
	v.soak.called(stream.Context())
	for {
		q, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: q.GetPayload()}); err != nil {
			return err
		}
	}
}

// echoTCP serves opaque connections.
func echoTCP(ln net.Listener) func(context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				if _, err := io.Copy(c, c); err == nil {
					_ = c.(*conn).CloseWrite()
				}
			})
		}
	})
	return func(ctx context.Context) error {
		ln.Close()
		over := make(chan struct{})
		go func() { wg.Wait(); close(over) }()
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
