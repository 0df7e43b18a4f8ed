package router

import (
	"time"
)

// Fault harms requests on purpose, to see what callers make of it. The request is
// delayed first, then aborted, each by a throw of its own. Whom it hits is up to the
// rule's conditions; no endpoint is told of it, and nothing is held against one.
type Fault struct {
	// Delay lets a request wait before it goes on. Its time-outs begin afterwards.
	Delay *Delay `yaml:"delay"`
	// Abort answers in place of the cluster.
	Abort *Abort `yaml:"abort"`
}

// Delay is a wait of a fixed length.
type Delay struct {
	// Duration is more than 0 and at most 1m.
	Duration time.Duration `yaml:"duration"`
	// Share of the requests; default 100%.
	Share float64 `yaml:"share"`
}

// Abort is an answer that says so.
type Abort struct {
	// Status is 400 to 599; default 503.
	Status int `yaml:"status"`
	// GRPCStatus is for callers that speak gRPC, 1 to 16; default 0, that of Status.
	GRPCStatus int `yaml:"grpc_status"`
	// Share of the requests; default 100%.
	Share float64 `yaml:"share"`
}

// DefaultDelay hits every request.
func DefaultDelay() Delay { return Delay{Share: 1} }

// DefaultAbort hits every request.
func DefaultAbort() Abort { return Abort{Status: 503, Share: 1} }

const maxDelay = time.Minute

// Wait is how long a request has to wait; dice is even over [0, 1). A nil Fault lets
// none wait.
func (f *Fault) Wait(dice float64) time.Duration {
	if f == nil || f.Delay == nil || dice >= f.Delay.Share {
		return 0
	}
	return f.Delay.Duration
}

// Breaks is the abort of a request; nil: it goes on.
func (f *Fault) Breaks(dice float64) *Abort {
	if f == nil || f.Abort == nil || dice >= f.Abort.Share {
		return nil
	}
	return f.Abort
}

func (f *Fault) wrong(field string, wrong func(field, format string, args ...any)) {
	if f.Delay == nil && f.Abort == nil {
		wrong(field, "want delay, abort or both")
	}
	if d := f.Delay; d != nil {
		if d.Duration <= 0 || d.Duration > maxDelay {
			wrong(field+".delay.duration", "%v: want more than 0s and at most %v", d.Duration, maxDelay)
		}
		wrongShare(field+".delay.share", d.Share, wrong)
	}
	if a := f.Abort; a != nil {
		if a.Status < 400 || a.Status > 599 {
			wrong(field+".abort.status", "%d: want 400 to 599", a.Status)
		}
		if a.GRPCStatus < 0 || a.GRPCStatus > maxGRPCStatus {
			wrong(field+".abort.grpc_status", "%d: want 1 to %d", a.GRPCStatus, maxGRPCStatus)
		}
		wrongShare(field+".abort.share", a.Share, wrong)
	}
}

const maxGRPCStatus = 16

func wrongShare(field string, share float64, wrong func(field, format string, args ...any)) {
	if !(share > 0 && share <= 1) {
		wrong(field, "%.4g%%: want more than 0%% and at most 100%%", share*100)
	}
}
