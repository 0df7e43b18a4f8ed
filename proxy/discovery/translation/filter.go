package translation

import (
	"time"

	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/router"
)

var filterTables = []message{
	of((*faultv3.HTTPFault)(nil),
		as("fault.delay", "delay"),
		as("fault.abort", "abort"),
		fine(statistics, "filter_metadata", "disable_downstream_cluster_stats"),
		fine("there is no runtime: what stands here counts", "delay_percent_runtime", "abort_percent_runtime", "delay_duration_runtime", "abort_http_status_runtime", "abort_grpc_status_runtime"),
		instead("want it in the routes that it is for", "headers", "upstream_cluster"),
	),
	of((*commonfaultv3.FaultDelay)(nil),
		as("fault.delay.duration", "fixed_delay"),
		as("fault.delay.share", "percentage"),
	),
	of((*faultv3.FaultAbort)(nil),
		as("fault.abort.status", "http_status"),
		as("fault.abort.grpc_status", "grpc_status"),
		as("fault.abort.share", "percentage"),
	),
	of((*ratelimitv3.LocalRateLimit)(nil),
		as("rate_limit", "token_bucket"),
		as("100 %", "filter_enabled", "filter_enforced"),
		fine(statistics, "stat_prefix"),
	),
	of((*typev3.TokenBucket)(nil),
		as("rate_limit.burst", "max_tokens"),
		as("rate_limit.rate", "tokens_per_fill", "fill_interval"),
	),
}

// fault reads harm on purpose; nil: there is none.
func fault(m *faultv3.HTTPFault, at string, p *problems) *router.Fault {
	f := new(router.Fault)
	if d := m.GetDelay(); d != nil {
		if d.GetFixedDelay() == nil {
			p.Add(at+".delay", "has no fixed_delay")
		}
		if s := share(d.GetPercentage()); s > 0 {
			f.Delay = &router.Delay{Duration: duration(d.GetFixedDelay(), at+".delay.fixed_delay", p), Share: s}
		}
	}
	if a := m.GetAbort(); a != nil {
		if s := share(a.GetPercentage()); s > 0 {
			abort := router.DefaultAbort()
			abort.Share = s
			switch by := a.GetErrorType().(type) {
			case *faultv3.FaultAbort_HttpStatus:
				abort.Status = int(by.HttpStatus)
			case *faultv3.FaultAbort_GrpcStatus:
				abort.GRPCStatus = int(by.GrpcStatus)
			default:
				p.Add(at+".abort", "has no error_type: want http_status or grpc_status")
			}
			f.Abort = &abort
		}
	}
	if f.Delay == nil && f.Abort == nil {
		return nil
	}
	return f
}

// share is a part of one.
func share(m *typev3.FractionalPercent) float64 {
	return float64(m.GetNumerator()) / float64(wholeOf(m))
}

// wholeOf is what the numerator of a share is a part of.
func wholeOf(m *typev3.FractionalPercent) uint32 {
	switch m.GetDenominator() {
	case typev3.FractionalPercent_TEN_THOUSAND:
		return 10_000
	case typev3.FractionalPercent_MILLION:
		return 1_000_000
	default:
		return 100
	}
}

// rateLimit reads how many requests there may be.
func rateLimit(m *ratelimitv3.LocalRateLimit, at string, p *problems) *resilience.RateConfig {
	if m.GetFilterEnabled() == nil || m.GetFilterEnforced() == nil ||
		fraction(m.GetFilterEnabled(), at+".filter_enabled", p) || fraction(m.GetFilterEnforced(), at+".filter_enforced", p) {
		return nil // it is not in force
	}
	b := m.GetTokenBucket()
	tokens, every := 1.0, duration(b.GetFillInterval(), at+".token_bucket.fill_interval", p)
	if n := b.GetTokensPerFill(); n != nil {
		tokens = float64(n.GetValue())
	}
	if b == nil || b.GetMaxTokens() == 0 || every < time.Millisecond {
		p.Add(at+".token_bucket", "want max_tokens, and a fill_interval of 1ms or more")
		return nil
	}
	return &resilience.RateConfig{Rate: tokens / every.Seconds(), Burst: int(min(b.GetMaxTokens(), 1<<30))}
}

// perRoute reads what a route or its virtual host says to filters.
func perRoute(all map[string]*anypb.Any, at string, rule *router.Rule, p *problems) {
	for name, a := range all {
		at := at + `.typed_per_filter_config["` + clip(name) + `"]`
		switch m := unpack(a).(type) {
		case *faultv3.HTTPFault:
			rule.Fault = fault(m, at, p)
		case *ratelimitv3.LocalRateLimit:
			rule.RateLimit = rateLimit(m, at, p)
		default:
			p.Add(at, "is not supported: want HTTPFault or LocalRateLimit")
		}
	}
}
