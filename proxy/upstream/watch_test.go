package upstream_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// hints counts the hints of a bed's endpoint.
func hints(t *testing.T, body func(t *testing.T, b *bed, hints *int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		b := newBed(t, func(o *upstream.Options) {
			o.Watch = upstream.NewWatch(clock.New())
			o.Hint = func(*upstream.Endpoint) { n++ }
		})
		body(t, b, &n)
	})
}

func TestAnIdleConnectionThatTheServerClosesIsAHint(t *testing.T) {
	hints(t, func(t *testing.T, b *bed, hints *int) {
		c, far := b.fresh()
		b.put(c)
		time.Sleep(2 * time.Second)
		_ = far.Close()
		synctest.Wait()
		if *hints != 1 {
			t.Errorf("%d hints, want 1", *hints)
		}
		if n := b.endpoint.Open(); n != 0 {
			t.Errorf("%d connections are open, want none: it is of no use", n)
		}
	})
}

func TestWhatDiesAtOnceIsOneHint(t *testing.T) {
	hints(t, func(t *testing.T, b *bed, hints *int) {
		var conns []*upstream.Conn
		for range 10 {
			c, _ := b.get()
			conns = append(conns, c)
		}
		for _, c := range conns {
			b.put(c)
		}
		b.net.Host("10.0.0.2").Crash()
		synctest.Wait()
		if *hints != 1 {
			t.Errorf("%d hints, want 1", *hints)
		}
	})
}

func TestWhatWeCloseOrUseOurselvesIsNoHint(t *testing.T) {
	for name, ends := range map[string]func(b *bed, c *upstream.Conn){
		"idle time-out": func(b *bed, c *upstream.Conn) {
			b.put(c)
			time.Sleep(time.Minute)
			b.endpoint.Expire(b.clock.Now())
		},
		"retired":   func(b *bed, c *upstream.Conn) { b.put(c); b.endpoint.Retire() },
		"closed":    func(b *bed, c *upstream.Conn) { b.put(c); b.endpoint.CloseIdle() },
		"discarded": func(_ *bed, c *upstream.Conn) { c.Discard() },
		"in use": func(b *bed, c *upstream.Conn) {
			b.put(c)
			_, _ = b.get()
		},
	} {
		t.Run(name, func(t *testing.T) {
			hints(t, func(t *testing.T, b *bed, hints *int) {
				c, far := b.fresh()
				ends(b, c)
				_ = far.Close()
				synctest.Wait()
				if *hints != 0 {
					t.Errorf("%d hints, want none", *hints)
				}
				c.Discard()
			})
		})
	}
}

func TestAnIdleTimeOutOfTheServerIsOneHintForAll(t *testing.T) {
	hints(t, func(t *testing.T, b *bed, hints *int) {
		for range 100 {
			c, far := b.fresh()
			b.put(c)
			time.Sleep(5 * time.Second)
			_ = far.Close()
			synctest.Wait()
			if *hints == 1 {
				b.endpoint.Hinted(true, b.clock.Now())
			}
		}
		if *hints != 1 {
			t.Errorf("%d hints, want 1, of the first", *hints)
		}
	})
}

func TestASharedConnectionThatEndsIsAHintUntilTheEndpointIsRetired(t *testing.T) {
	hints(t, func(t *testing.T, b *bed, hints *int) {
		b.endpoint.Left(time.Second, b.clock.Now())
		if *hints != 1 {
			t.Errorf("%d hints, want 1", *hints)
		}
		time.Sleep(time.Minute)
		b.endpoint.Retire()
		b.endpoint.Left(time.Second, b.clock.Now())
		if *hints != 1 {
			t.Errorf("%d hints of an endpoint that has left, want none", *hints-1)
		}
	})
}

func TestAWatchEndsWithItsContext(t *testing.T) {
	w := upstream.NewWatch(clock.New())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}
