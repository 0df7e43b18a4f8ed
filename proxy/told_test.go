package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

func TestASidecarServesWhatAStandardControlPlaneTellsIt(t *testing.T) {
	toldBy(t, func(t *testing.T, p *pod, s *standard) {
		p.backend(1, time.Millisecond)
		p.backend(2, time.Millisecond)
		p.settle()
		if got := p.sidecar.Ready(); got == "" {
			t.Error("ready before anybody has told of a listener")
		}
		s.publish(oneWorld("api", 1))
		if got := p.sidecar.Ready(); got != "" {
			t.Errorf("not ready: %s", got)
		}
		p.wantAnswer(15001, "/", "200 10.0.1.1")
		if got := p.standing(); !got.Deaf || got.Reporting {
			t.Errorf("standing %+v, want that nobody takes reports", got)
		}

		t.Log("routes change")
		next := oneWorld("web", 2)
		next[resource.RouteType] = []string{`{"name": "r", "virtual_hosts": [
			{"name": "a", "domains": ["127.0.0.1"], "routes": [{"match": {"path": "/old"}, "redirect": {"path_redirect": "/new"}}, {"match": {"prefix": "/"}, "route": {"cluster": "web"}}]}]}`}
		s.publish(next)
		p.wantAnswer(15001, "/", "200 10.0.1.2")
		p.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		if got := p.get(15001, "/old"); got.status != 301 || got.header.Get("Location") != "http://127.0.0.1:15001/new" {
			t.Errorf("/old answers %v with %v, want a redirect", got, got.header)
		}

		t.Log("the listener moves")
		next[resource.ListenerType] = []string{httpListener(15002, "r")}
		s.publish(next)
		p.wantAnswer(15002, "/", "200 10.0.1.2")
		p.client.CloseIdleConnections() // which may be used until the end of the drain
		if got := p.get(15001, "/"); got.err == nil {
			t.Errorf("the old port answers %v", got)
		}

		t.Log("the listener goes")
		next[resource.ListenerType], next[resource.RouteType] = nil, nil
		s.publish(next)
		p.client.CloseIdleConnections()
		if got := p.get(15002, "/"); got.err == nil {
			t.Errorf("a listener that is gone answers %v", got)
		}
		if nacks := s.heard(); len(nacks) > 0 {
			t.Errorf("it refused: %v", nacks)
		}
	})
}

// A control plane with snapshots withdraws a cluster before it tells of the routes that
// no longer lead there.
func TestAChangeOfRoutesLosesNoRequest(t *testing.T) {
	toldBy(t, func(t *testing.T, p *pod, s *standard) {
		p.backend(1, 30*time.Millisecond)
		p.backend(2, 30*time.Millisecond)
		s.publish(oneWorld("api", 1))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan map[string]int)
		const clients = 4
		for range clients {
			go func() {
				answers := map[string]int{}
				for ctx.Err() == nil {
					answers[p.get(15001, "/").String()]++
					time.Sleep(time.Millisecond)
				}
				done <- answers
			}()
		}
		for i := range 6 {
			if i%2 == 0 {
				s.publish(oneWorld("web", 2))
			} else {
				s.publish(oneWorld("api", 1))
			}
		}
		stop()
		all := map[string]int{}
		for range clients {
			for answer, n := range <-done {
				all[answer] += n
			}
		}
		if len(all) != 2 || all["200 10.0.1.1"] < 50 || all["200 10.0.1.2"] < 50 {
			t.Errorf("answers %v, want those of both backends and no other", all)
		}
	})
}

var refusals = regexp.MustCompile(`overhear_control_plane_refused_responses_total\{kind="route configuration"\} [1-9]`)

func TestWhatCannotBeHonouredIsRefusedByNameAndTheOldGoesOn(t *testing.T) {
	toldBy(t, func(t *testing.T, p *pod, s *standard) {
		p.backend(1, time.Millisecond)
		s.publish(oneWorld("api", 1))
		for _, tc := range []struct {
			url, text, want string
		}{
			{resource.RouteType, `{"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster_header": "x-to"}}]}]}`,
				`route configuration "r": virtual_hosts[0].routes[0].route.cluster_header: is not supported`},
			{resource.ClusterType, `{"name": "api", "type": "STRICT_DNS"}`, `cluster "api": type: is STRICT_DNS: want EDS, STATIC`},
			{resource.EndpointType, `{"cluster_name": "api", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "/x"}}}}]}]}`,
				`endpoints "api": endpoints[0].lb_endpoints[0].endpoint.address.pipe: is not supported`},
			{resource.ListenerType, strings.Replace(httpListener(15001, "r"), `"stat_prefix"`, `"skip_xff_append": true, "stat_prefix"`, 1),
				`listener "in": filter_chains[0].filters[0].http_connection_manager.skip_xff_append: is not supported`},
		} {
			s.heard()
			bad := oneWorld("api", 1)
			bad[tc.url] = []string{tc.text}
			s.publish(bad)
			if nacks := s.heard(); len(nacks) == 0 || !strings.Contains(nacks[0], tc.want) {
				t.Errorf("NACKs %q, want %s", nacks, tc.want)
			}
			p.wantAnswer(15001, "/", "200 10.0.1.1")
			if got := p.standing().Refused; len(got) != 1 || !strings.Contains(got[0].Reason, tc.want) {
				t.Errorf("status says %+v, want that it was refused", got)
			}
			s.publish(oneWorld("api", 1))
			if got := p.standing().Refused; len(got) != 0 {
				t.Errorf("status says %+v when it was mended", got)
			}
		}
		if got := p.get(15000, "/metrics").body; !refusals.MatchString(got) {
			t.Error("/metrics does not count the refusals")
		}
	})
}

func TestAListenerWaitsForItsRoutesAndTheirClusters(t *testing.T) {
	toldBy(t, func(t *testing.T, p *pod, s *standard) {
		p.backend(1, time.Millisecond)
		p.backend(2, time.Millisecond)
		s.publish(oneWorld("api", 1))

		t.Log("routes to a cluster that has no endpoints yet")
		next := oneWorld("web", 2)
		next[resource.EndpointType] = nil
		next[resource.ClusterType] = []string{edsCluster("api"), edsCluster("web")}
		s.publish(next)
		p.wantAnswer(15001, "/", "200 10.0.1.1")
		if got := p.standing().Listeners; len(got) != 1 || !got[0].Open || !strings.Contains(got[0].Problem, `waits for the cluster "web"`) {
			t.Errorf("status says %+v, want that it waits", got)
		}
		s.publish(oneWorld("web", 2))
		p.wantAnswer(15001, "/", "200 10.0.1.2")

		t.Log("a listener with routes that do not come")
		next = oneWorld("web", 2)
		next[resource.ListenerType] = []string{httpListener(15001, "unheard of")}
		next[resource.RouteType] = nil
		s.publish(next)
		p.wantAnswer(15001, "/", "200 10.0.1.2")
		time.Sleep(time.Minute)
		p.wantAnswer(15001, "/", "200 10.0.1.2")
		if got := p.standing().Listeners; len(got) != 1 || !strings.Contains(got[0].Problem, `waits for the route configuration "unheard of"`) {
			t.Errorf("status says %+v, want that it waits", got)
		}

		t.Log("a cluster that does not come is not waited for for ever")
		next = oneWorld("web", 2)
		next[resource.RouteType] = []string{routesTo("r", "nobody")}
		s.publish(next)
		p.wantAnswer(15001, "/", "200 10.0.1.2")
		time.Sleep(16 * time.Second)
		if got := p.get(15001, "/"); got.status != 503 || !strings.Contains(got.body, "no such cluster") {
			t.Errorf("answers %v, want 503: there is no such cluster; %+v, refused %q", got, p.standing(), s.heard())
		}
	})
}

func TestAListenerThatCannotBeOpenedIsRefusedAndTheOthersAreNot(t *testing.T) {
	toldBy(t, func(t *testing.T, p *pod, s *standard) {
		p.backend(1, time.Millisecond)
		taken, err := p.host.Listen(t.Context(), "tcp", "127.0.0.1:15003")
		if err != nil {
			t.Fatal(err)
		}
		tcp := `{"name": "tcp", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 15003}}, "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
			"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "x", "cluster": "api"}}]}]}`
		world := oneWorld("api", 1)
		s.publish(world)
		world[resource.ListenerType] = append(world[resource.ListenerType], tcp)
		s.publish(world)
		if nacks := s.heard(); len(nacks) == 0 || !strings.Contains(nacks[0], `listener "tcp".address: `) || !strings.Contains(nacks[0], "in use") {
			t.Errorf("NACKs %q, want one about the address of tcp", nacks)
		}
		p.wantAnswer(15001, "/", "200 10.0.1.1")
		if err := taken.Close(); err != nil {
			t.Fatal(err)
		}
		world[resource.ListenerType][1] = strings.Replace(tcp, `"x"`, `"y"`, 1)
		s.publish(world)
		p.wantAnswer(15003, "/", "200 10.0.1.1") // TCP carries that as well
	})
}

func TestALostControlPlaneLeavesItsListeners(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t)
		p.backend(1, time.Millisecond)
		s := p.standard(true)
		file := fmt.Sprintf("node: {id: sidecar-1}\nstate_dir: %q\n", dir) + told
		p.start(file)
		s.publish(oneWorld("api", 1))
		s.grpc.Stop()
		p.settle()
		p.wantAnswer(15001, "/", "200 10.0.1.1")

		t.Log("also over a restart, and a reload of the file")
		p.end()
		p.start(file)
		p.settle()
		p.wantAnswer(15001, "/", "200 10.0.1.1")
		if got := p.sidecar.Ready(); got != "" {
			t.Errorf("not ready: %s", got)
		}
		if err := p.sidecar.Reload(p.config(file + "outbound: [{address: \"127.0.0.1:15004\", cluster: api}]\n")); err != nil {
			t.Fatal(err)
		}
		p.wantAnswer(15001, "/", "200 10.0.1.1")
		p.wantAnswer(15004, "/", "200 10.0.1.1")
		if err := p.sidecar.Reload(p.config(file + "outbound: [{address: \"127.0.0.1:15001\", name: mine, cluster: api}]\n")); err == nil || !strings.Contains(err.Error(), "is taken by") {
			t.Errorf("reload with a port that the control plane has: %v, want that it is taken", err)
		}
		if dump := p.get(15000, "/config_dump").body; !strings.Contains(dump, "control_plane_listeners:") {
			t.Errorf("/config_dump shows no listeners of the control plane:\n%s", dump)
		}
		p.end()
	})
}
