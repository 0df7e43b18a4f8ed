package upstream_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// deaf is a bed whose endpoint has lost its listener and has one busy connection.
func deaf(t *testing.T) (b *bed, busy *upstream.Conn, server *pipenet.Conn) {
	t.Helper()
	b = newBed(t, func(o *upstream.Options) { o.RefusedWait = 250 * time.Millisecond })
	busy, server = b.fresh()
	b.listener.Close()
	return b, busy, server
}

// asked is what came of asking for a connection, and when.
type asked struct {
	conn   *upstream.Conn
	reused bool
	err    error
	took   time.Duration
}

// ask asks for a connection in the background.
func (b *bed) ask(ctx context.Context) <-chan asked {
	done := make(chan asked, 1)
	go func() {
		start := b.clock.Now()
		c, reused, err := b.endpoint.Get(ctx, start)
		done <- asked{c, reused, err, b.clock.Now() - start}
	}()
	return done
}

// wantRefused checks that the answer was a refusal, after so long.
func wantRefused(t *testing.T, got asked, took time.Duration) {
	t.Helper()
	failure, ok := errors.AsType[*upstream.ConnectError](got.err)
	if !ok || failure.Ending != outlier.EndConnectRefused || got.took != took {
		t.Errorf("got %v, %v after %v; want a refusal after %v", got.conn, got.err, got.took, took)
	}
}

func TestWhoIsRefusedWaitsForAConnectionThatStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, busy, _ := deaf(t)
		first := b.ask(t.Context())
		synctest.Wait()
		second := b.ask(t.Context())
		time.Sleep(30 * time.Millisecond)
		b.put(busy)
		got := <-first
		if got.conn != busy || got.reused || got.err != nil || got.took != 30*time.Millisecond {
			t.Errorf("first: got %p, reused %v, %v after %v; want %p, which was in use until 30ms", got.conn, got.reused, got.err, got.took, busy)
		}
		if busy.IdleFor() != 0 {
			t.Errorf("it was idle for %v, want 0", busy.IdleFor())
		}
		time.Sleep(30 * time.Millisecond)
		b.put(got.conn)
		if got := <-second; got.conn != busy || got.err != nil || got.took != 60*time.Millisecond {
			t.Errorf("second: got %p, %v after %v; want %p after 60ms", got.conn, got.err, got.took, busy)
		}
		b.want(0, 1)
	})
}

func TestNobodyWaitsWhoIsNotMeantTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, nil)
		b.fresh()
		b.listener.Close()
		wantRefused(t, <-b.ask(t.Context()), 0)
	})
}

func TestACrashIsNotWaitedFor(t *testing.T) {
	t.Run("nothing stands", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, busy, _ := deaf(t)
			busy.Discard()
			wantRefused(t, <-b.ask(t.Context()), 0)
		})
	})
	t.Run("what is idle is dead", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, idle, server := deaf(t)
			b.put(idle)
			time.Sleep(10 * time.Millisecond)
			_ = server.Reset()
			wantRefused(t, <-b.ask(t.Context()), 0)
			b.want(0, 0)
		})
	})
	t.Run("what is busy dies", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, busy, server := deaf(t)
			var wg sync.WaitGroup
			wg.Go(func() { // who uses a connection finds its end
				_, _ = io.Copy(io.Discard, busy)
				busy.Discard()
			})
			waiting := []<-chan asked{b.ask(t.Context()), b.ask(t.Context())}
			time.Sleep(7 * time.Millisecond)
			_ = server.Reset()
			for _, w := range waiting {
				wantRefused(t, <-w, 7*time.Millisecond)
			}
			wg.Wait()
			b.want(0, 0)
		})
	})
	t.Run("what becomes free is dead", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, busy, server := deaf(t)
			waiting := b.ask(t.Context())
			time.Sleep(7 * time.Millisecond)
			server.Close()
			b.put(busy)
			wantRefused(t, <-waiting, 7*time.Millisecond)
			b.want(0, 0)
		})
	})
}

func TestTheWaitIsBounded(t *testing.T) {
	t.Run("in time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, busy, _ := deaf(t)
			wantRefused(t, <-b.ask(t.Context()), 250*time.Millisecond)
			// Whoever has gone gets nothing any more.
			b.put(busy)
			b.want(1, 1)
		})
	})
	t.Run("by the request's own time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, _, _ := deaf(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(100*time.Millisecond, func() { cancel(upstream.GivenUp(outlier.EndPerTryTimeout)) })
			got := <-b.ask(ctx)
			failure, ok := errors.AsType[*upstream.ConnectError](got.err)
			if !ok || failure.Ending != outlier.EndPerTryTimeout || got.took != 100*time.Millisecond {
				t.Errorf("got %v after %v, want the ending %v after 100ms", got.err, got.took, outlier.EndPerTryTimeout)
			}
		})
	})
	t.Run("in number", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, _, _ := deaf(t)
			const places = 64
			var waiting []<-chan asked
			for range places {
				waiting = append(waiting, b.ask(t.Context()))
			}
			synctest.Wait()
			wantRefused(t, <-b.ask(t.Context()), 0)
			for _, w := range waiting {
				wantRefused(t, <-w, 250*time.Millisecond)
			}
		})
	})
}

func TestManyWaitingLoseNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(o *upstream.Options) { o.RefusedWait = 5 * time.Millisecond })
		first, _ := b.fresh()
		second, _ := b.fresh()
		b.listener.Close()
		b.put(first)
		b.put(second)
		served := 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				// Some leave in the very instant in which a connection becomes free.
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%4+1)*time.Millisecond)
				defer cancel()
				for range 20 {
					c, _, err := b.endpoint.Get(ctx, b.clock.Now())
					if err != nil {
						return
					}
					mu.Lock()
					served++
					mu.Unlock()
					time.Sleep(time.Millisecond)
					b.put(c)
				}
			})
		}
		wg.Wait()
		if served < 4 {
			t.Errorf("%d were served, want at least those of the first two milliseconds", served)
		}
		b.want(2, 2)
	})
}

func TestAServerThatRefusesAndHoldsItsConnectionsLives(t *testing.T) {
	tests := []struct {
		name  string
		crash func(b *bed, c *upstream.Conn, s *pipenet.Conn)
		want  bool
		took  time.Duration
	}{
		{"an idle connection stands", func(b *bed, c *upstream.Conn, _ *pipenet.Conn) { b.put(c) }, true, 10 * time.Millisecond},
		{"a busy connection stands", func(*bed, *upstream.Conn, *pipenet.Conn) {}, true, 10 * time.Millisecond},
		{"there is none", func(_ *bed, c *upstream.Conn, _ *pipenet.Conn) { c.Discard() }, false, 0},
		{"it is reset", func(b *bed, c *upstream.Conn, s *pipenet.Conn) { b.put(c); _ = s.Reset() }, false, 0},
		{"it is closed", func(b *bed, c *upstream.Conn, s *pipenet.Conn) { b.put(c); s.Close() }, false, 0},
		{"its reset is on the way", func(b *bed, c *upstream.Conn, s *pipenet.Conn) {
			b.put(c)
			time.AfterFunc(9*time.Millisecond, func() { _ = s.Reset() })
		}, false, 10 * time.Millisecond},
		{"only one that is younger stands in the end", func(b *bed, c *upstream.Conn, s *pipenet.Conn) {
			time.AfterFunc(2*time.Millisecond, func() { c.Discard(); b.fresh() })
		}, false, 10 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, nil)
				c, s := b.fresh()
				tt.crash(b, c, s)
				start := b.clock.Now()
				got := b.endpoint.Stands(t.Context())
				if took := b.clock.Now() - start; got != tt.want || took != tt.took {
					t.Errorf("Stands = %v after %v, want %v after %v", got, took, tt.want, tt.took)
				}
			})
		})
	}
}

func TestNobodyIsToldAfterHeHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, nil)
		b.fresh()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		if b.endpoint.Stands(ctx) {
			t.Error("Stands = true in less time than it takes to know")
		}
	})
}
