package resilience_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/resilience"
)

func TestWhichFailuresAreRepeated(t *testing.T) {
	with := func(change func(*resilience.RetryPolicy)) resilience.RetryPolicy {
		p := resilience.DefaultRetryPolicy()
		change(&p)
		return p
	}
	byDefault := resilience.DefaultRetryPolicy()
	never := with(func(p *resilience.RetryPolicy) { p.MaxAttempts = 1 })
	nothing := with(func(p *resilience.RetryPolicy) { p.On = nil })
	on := func(c ...resilience.Condition) resilience.RetryPolicy {
		return with(func(p *resilience.RetryPolicy) { p.On = c })
	}

	// A GET and a POST without a body, and an upload that has begun.
	get := resilience.Failure{Replayable: true, Safe: true, Attempts: 1}
	post := resilience.Failure{Replayable: true, Attempts: 1}
	upload := resilience.Failure{Attempts: 1}
	ended := func(f resilience.Failure, e outlier.Ending) resilience.Failure {
		f.Ending = e
		return f
	}
	answered := func(f resilience.Failure, status int) resilience.Failure {
		f.Status = status
		return f
	}
	attempts := func(f resilience.Failure, n int) resilience.Failure {
		f.Attempts = n
		return f
	}

	tests := []struct {
		name    string
		policy  resilience.RetryPolicy
		failure resilience.Failure
		want    resilience.Decision
	}{
		// Nothing was processed: whatever the method, whatever the policy lists.
		{"connect refused, GET", byDefault, ended(get, outlier.EndConnectRefused), resilience.Retry},
		{"connect refused, POST", byDefault, ended(post, outlier.EndConnectRefused), resilience.Retry},
		{"connect refused, nothing listed", nothing, ended(post, outlier.EndConnectRefused), resilience.Retry},
		{"connect timeout", byDefault, ended(post, outlier.EndConnectTimeout), resilience.Retry},
		{"unreachable", byDefault, ended(post, outlier.EndUnreachable), resilience.Retry},
		{"tls", byDefault, ended(post, outlier.EndTLS), resilience.Retry},
		{"our own limit", byDefault, ended(post, outlier.EndLocalLimit), resilience.Retry},
		{"our own errno", byDefault, ended(post, outlier.EndOwnErrno), resilience.Retry},
		{"refused stream", byDefault, ended(post, outlier.EndRefusedStream), resilience.Retry},
		{"stream above the last of a GOAWAY", byDefault, ended(post, outlier.EndGoAwayUnprocessed), resilience.Retry},
		{"application refused", byDefault, resilience.Failure{Status: 503, Unprocessed: true, Replayable: true, Attempts: 1}, resilience.Retry},
		{"connect refused, third retry", byDefault, attempts(ended(post, outlier.EndConnectRefused), 3), resilience.Retry},
		{"connect refused, fourth retry", byDefault, attempts(ended(post, outlier.EndConnectRefused), 4), resilience.GiveUp},
		{"connect refused, body gone", byDefault, ended(upload, outlier.EndConnectRefused), resilience.GiveUp},
		{"connect refused, retries forbidden", never, ended(get, outlier.EndConnectRefused), resilience.GiveUp},

		// A reset: nobody knows what was processed.
		{"reset, GET", byDefault, ended(get, outlier.EndResetBeforeHeaders), resilience.Retry},
		{"reset again, GET", byDefault, attempts(ended(get, outlier.EndResetBeforeHeaders), 2), resilience.AskBudget},
		{"reset, POST", byDefault, ended(post, outlier.EndResetBeforeHeaders), resilience.GiveUp},
		{"reset, POST that may be repeated", with(func(p *resilience.RetryPolicy) { p.AnyMethod = true }), ended(post, outlier.EndResetBeforeHeaders), resilience.Retry},
		{"reset, not listed", nothing, ended(get, outlier.EndResetBeforeHeaders), resilience.GiveUp},
		{"reset, client has got bytes", byDefault, resilience.Failure{Ending: outlier.EndResetBeforeHeaders, Answered: true, Replayable: true, Safe: true, Attempts: 1}, resilience.GiveUp},

		// The server closed an idle connection.
		{"keep-alive race, GET", nothing, ended(get, outlier.EndKeepAliveRace), resilience.RetryFresh},
		{"keep-alive race, POST", byDefault, ended(post, outlier.EndKeepAliveRace), resilience.GiveUp},

		// Answers and time-outs: only if listed, and out of the budget.
		{"503", byDefault, answered(get, 503), resilience.GiveUp},
		{"503, gateway-error", on(resilience.GatewayError), answered(get, 503), resilience.AskBudget},
		{"500, gateway-error", on(resilience.GatewayError), answered(get, 500), resilience.GiveUp},
		{"500, 5xx", on(resilience.ServerError), answered(get, 500), resilience.AskBudget},
		{"600, 5xx", on(resilience.ServerError), answered(get, 600), resilience.GiveUp},
		{"503, gateway-error, POST", on(resilience.GatewayError), answered(post, 503), resilience.GiveUp},
		{"429, listed", with(func(p *resilience.RetryPolicy) {
			p.On, p.Statuses = []resilience.Condition{resilience.RetriableStatus}, []int{429}
		}), answered(get, 429), resilience.AskBudget},
		{"gRPC, UNAVAILABLE", on(resilience.Unavailable), resilience.Failure{Status: 200, GRPC: 14, Replayable: true, Safe: true, Attempts: 1}, resilience.AskBudget},
		{"gRPC, INTERNAL", on(resilience.Unavailable), resilience.Failure{Status: 200, GRPC: 13, Replayable: true, Safe: true, Attempts: 1}, resilience.GiveUp},
		{"gRPC, OK", on(resilience.Unavailable, resilience.Cancelled), answered(get, 200), resilience.GiveUp},
		{"per-try timeout", byDefault, ended(get, outlier.EndPerTryTimeout), resilience.GiveUp},
		{"per-try timeout, listed", on(resilience.PerTryTimeout), ended(get, outlier.EndPerTryTimeout), resilience.AskBudget},
		{"route timeout", on(resilience.PerTryTimeout, resilience.ServerError), ended(get, outlier.EndRouteTimeout), resilience.GiveUp},
		{"the client left", byDefault, ended(get, outlier.EndClientAbort), resilience.GiveUp},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.policy.Decide(test.failure); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestDecidingDoesNotAllocate(t *testing.T) {
	p := resilience.DefaultRetryPolicy()
	f := resilience.Failure{Ending: outlier.EndResetBeforeHeaders, Replayable: true, Safe: true, Attempts: 1}
	if got := testing.AllocsPerRun(100, func() { p.Decide(f) }); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

func TestBackoffDoublesToItsLimit(t *testing.T) {
	p := resilience.RetryPolicy{BackoffBase: 10 * time.Millisecond, BackoffMax: 60 * time.Millisecond}
	rng := rand.New(rand.NewPCG(1, 2))
	for retry, ceiling := range map[int]time.Duration{
		1: 10 * time.Millisecond, 2: 20 * time.Millisecond, 3: 40 * time.Millisecond,
		4: 60 * time.Millisecond, 5: 60 * time.Millisecond, 1000: 60 * time.Millisecond,
	} {
		longest := time.Duration(0)
		for range 1000 {
			d := p.Backoff(retry, rng)
			if d < 0 || d > ceiling {
				t.Fatalf("retry %d: got %v, want 0 to %v", retry, d, ceiling)
			}
			longest = max(longest, d)
		}
		if longest < ceiling*9/10 {
			t.Errorf("retry %d: got at most %v of 1000 draws, want up to %v", retry, longest, ceiling)
		}
	}
	none := resilience.RetryPolicy{}
	if got := none.Backoff(3, rng); got != 0 {
		t.Errorf("without a base: got %v, want 0", got)
	}
}

func TestConditionsAreReadByTheirNames(t *testing.T) {
	for _, c := range []resilience.Condition{
		resilience.Reset, resilience.GatewayError, resilience.ServerError, resilience.PerTryTimeout, resilience.RetriableStatus,
	} {
		text, err := c.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got resilience.Condition
		if err := got.UnmarshalText(text); err != nil || got != c {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	var c resilience.Condition
	if err := c.UnmarshalText([]byte("retriable-4xx")); err == nil {
		t.Error("an unknown condition was accepted")
	}
}

func TestWrongConfigurationNamesTheField(t *testing.T) {
	good := resilience.DefaultRetryPolicy()
	tests := []struct {
		config interface{ Validate() error }
		want   []string
	}{
		{good, nil},
		{resilience.DefaultBudgetConfig(), nil},
		{resilience.DefaultBreakerConfig(), nil},
		{resilience.DefaultLimitsConfig(), nil},
		{resilience.RetryPolicy{MaxAttempts: 11, BackoffBase: -1, BackoffMax: -2}, []string{"max_attempts", "backoff_base", "backoff_max"}},
		{resilience.RetryPolicy{MaxAttempts: 1, On: []resilience.Condition{resilience.RetriableStatus}}, []string{"statuses"}},
		{resilience.RetryPolicy{MaxAttempts: 1, Statuses: []int{200}}, []string{"statuses", "statuses[0]"}},
		{resilience.BudgetConfig{Ratio: -1, MinPerSecond: -1}, []string{"ratio", "min_per_second"}},
		{resilience.BreakerConfig{Refusals: -1, For: -1}, []string{"refusals", "for", "open", "half_open"}},
		{resilience.LimitsConfig{Connections: -1, Requests: -1, Pending: -1, Retries: -1}, []string{"connections", "requests", "pending", "retries"}},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%+v", test.config), func(t *testing.T) {
			if diff := cmp.Diff(test.want, fields(test.config.Validate())); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

// fields lists the fields that an error speaks of.
func fields(err error) []string {
	var names []string
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			names = append(names, fields(e)...)
		}
	} else if err != nil {
		f, ok := errors.AsType[interface {
			error
			Field() string
		}](err)
		if !ok {
			return []string{err.Error()}
		}
		names = append(names, f.Field())
	}
	return names
}
