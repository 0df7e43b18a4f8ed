package trial

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/xds/controlplane"
)

// Slack is how many times the aims the limits are: CI has no time to spare.
const Slack = 30

// Finding is what came of a fault; null where there is no such time.
type Finding struct {
	Name        string   `json:"name"`
	Endpoint    string   `json:"endpoint,omitempty"` // "": the fault is nobody's, and not to be found
	DetectedMS  *float64 `json:"detected_ms"`
	FailedTests int      `json:"failed_tests"`
	Rule        string   `json:"rule,omitempty"`
	BackMS      *float64 `json:"back_ms"`
	AimMS       *float64 `json:"aim_detected_ms,omitempty"`
	Wrong       int      `json:"wrong_ejections"`
	OK          bool     `json:"ok"`
	Problems    []string `json:"problems,omitempty"`

	Began, Mended time.Time `json:"-"`
}

// Problem notes why the fault was not handled well.
func (f *Finding) Problem(format string, args ...any) {
	f.Problems, f.OK = append(f.Problems, fmt.Sprintf(format, args...)), false
}

// Out says that a verdict takes traffic from the fault's endpoint.
func (f *Finding) Out(e controlplane.Event) bool {
	return e.Endpoint == f.Endpoint && (e.To == outlier.Ejected.String() || e.To == outlier.Suspended.String()) &&
		!e.Time.Before(f.Began) && (f.Mended.IsZero() || e.Time.Before(f.Mended))
}

// During says that a request was on its way while the fault lasted.
func (f *Finding) During(o Outcome) bool {
	return !o.Ended.Before(f.Began) && o.Began.Before(f.Mended)
}

// Judge says when the fault was found, which is to be within [Slack] times aim, and counts
// the failures that match lost: those before that, and the tests of the endpoint after it.
func (f *Finding) Judge(l *Ledger, aim time.Duration, lost func(Outcome) bool) (failed int) {
	verdicts, found := l.Told(f.Out), f.Mended
	if len(verdicts) == 0 {
		f.Problem("it was not found")
	} else {
		found = verdicts[0].Time
		f.Rule = verdicts[0].Rule
		f.DetectedMS = MS(found.Sub(f.Began))
		if limit := Slack * aim; found.Sub(f.Began) > limit {
			f.Problem("it was found later than in %v", limit)
		}
	}
	// A push and what is on its way take a moment.
	for _, o := range l.Lost(lost) {
		if o.Began.Before(found.Add(100 * time.Millisecond)) {
			failed++
		} else {
			f.FailedTests++
		}
	}
	return failed
}

// Conclude blames each ejection of an endpoint that had no fault then, or before it, on the
// fault that there was, and says whether all went well.
func Conclude(l *Ledger, all []*Finding) (ok bool) {
	ok = true
	for _, f := range all {
		for _, e := range l.Told(func(e controlplane.Event) bool {
			if e.To != outlier.Ejected.String() || e.Time.Before(f.Began) || e.Time.After(f.Mended) {
				return false
			}
			return !slices.ContainsFunc(all, func(o *Finding) bool { return o.Endpoint == e.Endpoint && !e.Time.Before(o.Began) })
		}) {
			f.Wrong++
			f.Problem("ejected without cause: %s", e.Text)
		}
		ok = ok && f.OK
	}
	return ok
}

// Recovered waits until the endpoints have their traffic again; those that do not within
// that time have a problem.
func Recovered(ctx context.Context, l *Ledger, within time.Duration, all []*Finding) error {
	for deadline := time.Now().Add(within); ; {
		late := time.Now().After(deadline)
		var out []*Finding
		for _, f := range all {
			if !f.back(l) {
				out = append(out, f)
			}
		}
		if len(out) == 0 {
			return nil
		}
		if late {
			for _, f := range out {
				f.Problem("it was not back within %v", within)
			}
			return nil
		}
		if err := Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// back says whether the endpoint may have its traffic again, if it was ever out.
func (f *Finding) back(l *Ledger) bool {
	if f.DetectedMS == nil {
		return true
	}
	back := l.Told(func(e controlplane.Event) bool {
		return e.Endpoint == f.Endpoint && (e.To == outlier.Ramp.String() || e.To == outlier.In.String()) && e.Time.After(f.Mended)
	})
	if len(back) == 0 {
		return false
	}
	f.BackMS = MS(back[0].Time.Sub(f.Mended))
	return true
}

// MS is a time in a summary.
func MS(d time.Duration) *float64 {
	v := float64(d.Microseconds()) / 1e3
	return &v
}

// Span is a time of a summary as a person reads it.
func Span(ms *float64) string {
	if ms == nil {
		return "-"
	}
	return time.Duration(*ms * float64(time.Millisecond)).Round(time.Millisecond).String()
}
