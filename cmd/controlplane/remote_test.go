package main

import (
	"errors"
	"net"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"
)

// An xDS address speaks HTTP/2, whose first frame may come before or after the request has left.
func TestWhoSpeaksHTTP2IsToldApartWhicheverSideIsFirst(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = c.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00")) // whoever is gone has its error
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, _ = c.Read(make([]byte, 1024))
			_ = c.Close()
		}
	}()
	r := &remote{address: l.Addr().String()}
	for name, wait := range map[string]time.Duration{"request first": 0, "frame first": 20 * time.Millisecond} {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { time.Sleep(wait) }})
		_, _, err := r.open(ctx, "GET", "/api/v1/status", nil, nil, "")
		if err == nil || !strings.Contains(err.Error(), "does not speak HTTP/1.1: is it the xDS address?") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
