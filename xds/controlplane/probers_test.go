package controlplane_test

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/hdsmodel"
	"github.com/overhear-mesh/overhear/xds/client"
	"github.com/overhear-mesh/overhear/xds/controlplane"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// probes lets an Envoy probe what it is asked to, over a connection from ip.
func (e *loadReporter) probes(ip string, made *atomic.Int64) {
	e.w.t.Helper()
	cc, err := client.Dial([]string{xdsAddr}, client.DialOptions{Dialer: e.w.net.Host(ip).Dial})
	if err != nil {
		e.w.t.Fatal(err)
	}
	model := &hdsmodel.Envoy{Node: e.node, Meet: func(at netip.AddrPort, _ *corev3.HealthCheck) hdsmodel.Outcome {
		made.Add(1)
		return hdsmodel.Outcome{After: time.Millisecond, Well: at.Addr().String() != sickIP || !e.refuses()}
	}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	e.w.t.Cleanup(func() { cancel(); running.Wait(); cc.Close() })
	running.Go(func() {
		if err := model.Run(ctx, cc); ctx.Err() == nil {
			e.w.t.Log("health discovery ended:", err)
		}
	})
}

// probingFleet is four Envoys that also probe.
type probingFleet struct {
	envoys []*loadReporter
	down   atomic.Bool  // the sick instance refuses connections
	made   atomic.Int64 // probes
}

// probingFleet starts them, and has them probe from hosts of that network.
func (w *world) probingFleet(probeFrom string) *probingFleet {
	w.t.Helper()
	f := new(probingFleet)
	for _, n := range []string{"1", "2", "3", "4"} {
		e := w.envoy("10.3.0."+n, "envoy-"+n, f.down.Load)
		e.probes(probeFrom+n, &f.made)
		f.envoys = append(f.envoys, e)
	}
	return f
}

// lost counts the requests that failed.
func (f *probingFleet) lost() int {
	n := 0
	for _, e := range f.envoys {
		e.mu.Lock()
		n += e.lost
		e.mu.Unlock()
	}
	return n
}

// idle says whether they have no requests to send.
func (f *probingFleet) idle(are bool) {
	for _, e := range f.envoys {
		e.idle.Store(are)
	}
}

func TestEnvoysThatProbeBringAnEndpointBackAtTheCostOfNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.opened()
		f := w.probingFleet("10.3.0.")
		time.Sleep(15 * time.Second)

		f.down.Store(true)
		w.until("every Envoy was told to leave it", time.Second, func() bool {
			for _, e := range f.envoys {
				if h, _ := e.health(); h != corev3.HealthStatus_DRAINING {
					return false
				}
			}
			return true
		})
		time.Sleep(200 * time.Millisecond)
		before := f.lost()
		time.Sleep(time.Minute) // several rounds of recovery
		if n := f.lost() - before; n > 0 {
			t.Errorf("%d requests were lost to find that it is still down, want none: it is probed", n)
		}
		var why controlplane.Why
		w.get("/api/v1/why?endpoint="+sick, &why)
		if why.Endpoint.Rule != outlier.RuleHard || len(why.Explain.Probes) == 0 {
			t.Fatalf("it is %s by %s with the probes %+v, want those of Envoys", why.Endpoint.State, why.Endpoint.Rule, why.Explain.Probes)
		}
		for _, p := range why.Explain.Probes {
			if !strings.HasPrefix(p.Reporter, "envoy-") || p.Client != "envoy" || p.Result != outlier.Refused.String() && p.Result != "waiting" {
				t.Errorf("probe %+v, want it refused to an Envoy, by health discovery", p)
			}
		}

		f.down.Store(false)
		w.until("it is well again", time.Minute, func() bool {
			h, weight := f.envoys[0].health()
			return h == corev3.HealthStatus_HEALTHY && weight == resource.WeightScale && w.state(sick) == outlier.In
		})
		if n := f.lost() - before; n > 1 {
			t.Errorf("its recovery cost %d requests, want at most 1", n)
		}
		_, text := w.do(http.MethodGet, "/metrics", "", nil)
		for _, want := range []string{
			"overhear_health_discovery_streams 4\n", `overhear_envoy_probe_results_total{result="refused"} `, `overhear_envoy_probe_results_total{result="ok"} `,
			`overhear_orders_total{kind="envoy_probe"} `,
		} {
			if !strings.Contains(text, want) {
				t.Errorf("the metrics lack %q", want)
			}
		}
		if f.made.Load() == 0 {
			t.Error("no Envoy has made a probe")
		}
	})
}

func TestEnvoysPingWhatHasNoTrafficAndFindThatItHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.opened()
		f := w.probingFleet("10.3.0.")
		f.idle(true)
		time.Sleep(2 * time.Minute)
		if f.made.Load() == 0 || w.state(sick) != outlier.In {
			t.Fatalf("%d pings were made and it is %s, want some and in", f.made.Load(), w.state(sick))
		}
		f.down.Store(true)
		w.until("it is found gone", time.Minute, func() bool { return w.state(sick).Out() })
		f.down.Store(false)
		w.until("it may be tried by requests, of which there are none", time.Minute, func() bool { return w.state(sick) == outlier.Probation })
		f.idle(false)
		w.until("it is back", time.Minute, func() bool { return w.state(sick) == outlier.In })
	})
}

func TestWhoProbesUnderTheIdOfAnotherIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.opened()
		f := w.probingFleet("10.9.0.") // other addresses than those that they report from
		time.Sleep(15 * time.Second)
		f.down.Store(true)
		w.until("it is out all the same", time.Second, func() bool { h, _ := f.envoys[0].health(); return h == corev3.HealthStatus_DRAINING })
		time.Sleep(10 * time.Second)
		if n := f.made.Load(); n != 0 {
			t.Errorf("%d probes were asked of who is not known by load reports, want none", n)
		}
	})
}
