package world

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Product is what balances and detects, for all callers at once. The World calls
// it from its one goroutine.
type Product interface {
	// Pick chooses the endpoint of the next attempt of a request; -1: there is none.
	Pick(r *Request) int
	// Start says that an attempt on r.Endpoint begins.
	Start(r *Request)
	// Headers says that the head of an answer has arrived. It is told only where the
	// end comes later.
	Headers(r *Request)
	// End says how the attempt went.
	End(r *Request, how outlier.HTTPResult)
	// Wake runs a timer that was set with World.Timer.
	Wake(id, gen uint32)
	// Changed says that the registry has another set of endpoints, or that some
	// drain.
	Changed()
	// Control says that the control plane, if there is one, goes down or comes up.
	Control(up bool)
}

// Maker makes a product for a world. It is called once all callers and endpoints
// are there and before anything happens.
type Maker struct {
	// Name is what tables call it.
	Name string
	// Model says that it is a model of another product's rules.
	Model bool
	// Source is where a model's product documents the rule.
	Source string
	New    func(w *World) Product
}

// Removal is what a product tells the ledger of one caller's view.
type Removal uint8

const (
	Used      Removal = iota // it gets its share, or a part of it
	Suspended                // nearly nothing, reversibly
	Trial                    // a small share of real requests, to find out
	Removed                  // nothing
)

// Answer is the result of a probe or ping.
type Answer struct {
	Result     outlier.ProbeResult
	Level      outlier.Level // that was reached for
	Start, End time.Duration
}
