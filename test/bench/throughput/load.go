package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

func getRequest() []byte {
	return []byte("GET /work HTTP/1.1\r\nHost: api.local\r\nUser-Agent: throughput\r\nAccept: */*\r\n\r\n")
}

func postRequest() []byte {
	return fmt.Appendf(nil, "POST /work HTTP/1.1\r\nHost: api.local\r\nUser-Agent: throughput\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		postSize, bytes.Repeat([]byte("p"), postSize))
}

// closed keeps every connection busy with one request at a time until the duration is
// over. An answer other than 200 with a whole body is an error: a proxy that fails
// fast must not look cheap.
func closed(request []byte) drive {
	return func(ctx context.Context, w work, address, _ string, d time.Duration) (turn, error) {
		return onEach(ctx, w.connections, address, d, func(ctx context.Context, _ int, c net.Conn) ([]float64, error) {
			x := exchanger{Conn: c}
			for ctx.Err() == nil {
				if err := x.exchange(request); err != nil {
					return nil, err
				}
			}
			return x.micros, nil
		})
	}
}

// drivePaced sends so many requests in a second, each connection in its turn: what is
// late does not hold up the others. Latency counts from the moment of sending.
func drivePaced(ctx context.Context, w work, address, _ string, d time.Duration) (turn, error) {
	request, start := getRequest(), time.Now()
	return onEach(ctx, w.connections, address, d, func(ctx context.Context, i int, c net.Conn) ([]float64, error) {
		x := exchanger{Conn: c}
		for k := i; ; k += w.connections {
			at := start.Add(time.Duration(k) * time.Second / rateFixed)
			select {
			case <-time.After(time.Until(at)):
			case <-ctx.Done():
				return x.micros, nil
			}
			if err := x.exchange(request); err != nil {
				return nil, err
			}
		}
	})
}

// driveSmall sends a few bytes and waits until they are back.
func driveSmall(ctx context.Context, w work, address, _ string, d time.Duration) (turn, error) {
	return onEach(ctx, w.connections, address, d, func(ctx context.Context, _ int, c net.Conn) ([]float64, error) {
		var micros []float64
		buf := bytes.Repeat([]byte("s"), smallSize)
		for ctx.Err() == nil {
			start := time.Now()
			if _, err := c.Write(buf); err != nil {
				return nil, err
			}
			if _, err := io.ReadFull(c, buf); err != nil {
				return nil, err
			}
			micros = append(micros, since(start))
		}
		return micros, nil
	})
}

// driveBulk reads what the server sends as fast as it can, in units of 64 KiB.
func driveBulk(ctx context.Context, w work, address, _ string, d time.Duration) (turn, error) {
	return onEach(ctx, w.connections, address, d, func(ctx context.Context, _ int, c net.Conn) ([]float64, error) {
		if _, err := c.Write([]byte{bulkByte}); err != nil {
			return nil, err
		}
		var micros []float64
		buf := make([]byte, 4*bulkUnit)
		for got, start := 0, time.Now(); ctx.Err() == nil; {
			n, err := c.Read(buf)
			if err != nil {
				return nil, err
			}
			for got += n; got >= bulkUnit; got -= bulkUnit {
				micros = append(micros, since(start))
				start = time.Now()
			}
		}
		return micros, nil
	})
}

func since(start time.Time) float64 { return float64(time.Since(start).Nanoseconds()) / 1e3 }

// onEach opens connections, and has each busy for so long. Of each unit they tell the
// microseconds that it took.
func onEach(ctx context.Context, connections int, address string, d time.Duration, busy func(context.Context, int, net.Conn) ([]float64, error)) (turn, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return together(connections, func(i int) ([]float64, error) { return onOne(ctx, i, address, busy) })
}

// together runs so many at once, and puts together what they tell.
func together(n int, one func(i int) ([]float64, error)) (turn, error) {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		micros []float64
		failed error
	)
	for i := range n {
		wg.Go(func() {
			mine, err := one(i)
			mu.Lock()
			defer mu.Unlock()
			micros = append(micros, mine...)
			if failed == nil {
				failed = err // the others say the same
			}
		})
	}
	wg.Wait()
	if failed != nil {
		return turn{}, failed
	}
	return turnOf(micros)
}

func onOne(ctx context.Context, i int, address string, busy func(context.Context, int, net.Conn) ([]float64, error)) ([]float64, error) {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	return busy(ctx, i, c)
}

// exchanger makes one request after the other on a connection.
type exchanger struct {
	net.Conn
	buf    [8 << 10]byte
	micros []float64
}

func (x *exchanger) exchange(request []byte) error {
	start := time.Now()
	if _, err := x.Write(request); err != nil {
		return err
	}
	filled, whole := 0, 0
	for whole == 0 || filled < whole {
		n, err := x.Read(x.buf[filled:])
		if err != nil {
			return fmt.Errorf("after %d requests on this connection: %w", len(x.micros), err)
		}
		filled += n
		if whole == 0 {
			if end := bytes.Index(x.buf[:filled], headEnd); end >= 0 {
				if !bytes.HasPrefix(x.buf[:], []byte("HTTP/1.1 200")) {
					return fmt.Errorf("answer %.60q", x.buf[:filled])
				}
				whole = end + len(headEnd) + bodySize
			}
		}
	}
	if filled != whole {
		return fmt.Errorf("%d bytes more than the answer: %w", filled-whole, io.ErrShortBuffer)
	}
	x.micros = append(x.micros, since(start))
	return nil
}
