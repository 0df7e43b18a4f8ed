package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/tunnel"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// rig is a tunnel between a client and a server, on an in-memory network.
type rig struct {
	t              *testing.T
	tunnel         *tunnel.Tunnel
	client, server *pipenet.Conn // their ends
	near           *pipenet.Conn // the tunnel's end of the client's connection
	endpoint       *upstream.Endpoint
	cancel         context.CancelFunc

	mu   sync.Mutex
	ends []tunnel.End
	done chan struct{} // closed when Carry has returned
}

// inRig runs body in a bubble with a tunnel that edit may change, carried until rig.cancel
// is called.
func inRig(t *testing.T, edit func(*tunnel.Tunnel), body func(*rig)) {
	t.Helper()
	inRigUntil(t, func(ctx context.Context) context.Context { return ctx }, edit, body)
}

// inRigUntil is inRig with another context.
func inRigUntil(t *testing.T, until func(context.Context) context.Context, edit func(*tunnel.Tunnel), body func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := pipenet.New(1)
		r := &rig{t: t, done: make(chan struct{})}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		r.cancel = cancel
		r.client, r.near = n.Host("10.0.0.9").Pair(t, n.Host("10.0.0.1"))
		var toServer net.Conn
		toServer, r.server = n.Host("10.0.0.1").Pair(t, n.Host("10.0.1.1"))
		detector := outlier.New(outlier.DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
		detector.SetMembers([]outlier.Member{{ID: "e", Weight: 1}}, 0)
		options := upstream.DefaultOptions()
		options.Dial = func(context.Context, string, string) (net.Conn, error) { return toServer, nil }
		r.endpoint = upstream.NewEndpoint("e", "10.0.1.1:80", "", 0, false, detector.Endpoint("e"), nil, &options)
		up, err := r.endpoint.Fresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r.tunnel = &tunnel.Tunnel{Client: r.near, Server: up, Ended: func(end tunnel.End, _ error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.ends = append(r.ends, end)
		}}
		if edit != nil {
			edit(r.tunnel)
		}
		go func() {
			defer close(r.done)
			r.tunnel.Carry(until(ctx))
		}()
		body(r)
		<-r.done
		if n := r.endpoint.Open(); n != 0 {
			t.Errorf("%d connections to the endpoint are left", n)
		}
		if _, err := r.near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the client's connection: got %v, want it closed", err)
		}
		r.client.Close()
		r.server.Close()
	})
}

// want compares what Ended was told, in this order, and what was counted.
func (r *rig) want(sent, received int64, ends ...tunnel.End) {
	r.t.Helper()
	<-r.done
	if !slices.Equal(r.ends, ends) {
		r.t.Errorf("ends: got %v, want %v", r.ends, ends)
	}
	if r.tunnel.Sent() != sent || r.tunnel.Received() != received {
		r.t.Errorf("bytes: got %d to the server, %d to the client; want %d, %d", r.tunnel.Sent(), r.tunnel.Received(), sent, received)
	}
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Errorf("write: %v", err)
	}
}

// reads reads to the end: of an orderly one err is nil.
func reads(t *testing.T, c net.Conn, want string, wantErr error) {
	t.Helper()
	got, err := io.ReadAll(c)
	if string(got) != want || !errors.Is(err, wantErr) {
		t.Errorf("got %q, %v; want %q, %v", got, err, want, wantErr)
	}
}

func TestAnEndOfStreamIsPassedOnAndTheOtherDirectionGoesOn(t *testing.T) {
	for _, first := range []string{"client", "server"} {
		t.Run(first+" ends first", func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				a, b := r.client, r.server
				ends := []tunnel.End{tunnel.ClientDone, tunnel.ServerDone}
				if first == "server" {
					a, b = b, a
					slices.Reverse(ends)
				}
				say(t, a, "question")
				a.CloseWrite()
				reads(t, b, "question", nil)
				time.Sleep(time.Hour)
				say(t, b, "a long answer")
				b.CloseWrite()
				reads(t, a, "a long answer", nil)
				sent, received := int64(len("question")), int64(len("a long answer"))
				if first == "server" {
					sent, received = received, sent
				}
				r.want(sent, received, ends...)
			})
		})
	}
}

func TestBothSidesMayEndAtOnce(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		say(t, r.client, "up")
		say(t, r.server, "down")
		r.client.CloseWrite()
		r.server.CloseWrite()
		reads(t, r.server, "up", nil)
		reads(t, r.client, "down", nil)
		<-r.done
		slices.Sort(r.ends) // which one is noticed first is left to chance
		r.want(2, 4, tunnel.ClientDone, tunnel.ServerDone)
	})
}

func TestAResetIsPassedOnAsOne(t *testing.T) {
	for name, test := range map[string]struct {
		resets func(*rig) (by, other *pipenet.Conn)
		want   tunnel.End
	}{
		"by the client": {func(r *rig) (by, other *pipenet.Conn) { return r.client, r.server }, tunnel.ClientLost},
		"by the server": {func(r *rig) (by, other *pipenet.Conn) { return r.server, r.client }, tunnel.ServerLost},
	} {
		t.Run(name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				by, other := test.resets(r)
				say(t, by, "half of")
				time.Sleep(time.Second)
				_ = by.Reset()
				got, err := io.ReadAll(other)
				if string(got) != "half of" || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the other side reads %q, %v; want what came before, and a reset", got, err)
				}
				<-r.done
				if !slices.Equal(r.ends, []tunnel.End{test.want}) {
					t.Errorf("ends: got %v, want %v", r.ends, test.want)
				}
			})
		})
	}
}

func TestASlowReaderHoldsTheWriterBack(t *testing.T) {
	const size = 8 << 20
	inRig(t, nil, func(r *rig) {
		payload := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		wrote := make(chan int, 1)
		go func() {
			n, err := r.server.Write(payload)
			if err != nil {
				t.Errorf("write: %v", err)
			}
			r.server.CloseWrite()
			wrote <- n
		}()
		time.Sleep(time.Hour) // nobody reads
		select {
		case n := <-wrote:
			t.Fatalf("%d bytes were taken for a client that reads none", n)
		default:
		}
		if held := r.tunnel.Received(); held > 1<<20 {
			t.Errorf("%d bytes are under way to a client that reads none", held)
		}
		got, err := io.ReadAll(r.client)
		if err != nil || !bytes.Equal(got, payload) {
			t.Errorf("got %d bytes, %v; want the %d that were sent", len(got), err, size)
		}
		r.client.CloseWrite()
		r.want(0, size, tunnel.ServerDone, tunnel.ClientDone)
	})
}

func TestWhatGoesAheadIsFirstAndCounts(t *testing.T) {
	firsts := 0
	edit := func(tun *tunnel.Tunnel) {
		tun.ToServer, tun.ToClient = []byte("early "), []byte("head ")
		tun.First = func() { firsts++ }
	}
	inRig(t, edit, func(r *rig) {
		say(t, r.client, "late")
		say(t, r.server, "body")
		r.client.CloseWrite()
		reads(t, r.server, "early late", nil)
		r.server.CloseWrite()
		reads(t, r.client, "head body", nil)
		r.want(10, 9, tunnel.ClientDone, tunnel.ServerDone)
		if firsts != 1 {
			t.Errorf("First was called %d times, want once", firsts)
		}
		if !r.tunnel.Asked() {
			t.Error("the client has sent something, and has not asked")
		}
	})
}

func TestWhoIsSilentTooLongIsCut(t *testing.T) {
	edit := func(tun *tunnel.Tunnel) { tun.Idle, tun.FirstByte = time.Minute, 10*time.Second }
	inRig(t, edit, func(r *rig) {
		begun := time.Now()
		reads(t, r.client, "", syscall.ECONNRESET)
		if got := time.Since(begun).Round(time.Millisecond); got != 10*time.Second {
			t.Errorf("without a first byte it ends after %v, want 10s", got)
		}
		r.want(0, 0, tunnel.NoFirstByte)
	})
	inRig(t, edit, func(r *rig) {
		say(t, r.server, "hello")
		begun := time.Now()
		reads(t, r.client, "hello", syscall.ECONNRESET)
		if got := time.Since(begun); got < time.Minute || got > 75*time.Second+time.Millisecond {
			t.Errorf("in silence it ends after %v, want 1m to 1m15s", got)
		}
		r.want(0, 5, tunnel.Idle)
	})
}

func TestTheEndOfTheContextCutsBothSides(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		say(t, r.client, "x")
		synctest.Wait()
		r.cancel()
		reads(t, r.client, "", syscall.ECONNRESET)
		reads(t, r.server, "x", syscall.ECONNRESET)
		r.want(1, 0, tunnel.Stopped)
	})
}

// over is a context that has ended, and whose end nobody has been told of yet.
type over struct{ context.Context }

func (over) Done() <-chan struct{} { return nil }
func (over) Err() error            { return context.Canceled }

// Whoever ends the context may close the client's connection before the tunnel hears of
// the end: it is not the client that has left.
func TestAConnectionThatIsClosedAsTheContextEndsIsNotLost(t *testing.T) {
	inRigUntil(t, func(ctx context.Context) context.Context { return over{ctx} }, nil, func(r *rig) {
		r.near.Close()
		r.want(0, 0, tunnel.Stopped)
		if text, err := io.ReadAll(r.server); len(text) > 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the server reads %q, %v; want a reset", text, err)
		}
	})
}
