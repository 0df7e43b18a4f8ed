package discovery

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/overhear-mesh/overhear/proxy/config"
)

// listenerOf is a listener that asks for routes.
func listenerOf(t *testing.T, name, routes string) *listenerv3.Listener {
	t.Helper()
	m := new(listenerv3.Listener)
	if err := protojson.Unmarshal([]byte(`{"name": "`+name+`", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}, "filter_chains": [{"filters": [{"typed_config": {
		"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"rds": {"config_source": {"ads": {}}, "route_config_name": "`+routes+`"},
		"http_filters": [{"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}`), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// answering are routes whose only one answers with a status.
func answering(name string, status uint32) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: status}},
	}}}}}
}

func TestItIsToldThatNoListenerComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var lines strings.Builder
		d := New(Config{XDS: XDS(Node{ID: "n"}, nil, []string{"*"})}, Deps{
			ControlPlane: silent{}, Log: slog.New(slog.NewTextHandler(&lines, nil)), Listeners: func([]config.Outbound) error { return nil },
		})
		h := (*handler)(d)
		done := make(chan struct{})
		go func() { d.awaitListeners(ctx); close(done) }()
		check := func(when string, missing bool, told int) {
			t.Helper()
			synctest.Wait()
			if got := len(d.Status().Missing) > 0; got != missing {
				t.Errorf("%s: missing %t, want %t", when, got, missing)
			}
			d.mu.Lock() // it is held while that is told
			defer d.mu.Unlock()
			if got := strings.Count(lines.String(), "tells of no listener"); got != told {
				t.Errorf("%s: told %d times, want %d", when, got, told)
			}
		}
		wait := d.cfg.XDS.Missing
		check("before it is heard", false, 0)
		h.Stream(true, nil)
		time.Sleep(wait - 1)
		check("at first", false, 0)
		time.Sleep(10 * wait)
		check("after a while", true, 1)
		h.Stream(false, nil)
		check("when it is lost", false, 1)
		h.Stream(true, nil)
		time.Sleep(2 * wait)
		check("when it is back, and tells of none", true, 2)
		h.Routes([]*routev3.RouteConfiguration{answering("r", 200)}, nil)
		h.Listeners([]*listenerv3.Listener{listenerOf(t, "in", "r")}, nil)
		check("when one has come", false, 2)
		cancel()
		<-done
	})
}

func TestRoutesThatCannotBeAppliedAreTriedAgainAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const good, bad = 200, 500
		var runs int          // what the listener answers
		var tried []time.Time // when bad routes were
		broken := true
		d := New(Config{XDS: XDS(Node{ID: "n"}, nil, []string{"*"})}, Deps{ControlPlane: silent{}, Log: slog.New(slog.DiscardHandler), Listeners: func(all []config.Outbound) error {
			for _, o := range all {
				status := o.Routes[0].Respond.Status
				if status == bad && (len(tried) == 0 || tried[len(tried)-1] != time.Now()) {
					tried = append(tried, time.Now())
				}
				if status == bad && broken {
					return errors.New("no room")
				}
				runs = status
			}
			return nil
		}})
		h := (*handler)(d)
		if refused := h.Listeners([]*listenerv3.Listener{listenerOf(t, "in", "r")}, nil); len(refused) > 0 {
			t.Fatal(refused)
		}
		h.Routes([]*routev3.RouteConfiguration{answering("r", good)}, nil)
		if runs != good {
			t.Fatalf("answers %d, want %d", runs, good)
		}
		start := time.Now()
		check := func(at time.Duration, answers int, problem string, tries ...time.Duration) {
			t.Helper()
			time.Sleep(time.Until(start.Add(at)))
			d.applyListeners() // whatever gives reason for it
			var got []time.Duration
			for _, at := range tried {
				got = append(got, at.Sub(start))
			}
			s := d.Status().Listeners
			if runs != answers || !slices.Equal(got, tries) || len(s) != 1 || s[0].Problem != problem {
				t.Errorf("after %v: answers %d, tried at %v, %+v; want %d, %v, problem %q", at, runs, got, s, answers, tries, problem)
			}
		}
		wait := d.cfg.XDS.Missing
		h.Routes([]*routev3.RouteConfiguration{answering("r", bad)}, nil)
		check(wait/4, good, "no room", 0)
		check(wait/2, good, "no room", 0)
		check(wait, good, "no room", 0, wait)
		h.Routes([]*routev3.RouteConfiguration{answering("r", good+1)}, nil) // other ones need not wait
		check(wait+wait/4, good+1, "", 0, wait)
		h.Routes([]*routev3.RouteConfiguration{answering("r", bad)}, nil)
		broken = false
		check(3*wait, bad, "", 0, wait, wait+wait/4, 3*wait)
	})
}
