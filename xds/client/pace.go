package client

import (
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// held is an answer that is not sent before its time.
type held struct {
	until   time.Time
	request *discoveryv3.DeltaDiscoveryRequest
}

// hold puts an answer in its place, the first to be sent first.
func hold(all []held, r *discoveryv3.DeltaDiscoveryRequest, until time.Time) []held {
	i := len(all)
	for i > 0 && all[i-1].until.After(until) {
		i--
	}
	return slices.Insert(all, i, held{until, r})
}

// pace is how long an answer should wait. To a refusal many servers of the state of the
// world say the same again at once, as the client is not up to date, and would be
// refused again at once, for ever.
func (c *Client) pace(r *discoveryv3.DeltaDiscoveryRequest) time.Duration {
	if !c.plain || r.GetResponseNonce() == "" {
		return 0
	}
	s := c.subscription(r.GetTypeUrl())
	if r.GetErrorDetail() == nil {
		s.refusals = 0
		return 0
	}
	s.refusals++
	if s.refusals == 1 {
		return 0
	}
	return min(c.cfg.BackoffMin<<min(s.refusals-1, 20), c.cfg.BackoffMax)
}
