package http2

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestARequestGoesThere(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		for range 3 {
			got := r.do("POST", "/x?y=1", "hello")
			r.check(got, 201, "POST /x?y=1 api hello 10.0.0.9 2 overhear", "-", "10.0.1.1 ok")
			if got.Header.Get("A") != "b" || got.Trailer.Get("T") != "u" {
				t.Errorf("got header %v, trailer %v", got.Header, got.Trailer)
			}
		}
		line := r.last()
		if line.Method != http.MethodPost || line.Host != "api" || line.Path != "/x?y=1" || line.Major != 2 || line.Received != 5 || len(line.ID) != 36 {
			t.Errorf("got %+v", line)
		}
	}, speaks(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		w.Header().Set("A", "b")
		w.Header().Set("Trailer", "T")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, strings.Join([]string{q.Method, q.URL.String(), q.Host, string(body), q.Header.Get("X-Forwarded-For"), q.Header.Get("Via")}, " "))
		w.Header().Set("T", "u")
	}))
}

func TestLargeBodiesGoBothWays(t *testing.T) {
	body := strings.Repeat("0123456789", 300_000)
	inRig(t, nil, func(r *rig) {
		got := r.do("POST", "/", body)
		if got.err != nil || got.body != body {
			t.Errorf("got %d bytes, %v; want %d", len(got.body), got.err, len(body))
		}
	}, speaks(func(w http.ResponseWriter, q *http.Request) {
		var buf bytes.Buffer
		_, _ = io.Copy(&buf, q.Body)
		_, _ = w.Write(buf.Bytes())
	}))
}

// A reader may be late with news of a stream that was given up meanwhile, and whose relay
// has gone on to a stream of the same number: on another link.
func TestNewsOfAnotherLinkIsNoNews(t *testing.T) {
	old, now := new(link), new(link)
	x := &relay{up: stream{place: place{now, 1}}}
	w := &wire{st: stream{place: place{now, 1}}}
	if x.mine(&x.up, place{old, 1}) || w.mine(place{old, 1}) {
		t.Error("what comes for stream 1 of another link is taken for its own")
	}
	if !x.mine(&x.up, place{now, 1}) || !w.mine(place{now, 1}) {
		t.Error("what comes for its own stream is not taken")
	}
}
