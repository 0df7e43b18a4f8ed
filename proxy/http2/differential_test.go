package http2

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// curious tells in its answer all that it was asked, and answers as the request's seed
// has it.
func curious(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	seed, _ := strconv.ParseUint(q.Header.Get("Seed"), 10, 64)
	rng := rand.New(rand.NewPCG(seed, 1))
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s %s %d %v\n", q.Method, q.RequestURI, q.Host, len(body), err)
	for _, part := range []http.Header{q.Header, q.Trailer} {
		for _, name := range slices.Sorted(maps.Keys(part)) {
			switch name {
			case "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id", "Te", "Trailer": // the proxy's own, or of one hop
			default:
				fmt.Fprintf(&text, "%s: %q\n", name, part[name])
			}
		}
	}
	h := w.Header()
	for i := range rng.IntN(4) {
		h.Add(fmt.Sprintf("X-%d", rng.IntN(3)), fmt.Sprint("value ", i))
	}
	h.Set("Date", "Thu, 01 Jan 1970 00:00:00 GMT")
	status := []int{200, 201, 204, 301, 304, 400, 404, 501}[rng.IntN(8)]
	trailers := rng.IntN(3) == 0 && status != 204 && status != 304 // where HTTP/1.1 has no body to put them behind
	if trailers {
		h.Set("Trailer", "X-End")
	}
	w.WriteHeader(status)
	text.WriteString(strings.Repeat("x", rng.IntN(3)*rng.IntN(100_000)))
	for rest := text.String(); len(rest) > 0; { // in pieces
		n := min(len(rest), 1+rng.IntN(40_000))
		_, _ = io.WriteString(w, rest[:n])
		rest = rest[n:]
		if rng.IntN(2) == 0 {
			w.(http.Flusher).Flush()
		}
	}
	if trailers {
		h.Set("X-End", "at last")
	}
}

// random makes a request of its seed.
func random(seed uint64) *http.Request {
	rng := rand.New(rand.NewPCG(seed, 2))
	method := []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "X-OWN"}[rng.IntN(8)]
	var body io.Reader
	if rng.IntN(2) == 0 && method != "HEAD" {
		text := strings.Repeat("y", 1+rng.IntN(3)*rng.IntN(100_000)) // net/http's own two ends do not agree on trailers behind nothing
		body = strings.NewReader(text)
		if rng.IntN(2) == 0 {
			body = io.MultiReader(body) // whose length nobody knows
		}
	}
	q, err := http.NewRequest(method, "http://api"+[]string{"/", "/a/b%20c", "/?x=%zz&y", "/a?b"}[rng.IntN(4)], body)
	if err != nil {
		panic(err)
	}
	q.Header.Set("Seed", strconv.FormatUint(seed, 10))
	q.Header.Set("User-Agent", "differential")
	for range rng.IntN(4) {
		q.Header.Add([]string{"Cookie", "Accept", "X-A", "X-B"}[rng.IntN(4)], []string{"a=b", "", "c, d", "\xe9"}[rng.IntN(4)])
	}
	if body != nil && q.ContentLength <= 0 && rng.IntN(2) == 0 {
		q.Trailer = http.Header{"X-Last": {"bye"}}
	}
	return q
}

// seen is what a client sees of an answer.
func seen(c *http.Client, q *http.Request) string {
	res, err := c.Do(q)
	if err != nil {
		return "no answer: " + err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	var text strings.Builder
	fmt.Fprintf(&text, "%d %v\n", res.StatusCode, err)
	for _, part := range []http.Header{res.Header, res.Trailer} {
		for _, name := range slices.Sorted(maps.Keys(part)) {
			switch name {
			case "Via", "Content-Length", "Trailer": // what frames a message is each connection's own
			default:
				fmt.Fprintf(&text, "%s: %q\n", name, part[name])
			}
		}
	}
	text.Write(body)
	return text.String()
}

// elsewhere is how to dial a server that the proxy does not know.
func (r *rig) elsewhere(serve func(net.Conn, int)) func(context.Context, string, string) (net.Conn, error) {
	r.t.Helper()
	ln, err := r.net.Host("10.0.2.1").Listen(r.t.Context(), "tcp", ":80")
	if err != nil {
		r.t.Fatal(err)
	}
	r.ends = append(r.ends, func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c, 0)
			}()
		}
	}()
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return r.net.Host("10.0.0.9").Dial(ctx, "tcp", "10.0.2.1:80")
	}
}

// A client sees through the proxy what it sees without it, and so does the server:
// whichever versions they speak. net/http stands at both ends.
func TestAProxyIsNotNoticed(t *testing.T) {
	for name, edit := range map[string]func(*options){"to HTTP/2": nil, "to HTTP/1.1": older} {
		backend := speaks(curious)
		if edit != nil {
			backend = served(curious)
		}
		t.Run(name, func(t *testing.T) {
			inRig(t, edit, func(r *rig) {
				transport := &http.Transport{Protocols: only2(), DialContext: r.elsewhere(speaks(curious))}
				same := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				direct := &http.Client{Transport: transport, CheckRedirect: same, Timeout: time.Minute}
				r.client.Timeout = time.Minute
				r.client.CheckRedirect = same
				answers := map[string]int{}
				for seed := range uint64(400) {
					want, got := seen(direct, random(seed)), seen(r.client, random(seed))
					if diff := cmp.Diff(want, got); diff != "" {
						r.t.Errorf("seed %d: %s %s (-direct +through the proxy):\n%.2000s", seed, random(seed).Method, random(seed).URL, diff)
					}
					answers[got[:3]]++
				}
				if len(answers) != 8 || answers["no "] > 0 {
					r.t.Errorf("answers by status: %v, want all eight", answers)
				}
				transport.CloseIdleConnections()
			}, backend)
		})
	}
}
