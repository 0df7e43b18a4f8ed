package http1

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// crowd is hostile: each of them does something of its own to keep the server busy.
var crowd = []string{
	"",                              // says nothing
	"GET / HTTP/1.1\r\nHost: a\r\n", // half a head
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhalf",                                           // half a body
	strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 5), // asks and does not read
	"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",                                                       // no HTTP
	"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 200),                                            // more fields than allowed
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\nx\r\n", 1000),      // crumbs
	"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 30<<10),                                             // a field without end
}

// TestGoodClientsAreServedBesideHostileOnes has 1000 hostile connections beside 100 good
// ones, whose every request must be answered. What the crowd costs them is printed: on
// a machine that others use it is no assertion.
func TestGoodClientsAreServedBesideHostileOnes(t *testing.T) {
	const good, hostile, each = 100, 1000, 30
	l := newSocketLoop(t)
	address := l.client.RemoteAddr().String()

	serve := func() time.Duration {
		var wg sync.WaitGroup
		began := time.Now()
		for range good {
			wg.Go(func() {
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				mine := &loop{client: c, request: l.request, answer: l.answer, buf: make([]byte, 64<<10)}
				for range each {
					if err := mine.ask(); err != nil {
						t.Errorf("a good client: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		return time.Since(began)
	}
	alone := serve()
	for i := range hostile {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, crowd[i%len(crowd)]) // it may be refused before its end
	}
	beside := serve()
	t.Logf("%d good connections, %d requests each: %v alone, %v beside %d hostile connections: %.0f %% of the throughput",
		good, each, alone, beside, hostile, 100*alone.Seconds()/beside.Seconds())
	if n := l.server.deps.Metrics.Malformed.Load(); n == 0 {
		t.Error("none of the hostile clients has been refused")
	}
}
