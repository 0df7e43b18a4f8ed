//go:build unix

package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

// to is a sidecar's file that leads to one application.
func to(b *fakeupstream.Backend) string {
	return fmt.Sprintf(`
outbound: [{name: web, address: "127.0.0.1:0", cluster: api}]
clusters: [{name: api, endpoints: [{address: "%s"}]}]
`, b.Addr())
}

func TestASidecarSaysEverythingThatIsWrongWithItsFile(t *testing.T) {
	bad := write(t, "bad.yaml", `
outbound:
  - {address: nowhere, cluster: apo}
  - {address: "127.0.0.1:1", cluster: api, protocol: tcp, routes: [{prefix: /, cluster: api}]}
clusters:
  - {name: api, endpoints: [{address: "10.0.0.1:80", weight: 0}]}
`)
	good := write(t, "good.yaml", "outbound: [{address: \"127.0.0.1:1\", cluster: api}]\nclusters: [{name: api}]\n")
	for _, args := range [][]string{{"validate", "-c", bad}, {"run", "-c", bad}, {"-c", bad}} {
		p := launch(t, "sidecar", args...)
		if code := p.exit(); code != 1 {
			t.Errorf("sidecar %v: exit code %d, want 1", args, code)
		}
		contain(t, "standard error", p.log.String(),
			bad+`:3:6: outbound[0].address: is "nowhere": want host:port`,
			bad+`:3:24: outbound[0].cluster: no cluster "apo" here, and no control plane to bring one: did you mean "api"?`,
			bad+`:4:59: outbound[1].routes: cluster and routes exclude each other`,
			bad+`:6:54: clusters[0].endpoints[0].weight: is 0: want 1 to 1000`,
		)
	}
	p := launch(t, "sidecar", "validate", "-c", good)
	if code := p.exit(); code != 0 || p.out.String() != good+" is valid\n" {
		t.Errorf("a good file: exit code %d, output %q; want 0, that it is valid", code, &p.out)
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"serve"}, 2, `there is no verb "serve": want run, validate, status, version, help`},
		{[]string{"validate", "-c", good, "more"}, 2, `unexpected argument "more"`},
		{[]string{"run", "-c", good + ".missing"}, 1, "no such file"},
		{[]string{"status", "-address", "127.0.0.1:1"}, 1, "nothing listens at 127.0.0.1:1"},
		{[]string{"version"}, 0, "overhear sidecar "},
	} {
		p := launch(t, "sidecar", tt.args...)
		if code := p.exit(); code != tt.code {
			t.Errorf("sidecar %v: exit code %d, want %d", tt.args, code, tt.code)
		}
		contain(t, fmt.Sprintf("sidecar %v", tt.args), p.log.String()+p.out.String(), tt.want)
	}
}

func TestASidecarServesAndShowsItself(t *testing.T) {
	b := application(t, fakeupstream.Config{})
	p := sidecar(t, to(b)+"node: {id: pod-7, zone: a}\naccess_log: {path: stdout}\n").ready()
	for range 10 {
		if got := get(p.address("web"), "/hello"); got.String() != "200 ok\n" {
			t.Fatalf("got %v, want 200 ok", got)
		}
	}
	contain(t, "/live", p.admin("/live"), "live")
	requests := `overhear_http_server_requests_total{cluster="api",direction="outbound",http_response_status_code="200",http_route="api",listener="web"} 10`
	eventually(t, "the tenth request to be counted", func() bool { return strings.Contains(p.admin("/metrics"), requests) }) // after its client has the answer
	contain(t, "/metrics", p.admin("/metrics"),
		fmt.Sprintf(`overhear_endpoint_attempts_total{cluster="api",endpoint="%s",outcome="ok"} 10`, b.Addr()),
		`overhear_config_reloads_total{result="refused"} 0`,
		"go_goroutines ", "process_open_fds ",
	)
	contain(t, "/stats", p.admin("/stats?filter=endpoint_attempts"), "overhear_endpoint_attempts_total.api."+b.Addr()+".ok: 10\n")
	contain(t, "/config_dump", p.admin("/config_dump"), "pod-7", "(set)")
	if strings.Contains(p.admin("/config_dump"), "secret") {
		t.Error("/config_dump shows the token")
	}
	var shown struct {
		Sidecar  struct{ Node, Zone string }
		Clusters []struct {
			Name      string
			Endpoints []struct {
				ID, State string
				Share     float64
				Counts    struct{ N int }
			}
		}
	}
	if err := json.Unmarshal([]byte(p.admin("/clusters")), &shown); err != nil {
		t.Fatal(err)
	}
	if e := shown.Clusters[0].Endpoints[0]; shown.Sidecar.Node != "pod-7" || e.State != "in" || e.Share != 1 || e.Counts.N != 10 {
		t.Errorf("/clusters: got %+v, want pod-7 with an endpoint that is in after 10 attempts", shown)
	}
	status := launch(t, "sidecar", "status", "-address", p.address("admin"))
	if code := status.exit(); code != 0 {
		t.Errorf("sidecar status: exit code %d, want 0", code)
	}
	contain(t, "sidecar status", status.out.String(), "sidecar pod-7", "zone a", "control plane: none configured", b.Addr())

	call := func(path, token string) int {
		return do(http.MethodPost, p.address("admin"), path, http.Header{"Authorization": {"Bearer " + token}}).status
	}
	if got := call("/logging?level=debug", "guess"); got != http.StatusUnauthorized {
		t.Errorf("a log level set with a wrong token: got %d, want %d", got, http.StatusUnauthorized)
	}
	if got := call("/logging?level=debug", "a-secret-of-tests"); got != http.StatusOK {
		t.Errorf("a log level set: got %d, want %d", got, http.StatusOK)
	}
	contain(t, "/logging", p.admin("/logging"), "DEBUG")
	if got := call("/drain", "a-secret-of-tests"); got != http.StatusOK {
		t.Errorf("/drain: got %d, want %d", got, http.StatusOK)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("after /drain: exit code %d, want 0", code)
	}
	lines := strings.Split(strings.TrimSpace(p.out.String()), "\n")
	var line struct {
		Method, Path, Flags string
		Status              int
		Attempts            []struct{ Endpoint, Class string }
	}
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil {
		t.Fatalf("access log: %v in %q", err, lines[0])
	}
	if len(lines) != 10 || line.Method != http.MethodGet || line.Path != "/hello" || line.Status != 200 || line.Flags != "-" || len(line.Attempts) != 1 || line.Attempts[0].Class != "ok" {
		t.Errorf("access log: got %d lines like %s, want 10", len(lines), lines[0])
	}
}

func TestAReloadKeepsWhatRuns(t *testing.T) {
	b := application(t, fakeupstream.Config{})
	p := sidecar(t, to(b)).ready()
	if err := b.Set(fakeupstream.Hang()); err != nil {
		t.Fatal(err)
	}
	slow := later(p.address("web"))
	eventually(t, "a request at the application", func() bool { return b.Counts().Inflight == 1 })

	p.rewrite(func(text string) string {
		return strings.Replace(text, "outbound: [", "outbound: [{name: more, address: \"127.0.0.1:0\", cluster: api}, ", 1)
	})
	second := later(p.address("more"))
	eventually(t, "another request, by the new listener", func() bool { return b.Counts().Inflight == 2 })

	p.rewrite(func(text string) string { return text + "outbund: []\nlog: {level: loud}\n" })
	p.logged(`reload refused, the running configuration stays.*outbund.*did you mean`)
	contain(t, "/metrics", p.admin("/metrics"), `overhear_config_reloads_total{result="accepted"} 1`, `overhear_config_reloads_total{result="refused"} 1`)
	contain(t, "/clusters", p.admin("/clusters"), `"reload_error"`, "outbund")
	status := launch(t, "sidecar", "status", "-address", p.address("admin"))
	status.exit()
	contain(t, "sidecar status", status.out.String(), "LAST RELOAD REFUSED", "outbund")

	if err := b.Set(fakeupstream.Fault{}); err != nil {
		t.Fatal(err)
	}
	for name, request := range map[string]<-chan answer{"old": slow, "new": second} {
		if got := <-request; got.String() != "200 ok\n" {
			t.Errorf("the request under way by the %s listener: got %v, want 200 ok", name, got)
		}
	}
}

func TestSIGTERMLetsRequestsFinish(t *testing.T) {
	b := application(t, fakeupstream.Config{})
	p := sidecar(t, to(b)).ready()
	web := p.address("web")
	if err := b.Set(fakeupstream.Hang()); err != nil {
		t.Fatal(err)
	}
	slow := later(web)
	eventually(t, "a request at the application", func() bool { return b.Counts().Inflight == 1 })
	p.signal(syscall.SIGTERM)
	eventually(t, "a listener that refuses connections", func() bool { return refused(web) })
	if got := get(p.address("admin"), "/ready"); got.String() != "503 draining\n" {
		t.Errorf("/ready: got %v, want 503 draining", got)
	}
	contain(t, "/metrics", p.admin("/metrics"), "overhear_draining 1")
	if err := b.Set(fakeupstream.Fault{}); err != nil {
		t.Fatal(err)
	}
	if got := <-slow; got.String() != "200 ok\n" {
		t.Errorf("the request under way: got %v, want 200 ok", got)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// An inbound sidecar says what its application did, to its like and to nobody else.
func TestADeadApplicationIsSeenByOurSidecarsOnly(t *testing.T) {
	const field = "X-Overhear-Origin"
	liar := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(field, "app-refused")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	dead, other, lying := application(t, fakeupstream.Config{}), application(t, fakeupstream.Config{}), application(t, fakeupstream.Config{Handler: liar})
	inbound := sidecar(t, fmt.Sprintf(`
inbound:
  - {name: dead, address: "127.0.0.1:0", application: "%s", instance: dead}
  - {name: other, address: "127.0.0.1:0", application: "%s", instance: other}
  - {name: lying, address: "127.0.0.1:0", application: "%s", instance: lying}
`, dead.Addr(), other.Addr(), lying.Addr())).ready()
	caller := sidecar(t, fmt.Sprintf(`
outbound:
  - {name: web, address: "127.0.0.1:0", cluster: api}
  - {name: alone, address: "127.0.0.1:0", cluster: alone}
  - {name: lying, address: "127.0.0.1:0", cluster: lying}
clusters:
  - {name: api, endpoints: [{address: "%s", inbound: true}, {address: "%s", inbound: true}]}
  - {name: alone, endpoints: [{address: "%[1]s", inbound: true}]}
  - {name: lying, endpoints: [{address: "%[3]s", inbound: true}]}
`, inbound.address("dead"), inbound.address("other"), inbound.address("lying"))).ready()
	if err := dead.Set(fakeupstream.Crash()); err != nil {
		t.Fatal(err)
	}
	if got := get(inbound.address("dead"), "/"); got.status != http.StatusServiceUnavailable || got.header.Get(field) != "app-refused" {
		t.Errorf("the inbound sidecar: got %v, %q; want 503, app-refused", got, got.header.Get(field))
	}
	if got := get(caller.address("alone"), "/"); got.status != http.StatusServiceUnavailable || got.header.Get(field) != "" {
		t.Errorf("a caller: got %v, %q; want 503 without a mark", got, got.header.Get(field))
	}
	for range 20 { // nothing was processed: it goes to the other one
		if got := do(http.MethodPost, caller.address("web"), "/", nil); got.status != http.StatusOK {
			t.Errorf("a caller that has another endpoint: got %v, want 200", got)
		}
	}
	for _, address := range []string{inbound.address("lying"), caller.address("lying")} {
		if got := get(address, "/"); got.status != http.StatusServiceUnavailable || got.header.Get(field) != "" {
			t.Errorf("an application that claims to be a sidecar: got %v, %q; want 503 without a mark", got, got.header.Get(field))
		}
	}
	contain(t, "the caller's metrics", caller.admin("/metrics"),
		fmt.Sprintf(`overhear_endpoint_attempts_total{cluster="lying",endpoint="%s",outcome="server"} 1`, inbound.address("lying")))
}

// The same feed as Envoys and gRPC clients are told by.
func TestASidecarFollowsVerdicts(t *testing.T) {
	f, backends := newFeed(t), httpBackends(t, 4)
	c := resource.Cluster{Name: "api", Policy: resource.DefaultPolicy()}
	c.Policy.Outlier.Ramp = time.Hour // the sidecar's clock goes on
	if err := f.Apply(server.Change{
		View: resource.View{Kind: resource.Overhear}, TypeURL: resource.TypeCluster, Name: c.Name, Message: resource.EncodeCluster(c, resource.Overhear),
	}); err != nil {
		t.Fatal(err)
	}
	f.publish(backends)
	f.Ready()
	p := sidecar(t, fmt.Sprintf(`
node: {id: caller-1, zone: z}
control_plane: {addresses: ["%s"]}
outbound: [{name: web, address: "127.0.0.1:0", cluster: api}]`, f.address)).ready()
	verdicts(f, through(t, p.address("web")), backends)
}
