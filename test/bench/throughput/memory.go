package main

import (
	"context"
	"io"
	"net"
	"syscall"
	"time"
)

// settled is how long after its first answer a product's memory is read: ours gives
// back after two seconds what reading its file took.
const settled = 4 * time.Second

// idleRoom is how many descriptors a process has beside those of idle connections. Each
// of these was served by one request after the other, on few connections to the server.
const idleRoom = 1000

// idleCount is how many connections lie idle, as far as the descriptors of a process
// allow.
func (o options) idleCount() int {
	if o.smoke {
		return 200
	}
	return min(idleMost, descriptors()-idleRoom)
}

// descriptors is how many a process may have open.
func descriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // what every Unix allows
	}
	return int(min(limit.Cur, 40_000))
}

// connect opens so many connections, and makes sure that each has been served: by one
// request, or in HTTP/2 by the settings.
func connect(n int, w work, address string) (held []net.Conn, err error) {
	opening := getRequest()
	if w.down == http2 {
		opening = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	}
	defer func() {
		if err != nil {
			letGo(held)
		}
	}()
	for range n {
		c, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			return held, err
		}
		held = append(held, c)
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return held, err
		}
		if w.down == http2 {
			if _, err := c.Write(opening); err != nil {
				return held, err
			}
			if _, err := io.ReadFull(c, make([]byte, 9)); err != nil {
				return held, err
			}
			continue
		}
		x := exchanger{Conn: c}
		if err := x.exchange(opening); err != nil {
			return held, err
		}
	}
	return held, nil
}

func letGo(held []net.Conn) {
	for _, c := range held {
		_ = c.Close()
	}
}

// gaugeIdle is what an idle connection costs, and what the process took before.
func gaugeIdle(ctx context.Context, w work, p *process, o options) (turn, error) {
	if err := pause(ctx, o.pause()); err != nil {
		return turn{}, err
	}
	before, err := p.rss()
	if err != nil {
		return turn{}, err
	}
	n := o.idleCount()
	held, err := connect(n, w, p.address)
	if err != nil {
		return turn{}, err
	}
	defer letGo(held)
	if err := pause(ctx, o.pause()); err != nil {
		return turn{}, err
	}
	after, err := p.rss()
	return turn{RSS: before / (1 << 20), Idle: (after - before) / float64(n)}, err
}

// gaugeHeld is what a request costs while many connections lie idle.
func gaugeHeld(ctx context.Context, w work, p *process, o options) (turn, error) {
	drive := func() (turn, error) { return measure(p, o.duration, driver(ctx, w, p, "", closed(getRequest()))) }
	without, err := drive()
	if err != nil {
		return turn{}, err
	}
	held, err := connect(o.idleCount(), w, p.address)
	if err != nil {
		return turn{}, err
	}
	defer letGo(held)
	t, err := drive()
	t.Kept = t.Rate / without.Rate
	return t, err
}

// gaugeStart is how long the first answer took, and the memory afterwards.
func gaugeStart(ctx context.Context, _ work, p *process, o options) (turn, error) {
	first := time.Since(p.Begun)
	if err := pause(ctx, o.pause()); err != nil {
		return turn{}, err
	}
	rss, err := p.rss()
	return turn{First: float64(first.Microseconds()) / 1e3, RSS: rss / (1 << 20)}, err
}

func (o options) pause() time.Duration {
	if o.smoke {
		return 200 * time.Millisecond
	}
	return settled
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
