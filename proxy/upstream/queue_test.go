package upstream_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// await waits beside the test; what it brings comes by the channel.
func (b *bed) await(ctx context.Context) <-chan *upstream.Conn {
	got := make(chan *upstream.Conn, 1)
	go func() {
		c, _, err := b.endpoint.Await(ctx, func() context.Context { return ctx })
		failure, ok := errors.AsType[*upstream.ConnectError](err)
		if err != nil && (!ok || failure.Ending != outlier.EndClientAbort) {
			b.t.Errorf("await: got %v, want a connection or that its caller left", err)
		}
		got <- c
	}()
	synctest.Wait()
	return got
}

func TestWhoWaitsForAConnectionComesInHisTurn(t *testing.T) {
	type seat = <-chan *upstream.Conn
	for name, tt := range map[string]struct {
		free func(b *bed, c *upstream.Conn)
		open int
	}{
		"one is put back":           {func(b *bed, c *upstream.Conn) { b.put(c) }, 1},
		"one is closed":             {func(_ *bed, c *upstream.Conn) { c.Discard() }, 1},
		"one is put back in ruins":  {func(b *bed, c *upstream.Conn) { b.listener.Close(); b.listen(); c.Conn.Close(); b.put(c) }, 1},
		"more may be open from now": {func(b *bed, _ *upstream.Conn) { b.allow(2) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, func(o *upstream.Options) { o.MaxConns = 1 })
				c, _ := b.fresh()
				ctx, leave := context.WithCancel(t.Context())
				gone := b.await(ctx)
				var seats [2]seat
				for i := range seats {
					seats[i] = b.await(t.Context())
				}
				leave()
				synctest.Wait()
				if got := <-gone; got != nil {
					t.Errorf("who left: got %p, want nothing", got)
				}
				tt.free(b, c)
				time.Sleep(time.Second)
				select {
				case <-seats[1]:
					t.Error("the second came before the first")
				default:
				}
				first := <-seats[0]
				if first == nil {
					t.Fatal("the first got nothing")
				}
				if _, _, err := b.endpoint.Get(t.Context(), b.clock.Now()); !errors.Is(err, upstream.ErrTooManyConnections) {
					t.Errorf("who did not wait: got %v, want %v", err, upstream.ErrTooManyConnections)
				}
				b.want(0, tt.open)
				first.Discard()
				second := <-seats[1]
				b.want(0, tt.open)
				second.Discard()
				b.want(0, tt.open-1)
			})
		})
	}
}

// A connection that cannot be opened leaves its room to the next one.
func TestRoomThatCannotBeUsedIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(o *upstream.Options) { o.MaxConns = 1 })
		c, _ := b.fresh()
		b.listener.Close()
		var failures [3]chan error
		for i := range failures {
			failures[i] = make(chan error, 1)
			go func() {
				_, _, err := b.endpoint.Await(t.Context(), t.Context)
				failures[i] <- err
			}()
		}
		synctest.Wait()
		c.Discard()
		for i := range failures {
			if got := upstream.ConnectEnding(<-failures[i]); got != outlier.EndConnectRefused {
				t.Errorf("waiter %d: got %v, want %v", i, got, outlier.EndConnectRefused)
			}
		}
		b.want(0, 0)
	})
}

// allow changes how many connections may be open.
func (b *bed) allow(n int) {
	opts := upstream.DefaultOptions()
	opts.Dial, opts.MaxConns = b.net.Host("10.0.0.1").Dial, n
	b.endpoint.SetOptions(&opts)
}
