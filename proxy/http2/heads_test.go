package http2

import (
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	xhttp2 "golang.org/x/net/http2"
)

// lines are the fields of a head as text.
func lines(f *xhttp2.MetaHeadersFrame) []string {
	var got []string
	for _, field := range f.Fields {
		got = append(got, field.Name+": "+field.Value)
	}
	return got
}

func TestTheHeadIsWrittenAnewForTheEndpoint(t *testing.T) {
	pseudo := []string{":method: GET", ":scheme: http", ":authority: api", ":path: /"}
	for _, tt := range []struct {
		name       string
		sent, want []string // behind the pseudo-headers
	}{
		{"added", []string{"x-request-id", "0123", "accept", "*/*"},
			[]string{"x-request-id: 0123", "accept: */*", "x-forwarded-for: 10.0.0.66", "x-forwarded-proto: http", "via: 2 overhear"}},
		{"appended", []string{"x-request-id", "0123", "x-forwarded-for", "1.2.3.4", "x-forwarded-proto", "https", "x-forwarded-for", "5.6.7.8", "via", "1.0 other"},
			[]string{"x-request-id: 0123", "x-forwarded-for: 1.2.3.4", "x-forwarded-proto: https", "x-forwarded-for: 5.6.7.8, 10.0.0.66", "via: 1.0 other", "via: 2 overhear"}},
		{"empty ones replaced", []string{"x-forwarded-for", "", "x-request-id", "0123"},
			[]string{"x-forwarded-for: 10.0.0.66", "x-request-id: 0123", "x-forwarded-proto: http", "via: 2 overhear"}},
		{"of this hop", []string{"x-request-id", "0123", "proxy-authorization", "x", "te", "trailers", "x-overhear-origin", "app-refused"},
			[]string{"x-request-id: 0123", "te: trailers", "x-forwarded-for: 10.0.0.66", "x-forwarded-proto: http", "via: 2 overhear"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			inRig(t, nil, func(r *rig) {
				a := r.attacker()
				_ = a.open(1, true, a.head("GET", tt.sent...))
				if got := a.until(verdict); got != "HEADERS 1 200" {
					t.Errorf("got %s, want an answer", got)
				}
			}, misbehaves(t, func(a *raw) {
				a.each(func(f *xhttp2.MetaHeadersFrame) {
					got = lines(f)
					a.answer(f.StreamID)
				})
			}))
			if diff := cmp.Diff(slices.Concat(pseudo, tt.want), got); diff != "" {
				t.Errorf("what the endpoint got (-want +got):\n%s", diff)
			}
		})
	}
}

// TestARequestWithoutAnIdGetsOne: the one that the log has.
func TestARequestWithoutAnIdGetsOne(t *testing.T) {
	var got []string
	inRig(t, nil, func(r *rig) {
		r.check(r.get(), 200, "*", "-", "10.0.1.1 ok")
		if id := r.last().ID; len(got) != 1 || len(id) != 36 || got[0] != id {
			t.Errorf("the endpoint got %q, the log has %q", got, id)
		}
	}, speaks(func(_ http.ResponseWriter, q *http.Request) { got = q.Header.Values("X-Request-Id") }))
}

func TestTheHeadIsWrittenAnewForTheClient(t *testing.T) {
	const date = "Sun, 06 Nov 1994 08:49:37 GMT"
	for _, tt := range []struct {
		name         string
		answer, want []string
	}{
		{"kept", []string{"date", date, "set-cookie", "a", "set-cookie", "b", "via", "1.1 other"},
			[]string{":status: 200", "date: " + date, "set-cookie: a", "set-cookie: b", "via: 1.1 other", "via: 2 overhear"}},
		{"of this hop", []string{"date", date, "proxy-authenticate", "x", "x-overhear-origin", "app-reset"},
			[]string{":status: 200", "date: " + date, "via: 2 overhear"}},
		{"date", nil, []string{":status: 200", "date: Sat, 01 Jan 2000 00:00:00 GMT", "via: 2 overhear"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				a := r.attacker()
				_ = a.open(1, true, a.head("GET"))
				var got []string
				a.until(func(f xhttp2.Frame) bool {
					head, is := f.(*xhttp2.MetaHeadersFrame)
					if is {
						got = lines(head)
					}
					return is
				})
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("what the client got (-want +got):\n%s", diff)
				}
			}, misbehaves(t, func(a *raw) {
				a.each(func(f *xhttp2.MetaHeadersFrame) { a.answer(f.StreamID, tt.answer...) })
			}))
		})
	}
}
