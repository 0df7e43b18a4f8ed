package cluster_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/proxy/vigil"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

func TestAnOrderedProbeSaysWhatItFound(t *testing.T) {
	inMesh(t, 3, nil, func(m *mesh) {
		specs := m.specs()
		specs[2].Inbound = true
		m.update(specs)
		m.servers[1].crash()
		m.servers[2].reset.Store(true)
		probe := func(id string, level outlier.Level) cluster.Probed {
			return m.cluster.Probe(m.t.Context(), id, level, 500*time.Millisecond)
		}
		for _, tt := range []struct {
			name, id    string
			level, want outlier.Level
			result      outlier.ProbeResult
		}{
			{"alive", "i-1", outlier.LevelConnect, outlier.LevelConnect, outlier.ProbeOK},
			{"deeper than it goes", "i-1", outlier.LevelApp, outlier.LevelConnect, outlier.ProbeOK},
			{"crashed", "i-2", outlier.LevelConnect, outlier.LevelConnect, outlier.Refused},
			{"its application is dead", "i-3", outlier.LevelConnect, outlier.LevelConnect, outlier.Refused},
			{"unknown", "i-4", outlier.LevelConnect, outlier.LevelConnect, outlier.NotRun},
		} {
			if p := probe(tt.id, tt.level); p.Result != tt.result || p.Level != tt.want || p.ID != tt.id || p.End < p.Start {
				t.Errorf("%s: %+v, want %v at level %v", tt.name, p, tt.result, tt.want)
			}
		}
		if n := m.status(1).Counts.Conn; n == 0 {
			t.Error("a failed probe is not in the counters of the endpoint")
		}
	})
}

func TestALostListenerIsNoCrash(t *testing.T) {
	// An endpoint refuses a new connection while an older one lies in the pool. The
	// probes that follow are refused too; it is the old connection that tells.
	for _, tt := range []struct {
		name string
		lose func(*server)
		want outlier.State
	}{
		{"the listener is gone", (*server).deafen, outlier.In},
		{"the server is gone", (*server).crash, outlier.Ejected},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inMesh(t, 3, nil, func(m *mesh) {
				e := m.endpoint(0)
				if class := m.attempt(e, m.clock.Now()); class != outlier.OK {
					t.Fatalf("the first attempt: %v, want %v", class, outlier.OK)
				}
				tt.lose(m.servers[0])
				synctest.Wait()
				a := e.Begin(m.clock.Now(), true)
				if _, err := e.Fresh(m.t.Context()); err == nil {
					t.Fatal("connected without a listener")
				}
				a.End(outlier.Outcome{Class: outlier.Conn, Level: outlier.LevelConnect, Now: m.clock.Now()})
				time.Sleep(time.Second)
				if got := m.status(0).State; got != tt.want {
					t.Errorf("the endpoint is %v, want %v; log:\n%s", got, tt.want, m.log)
				}
			})
		})
	}
}

func TestAnOldConnectionContradictsARefusedProbe(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*cluster.Config, []cluster.Spec)
		before func(*mesh)
		result outlier.ProbeResult
		level  outlier.Level
	}{
		{name: "that the server lives is all it says", result: outlier.ProbeOK, level: outlier.LevelConnect,
			edit: func(c *cluster.Config, _ []cluster.Spec) { c.Protocol, c.Ping.Kind = cluster.HTTP1, ping.HTTP }},
		{name: "it ends where its sidecar is opaque", result: outlier.ProbeOK, level: outlier.LevelConnect,
			edit: func(_ *cluster.Config, s []cluster.Spec) { s[0].Inbound = true }},
		{name: "it ends at an HTTP sidecar", result: outlier.Refused, level: outlier.LevelApp,
			edit: func(c *cluster.Config, s []cluster.Spec) { c.Protocol, s[0].Inbound = cluster.HTTP1, true }},
		{name: "the endpoint is out", result: outlier.Refused, level: outlier.LevelConnect,
			before: func(m *mesh) {
				specs := m.specs()
				specs[0].Verdict = outlier.Verdict{State: outlier.Ejected, Epoch: 1, Rule: outlier.RuleFast}
				m.update(specs)
			}},
		{name: "it has been closed", result: outlier.Refused, level: outlier.LevelConnect,
			before: func(m *mesh) { m.endpoint(0).CloseIdle() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inMesh(t, 3, nil, func(m *mesh) {
				if tt.edit != nil {
					cfg, specs := m.cluster.Config(), m.specs()
					tt.edit(&cfg, specs)
					m.cluster.SetConfig(cfg)
					m.update(specs)
				}
				if class := m.attempt(m.endpoint(0), m.clock.Now()); class != outlier.OK {
					t.Fatalf("the first attempt: %v, want %v", class, outlier.OK)
				}
				if tt.before != nil {
					tt.before(m)
				}
				m.servers[0].deafen()
				p := m.cluster.Probe(m.t.Context(), "i-1", outlier.LevelApp, time.Second)
				if p.Result != tt.result || p.Level != tt.level {
					t.Errorf("probe: %v at level %v, want %v at level %v", p.Result, p.Level, tt.result, tt.level)
				}
			})
		})
	}
}

func TestAProbeThatIsCalledOffWhileItLooksAtOldConnectionsFoundNothing(t *testing.T) {
	inMesh(t, 3, nil, func(m *mesh) {
		if class := m.attempt(m.endpoint(0), m.clock.Now()); class != outlier.OK {
			t.Fatalf("the first attempt: %v, want %v", class, outlier.OK)
		}
		m.servers[0].deafen()
		ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Millisecond) // refused after 1ms, known after 11ms
		defer cancel()
		m.cluster.Probe(ctx, "i-1", outlier.LevelConnect, time.Second)
		time.Sleep(20 * time.Millisecond)
		if n := m.status(0).Counts.Conn; n != 0 {
			t.Errorf("%d failures are counted, want none: nobody knows what the old connection would have said", n)
		}
	})
}

func TestProbesAreBounded(t *testing.T) {
	inMesh(t, 1, nil, func(m *mesh) {
		order := func(n int) (run int) {
			for range n {
				if m.cluster.Probe(m.t.Context(), "i-1", outlier.LevelConnect, time.Second).Result != outlier.NotRun {
					run++
				}
			}
			return run
		}
		if got := order(50); got != 10 {
			t.Errorf("%d of 50 orders at once were run, want the burst of 10", got)
		}
		time.Sleep(500 * time.Millisecond)
		if got := order(50); got != 5 {
			t.Errorf("%d of 50 orders half a second later were run, want 5", got)
		}
	})
}

func TestAProbeEndsWithItsOrder(t *testing.T) {
	inMesh(t, 1, nil, func(m *mesh) {
		m.net.Blackhole("*", m.servers[0].address)
		ctx, cancel := context.WithCancel(m.t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		start := m.clock.Now()
		p := m.cluster.Probe(ctx, "i-1", outlier.LevelConnect, 3*time.Second)
		if took := m.clock.Now() - start; p.Result != outlier.NotRun || took != 100*time.Millisecond {
			t.Errorf("cancelled probe: %v after %v, want %v after 100ms", p.Result, took, outlier.NotRun)
		}
		p = m.cluster.Probe(m.t.Context(), "i-1", outlier.LevelConnect, 300*time.Millisecond)
		if p.Result != outlier.TimedOut || p.End-p.Start != 300*time.Millisecond {
			t.Errorf("probe into a black hole: %v after %v, want %v after 300ms", p.Result, p.End-p.Start, outlier.TimedOut)
		}
		// One under way when the cluster stops ends with it: inMesh waits for Run.
		go m.cluster.Probe(m.t.Context(), "i-1", outlier.LevelConnect, 5*time.Second)
		time.Sleep(10 * time.Millisecond)
	})
}

func TestWithoutAControlPlaneTheSilentArePingedInTurn(t *testing.T) {
	inMesh(t, 3, nil, func(m *mesh) {
		time.Sleep(7 * time.Second)
		if n := len(m.pings()); n != 0 {
			t.Errorf("%d pings in the first 7 seconds, want none", n)
		}
		time.Sleep(33 * time.Second)
		pings := m.pings()
		each := make(map[string]int)
		for i, p := range pings {
			each[p.ID]++
			if p.Result != outlier.ProbeOK || p.Leased {
				t.Errorf("%+v, want an own ping that went well", p)
			}
			if i > 0 && p.Start-pings[i-1].Start < 990*time.Millisecond {
				t.Errorf("pings at %v and %v, want at most one a second", pings[i-1].Start, p.Start)
			}
		}
		for _, s := range m.servers {
			if n := each[s.id]; n < 2 || n > 5 {
				t.Errorf("%s was pinged %d times in 40s, want about 3", s.id, n)
			}
			if got := int(s.accepted.Load()); got != each[s.id] {
				t.Errorf("%s saw %d connections and %d pings were told", s.id, got, each[s.id])
			}
		}
	})
}

func TestWhereTrafficSpeaksNobodyPings(t *testing.T) {
	inMesh(t, 3, nil, func(m *mesh) {
		stop := m.traffic(20)
		time.Sleep(time.Minute)
		stop()
		if pings := m.pings(); len(pings) != 0 {
			t.Errorf("%d pings beside traffic, want none", len(pings))
		}
	})
}

func TestAnIdleEndpointThatRefusesPingsIsTakenOut(t *testing.T) {
	inMesh(t, 3, nil, func(m *mesh) {
		time.Sleep(20 * time.Second)
		m.servers[0].crash()
		m.awaitState(outlier.Ejected, 20*time.Second)
	})
}

func TestALeaseIsPingedOnItsTurns(t *testing.T) {
	inMesh(t, 2, nil, func(m *mesh) {
		m.cluster.SetLink(cluster.ADS, true)
		time.Sleep(15 * time.Second)
		if n := len(m.pings()); n != 0 {
			t.Fatalf("%d pings without a lease while the control plane is heard, want none", n)
		}
		start := m.clock.Now()
		m.cluster.Lease("i-1", vigil.Lease{Phase: 3 * time.Second, Every: 5 * time.Second, Until: start + 30*time.Second})
		m.cluster.Lease("i-9", vigil.Lease{Until: start + 30*time.Second}) // nobody knows it
		time.Sleep(time.Minute)
		pings := m.pings()
		if len(pings) < 5 || len(pings) > 7 {
			t.Errorf("%d pings in a lease of 30s each 5s, want about 6", len(pings))
		}
		for i, p := range pings {
			switch {
			case p.ID != "i-1" || !p.Leased || p.Result != outlier.ProbeOK:
				t.Errorf("%+v, want a leased ping of i-1 that went well", p)
			case i == 0 && p.Start != start+3*time.Second:
				t.Errorf("first ping %v into the lease, want 3s", p.Start-start)
			case i > 0 && (p.Start-pings[i-1].Start < 4*time.Second || p.Start-pings[i-1].Start > 6*time.Second):
				t.Errorf("%v between two pings, want 5s ± 20%%", p.Start-pings[i-1].Start)
			case p.Start > start+30*time.Second:
				t.Errorf("pinged %v into a lease of 30s", p.Start-start)
			}
		}
	})
}

func TestALeaseCanBeTakenBack(t *testing.T) {
	inMesh(t, 1, nil, func(m *mesh) {
		m.cluster.SetLink(cluster.ADS, true)
		time.Sleep(12 * time.Second)
		m.cluster.Lease("i-1", vigil.Lease{Every: time.Second, Until: m.clock.Now() + time.Hour})
		time.Sleep(5500 * time.Millisecond) // between two turns
		m.cluster.Lease("i-1", vigil.Lease{})
		synctest.Wait()
		n := len(m.pings())
		time.Sleep(time.Minute)
		if got := len(m.pings()); n == 0 || got != n {
			t.Errorf("%d pings while the lease was held, %d after; want some, then no more", n, got-n)
		}
	})
}

func TestAnOwnSidecarPingsAgainWhenTheControlPlaneIsLost(t *testing.T) {
	inMesh(t, 1, nil, func(m *mesh) {
		m.cluster.SetLink(cluster.ADS, true)
		m.cluster.SetLink(cluster.Reports, true)
		time.Sleep(30 * time.Second)
		if n := len(m.pings()); n != 0 {
			t.Errorf("%d pings while the control plane is heard, want none", n)
		}
		m.cluster.SetLink(cluster.Reports, false)
		time.Sleep(15 * time.Second)
		if n := len(m.pings()); n == 0 {
			t.Error("no pings after the control plane was lost")
		}
	})
}

func TestPingsCanBeTurnedOff(t *testing.T) {
	inMesh(t, 1, func(c *cluster.Config) { c.Ping.Kind = ping.Off }, func(m *mesh) {
		m.cluster.Lease("i-1", vigil.Lease{Every: time.Second, Until: time.Hour})
		time.Sleep(time.Minute)
		if n := m.servers[0].accepted.Load(); n != 0 {
			t.Errorf("%d connections, want none", n)
		}
		cfg := m.cluster.Config()
		cfg.Ping.Kind = ping.TCP
		m.cluster.SetConfig(cfg)
		time.Sleep(15 * time.Second)
		if n := m.servers[0].accepted.Load(); n == 0 {
			t.Error("no pings after they were turned on")
		}
	})
}

// application is an HTTP server that answers / with 200 and, from a path of its
// own, whatever the test wants; or, over HTTP/2, a gRPC server.
type application struct {
	status atomic.Int64 // of /healthz
	pings  atomic.Int64 // of /healthz
	grpc   *grpc.Server
}

func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.ProtoMajor == 2:
		a.pings.Add(1)
		a.grpc.ServeHTTP(w, r)
	case r.URL.Path == "/healthz":
		a.pings.Add(1)
		w.WriteHeader(int(a.status.Load()))
	}
}

// inHTTPMesh runs body with a cluster of two HTTP servers whose ping path is
// /healthz, and with requests at 20 per second.
func inHTTPMesh(t *testing.T, status int, body func(m *mesh, apps []*application)) {
	t.Helper()
	inAppMesh(t, status, func(c *cluster.Config) { c.Ping.Kind, c.Ping.Path = ping.HTTP, "/healthz" }, body)
}

func inAppMesh(t *testing.T, status int, edit func(*cluster.Config), body func(m *mesh, apps []*application)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &mesh{t: t, net: pipenet.New(1), clock: clock.New(), log: new(lockedBuffer)}
		var specs []cluster.Spec
		var apps []*application
		for _, ip := range []string{"10.0.1.1", "10.0.1.2"} {
			app := &application{grpc: grpc.NewServer()}
			app.status.Store(int64(status))
			ln, err := m.net.Host(ip).Listen(t.Context(), "tcp", ":80")
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: app, Protocols: new(http.Protocols)}
			srv.Protocols.SetHTTP1(true)
			srv.Protocols.SetUnencryptedHTTP2(true)
			go func() { _ = srv.Serve(ln) }() // ends with the test
			defer srv.Close()
			apps = append(apps, app)
			specs = append(specs, cluster.Spec{ID: ip, Address: ip + ":80"})
		}
		cfg := cluster.DefaultConfig()
		cfg.Name = "web"
		edit(&cfg)
		m.cluster = cluster.New(cfg, cluster.Deps{Clock: m.clock, Dial: m.net.Host("10.0.0.1").Dial, Log: logTo(m.log)})
		m.cluster.Update(specs)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.cluster.Run(ctx) }()
		synctest.Wait()
		body(m, apps)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
}

// get makes requests for d, 20 a second.
func (m *mesh) get(d time.Duration) {
	m.t.Helper()
	for range d / (50 * time.Millisecond) {
		time.Sleep(50 * time.Millisecond)
		e := m.cluster.Pick(m.clock.Now(), nil)
		a := e.Begin(m.clock.Now(), true)
		c, _, err := e.Get(m.t.Context(), m.clock.Now())
		if err != nil {
			m.t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n"); err != nil {
			m.t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			m.t.Fatal(err)
		}
		a.Headers(m.clock.Now())
		c.Discard()
		a.End(outlier.Outcome{Class: outlier.OK, Now: m.clock.Now(), Conn: c.Hash()})
	}
}

func TestAnHTTPPingIsTriedOnAnEndpointThatIsWellFirst(t *testing.T) {
	inHTTPMesh(t, http.StatusOK, func(m *mesh, apps []*application) {
		time.Sleep(30 * time.Second)
		if n := apps[0].pings.Load() + apps[1].pings.Load(); n != 0 {
			t.Errorf("%d HTTP pings before the path was known to be good, want none", n)
		}
		m.get(25 * time.Second)
		if n := apps[0].pings.Load() + apps[1].pings.Load(); n != 1 {
			t.Errorf("%d HTTP pings beside traffic, want the one that tries the path", n)
		}
		time.Sleep(30 * time.Second)
		if a, b := apps[0].pings.Load(), apps[1].pings.Load(); a < 2 || b < 2 {
			t.Errorf("%d and %d HTTP pings in 30 idle seconds, want a few each", a, b)
		}
		p := m.cluster.Probe(m.t.Context(), "10.0.1.1", outlier.LevelApp, time.Second)
		if p.Result != outlier.ProbeOK || p.Level != outlier.LevelApp {
			t.Errorf("probe %+v, want ok at level app", p)
		}
	})
}

func TestAMistypedPingPathCondemnsNobody(t *testing.T) {
	inHTTPMesh(t, http.StatusNotFound, func(m *mesh, apps []*application) {
		m.get(45 * time.Second)
		tried := apps[0].pings.Load() + apps[1].pings.Load()
		if tried != 2 || m.cluster.Stats().InvalidPaths != 1 {
			t.Errorf("path tried %d times and found invalid %d times, want 2 and 1", tried, m.cluster.Stats().InvalidPaths)
		}
		if !strings.Contains(m.log.String(), "ping path invalid") {
			t.Errorf("nothing in the log: %s", m.log)
		}
		time.Sleep(time.Minute)
		if n := apps[0].pings.Load() + apps[1].pings.Load(); n != tried {
			t.Errorf("%d more HTTP pings with an invalid path, want none", n-tried)
		}
		for _, e := range m.cluster.Snapshot().Endpoints {
			if e.State != outlier.In {
				t.Errorf("%s is %v, want in", e.ID, e.State)
			}
		}
		t.Log("the path is mended")
		for _, a := range apps {
			a.status.Store(http.StatusOK)
		}
		m.get(5*time.Minute + 30*time.Second)
		time.Sleep(30 * time.Second)
		if n := apps[0].pings.Load() + apps[1].pings.Load(); n < tried+3 {
			t.Errorf("%d HTTP pings after the path was mended, want some", n-tried)
		}
	})
}

// gRPCPing makes the cluster opaque, with gRPC pings.
func gRPCPing(c *cluster.Config) { c.Protocol, c.Ping.Kind = cluster.TCP, ping.GRPC }

func TestAGRPCPingTellsWhatAConnectDoesNot(t *testing.T) {
	inAppMesh(t, http.StatusOK, gRPCPing, func(m *mesh, apps []*application) {
		var states []*health.Server
		for _, a := range apps {
			h := health.NewServer()
			healthpb.RegisterHealthServer(a.grpc, h)
			states = append(states, h)
		}
		m.get(25 * time.Second)
		if n := apps[0].pings.Load() + apps[1].pings.Load(); n != 1 {
			t.Errorf("%d gRPC pings beside traffic, want the one that tries the service", n)
		}
		states[0].SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
		time.Sleep(time.Minute)
		for i, want := range []outlier.State{outlier.Ejected, outlier.In} {
			got := m.cluster.Snapshot().Endpoints[i].State
			if out := got != outlier.In; out != (want != outlier.In) {
				t.Errorf("server %d is %v, want %v", i, got, want)
			}
		}
	})
}

func TestAServerWithoutAHealthServiceIsOnlyConnectedTo(t *testing.T) {
	inAppMesh(t, http.StatusOK, gRPCPing, func(m *mesh, apps []*application) {
		m.get(45 * time.Second)
		tried := apps[0].pings.Load() + apps[1].pings.Load()
		if tried != 2 || m.cluster.Stats().InvalidPaths != 1 {
			t.Errorf("service tried %d times and found invalid %d times, want 2 and 1", tried, m.cluster.Stats().InvalidPaths)
		}
		time.Sleep(time.Minute)
		if n := apps[0].pings.Load() + apps[1].pings.Load(); n != tried {
			t.Errorf("%d more gRPC pings, want none", n-tried)
		}
		for _, e := range m.cluster.Snapshot().Endpoints {
			if e.State != outlier.In {
				t.Errorf("%s is %v, want in", e.ID, e.State)
			}
		}
	})
}
