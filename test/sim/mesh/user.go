package mesh

import (
	"bufio"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/test/pipenet"
)

// maxOpen bounds a caller's requests under way. A mesh that lets so many pile up has
// failed already; those beyond are counted as failed.
const maxOpen = 4000

// users send an open load through one sidecar over keep-alive connections.
type users struct {
	caller int
	host   *pipenet.Host
	target string // the sidecar
	posts  float64
	began  time.Time
	ledger *Ledger

	rates chan float64 // the load, from now on
	wg    sync.WaitGroup

	mu   sync.Mutex // guards what follows
	idle []*userConn
	open int
	done bool
}

// userConn is one connection to the sidecar; its goroutine sends what next brings.
type userConn struct {
	next chan bool // repeatable; closed at the end
}

const (
	getText  = "GET / HTTP/1.1\r\nhost: api\r\n\r\n"
	postText = "POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 2\r\n\r\nhi"
)

// run sends until ctx ends, and returns when every request has ended.
func (u *users) run(ctx context.Context, rng *rand.Rand) {
	rate := 0.0
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if rate > 0 {
			timer.Reset(time.Duration(rng.ExpFloat64() / rate * float64(time.Second)))
		} else {
			timer.Reset(time.Hour)
		}
		select {
		case <-ctx.Done():
			u.end()
			return
		case rate = <-u.rates:
		case <-timer.C:
			if rate > 0 {
				u.send(rng.Float64() >= u.posts)
			}
		}
	}
}

func (u *users) end() {
	u.mu.Lock()
	u.done = true
	for _, c := range u.idle {
		close(c.next)
	}
	u.idle = nil
	u.mu.Unlock()
	u.wg.Wait()
}

// send begins one request, on the connection that was used last, or on a new one.
func (u *users) send(repeatable bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var c *userConn
	switch n := len(u.idle); {
	case n > 0:
		c, u.idle = u.idle[n-1], u.idle[:n-1]
	case u.open >= maxOpen:
		u.ledger.addRequest(Request{At: time.Since(u.began), Caller: u.caller, Repeatable: repeatable})
		return
	default:
		c = &userConn{next: make(chan bool, 1)}
		u.open++
		u.wg.Go(func() { u.serve(c) })
	}
	c.next <- repeatable // there is room: the connection is idle
}

// serve owns a connection.
func (u *users) serve(c *userConn) {
	var conn net.Conn
	var reader *bufio.Reader
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	for repeatable := range c.next {
		r := Request{At: time.Since(u.began), Caller: u.caller, Repeatable: repeatable}
		again := false
		if conn == nil {
			conn, _ = u.host.Dial(context.Background(), "tcp", u.target) // nobody listening is a request failed
			if conn != nil {
				reader = bufio.NewReaderSize(conn, 1024)
			}
		}
		if conn != nil {
			r.Status, again = exchange(conn, reader, repeatable)
		}
		r.Took = time.Since(u.began) - r.At
		u.ledger.addRequest(r)
		if !again && conn != nil {
			_ = conn.Close()
			conn = nil
		}
		u.mu.Lock()
		if u.done {
			u.mu.Unlock()
			return
		}
		u.idle = append(u.idle, c)
		u.mu.Unlock()
	}
}

// exchange sends one request and reads the whole answer. again is whether the
// connection can carry another one.
func exchange(conn net.Conn, reader *bufio.Reader, repeatable bool) (status int, again bool) {
	text := getText
	if !repeatable {
		text = postText
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return 0, false
	}
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		return 0, false
	}
	_, err = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close() // it has been read
	if err != nil {
		return 0, false
	}
	return answer.StatusCode, !answer.Close
}
