package router_test

import (
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/router"
)

func TestAFaultHitsItsShare(t *testing.T) {
	f := &router.Fault{
		Delay: &router.Delay{Duration: time.Second, Share: 0.25},
		Abort: &router.Abort{Status: 503, Share: 0.5},
	}
	for _, test := range []struct {
		dice          float64
		waits, breaks bool
	}{{0, true, true}, {0.249, true, true}, {0.25, false, true}, {0.499, false, true}, {0.5, false, false}, {0.999, false, false}} {
		if got := f.Wait(test.dice) == time.Second; got != test.waits {
			t.Errorf("%v: waits %v, want %v", test.dice, got, test.waits)
		}
		if got := f.Breaks(test.dice) != nil; got != test.breaks {
			t.Errorf("%v: breaks %v, want %v", test.dice, got, test.breaks)
		}
	}
	for _, none := range []*router.Fault{nil, {}} {
		if none.Wait(0) != 0 || none.Breaks(0) != nil {
			t.Errorf("%+v hits a request", none)
		}
	}
}

func TestWhatIsWrongWithAFault(t *testing.T) {
	r := rule("r", func(r *router.Rule) {
		r.Fault = &router.Fault{
			Delay: &router.Delay{Duration: 2 * time.Minute, Share: 1.5},
			Abort: &router.Abort{Status: 200, GRPCStatus: 17},
		}
	})
	err := strictyaml.Validate(&r)
	if err == nil {
		t.Fatal("got no error")
	}
	for _, field := range []string{"fault.delay.duration", "fault.delay.share", "fault.abort.status", "fault.abort.grpc_status", "fault.abort.share"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("got %v, want it to name %s", err, field)
		}
	}
	r = rule("r", func(r *router.Rule) { r.Fault = &router.Fault{} })
	if err := strictyaml.Validate(&r); err == nil || !strings.Contains(err.Error(), "want delay, abort or both") {
		t.Errorf("got %v, want what is missing", err)
	}
}
