package discovery

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/xds/client"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// silent is a control plane that never answers.
type silent struct{}

func (silent) Invoke(ctx context.Context, _ string, _, _ any, _ ...grpc.CallOption) error {
	<-ctx.Done()
	return ctx.Err()
}

func (silent) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// running starts a Discovery in the bubble that the test is in. What it returns
// ends it.
func running(t *testing.T, cfg Config, deps Deps) (d *Discovery, log *strings.Builder, stop func()) {
	t.Helper()
	log = new(strings.Builder)
	deps.Log = slog.New(slog.NewTextHandler(log, nil))
	deps.Cluster.Clock = clock.New()
	cfg.XDS = client.DefaultConfig()
	d = New(cfg, deps)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	synctest.Wait()
	return d, log, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	}
}

func api(name string) resource.Cluster {
	return resource.Cluster{Name: name, Service: name + ".eds", Policy: resource.DefaultPolicy()}
}

func assignment(service string, addresses ...string) resource.Endpoints {
	a := resource.Endpoints{Service: service}
	for _, at := range addresses {
		a.Endpoints = append(a.Endpoints, resource.Endpoint{Address: netip.MustParseAddrPort(at), Weight: 1})
	}
	return a
}

// messages are clusters as our control plane tells of them.
func messages(all ...resource.Cluster) []*clusterv3.Cluster {
	var out []*clusterv3.Cluster
	for _, c := range all {
		out = append(out, resource.EncodeCluster(c, resource.Overhear))
	}
	return out
}

// feed is a handler to which only what is acceptable is told.
type feed struct {
	t *testing.T
	h *handler
}

func (f feed) clusters(changed []resource.Cluster, removed ...string) {
	f.t.Helper()
	if refused := f.h.Clusters(messages(changed...), removed); len(refused) > 0 {
		f.t.Fatal(refused)
	}
}

func (f feed) endpoints(changed ...resource.Endpoints) {
	f.t.Helper()
	var all []*endpointv3.ClusterLoadAssignment
	for _, e := range changed {
		all = append(all, resource.EncodeEndpoints(e, resource.Overhear))
	}
	if refused := f.h.Endpoints(all, nil); len(refused) > 0 {
		f.t.Fatal(refused)
	}
}

// addresses are where a cluster's picks go.
func addresses(c *cluster.Cluster) map[string]bool {
	synctest.Wait()
	got := make(map[string]bool)
	for range 200 {
		if e := c.Pick(0, nil); e != nil {
			got[e.Address] = true
		}
	}
	return got
}

func wantAddresses(t *testing.T, c *cluster.Cluster, want ...string) {
	t.Helper()
	set := make(map[string]bool)
	for _, a := range want {
		set[a] = true
	}
	if diff := cmp.Diff(set, addresses(c)); diff != "" {
		t.Errorf("%s is served by (-want +got):\n%s", c.Name(), diff)
	}
}

func TestANameLeadsToTheSameClusterBeforeAndAfterItIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var added []string
		d, _, stop := running(t, Config{}, Deps{ControlPlane: silent{}, Added: func(c *cluster.Cluster) { added = append(added, c.Name()) }})
		defer stop()
		early := d.Lookup("api")
		wantAddresses(t, early)
		wantKnown := func(want bool) {
			t.Helper()
			if got := early.Known(); got != want {
				t.Errorf("cluster known: got %v, want %v", got, want)
			}
		}
		wantKnown(false)

		h := feed{t, (*handler)(d)}
		h.clusters([]resource.Cluster{api("api"), api("other")})
		h.endpoints(assignment("api.eds", "10.0.0.1:80", "10.0.0.2:80"))
		wantAddresses(t, early, "10.0.0.1:80", "10.0.0.2:80")
		wantKnown(true)

		h.clusters(nil, "api", "other")
		wantAddresses(t, early)
		wantKnown(false)
		if d.Lookup("api") != early {
			t.Error("a cluster that was looked up became another one when it was withdrawn")
		}
		if n := len(d.Clusters()); n != 1 {
			t.Errorf("%d clusters after both were withdrawn, want the one that is wanted", n)
		}

		h.clusters([]resource.Cluster{api("api")})
		h.endpoints(assignment("api.eds", "10.0.0.3:80"))
		wantAddresses(t, early, "10.0.0.3:80")
		wantKnown(true)
		if diff := cmp.Diff([]string{"api", "other"}, added); diff != "" {
			t.Errorf("told of (-want +got):\n%s", diff)
		}
	})
}

func TestAClusterThatNobodyLooksAtAnyMoreGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		static := func(names ...string) (all []Static) {
			for _, name := range names {
				cfg := cluster.DefaultConfig()
				cfg.Name = name
				all = append(all, Static{Config: cfg, Endpoints: []cluster.Spec{{ID: name, Address: "10.0.0.1:80"}}})
			}
			return all
		}
		d, _, stop := running(t, Config{Static: static("old", "stays")}, Deps{})
		defer stop()
		old := d.Lookup("old")
		d.Lookup("typo")
		d.Lookup("stays")
		synctest.Wait()

		d.Keep(map[string]bool{"stays": true})
		d.SetStatic(static("stays"))
		synctest.Wait()
		var names []string
		for _, c := range d.Clusters() {
			names = append(names, c.Name())
		}
		if diff := cmp.Diff([]string{"stays"}, names); diff != "" {
			t.Errorf("clusters (-want +got):\n%s", diff)
		}
		wantAddresses(t, old, "10.0.0.1:80") // for requests under way
		if d.Lookup("old") == old {
			t.Error("a cluster came back from the dead")
		}
	})
}

func TestEndpointsThatComeBeforeTheirClusterChangesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, stop := running(t, Config{}, Deps{ControlPlane: silent{}})
		defer stop()
		h := feed{t, (*handler)(d)}
		h.clusters([]resource.Cluster{api("api")})
		h.endpoints(assignment("api.eds", "10.0.0.1:80"))
		c := d.Lookup("api")
		synctest.Wait()
		e := c.Pick(0, nil)

		changed := api("api")
		changed.ConnectTimeout = 3 * time.Second
		changed.Policy.Balancer.Policy = resource.RoundRobin
		h.clusters([]resource.Cluster{changed})
		wantAddresses(t, c, "10.0.0.1:80")
		if got, want := c.Config().Balancer.Policy, balancer.RoundRobin; got != want {
			t.Errorf("balancer %v, want %v", got, want)
		}
		if c.Pick(0, nil) != e || c.Config().ConnectTimeout != 3*time.Second {
			t.Errorf("same endpoint %v, connect timeout %v; want true, 3s", c.Pick(0, nil) == e, c.Config().ConnectTimeout)
		}
		if refused := h.h.Endpoints(nil, []string{"api.eds"}); len(refused) > 0 { // without its cluster
			t.Fatal(refused)
		}
		wantAddresses(t, c, "10.0.0.1:80")
		h.endpoints(assignment("api.eds")) // on purpose
		wantAddresses(t, c)
	})
}

func TestAClusterThatCannotBeServedIsRefusedAndTheOthersAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, stop := running(t, Config{}, Deps{ControlPlane: silent{}})
		defer stop()
		h := feed{t, (*handler)(d)}
		bad := func(edit func(*resource.Cluster)) resource.Cluster {
			c := api("bad")
			edit(&c)
			return c
		}
		for _, tt := range []struct {
			want string
			c    resource.Cluster
		}{
			{"protocol", bad(func(c *resource.Cluster) { c.Policy.Protocol = "http3" })},
			{"ping", bad(func(c *resource.Cluster) { c.Policy.Ping.Kind = "icmp" })},
			{"ping: a grpc ping", bad(func(c *resource.Cluster) { c.Policy.Ping.Kind = resource.PingGRPC })},
			{"ping.path", bad(func(c *resource.Cluster) { c.Policy.Ping.Path = "healthz" })},
			{"connect_timeout", bad(func(c *resource.Cluster) { c.ConnectTimeout = time.Hour })},
			{"ping: an http ping", bad(func(c *resource.Cluster) {
				c.Policy.Protocol, c.Policy.Ping.Kind = resource.TCP, resource.PingHTTP
			})},
		} {
			refused := h.h.Clusters(messages(tt.c, api("good")), nil)
			err := refused["bad"]
			if len(refused) != 1 || err == nil || !strings.Contains(err.Error(), `cluster "bad"`) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("refused %v, want just cluster bad, about %s", refused, tt.want)
			}
		}
		if all := d.Clusters(); len(all) != 1 || all[0].Name() != "good" {
			t.Errorf("%d clusters, want the good one", len(all))
		}
	})
}

func TestAPolicyThatIsRefusedLeavesTheOldOneInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, stop := running(t, Config{}, Deps{ControlPlane: silent{}})
		defer stop()
		h := feed{t, (*handler)(d)}
		first := api("api")
		first.ConnectTimeout = 2 * time.Second
		h.clusters([]resource.Cluster{first})
		second := first
		second.ConnectTimeout = time.Hour
		if refused := h.h.Clusters(messages(second), nil); refused["api"] == nil {
			t.Error("a connect timeout of an hour was taken")
		}
		if got := d.Lookup("api").Config().ConnectTimeout; got != 2*time.Second {
			t.Errorf("connect timeout %v, want 2s as before", got)
		}
	})
}

func static(name string, at ...string) Static {
	s := Static{Config: cluster.DefaultConfig()}
	s.Config.Name = name
	for _, a := range at {
		s.Endpoints = append(s.Endpoints, cluster.Spec{ID: a, Address: a, Weight: 1})
	}
	return s
}

func TestAClusterOfTheFileHidesTheControlPlanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, log, stop := running(t, Config{Static: []Static{static("api", "10.1.0.1:80")}}, Deps{ControlPlane: silent{}})
		defer stop()
		c := d.Lookup("api")
		wantAddresses(t, c, "10.1.0.1:80")
		h := feed{t, (*handler)(d)}
		h.clusters([]resource.Cluster{api("api")})
		h.endpoints(assignment("api.eds", "10.0.0.1:80"))
		wantAddresses(t, c, "10.1.0.1:80")
		if !strings.Contains(log.String(), "hides") {
			t.Errorf("nothing in the log: %s", log)
		}

		t.Log("a reload: the file lets it go")
		d.SetStatic([]Static{static("db", "10.1.0.2:80")})
		wantAddresses(t, c, "10.0.0.1:80")
		wantAddresses(t, d.Lookup("db"), "10.1.0.2:80")

		t.Log("a reload: the file takes it back")
		d.SetStatic([]Static{static("api", "10.1.0.3:80")})
		wantAddresses(t, c, "10.1.0.3:80")
		wantAddresses(t, d.Lookup("db"))
	})
}

func TestWithoutAControlPlaneItIsReadyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, stop := running(t, Config{Static: []Static{static("api", "10.1.0.1:80")}}, Deps{})
		defer stop()
		if !isReady(d) {
			t.Error("not ready")
		}
		if got := d.Status(); got.Source != None || got.Connected || got.Age != 0 {
			t.Errorf("status %+v, want nothing", got)
		}
	})
}

func TestWhoseFileHasEverythingIsReadyBeforeTheControlPlaneAnswers(t *testing.T) {
	for _, tt := range []struct {
		name  string // looked up beside api
		late  bool   // listeners look when Run has begun
		ready bool
	}{{"api", false, true}, {"api", true, true}, {"other", false, false}, {"other", true, false}} {
		synctest.Test(t, func(t *testing.T) {
			deps := Deps{ControlPlane: silent{}}
			deps.Cluster.Clock = clock.New()
			d := New(Config{Static: []Static{static("api", "10.1.0.1:80")}, XDS: client.DefaultConfig()}, deps)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			run := func() {
				go func() { done <- d.Run(ctx) }()
				synctest.Wait()
			}
			if tt.late {
				run()
			}
			d.Lookup("api")
			if isReady(d) {
				t.Error("ready before Keep")
			}
			d.Lookup(tt.name)
			d.Keep(map[string]bool{"api": true, tt.name: true})
			if !tt.late {
				run()
			}
			if got := isReady(d); got != tt.ready {
				t.Errorf("listeners name api and %s, late %t, the file has api: ready %t, want %t", tt.name, tt.late, got, tt.ready)
			}
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
		})
	}
}

func isReady(d *Discovery) bool {
	select {
	case <-d.Ready():
		return true
	default:
		return false
	}
}

func TestTheLinkIsToldToTheControlPlanesClusters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, stop := running(t, Config{}, Deps{ControlPlane: silent{}})
		defer stop()
		h := feed{t, (*handler)(d)}
		h.h.Stream(true, nil)
		h.clusters([]resource.Cluster{api("api")})
		h.endpoints(assignment("api.eds", "10.0.0.1:80", "10.0.0.2:80"))
		synctest.Wait()
		if s := d.Status(); !s.Connected || s.Source != Control || !isReady(d) {
			t.Errorf("status %+v, ready %v; want connected, from the control plane, ready", s, isReady(d))
		}
		ejected := assignment("api.eds", "10.0.0.1:80", "10.0.0.2:80")
		ejected.Endpoints[0].Verdict = outlier.Verdict{State: outlier.Suspended, Epoch: 1, Rule: outlier.RuleStalled}
		h.endpoints(ejected)
		wantAddresses(t, d.Lookup("api"), "10.0.0.2:80")
		h.h.Stream(false, errors.New("connection reset"))
		time.Sleep(5 * time.Second) // a suspension does not outlive the control plane for long
		wantAddresses(t, d.Lookup("api"), "10.0.0.1:80", "10.0.0.2:80")
		if s := d.Status(); s.Connected {
			t.Errorf("status %+v, want the loss told", s)
		}
	})
}

func TestASidecarStartedAloneServesFromWhatItKnewLast(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	synctest.Test(t, func(t *testing.T) {
		d, _, stop := running(t, Config{StateDir: dir}, Deps{ControlPlane: silent{}})
		if isReady(d) {
			t.Error("ready with nothing to serve from")
		}
		h := feed{t, (*handler)(d)}
		h.clusters([]resource.Cluster{api("api"), api("db")})
		h.endpoints(assignment("api.eds", "10.0.0.1:80"), assignment("db.eds", "10.0.0.2:80"))
		time.Sleep(2 * time.Second)
		if _, err := os.Stat(filepath.Join(dir, stateFile)); err != nil {
			t.Errorf("two seconds after a change: %v", err)
		}
		h.endpoints(assignment("api.eds", "10.0.0.1:80", "10.0.0.9:80"))
		stop() // what changed last is written on the way out
	})
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		d, log, stop := running(t, Config{StateDir: dir}, Deps{ControlPlane: silent{}})
		defer stop()
		wantAddresses(t, d.Lookup("api"), "10.0.0.1:80", "10.0.0.9:80")
		wantAddresses(t, d.Lookup("db"), "10.0.0.2:80")
		if s := d.Status(); s.Source != Saved || s.Age < time.Hour-time.Minute || s.Age > time.Hour+time.Minute || !isReady(d) {
			t.Errorf("status %+v, ready %v; want an hour old, from the state directory, ready", s, isReady(d))
		}
		if !strings.Contains(log.String(), "serving from saved resources") {
			t.Errorf("nothing in the log: %s", log)
		}

		t.Log("the control plane is back and has dropped one")
		h := feed{t, (*handler)(d)}
		h.h.Stream(true, nil)
		h.clusters([]resource.Cluster{api("api")})
		h.endpoints(assignment("api.eds", "10.0.0.3:80"))
		wantAddresses(t, d.Lookup("api"), "10.0.0.3:80")
		wantAddresses(t, d.Lookup("db"), "10.0.0.2:80") // its answer may not be complete yet
		time.Sleep(20 * time.Second)
		wantAddresses(t, d.Lookup("db"))
		if s := d.Status(); s.Source != Control {
			t.Errorf("source %v, want %v", s.Source, Control)
		}
	})
}

func TestASavedStateThatIsCorruptIsIgnoredWithAWord(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(`{"format":1,"resources":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		d, log, stop := running(t, Config{StateDir: dir}, Deps{ControlPlane: silent{}})
		defer stop()
		if n := len(d.Clusters()); n != 0 || isReady(d) {
			t.Errorf("%d clusters, ready %v; want none, false", n, isReady(d))
		}
		if !strings.Contains(log.String(), "not usable") || !strings.Contains(log.String(), "sha256") {
			t.Errorf("log %q, want what is wrong with the file", log)
		}
	})
}
