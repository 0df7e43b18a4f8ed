package listener

import (
	"bufio"
	"bytes"
	"net/http"
	"testing"
)

// What is sure stays sure, however the bytes come; and what net/http's server takes for
// a request is never carried unread.
func FuzzRecognise(f *testing.F) {
	for _, seed := range []string{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\nget\t/ http/1.0\n", "get /key\r\n", preface, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "*1\r\n$4\r\nPING\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		p = p[:min(len(p), maxLine)]
		spoken, sure := recognise(p)
		for i := range p {
			if early, sureEarly := recognise(p[:i]); sureEarly && (early != spoken || !sure) {
				t.Fatalf("%q is %v for sure, and with %q behind it %v (sure: %v)", p[:i], early, p[i:], spoken, sure)
			}
		}
		if len(p) == maxLine && !sure {
			t.Fatalf("%q: not sure after %d bytes", p, maxLine)
		}
		if !sure || spoken != Opaque {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(p)))
		if err == nil && r.RequestURI[0] == '/' {
			t.Fatalf("%q is opaque, and to net/http %s %s", p, r.Method, r.RequestURI)
		}
	})
}
