package client_test

import (
	"fmt"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/overhear-mesh/overhear/xds/resource"
)

const (
	lds = resource.TypeListener
	rds = resource.TypeRoute
)

// listenerWith wants the route configuration of that name.
func listenerWith(name, routes string) *discoveryv3.Resource {
	return res(name, "1", &listenerv3.Listener{Name: name, StatPrefix: routes})
}

func TestAClientAsksForListenersAndThenForTheirRoutes(t *testing.T) {
	cfg := config()
	cfg.Listeners = []string{"*"}
	connected(t, cfg, func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		st.request()
		first := st.request()
		if got := fmt.Sprint(first.GetTypeUrl(), first.GetResourceNamesSubscribe(), first.GetNode() != nil); got != lds+"[*] false" {
			t.Errorf("beside clusters it asks for %s, want all listeners, without the node", got)
		}
		st.acked(st.send(lds, nil, listenerWith("in", "r1"), listenerWith("out", "r2")))
		next := st.request()
		if got := fmt.Sprint(next.GetTypeUrl(), next.GetResourceNamesSubscribe()); got != rds+"[r1 r2]" {
			t.Errorf("after the listeners it asks for %s", got)
		}
		st.acked(st.send(rds, nil, res("r1", "1", &routev3.RouteConfiguration{Name: "r1"})))
		s.want(t, "up, listener in, listener out, routes r1")
		st.acked(st.send(lds, []string{"in"}, listenerWith("out", "r3")))
		next = st.request()
		if got := fmt.Sprint(next.GetResourceNamesSubscribe(), next.GetResourceNamesUnsubscribe()); got != "[r3] [r1 r2]" {
			t.Errorf("then it changes its subscription by %s", got)
		}
		s.want(t, "listener out, listener -in")
		time.Sleep(16 * time.Second)
		s.want(t, "routes -r3") // nobody knows of them

		s.refusing("listener out")
		if r := st.send(lds, nil, listenerWith("out", "r4")); r.GetErrorDetail() == nil {
			t.Error("ACK, want a NACK")
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.nacks != 1 {
			t.Errorf("the handler heard of %d refusals, want 1", s.nacks)
		}
	})
}

func TestWhoNeedsFewListenersAsksForFew(t *testing.T) {
	cfg := config()
	cfg.Listeners = []string{"in"}
	connected(t, cfg, func(cp *controlPlane, s *sidecar) {
		st := cp.stream()
		st.request()
		if got := fmt.Sprint(st.request().GetResourceNamesSubscribe()); got != "[in]" {
			t.Errorf("it asks for %s, want in", got)
		}
		st.acked(st.send(lds, nil, listenerWith("in", "r"), listenerWith("pushy", "r")))
		st.request()
		s.want(t, "up, listener in")
	})
}
