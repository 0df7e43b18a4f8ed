package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/overhear-mesh/overhear/proxy/listener"
)

// redirect has every connection to the pod's transparent listeners look as if it was
// to go to an address; "": as if it had come by itself.
func (p *pod) redirect(to *string) {
	p.meant = func(net.Conn) (netip.AddrPort, error) {
		if *to == "" {
			return netip.AddrPort{}, listener.ErrNotRedirected
		}
		return netip.MustParseAddrPort(*to), nil
	}
}

// askFor makes a request for a host to a port of the pod.
func (p *pod) askFor(port int, host string) answer {
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Host, req.Close = host, true
	res, err := p.client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, string(body), err, res.Header}
}

const transparent = `
node: {id: pod}
admin: {address: "127.0.0.1:15000"}
outbound:
  - name: all
    address: "127.0.0.1:15001"
    protocol: auto
    transparent: true
    unknown_destinations: %s
    destinations:
      - {network: 10.96.0.0/16, port: 80, cluster: one}
      - {network: 10.97.0.7, cluster: two}
    routes:
      - {hosts: [three.local], cluster: three}
clusters:
  - {name: one, endpoints: [{address: "10.0.1.1:80"}]}
  - {name: two, endpoints: [{address: "10.0.1.2:80"}]}
  - {name: three, endpoints: [{address: "10.0.1.3:80"}]}
`

func TestWhereAConnectionWasToGoTellsTheCluster(t *testing.T) {
	tests := []struct{ name, unknown, to, host, want string }{
		{"a network of the file", "pass", "10.96.3.4:80", "any", "200 10.0.1.1"},
		{"an address of the file, at any port", "pass", "10.97.0.7:9999", "any", "200 10.0.1.2"},
		{"an endpoint", "pass", "10.0.1.2:80", "three.local", "200 10.0.1.2"},
		{"the host that is asked for", "pass", "10.0.1.9:80", "three.local", "200 10.0.1.3"},
		{"the host, also where nothing is passed on", "close", "10.0.1.9:80", "three.local", "200 10.0.1.3"},
		{"nothing that is known", "pass", "10.0.1.9:80", "other.local", "200 10.0.1.9"},
		{"another port of a network of the file", "pass", "10.96.3.4:443", "other.local", "reset"},
		{"nothing that is known, and a host without a rule", "close", "10.0.1.9:80", "other.local", "404"},
		{"by itself", "pass", "", "three.local", "200 10.0.1.3"},
		{"by itself, and a host without a rule", "pass", "", "other.local", "404"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t)
				for _, n := range []int{1, 2, 3, 9} {
					p.backend(n, 0)
				}
				p.redirect(&tt.to)
				p.start(fmt.Sprintf(transparent, tt.unknown))
				got := p.askFor(15001, tt.host)
				switch {
				case tt.want == "reset" && got.err == nil, tt.want != "reset" && !strings.HasPrefix(got.String(), tt.want):
					t.Errorf("got %v, want %s", got, tt.want)
				}
				p.end()
			})
		})
	}
}

// What leads where may change with a reload, and the listener stays open.
func TestAReloadChangesWhereATransparentListenerLeads(t *testing.T) {
	const file = `
node: {id: pod}
admin: {address: "127.0.0.1:15000"}
outbound:
  - {name: all, address: "127.0.0.1:15001", protocol: auto, transparent: true%s}
clusters:
  - {name: one, endpoints: [{address: "10.0.1.1:80"}]}
  - {name: three, endpoints: [{address: "10.0.1.3:80"}]}
`
	const (
		toOne   = ", cluster: one"
		byHost  = ", routes: [{hosts: [three.local], cluster: three}]"
		nowhere = ""
	)
	type asked struct{ to, host, want string } // want "": a reset
	answers := map[string][]asked{
		toOne:   {{"10.0.1.9:80", "other.local", "200 10.0.1.1"}, {"", "other.local", "200 10.0.1.1"}},
		byHost:  {{"10.0.1.9:80", "other.local", "200 10.0.1.9"}, {"10.0.1.9:80", "three.local", "200 10.0.1.3"}, {"", "other.local", "404"}},
		nowhere: {{"10.0.1.9:80", "three.local", "200 10.0.1.9"}, {"", "other.local", ""}},
	}
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t)
		for _, n := range []int{1, 3, 9} {
			p.backend(n, 0)
		}
		var to string
		p.redirect(&to)
		p.start(fmt.Sprintf(file, nowhere))
		for _, now := range []string{nowhere, toOne, byHost, nowhere, byHost, toOne, nowhere} {
			if err := p.sidecar.Reload(p.config(fmt.Sprintf(file, now))); err != nil {
				t.Fatal(err)
			}
			for _, a := range answers[now] {
				to = a.to
				if got := p.askFor(15001, a.host); (got.err != nil) != (a.want == "") || !strings.HasPrefix(got.String(), a.want) {
					t.Errorf("with %q, to %q for %s: got %v, want %q", now, a.to, a.host, got, a.want)
				}
			}
		}
		p.end()
	})
}

func TestAServerThatSpeaksFirstIsHeardThroughATransparentListener(t *testing.T) {
	for _, to := range []string{"10.0.1.5:25", "10.97.0.7:25"} { // unknown; of a cluster of tcp
		synctest.Test(t, func(t *testing.T) {
			p := newPod(t)
			ln, err := p.net.Host("10.0.1.5").Listen(t.Context(), "tcp", ":25")
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					_, _ = io.WriteString(c, "220 hello\r\n")
					_ = c.Close()
				}
			}()
			defer ln.Close()
			p.redirect(&to)
			p.start(`
node: {id: pod}
admin: {address: "127.0.0.1:15000"}
outbound:
  - name: all
    address: "127.0.0.1:15001"
    protocol: auto
    transparent: true
    destinations:
      - {network: 10.97.0.7, cluster: mail}
clusters:
  - {name: mail, protocol: tcp, endpoints: [{address: "10.0.1.5:25"}]}
`)
			c, err := p.host.Dial(t.Context(), "tcp", "127.0.0.1:15001")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); string(got) != "220 hello\r\n" || err != nil {
				t.Errorf("to %s: got %q and %v, want the server's greeting", to, got, err)
			}
			_ = c.Close()
			p.end()
		})
	}
}

func TestAConnectionOfTheSidecarThatComesBackEnds(t *testing.T) {
	t.Run("to nothing that is known", func(t *testing.T) { comesBack(t, "") })
	t.Run("to an endpoint", func(t *testing.T) {
		comesBack(t, `
clusters:
  - {name: one, protocol: tcp, endpoints: [{address: "127.0.0.1:15001"}]}
`)
	})
}

func comesBack(t *testing.T, clusters string) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t)
		to := "127.0.0.1:15001" // as if the firewall had led our own connection back
		p.redirect(&to)
		var rounds atomic.Int64
		meant := p.meant
		p.meant = func(c net.Conn) (netip.AddrPort, error) {
			rounds.Add(1)
			return meant(c)
		}
		p.start(`
node: {id: pod}
admin: {address: "127.0.0.1:15000"}
outbound:
  - {name: all, address: "127.0.0.1:15001", protocol: tcp, transparent: true}
` + clusters)
		c, err := p.host.Dial(t.Context(), "tcp", "127.0.0.1:15001")
		if err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("got %d bytes, want the end", n)
		}
		if n := rounds.Load(); n > 100 { // the next may be accepted before the last is known
			t.Errorf("it went round %d times", n)
		}
		_ = c.Close()
		p.end()
	})
}

func TestAnInboundListenerLeadsToThePortThatWasMeant(t *testing.T) {
	for _, tt := range []struct{ name, unknown, to, want string }{
		{"the application's", "pass", "10.0.0.1:8080", "200 application"},
		{"by itself", "pass", "", "200 application"},
		{"another", "pass", "10.0.0.1:9090", "200 metrics"},
		{"one that is open to the pod alone", "pass", "10.0.0.1:9091", "reset"},
		{"another, where nothing is passed on", "close", "10.0.0.1:9090", "reset"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t)
				for at, body := range map[string]string{"127.0.0.1:8080": "application", "10.0.0.1:9090": "metrics", "127.0.0.1:9091": "private"} {
					p.local(at, body)
				}
				p.redirect(&tt.to)
				p.start(`
node: {id: pod}
admin: {address: "127.0.0.1:15000"}
inbound:
  - {name: in, address: "127.0.0.1:15006", application: "127.0.0.1:8080", transparent: true, unknown_destinations: ` + tt.unknown + `}
`)
				got := p.askFor(15006, "any")
				if tt.want == "reset" && got.err == nil || tt.want != "reset" && got.String() != tt.want {
					t.Errorf("got %v, want %s", got, tt.want)
				}
				p.end()
			})
		})
	}
}

// local serves on an address of the pod.
func (p *pod) local(at, body string) {
	p.t.Helper()
	ln, err := p.host.Listen(p.t.Context(), "tcp", at)
	if err != nil {
		p.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	p.t.Cleanup(func() {
		_ = server.Shutdown(context.WithoutCancel(p.t.Context()))
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			p.t.Error(err)
		}
	})
}

// What leads nowhere must not vanish without a word.
func TestAConnectionWithoutAWayIsLoggedAndCounted(t *testing.T) {
	const file = `
node: {id: pod}
admin: {address: "127.0.0.1:15000"}
access_log: {path: %q}
outbound:
  - {name: all, address: "127.0.0.1:15001", protocol: http1, transparent: true, unknown_destinations: close}
  - {name: rules, address: "127.0.0.1:15002", protocol: auto, routes: [{prefix: /, respond: {status: 200}}]}
inbound:
  - {name: in, address: "127.0.0.1:15006", application: "127.0.0.1:8080", transparent: true, unknown_destinations: close}
`
	path := filepath.Join(t.TempDir(), "access.log")
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t)
		to := ""
		p.redirect(&to)
		p.start(fmt.Sprintf(file, path))
		for _, call := range []struct {
			port    int
			to      string
			counted string // after it
		}{
			{15001, "", `{direction="outbound",flag="NR",listener="all"} 1`},
			{15001, "10.9.9.9:80", `{direction="outbound",flag="NR",listener="all"} 2`},
			{15006, "10.9.9.9:22", `{direction="inbound",flag="NR",listener="in"} 1`},
			{15002, "", `{direction="outbound",flag="NR",listener="rules"} 1`},
		} {
			to = call.to
			c, err := p.host.Dial(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", call.port))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(c, "\x00")
			if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("port %d, to %q: got %d bytes, %v; want a reset", call.port, call.to, n, err)
			}
			_ = c.Close()
			synctest.Wait()
			if got := p.get(15000, "/metrics").body; !strings.Contains(got, call.counted) {
				t.Errorf("port %d, to %q: metrics have no %s", call.port, call.to, call.counted)
			}
		}
		p.client.CloseIdleConnections()
		p.end()
		var got []string
		for _, l := range logged[struct{ Listener, Flags, Destination string }](t, path) {
			got = append(got, strings.TrimSpace(l.Listener+" "+l.Flags+" "+l.Destination))
		}
		if want := []string{"all NR", "all NR 10.9.9.9:80", "in NR 10.9.9.9:22", "rules NR"}; !slices.Equal(got, want) {
			t.Errorf("access log: got %q, want %q", got, want)
		}
	})
}
