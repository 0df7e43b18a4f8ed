package server_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

// fleetOf, in the environment, makes this test binary the clients of BenchmarkPush:
// "address number names". They are a process of their own so that what the server's uses is
// the server's.
const fleetOf = "OVERHEAR_BENCH_FLEET"

func TestMain(m *testing.M) {
	if fleet := os.Getenv(fleetOf); fleet != "" {
		if err := runFleet(fleet); !errors.Is(err, io.EOF) { // the server's end
			fmt.Fprintln(os.Stderr, "fleet:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// The health of one endpoint flips, and its assignment is pushed to so many clients, each
// on a TCP connection of its own, as fleets have. Each client acknowledges at once.
//
// Reported is when the push was written to the first of them, to half, 95 % and the
// last, since Apply was called: in milliseconds of the clock, in which the clients and
// whatever else the machine does have their part, and in milliseconds of this process's
// CPU time, which on a machine of its own passes as many times faster as it has cores.
// The last figure is the CPU time for each client, with its ACK.
//
// What it costs must not depend on how many other names the clients subscribe to.
func BenchmarkPush(b *testing.B) {
	for _, c := range []struct{ streams, endpoints, names int }{
		{10, 10, 1}, {100, 10, 1}, {1000, 10, 1}, {1000, 10, 10}, {1000, 10, 1000}, {1000, 1000, 10},
	} {
		b.Run(fmt.Sprintf("streams=%d/endpoints=%d/names=%d", c.streams, c.endpoints, c.names), func(b *testing.B) {
			benchmarkPush(b, c.streams, c.endpoints, c.names)
		})
	}
}

func benchmarkPush(b *testing.B, n, endpoints, names int) {
	s := server.New(server.DefaultConfig(), slog.New(slog.DiscardHandler))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	g := grpc.NewServer(server.Options()...)
	s.Register(g)
	served := make(chan error, 1)
	watched := &watchedListener{Listener: ln}
	go func() { served <- g.Serve(watched) }()
	defer func() {
		g.Stop()
		if err := <-served; err != nil {
			b.Error(err)
		}
	}()
	view := resource.View{Kind: resource.Overhear}
	flip := func(out bool) {
		e := resource.Endpoints{Service: "api"}
		for i := range endpoints {
			e.Endpoints = append(e.Endpoints, resource.Endpoint{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 8080), Weight: 1})
		}
		if out {
			e.Endpoints[3].Verdict.State = outlier.Ejected
		}
		if err := s.SetEndpoints(view, "api", resource.EncodeEndpoints(e, view.Kind)); err != nil {
			b.Fatal(err)
		}
	}
	flip(false)
	for i := range names - 1 {
		name := otherName(i)
		if err := s.SetEndpoints(view, name, resource.EncodeEndpoints(resource.Endpoints{Service: name}, view.Kind)); err != nil {
			b.Fatal(err)
		}
	}
	s.Ready()
	startFleet(b, ln.Addr().String(), n, names)
	rounds := 0
	var at []stamp
	calm := func() { // waits for all ACKs, and until the machine has calmed down
		for rounds++; s.Stats().ACKs[resource.TypeEndpoints] < uint64(rounds*n) || len(at) < n; {
			time.Sleep(time.Millisecond)
			at = watched.written()
		}
		time.Sleep(20 * time.Millisecond)
	}
	calm()
	var spent time.Duration
	var clock, cpu quantiles
	for b.Loop() {
		watched.reset()
		at = nil
		began, had := time.Now(), used()
		flip(rounds%2 == 1)
		calm()
		spent += used() - had
		clock.add(at, func(s stamp) time.Duration { return s.at.Sub(began) })
		cpu.add(at, func(s stamp) time.Duration { return s.cpu - had })
	}
	clock.report(b, "ms")
	cpu.report(b, "cpu-ms")
	b.ReportMetric(float64(spent.Microseconds())/float64(n*b.N), "cpu-us/stream")
}

// quantiles collects of each push the first, the median, the 95 % and the last.
type quantiles [4][]time.Duration

func (q *quantiles) add(at []stamp, of func(stamp) time.Duration) {
	all := make([]time.Duration, len(at))
	for i, s := range at {
		all[i] = of(s)
	}
	slices.Sort(all)
	for i, place := range []int{0, len(all) / 2, len(all) * 95 / 100, len(all) - 1} {
		q[i] = append(q[i], all[place])
	}
}

// report gives the medians over the pushes.
func (q *quantiles) report(b *testing.B, unit string) {
	for i, name := range []string{"first-", "p50-", "p95-", "last-"} {
		slices.Sort(q[i])
		b.ReportMetric(float64(q[i][len(q[i])/2].Microseconds())/1000, name+unit)
	}
}

// stamp is a moment on both clocks.
type stamp struct {
	at  time.Time
	cpu time.Duration
}

// used is the CPU time of this process.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// watchedListener notes when each of its connections is first written to.
type watchedListener struct {
	net.Listener
	mu    sync.Mutex
	conns []*watchedConn
}

type watchedConn struct {
	net.Conn
	first atomic.Pointer[stamp]
}

func (l *watchedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	w := &watchedConn{Conn: c}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, w)
	return w, nil
}

func (c *watchedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if c.first.Load() == nil {
		c.first.Store(&stamp{time.Now(), used()})
	}
	return n, err
}

func (l *watchedListener) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.first.Store(nil)
	}
}

func (l *watchedListener) written() []stamp {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []stamp
	for _, c := range l.conns {
		if s := c.first.Load(); s != nil {
			all = append(all, *s)
		}
	}
	return all
}

// startFleet starts n clients, until the benchmark ends.
func startFleet(b *testing.B, addr string, n, names int) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", fleetOf, addr, n, names))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Wait() }) // killed with the context
}

// runFleet is the process of the clients.
func runFleet(fleet string) error {
	var addr string
	var n, others int
	if _, err := fmt.Sscan(fleet, &addr, &n, &others); err != nil {
		return err
	}
	names := []string{"api"}
	for i := range others - 1 {
		names = append(names, otherName(i))
	}
	ended := make(chan error, n)
	for i := range n {
		c, err := newSubscriber(addr, fmt.Sprint("n", i), names)
		if err != nil {
			return err
		}
		go func() { ended <- c.run() }()
	}
	return <-ended
}

func otherName(i int) string { return fmt.Sprint("other-", i) }

// subscriber is a client that does no more than it must, so that a thousand of them
// leave the server something of the machine.
type subscriber struct {
	conn net.Conn
	in   *http2.Framer
	out  bytes.Buffer // written at once
	fr   *http2.Framer
	read uint32 // and not yet given back to the window
}

func newSubscriber(addr, id string, names []string) (*subscriber, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &subscriber{conn: conn, in: http2.NewFramer(nil, bufio.NewReaderSize(conn, 4096))}
	c.fr = http2.NewFramer(&c.out, nil)
	c.out.WriteString(http2.ClientPreface)
	if err := c.fr.WriteSettings(); err != nil {
		return nil, err
	}
	var head bytes.Buffer
	h := hpack.NewEncoder(&head)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName},
		{":authority", addr}, {"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		if err := h.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return nil, err
		}
	}
	if err := c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true}); err != nil {
		return nil, err
	}
	return c, c.send(&discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: id, UserAgentName: "overhear"}, TypeUrl: resource.TypeEndpoints, ResourceNamesSubscribe: names,
	})
}

func (c *subscriber) send(m *discoveryv3.DeltaDiscoveryRequest) error {
	data := make([]byte, 5, 64)
	data, err := proto.MarshalOptions{}.MarshalAppend(data, m)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(data[1:], uint32(len(data)-5))
	for len(data) > 0 { // a frame holds 16 KB
		n := min(len(data), 16<<10)
		if err := c.fr.WriteData(1, false, data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return c.flush()
}

func (c *subscriber) flush() error {
	_, err := c.conn.Write(c.out.Bytes())
	c.out.Reset()
	return err
}

func (c *subscriber) run() error {
	var message []byte
	for {
		f, err := c.in.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				if err = c.fr.WriteSettingsAck(); err == nil {
					err = c.flush()
				}
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				if err = c.fr.WritePing(true, f.Data); err == nil {
					err = c.flush()
				}
			}
		case *http2.DataFrame:
			message = append(message, f.Data()...)
			c.read += f.Length
			if c.read >= 16<<10 { // a quarter of the window, as clients do
				err = errors.Join(c.fr.WriteWindowUpdate(0, c.read), c.fr.WriteWindowUpdate(1, c.read), c.flush())
				c.read = 0
			}
			if err != nil {
				return err
			}
			if len(message) < 5 || len(message) < 5+int(binary.BigEndian.Uint32(message[1:])) {
				continue
			}
			nonce := nonceOf(message[5:])
			message = message[:0]
			err = c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeEndpoints, ResponseNonce: nonce})
		case *http2.GoAwayFrame, *http2.RSTStreamFrame:
			return io.EOF
		}
		if err != nil {
			return err
		}
	}
}

// nonceOf finds the nonce in a DeltaDiscoveryResponse, its field 5.
func nonceOf(m []byte) string {
	for len(m) > 0 {
		num, typ, n := protowire.ConsumeTag(m)
		if n < 0 {
			return ""
		}
		m = m[n:]
		if num == 5 && typ == protowire.BytesType {
			v, _ := protowire.ConsumeString(m)
			return v
		}
		if n = protowire.ConsumeFieldValue(num, typ, m); n < 0 {
			return ""
		}
		m = m[n:]
	}
	return ""
}
