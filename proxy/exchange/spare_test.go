package exchange_test

import (
	"slices"
	"testing"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/router"
)

func TestWhomAllOthersRefuseAnEndpointThatIsOutMayServe(t *testing.T) {
	verdict := func(s outlier.State) outlier.Verdict { return outlier.Verdict{State: s, Epoch: 1} }
	specs := func(others ...cluster.Spec) []cluster.Spec {
		specs := []cluster.Spec{{ID: "in", Address: "10.0.1.1:80"}}
		for _, s := range others {
			s.Address = s.ID + ".example:80"
			specs = append(specs, s)
		}
		return specs
	}
	refused := exchange.Failure{Ending: outlier.EndConnectRefused, Replayable: true}
	for name, test := range map[string]struct {
		specs  []cluster.Spec
		fail   exchange.Failure
		origin string
		budget int
		want   []string // attempts after the first
	}{
		"refused, others are ejected": {
			specs: specs(cluster.Spec{ID: "out", Verdict: verdict(outlier.Ejected)}),
			fail:  refused, budget: 3, want: []string{"out"},
		},
		"refused by the application behind a sidecar": {
			specs: specs(cluster.Spec{ID: "out", Verdict: verdict(outlier.Ejected)}),
			fail:  exchange.Failure{Answered: true, Replayable: true}, origin: outlier.OriginRefused, budget: 3, want: []string{"out"},
		},
		"the least bad first, and each once": {
			specs: specs(cluster.Spec{ID: "out", Verdict: verdict(outlier.Ejected)}, cluster.Spec{ID: "leaves", Draining: true}),
			fail:  refused, budget: 3, want: []string{"leaves", "out"},
		},
		"no budget": {
			specs: specs(cluster.Spec{ID: "out", Verdict: verdict(outlier.Ejected)}),
			fail:  refused, budget: 0,
		},
		"nobody is out": {specs: specs(), fail: refused, budget: 3},
		"this machine's own fault": {
			specs: specs(cluster.Spec{ID: "out", Verdict: verdict(outlier.Ejected)}),
			fail:  exchange.Failure{Ending: outlier.EndLocalLimit, Replayable: true}, budget: 3,
		},
	} {
		t.Run(name, func(t *testing.T) {
			limit := func(c *cluster.Config) { c.Budget = resilience.BudgetConfig{MinPerSecond: test.budget} }
			atDesk(t, 1, router.DefaultRule(), limit, func(d *desk) {
				d.update(test.specs)
				x := d.open("POST")
				defer d.close(x)
				if x.Endpoint.ID != "in" {
					t.Fatalf("the first attempt is on %s, want the one that is in use", x.Endpoint.ID)
				}
				var got []string
				for {
					if test.origin != "" {
						x.Headed, x.Answer = true, exchange.Answer{Status: 503, Origin: test.origin}
					}
					x.Sent = test.origin != ""
					x.End(&d.deps, d.now(), exchange.Ended{Ending: test.fail.Ending})
					next, decision := x.Again(&d.deps, d.now(), test.fail)
					if next == nil {
						break
					}
					if decision != resilience.AskBudget {
						t.Errorf("%s gets the request by %v, want it to wait and to cost", next.ID, decision)
					}
					got = append(got, next.ID)
					x.Endpoint = next
					x.Begin(d.now(), true)
				}
				if !slices.Equal(got, test.want) {
					t.Errorf("got %q, want %q", got, test.want)
				}
			})
		})
	}
}
