package http1

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/proxy/syntax"
)

func TestAnInboundSidecarNamesWhatItsApplicationDid(t *testing.T) {
	inbound := func(o *options) { o.inbound, o.rule.PerTryTimeout = true, time.Second }
	origin := func(r *rig, want string, status int, flags string, attempt string) {
		r.t.Helper()
		got := r.dial().do(get)
		if name := got.Header.Get(syntax.OriginField); name != want {
			r.t.Errorf("origin: got %q, want %q", name, want)
		}
		r.check(got, status, "*", flags, attempt)
	}
	inRig(t, inbound, func(r *rig) {
		origin(r, "", 200, "-", "10.0.1.1 ok")
		r.backends[0].crash()
		time.Sleep(10 * time.Millisecond)
		origin(r, "app-refused", 503, "UF", "10.0.1.1 conn")
	}, say(strings.Replace(ok, "\r\n\r\n", "\r\nX-Overhear-Origin: app-refused\r\n\r\n", 1)))
	inRig(t, inbound, func(r *rig) { origin(r, "app-reset", 503, "UC", "10.0.1.1 conn") }, broken("", true))
	inRig(t, inbound, func(r *rig) { origin(r, "app-timeout", 503, "UT", "10.0.1.1 timeout") }, hangs)
	inRig(t, inbound, func(r *rig) { origin(r, "", 502, "UPE", "10.0.1.1 server") }, broken("nonsense\r\n", true))
}

func TestAnOriginIsBelievedOnlyFromAnEndpointThatMaySendIt(t *testing.T) {
	says := func(origin string) func(net.Conn, int) {
		return say("HTTP/1.1 503 Service Unavailable\r\nX-Overhear-Origin: " + origin + "\r\nContent-Length: 3\r\n\r\nbad")
	}
	for _, tt := range []struct{ origin, class, flags string }{
		{"app-refused", "conn", "UF"}, {"app-reset", "conn", "UC"}, {"app-timeout", "timeout", "UT"}, {"other", "server", "-"},
	} {
		inRig(t, func(o *options) { o.marked = true }, func(r *rig) {
			got := r.dial().do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
			r.check(got, 503, "bad", tt.flags, "10.0.1.1 "+tt.class)
			if len(got.Header[http.CanonicalHeaderKey(syntax.OriginField)]) > 0 {
				t.Error("the application was shown the origin")
			}
		}, says(tt.origin))
		inRig(t, nil, func(r *rig) {
			r.check(r.dial().do(get), 503, "bad", "-", "10.0.1.1 server")
		}, says(tt.origin))
	}
	// Also when the body comes late and lies in the buffer where the head was.
	inRig(t, func(o *options) { o.marked = true }, func(r *rig) {
		got := r.dial().do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
		r.check(got, 503, strings.Repeat("x", 200), "UC", "10.0.1.1 conn")
	}, func(c net.Conn, _ int) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nX-Overhear-Origin: app-reset\r\nContent-Length: 200\r\n\r\n")
		time.Sleep(time.Millisecond)
		_, _ = io.WriteString(c, strings.Repeat("x", 200))
		_, _ = io.Copy(io.Discard, c)
	})
	inRig(t, func(o *options) { o.marked = true }, func(r *rig) {
		for range 20 {
			got := r.dial().do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
			if got.StatusCode != http.StatusOK {
				t.Fatalf("response: got %d, want 200: the application of the other endpoint has processed nothing", got.StatusCode)
			}
		}
	}, says("app-refused"), say(ok))
}
