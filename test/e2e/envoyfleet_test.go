package e2e_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/test/envoy"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/plane"
	"github.com/overhear-mesh/overhear/xds/controlplane"
	"github.com/overhear-mesh/overhear/xds/registry"
)

// envoyFleet is Envoys with the bootstrap that the example shows, a control plane that has
// nothing but their load reports and probes to go by, and backends.
type envoyFleet struct {
	t        *testing.T
	plane    *plane.Plane
	backends []*fakeupstream.Backend
	entries  []string
}

// newEnvoyFleetOf is a fleet with one of the example's bootstraps, and with more endpoints.
func newEnvoyFleetOf(t *testing.T, bootstrapFile string, envoys, backends int, more ...registry.Endpoint) *envoyFleet {
	t.Helper()
	envoy.Find(t)
	f := &envoyFleet{t: t}
	s := registry.NewService("api")
	for i := range backends {
		b, err := fakeupstream.Start(t.Context(), fakeupstream.Config{Name: fmt.Sprint("api-", i+1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		f.backends = append(f.backends, b)
		s.Endpoints = append(s.Endpoints, registry.Endpoint{Address: netip.MustParseAddrPort(b.Addr()), Instance: fmt.Sprint("api-", i+1), Weight: 1})
	}
	s.Endpoints = append(s.Endpoints, more...)
	cfg := controlplane.DefaultConfig()
	admins := make([]atomic.Pointer[string], envoys)
	if bootstrapFile == "envoy-polled.yaml" {
		cfg.Envoys.PollInterval = 200 * time.Millisecond
		for i := range admins {
			cfg.Envoys.Poll = append(cfg.Envoys.Poll, adminOf(t, &admins[i]))
		}
	}
	p, err := plane.Start(cfg, controlplane.Options{}, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Errorf("the control plane ended: %v", err)
		}
	})
	f.plane = p
	host, port, err := net.SplitHostPort(p.XDS)
	if err != nil {
		t.Fatal(err)
	}
	bootstrap, err := os.ReadFile("../../examples/envoy-fleet/" + bootstrapFile)
	if err != nil {
		t.Fatal(err)
	}
	for i := range envoys {
		id := fmt.Sprint("envoy-", i+1)
		values := map[string]string{"NAME": id, "ZONE": "a", "MACHINE": "host-" + id, "TIMEOUT": "3s", "CONTROL_HOST": host, "CONTROL_PORT": port}
		p := envoy.Start(t, os.Expand(string(bootstrap), func(key string) string { return values[key] }))
		var entry string
		f.until("Envoy listens", func() bool {
			if entry, err = p.Listener("in"); err != nil {
				t.Fatal(err)
			}
			return entry != ""
		})
		f.entries = append(f.entries, entry)
		admins[i].Store(&p.Admin)
	}
	return f
}

// adminOf is where the admin page of an Envoy will be that has not been started.
func adminOf(t *testing.T, at *atomic.Pointer[string]) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := at.Load()
		if to == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: *to}).ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// until waits for an effect. How long it takes is the machine's business.
func (f *envoyFleet) until(what string, holds func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// drive sends requests through every Envoy, each as fast as the one before is answered,
// until the test ends. Some fail, as the test wants it.
func (f *envoyFleet) drive() {
	stop := make(chan struct{})
	var users sync.WaitGroup
	f.t.Cleanup(func() { close(stop); users.Wait() })
	for _, entry := range f.entries {
		users.Go(func() {
			client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				if res, err := client.Get("http://" + entry); err == nil {
					_, _ = io.Copy(io.Discard, res.Body) // a backend may be in trouble
					_ = res.Body.Close()
				}
			}
		})
	}
}

func (f *envoyFleet) get(path string, into any) {
	f.t.Helper()
	if err := f.plane.Ask(path, into); err != nil {
		f.t.Fatal(err)
	}
}

func (f *envoyFleet) states() map[string]outlier.State {
	f.t.Helper()
	var st controlplane.Status
	f.get("/api/v1/status", &st)
	all := map[string]outlier.State{}
	for _, e := range st.Services[0].Endpoints {
		all[e.Instance] = e.State
	}
	return all
}

// heard counts the Envoys that report.
func (f *envoyFleet) heard() int {
	f.t.Helper()
	var all controlplane.Reporters
	f.get("/api/v1/reporters", &all)
	heard := 0
	for _, r := range all.Reporters {
		if r.Live && r.Accepted > 0 && strings.HasPrefix(r.Domain, "node:host-envoy-") {
			heard++
		}
	}
	return heard
}

func TestRealEnvoysFindAFaultByTheirLoadReportsAlone(t *testing.T) {
	findFaults(t, "envoy.yaml")
}

func TestRealEnvoysFindAFaultByTheirAdminPagesAlone(t *testing.T) {
	findFaults(t, "envoy-polled.yaml")
}

// findFaults has Envoys with one of the bootstraps find faults.
func findFaults(t *testing.T, bootstrap string) {
	t.Helper()
	for name, fault := range map[string]fakeupstream.Fault{
		"crash":  fakeupstream.Crash(),
		"errors": fakeupstream.Errors(0.5),
	} {
		t.Run(name, func(t *testing.T) {
			f := newEnvoyFleetOf(t, bootstrap, 3, 6)
			f.drive()
			f.until("all Envoys report", func() bool { return f.heard() == 3 })
			if err := f.backends[0].Set(fault); err != nil {
				t.Fatal(err)
			}
			f.until("the fault is found", func() bool { return f.states()["api-1"].Out() })
			if err := f.backends[0].Set(fakeupstream.Fault{}); err != nil {
				t.Fatal(err)
			}
			f.until("it is back, tried by real requests", func() bool { return !f.states()["api-1"].Out() })
		})
	}
}

// cutter accepts connections and ends each when it has read something.
func cutter(t *testing.T) netip.AddrPort {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() { _ = lis.Close(); running.Wait() })
	running.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return // the end of the test
			}
			running.Go(func() {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 1)) // its end is as good
			})
		}
	})
	return lis.Addr().(*net.TCPAddr).AddrPort()
}

func TestTheLogOfARealEnvoyTellsACutConnectionFromAnError(t *testing.T) {
	f := newEnvoyFleetOf(t, "envoy-logs.yaml", 1, 4, registry.Endpoint{Address: cutter(t), Instance: "cutter", Weight: 1})
	if err := f.backends[0].Set(fakeupstream.Errors(0.5)); err != nil {
		t.Fatal(err)
	}
	f.drive()
	counts := func(endpoint string) merge.Tally {
		var why controlplane.Why
		f.get("/api/v1/why?endpoint="+endpoint, &why)
		return why.Explain.Counts
	}
	var cuts, errors merge.Tally
	f.until("failures of each kind", func() bool {
		for into, now := range map[*merge.Tally]merge.Tally{&cuts: counts("cutter"), &errors: counts("api-1")} {
			if now.N > into.N {
				*into = now
			}
		}
		return cuts.Conn > 0 && errors.Server > 0
	})
	if errors.Conn > 0 {
		t.Errorf("of the errors that were answered %d count as cut connections, want none", errors.Conn)
	}
}
