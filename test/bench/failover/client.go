package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// upstream is the header in which a backend says who it is.
const upstream = "x-upstream"

// client makes requests over kept connections. Unlike net/http's it never repeats one:
// each failure is to be seen. The zero client is usable.
type client struct {
	from net.IP // where its connections begin; nil: anywhere

	mu   sync.Mutex // guards idle
	idle map[string][]*connection
}

type connection struct {
	net.Conn
	reader *bufio.Reader
	since  time.Time // idle
}

// keep is how long an idle connection is used again: less than any product keeps one open
// (HAProxy's client timeout is a minute), whose end is no failure of that product.
const keep = 20 * time.Second

// get makes one request, and says whose answer came, and why it failed; "": it did not.
func (c *client) get(address, path string, timeout time.Duration) (from, why string) {
	deadline := time.Now().Add(timeout)
	conn, err := c.take(address, timeout)
	if err != nil {
		return "", reason(err, "connect")
	}
	keep, from, why := conn.exchange(path, deadline)
	if keep {
		c.mu.Lock()
		defer c.mu.Unlock()
		conn.since = time.Now()
		c.idle[address] = append(c.idle[address], conn)
		return from, why
	}
	conn.Close()
	return from, why
}

func (c *client) take(address string, timeout time.Duration) (*connection, error) {
	c.mu.Lock()
	if c.idle == nil {
		c.idle = map[string][]*connection{}
	}
	if list := c.idle[address]; len(list) > 0 {
		conn := list[len(list)-1]
		if time.Since(conn.since) < keep {
			c.idle[address] = list[:len(list)-1]
			c.mu.Unlock()
			return conn, nil
		}
		for _, old := range list { // this one has been idle for the shortest time
			old.Close()
		}
		delete(c.idle, address)
	}
	c.mu.Unlock()
	d := net.Dialer{Timeout: timeout}
	if c.from != nil {
		d.LocalAddr = &net.TCPAddr{IP: c.from}
	}
	conn, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &connection{Conn: conn, reader: bufio.NewReaderSize(conn, 4096)}, nil
}

// exchange carries one request; keep is whether the connection is good for another.
func (c *connection) exchange(path string, deadline time.Time) (keep bool, from, why string) {
	if err := c.SetDeadline(deadline); err != nil {
		return false, "", reason(err, "connection")
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nhost: api\r\n\r\n", path); err != nil {
		return false, "", reason(err, "reset")
	}
	res, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return false, "", reason(err, "reset")
	}
	defer res.Body.Close()
	from = res.Header.Get(upstream)
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return false, from, reason(err, "cut short")
	}
	if res.StatusCode != http.StatusOK {
		why = fmt.Sprint(res.StatusCode)
	}
	return !res.Close, from, why
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, list := range c.idle {
		for _, conn := range list {
			conn.Close()
		}
	}
	clear(c.idle)
}

// reason is a word for an error.
func reason(err error, otherwise string) string {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "timeout"
	}
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
		return "timeout"
	}
	return otherwise
}
