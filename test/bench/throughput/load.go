package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

const bodySize = 1024

// backend answers every request with 200 and one kilobyte, spending as little as
// Go can: its cost is not under test.
type backend struct{ listener net.Listener }

func startBackend() (*backend, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", bodySize, bytes.Repeat([]byte("x"), bodySize))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 8<<10)
				kept := 0
				for {
					n, err := c.Read(buf[kept:])
					if err != nil {
						return
					}
					kept += n
					for { // the requests have no body: each ends with its head
						end := bytes.Index(buf[:kept], []byte("\r\n\r\n"))
						if end < 0 {
							break
						}
						kept = copy(buf, buf[end+4:kept])
						if _, err := c.Write(answer); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return &backend{l}, nil
}

func (b *backend) address() string { return b.listener.Addr().String() }
func (b *backend) close()          { b.listener.Close() }

// turn is what one product did in one round.
type turn struct {
	Requests int     `json:"requests"`
	Rate     float64 `json:"requests_per_second"`
	CPU      float64 `json:"cpu_us_per_request"`
	Busy     float64 `json:"cores_busy"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
}

// load keeps every connection busy with one request at a time until the duration
// is over. An answer other than 200 with a whole body is an error: a proxy that
// fails fast must not look cheap.
func load(ctx context.Context, address string, connections int, d time.Duration) (turn, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var (
		wg        sync.WaitGroup
		mu        sync.Mutex
		latencies []time.Duration
		failed    error
	)
	for range connections {
		wg.Go(func() {
			mine, err := loadOne(ctx, address)
			mu.Lock()
			defer mu.Unlock()
			latencies = append(latencies, mine...)
			failed = errors.Join(failed, err)
		})
	}
	wg.Wait()
	if failed != nil {
		return turn{}, failed
	}
	if len(latencies) == 0 {
		return turn{}, errors.New("no request was answered")
	}
	slices.Sort(latencies)
	us := func(q float64) float64 {
		return float64(latencies[int(q*float64(len(latencies)-1))].Nanoseconds()) / 1e3
	}
	return turn{Requests: len(latencies), P50: us(0.5), P99: us(0.99)}, nil
}

var request = []byte("GET /work HTTP/1.1\r\nHost: api.local\r\nUser-Agent: throughput\r\nAccept: */*\r\n\r\n")

func loadOne(ctx context.Context, address string) ([]time.Duration, error) {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	var latencies []time.Duration
	buf := make([]byte, 8<<10)
	for ctx.Err() == nil {
		start := time.Now()
		if _, err := c.Write(request); err != nil {
			return nil, err
		}
		filled, whole := 0, 0
		for whole == 0 || filled < whole {
			n, err := c.Read(buf[filled:])
			if err != nil {
				return nil, fmt.Errorf("after %d requests on this connection: %w", len(latencies), err)
			}
			filled += n
			if whole == 0 {
				if end := bytes.Index(buf[:filled], []byte("\r\n\r\n")); end >= 0 {
					if !bytes.HasPrefix(buf, []byte("HTTP/1.1 200 ")) {
						return nil, fmt.Errorf("answer %.60q", buf[:filled])
					}
					whole = end + 4 + bodySize
				}
			}
		}
		if filled != whole {
			return nil, fmt.Errorf("%d bytes more than the answer: %w", filled-whole, io.ErrShortBuffer)
		}
		latencies = append(latencies, time.Since(start))
	}
	return latencies, nil
}
