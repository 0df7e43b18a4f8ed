package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
)

// Who comes when a listener has as many connections as it may have waits until one ends.
func TestAListenerTakesNoMoreConnectionsThanItMay(t *testing.T) {
	for name, listener := range map[string]string{
		"outbound": `
outbound: [{address: "127.0.0.1:15001", cluster: api, max_connections: 2}]
clusters: [{name: api, endpoints: [{address: "127.0.0.1:8080"}]}]
`,
		"inbound": `
inbound: [{address: "127.0.0.1:15001", application: "127.0.0.1:8080", max_connections: 2}]
`,
	} {
		t.Run(name, func(t *testing.T) {
			inPod(t, listener, func(p *pod) {
				app, err := fakeupstream.Start(p.t.Context(), fakeupstream.Config{Address: "127.0.0.1:8080", Listen: p.host.Listen})
				if err != nil {
					p.t.Fatal(err)
				}
				defer app.Close()
				ask := func() (net.Conn, <-chan int) {
					c, err := p.host.Dial(p.t.Context(), "tcp", "127.0.0.1:15001")
					if err != nil {
						p.t.Fatal(err)
					}
					status := make(chan int, 1)
					go func() {
						_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: api\r\n\r\n")
						res, err := http.ReadResponse(bufio.NewReader(c), nil)
						if err != nil {
							status <- 0
							return
						}
						res.Body.Close()
						status <- res.StatusCode
					}()
					return c, status
				}
				first, a := ask()
				second, b := ask()
				for _, status := range []<-chan int{a, b} {
					if got := <-status; got != http.StatusOK {
						p.t.Errorf("got %d, want 200", got)
					}
				}
				third, c := ask()
				time.Sleep(time.Second)
				synctest.Wait()
				select {
				case got := <-c:
					p.t.Errorf("the third connection: got %d, want none before another one ends", got)
				default:
				}
				first.Close()
				if got := <-c; got != http.StatusOK {
					p.t.Errorf("the third connection: got %d when another one had ended, want 200", got)
				}
				second.Close()
				third.Close()
			})
		})
	}
}
