package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/overhear-mesh/overhear/proxy"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
)

// one is a sidecar with one listener and one cluster.
const one = `
outbound: [{name: web, address: "127.0.0.1:15001", cluster: api}]
clusters: [{name: api, endpoints: [{address: "10.0.1.1:80"}]}]
`

func TestReadySaysWhyNot(t *testing.T) {
	t.Run("before and after Run", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPod(t)
			p.backend(1, time.Second)
			s, err := proxy.New(p.config(one), proxy.Options{Dial: p.host.Dial, Listen: p.host.Listen})
			if err != nil {
				t.Fatal(err)
			}
			want := func(when, reason string) {
				t.Helper()
				if got := s.Ready(); got != reason {
					t.Errorf("%s: got %q, want %q", when, got, reason)
				}
			}
			want("before Run", "listeners are not open")
			go func() { p.ended <- s.Run(t.Context()) }()
			synctest.Wait()
			want("while it runs", "")
			p.later(15001)
			s.Drain()
			synctest.Wait()
			want("while a request holds it up", "draining")
			if got := p.get(15000, "/ready"); got.status != 503 || got.body != "draining\n" {
				t.Errorf("/ready: got %v, want 503 draining", got)
			}
			if err := <-p.ended; err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
			want("after Run", "draining")
		})
	})
	t.Run("without a word from the control plane", func(t *testing.T) {
		inPod(t, "outbound: [{address: \"127.0.0.1:15001\", cluster: api}]\ncontrol_plane: {addresses: [\"127.0.0.1:15010\"]}\n", func(p *pod) {
			const want = "no clusters yet: the control plane has not answered, and there is no saved state"
			if got := p.sidecar.Ready(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if got := p.get(15001, "/"); got.status != 503 {
				t.Errorf("a request: got %v, want 503", got)
			}
		})
	})
}

func TestRunOpensAllOrNothing(t *testing.T) {
	for _, taken := range []string{"127.0.0.1:15000", "127.0.0.1:15002"} {
		synctest.Test(t, func(t *testing.T) {
			p := newPod(t)
			ln, err := p.host.Listen(t.Context(), "tcp", taken)
			if err != nil {
				t.Fatal(err)
			}
			p.start(strings.Replace(one, "outbound: [", `outbound: [{address: "127.0.0.1:15003", cluster: api}, {address: "127.0.0.1:15002", cluster: api}, `, 1))
			if err := <-p.ended; err == nil || !strings.Contains(err.Error(), "address already in use") {
				t.Errorf("Run with %s taken = %v, want an error that says so", taken, err)
			}
			ln.Close()
			for _, port := range []int{15000, 15001, 15002, 15003} {
				if !p.refuses(port) {
					t.Errorf("somebody listens on %d", port)
				}
			}
			if got, want := p.sidecar.Ready(), "listeners are not open"; got != want {
				t.Errorf("Ready = %q, want %q", got, want)
			}
		})
	}
}

func TestAReloadChangesWhatItCan(t *testing.T) {
	inPod(t, one, func(p *pod) {
		p.backend(1, 100*time.Millisecond)
		p.backend(2, 0)
		p.want(15001, 1)
		slow := p.later(15001)
		next := p.config(`
outbound:
  - {name: web, address: "127.0.0.1:15001", cluster: other}
  - {name: more, address: "127.0.0.1:15002", cluster: api}
clusters:
  - {name: api, endpoints: [{address: "10.0.1.1:80"}]}
  - {name: other, endpoints: [{address: "10.0.1.2:80"}]}
`)
		if err := p.sidecar.Reload(next); err != nil {
			t.Fatalf("Reload = %v, want nil", err)
		}
		p.want(15001, 2)
		p.want(15002, 1)
		if got := <-slow; got.String() != "200 10.0.1.1" {
			t.Errorf("the request under way: got %v, want 200 10.0.1.1", got)
		}
		if got := p.sidecar.Addr("more"); got == nil || got.String() != "127.0.0.1:15002" {
			t.Errorf("Addr = %v, want 127.0.0.1:15002", got)
		}

		// And back. The listener that goes finishes what it has begun.
		slow = p.later(15002)
		if err := p.sidecar.Reload(p.config(one)); err != nil {
			t.Fatalf("Reload = %v, want nil", err)
		}
		synctest.Wait()
		if !p.refuses(15002) {
			t.Error("the listener that was removed takes connections")
		}
		p.want(15001, 1)
		if got := <-slow; got.String() != "200 10.0.1.1" {
			t.Errorf("the request under way on it: got %v, want 200 10.0.1.1", got)
		}
		if p.sidecar.Addr("more") != nil {
			t.Error("the listener that was removed has an address")
		}
		if got := p.get(15000, "/metrics").body; !strings.Contains(got, `overhear_config_reloads_total{result="accepted"} 2`) {
			t.Errorf("metrics do not count two reloads:\n%s", got)
		}
		if got := p.get(15000, "/config_dump").body; strings.Contains(got, "15002") {
			t.Errorf("the configuration shown is not the one in use:\n%s", got)
		}
	})
}

// Requests that come all the time must not notice that a route leads elsewhere.
func TestNoRequestIsLostByAReload(t *testing.T) {
	file := func(cluster string, backend int) string {
		return fmt.Sprintf(`
outbound: [{name: web, address: "127.0.0.1:15001", cluster: %s}]
clusters: [{name: %[1]s, endpoints: [{address: "10.0.1.%d:80"}]}]
`, cluster, backend)
	}
	inPod(t, file("first", 1), func(p *pod) {
		p.backend(1, 3*time.Millisecond)
		p.backend(2, 3*time.Millisecond)
		answers := make(chan answer, 1000)
		sent := 0
		send := func() {
			sent++
			go func() { answers <- p.get(15001, "/") }()
		}
		for round := range 20 {
			send()
			time.Sleep(time.Millisecond)
			go func() {
				if err := p.sidecar.Reload(p.config(file(fmt.Sprintf("c%d", round), 1+round%2))); err != nil {
					t.Errorf("Reload = %v, want nil", err)
				}
			}()
			for range 10 {
				send()
			}
			time.Sleep(time.Millisecond)
		}
		for range sent {
			if got := <-answers; got.status != 200 {
				t.Errorf("got %v, want 200", got)
			}
		}
		if n := len(p.sidecar.Clusters()); n > 21 {
			t.Errorf("%d clusters, want no more than there were", n)
		}
	})
}

func TestARefusedReloadChangesNothing(t *testing.T) {
	edit := func(old, replacement string) func(*pod) config.Config {
		return func(p *pod) config.Config { return p.config(strings.Replace(one, old, replacement, 1)) }
	}
	set := func(change func(*config.Config)) func(*pod) config.Config {
		return func(p *pod) config.Config {
			cfg := p.config(one)
			change(&cfg)
			return cfg
		}
	}
	for _, tt := range []struct {
		name string
		next func(*pod) config.Config
		want string
	}{
		{"not valid", set(func(c *config.Config) { c.Outbound[0].Cluster = "nobody" }), `outbound[0].cluster: no cluster "nobody"`},
		{"another node", set(func(c *config.Config) { c.Node.ID = "other" }), "node cannot change"},
		{"another admin port", set(func(c *config.Config) { c.Admin.Address = "127.0.0.1:15009" }), "admin cannot change"},
		{"another control plane", set(func(c *config.Config) { c.ControlPlane.Addresses = []string{"127.0.0.1:9"} }), "control_plane cannot change"},
		{"another state directory", set(func(c *config.Config) { c.StateDir = "elsewhere" }), "state_dir cannot change"},
		{"another format of the log", set(func(c *config.Config) { c.Log.Format = "json" }), "log.format cannot change"},
		{"another access log", set(func(c *config.Config) { c.AccessLog.Path = "stderr" }), "access_log cannot change"},
		{"other limits of the engines", set(func(c *config.Config) { c.HTTP1.MaxFields++; c.TCP.MaxAttempts++ }), "http1, tcp cannot change"},
		{"another application", edit("clusters:", "inbound: [{address: \"127.0.0.1:15006\", application: \"127.0.0.1:8080\"}]\nclusters:"), "inbound cannot change"},
		{"a port that is taken", edit("outbound: [", `outbound: [{address: "127.0.0.1:15002", cluster: api}, {address: "127.0.0.1:15003", cluster: api}, `), "outbound[1].address: listen tcp 127.0.0.1:15003: bind: address already in use"},
		{"the same port under another name", edit("name: web", "name: shop"), `outbound[0].address: 127.0.0.1:15001 is in use by the running listener "web"`},
		{"the same port in another protocol", edit("name: web", "name: web, protocol: tcp"), `outbound[0].address: 127.0.0.1:15001 is in use by the running listener "web"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inPod(t, one, func(p *pod) {
				p.backend(1, 0)
				ln, err := p.host.Listen(t.Context(), "tcp", "127.0.0.1:15003")
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				before := p.get(15000, "/config_dump").body
				if err := p.sidecar.Reload(tt.next(p)); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("Reload = %v, want %s", err, tt.want)
				}
				p.want(15001, 1)
				if !p.refuses(15002) {
					t.Error("a listener of the refused file is open")
				}
				if got := p.get(15000, "/config_dump").body; got != before {
					t.Errorf("the configuration shown has changed:\n%s", got)
				}
				if got := p.get(15000, "/metrics").body; !strings.Contains(got, `overhear_config_reloads_total{result="refused"} 1`) {
					t.Errorf("metrics do not count one refused reload:\n%s", got)
				}
				if got := p.get(15000, "/clusters").body; !strings.Contains(got, "reload_error") {
					t.Errorf("/clusters does not show the refused reload:\n%s", got)
				}
				// A good one makes it forgotten.
				if err := p.sidecar.Reload(p.config(one)); err != nil {
					t.Errorf("the same again: Reload = %v, want nil", err)
				}
				if got := p.get(15000, "/clusters").body; strings.Contains(got, "reload_error") {
					t.Errorf("/clusters still shows the refused reload:\n%s", got)
				}
			})
		})
	}
}

func TestAReloadNeedsARunningSidecar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t)
		p.start(one)
		p.end()
		if err := p.sidecar.Reload(p.config(one)); err == nil || !strings.Contains(err.Error(), "does not run") {
			t.Errorf("Reload after the end = %v, want an error", err)
		}
	})
}

func TestDrainingFinishesWhatIsUnderWay(t *testing.T) {
	inPod(t, one, func(p *pod) {
		p.backend(1, 2*time.Second)
		slow := p.later(15001)
		p.stop()
		synctest.Wait()
		if !p.refuses(15001) {
			t.Error("a draining listener takes connections")
		}
		if got := p.get(15000, "/live"); got.status != 200 {
			t.Errorf("/live while draining: got %v, want 200", got)
		}
		got := <-slow
		if got.String() != "200 10.0.1.1" || got.header.Get("Connection") != "" && got.header.Get("Connection") != "close" {
			t.Errorf("the request under way: got %v, want 200 10.0.1.1", got)
		}
	})
}

func TestDrainingEndsAfterItsTimeout(t *testing.T) {
	inPod(t, one+"drain: {timeout: 1s}\n", func(p *pod) {
		p.backend(1, time.Minute)
		slow := p.later(15001)
		start := time.Now()
		p.stop()
		if got := <-slow; got.err == nil {
			t.Errorf("a request that takes a minute: got %v, want it to be cut", got)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("it was cut after %v, want 1s", took)
		}
	})
}

func TestTheWayOutIsOpenUntilTheWayInIsEmpty(t *testing.T) {
	inPod(t, `
outbound: [{address: "127.0.0.1:15001", cluster: api}]
inbound: [{address: "127.0.0.1:15006", application: "127.0.0.1:8080"}]
clusters: [{name: api, endpoints: [{address: "10.0.1.1:80"}]}]
`, func(p *pod) {
		p.backend(1, 0)
		app := p.application()
		slow := p.later(15006)
		p.stop()
		synctest.Wait()
		if !p.refuses(15006) {
			t.Error("the inbound listener takes connections")
		}
		// The application needs another service to answer.
		p.want(15001, 1)
		if err := app.Set(fakeupstream.Fault{}); err != nil {
			t.Fatal(err)
		}
		if got := <-slow; got.status != 200 {
			t.Errorf("the request under way: got %v, want 200", got)
		}
	})
}

func TestWhatAReloadHasRetiredIsWaitedForAtTheEnd(t *testing.T) {
	inPod(t, one, func(p *pod) {
		p.backend(1, 2*time.Second)
		slow := p.later(15001)
		if err := p.sidecar.Reload(p.config(strings.ReplaceAll(one, "15001", "15002"))); err == nil {
			p.stop() // nothing else holds it up
		} else {
			t.Errorf("Reload = %v, want nil", err)
		}
		if got := <-slow; got.String() != "200 10.0.1.1" {
			t.Errorf("the request under way: got %v, want 200 10.0.1.1", got)
		}
	})
}

func TestTheAccessLogIsOpenedAgainByAReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	file := one + "access_log: {path: \"" + path + "\"}\n"
	inPod(t, file, func(p *pod) {
		p.backend(1, 0)
		p.want(15001, 1)
		time.Sleep(time.Second)
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		if err := p.sidecar.Reload(p.config(file)); err != nil {
			t.Fatal(err)
		}
		p.want(15001, 1)
		p.want(15001, 1)
		// One that cannot be opened is a reason to refuse, and the old one stays.
		time.Sleep(time.Second)
		if err := errors.Join(os.Rename(path, path+".2"), os.Mkdir(path, 0o700)); err != nil {
			t.Fatal(err)
		}
		if err := p.sidecar.Reload(p.config(file)); err == nil || !strings.Contains(err.Error(), "access log") {
			t.Errorf("Reload = %v, want an error about the access log", err)
		}
		p.want(15001, 1)
	})
	for name, want := range map[string]int{path + ".1": 1, path + ".2": 3} {
		text, err := os.ReadFile(name)
		if got := strings.Count(string(text), "\n"); err != nil || got != want {
			t.Errorf("%s: got %d lines, %v; want %d", filepath.Base(name), got, err, want)
		}
	}
}

// spans is an OTLP receiver that counts.
type spans struct {
	collector.UnimplementedTraceServiceServer
	names chan string
}

func (s *spans) Export(_ context.Context, in *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	for _, rs := range in.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, span := range ss.Spans {
				s.names <- span.Kind.String() + " " + span.Name
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestSpansReachTheReceiverAlsoTheLastOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t)
		p.backend(1, time.Millisecond)
		ln, err := p.host.Listen(t.Context(), "tcp", "127.0.0.1:4317")
		if err != nil {
			t.Fatal(err)
		}
		rx := &spans{names: make(chan string, 10)}
		srv := grpc.NewServer()
		collector.RegisterTraceServiceServer(srv, rx)
		go func() { _ = srv.Serve(ln) }() // ends with Stop
		defer srv.Stop()
		p.start("tracing: {address: \"127.0.0.1:4317\", sampling: 100%}" + one)
		if got := p.get(15001, "/"); got.status != 200 {
			t.Fatalf("got %v, want 200", got)
		}
		if metrics := p.get(15000, "/metrics").body; !strings.Contains(metrics, `overhear_spans_total{result="sent"} 0`) {
			t.Errorf("metrics before the end of a batch lack spans: %s", metrics)
		}
		p.end() // before the batch is due
		var got []string
		for range len(rx.names) {
			got = append(got, <-rx.names)
		}
		if want := []string{"SPAN_KIND_CLIENT GET", "SPAN_KIND_SERVER GET api"}; !slices.Equal(got, want) {
			t.Errorf("spans %v, want %v", got, want)
		}
	})
}
