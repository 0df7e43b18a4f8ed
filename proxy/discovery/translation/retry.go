package translation

import (
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// retryOn are Envoy's conditions. For Envoy a reset, and an attempt whose own time is
// up, are answers of 5xx; and whatever is retried is so for every method.
var retryOn = map[string][]resilience.Condition{
	"5xx":                    {resilience.Reset, resilience.PerTryTimeout, resilience.ServerError},
	"gateway-error":          {resilience.Reset, resilience.PerTryTimeout, resilience.GatewayError},
	"reset":                  {resilience.Reset, resilience.PerTryTimeout},
	"retriable-status-codes": {resilience.RetriableStatus},
	"connect-failure":        nil, // repeated in any case: nothing was sent
	"refused-stream":         nil,
	"reset-before-request":   nil,
	"cancelled":              {resilience.Cancelled},
	"deadline-exceeded":      {resilience.DeadlineExceeded},
	"internal":               {resilience.Internal},
	"resource-exhausted":     {resilience.ResourceExhausted},
	"unavailable":            {resilience.Unavailable},
}

// retry reads which failures are repeated.
func retry(m *routev3.RetryPolicy, at string, rule *router.Rule, p *problems) {
	policy := resilience.RetryPolicy{
		MaxAttempts: 2, AnyMethod: true, // Envoy's: one retry
		BackoffBase: rule.Retry.BackoffBase, BackoffMax: rule.Retry.BackoffMax,
	}
	if n := m.GetNumRetries(); n != nil {
		policy.MaxAttempts = 1 + int(min(n.GetValue(), 1000))
	}
	for _, word := range strings.Split(m.GetRetryOn(), ",") {
		word = strings.TrimSpace(word)
		conditions, known := retryOn[word]
		if !known && word != "" {
			p.Add(at+".retry_on", "has %q: want 5xx, gateway-error, reset, reset-before-request, connect-failure, refused-stream, retriable-status-codes or a status of gRPC", clip(word))
		}
		for _, c := range conditions {
			if !slices.Contains(policy.On, c) {
				policy.On = append(policy.On, c)
			}
		}
	}
	for _, status := range m.GetRetriableStatusCodes() {
		policy.Statuses = append(policy.Statuses, int(min(status, 1000)))
	}
	if b := m.GetRetryBackOff(); b != nil {
		policy.BackoffBase = duration(b.GetBaseInterval(), at+".retry_back_off.base_interval", p)
		policy.BackoffMax = duration(b.GetMaxInterval(), at+".retry_back_off.max_interval", p)
		if b.GetMaxInterval() == nil {
			policy.BackoffMax = 10 * policy.BackoffBase
		}
	}
	rule.PerTryTimeout = duration(m.GetPerTryTimeout(), at+".per_try_timeout", p)
	if rule.Timeout > 0 && rule.PerTryTimeout > rule.Timeout {
		rule.PerTryTimeout = 0 // the whole request's comes first
	}
	p.wrap(at+": as retry", policy.Validate())
	rule.Retry = policy
}
