package ingest

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// sample is what one load report says of one endpoint.
type sample struct{ ok, failed, issued, active uint64 }

// plus adds another row about the same endpoint, unless the sum exceeds what can be.
func (s sample) plus(o sample, limit uint64) (sum sample, can bool) {
	if o.ok > limit || o.failed > limit || o.issued > limit || o.active > mostActive { // else the sum does not overflow
		return s, false
	}
	sum = sample{s.ok + o.ok, s.failed + o.failed, s.issued + o.issued, s.active + o.active}
	if sum.ok > limit || sum.failed > limit || sum.issued > limit || sum.active > mostActive {
		return s, false
	}
	return sum, true
}

// interval is the time that a load report covers, by the table's clock.
type interval struct{ from, to time.Duration }

const (
	// never is an instant that has not come.
	never time.Duration = -1
	// memory is for how long a flow remembers when requests were issued: longer than
	// any wait that is to be told apart from an outage.
	memory = 2 * time.Second
)

// flow is what one Envoy has told of its requests to one endpoint.
type flow struct {
	counts  outlier.Counts
	known   bool    // how it was when the last interval ended
	active  uint64  // requests under way then
	waiting uint64  // those of them that have no answer yet, at most
	issued  []issue // within memory, oldest first
	overdue int
	score   int64 // in milli-nats

	unexplained []unexplained // oldest first
	records     kinds         // of failures that are not counted yet

	lastOK, okStart, lastHard, hardStart time.Duration
}

// issue is how many requests were issued in an interval.
type issue struct {
	interval
	n uint64
}

func newFlow() *flow { return &flow{lastOK: never, okStart: never, lastHard: never, hardStart: never} }

// take adds what a load report says. turnedAway is how many requests the Envoy's own
// circuit breakers refused in its interval, for any endpoint of the cluster; records is
// what its log has said of failures. aside is how many records there was no failure for.
func (f *flow) take(s sample, iv interval, turnedAway uint64, records kinds) (aside uint64) {
	unissued := uint64(0)
	if ended, there := s.ok+s.failed, s.issued+f.active; ended > there && f.known {
		unissued = min(ended-there, s.failed)
	}
	answered := s.ok + s.failed - unissued
	own := min(unissued, turnedAway)
	hard, failed := unissued-own, s.failed-own

	newest, aside := f.explain(records, failed, iv)
	conn := max(hard, newest.conn)
	timeout := min(newest.timeout, failed-conn)

	f.counts.N += uint32(s.ok + failed)
	f.counts.Conn += uint32(conn)
	f.counts.Timeout += uint32(timeout)
	f.counts.Server += uint32(failed - conn - timeout)
	f.score = assumed.Cusum(f.score, int64(s.ok+failed), int64(failed))
	if s.ok > 0 {
		f.lastOK = iv.to
		if s.ok > f.active && f.known {
			f.okStart = iv.from
		}
	}
	if conn > 0 {
		f.lastHard, f.hardStart = iv.to, iv.from
	}

	// What was under way at first may have had its answer long ago and be a download.
	f.waiting += s.issued
	f.waiting = min(f.waiting-min(f.waiting, answered), s.active)
	f.known, f.active = true, s.active
	f.issued = append(f.issued, issue{iv, s.issued})
	for len(f.issued) > 1 && f.issued[0].to < iv.to-memory {
		f.issued = f.issued[1:]
	}
	return aside
}

// lose forgets what was under way: the newest interval is not told of.
func (f *flow) lose() { f.known, f.active, f.waiting, f.issued = false, 0, 0, nil }

// assumed are the steps of the score of an endpoint of whose group little is known. The
// score is told so that the table knows who complains; it judges by the counts.
var assumed = outlier.FastOdds(outlier.Baseline{}, outlier.DefaultConfig().Bounds()).Steps()

// older is how many of the waiting requests were issued that long ago, at least: all but
// as many as were issued since.
func (f *flow) older(than, now time.Duration) uint64 {
	left := f.waiting
	for i := len(f.issued) - 1; i >= 0 && left > 0; i-- {
		if f.issued[i].to <= now-than {
			break
		}
		left -= min(left, f.issued[i].n)
	}
	return left
}

// age is how long the oldest waiting request has been waiting, at least, within memory.
func (f *flow) age(now time.Duration) time.Duration {
	age, left := time.Duration(0), f.waiting
	for i := len(f.issued) - 1; i >= 0; i-- {
		left -= min(left, f.issued[i].n)
		if left == 0 {
			break
		}
		age = now - f.issued[i].from
	}
	return age
}

// cell is the flow as a report tells it. before is what it was when the interval of the
// report began.
func (f *flow) cell(k merge.Key, before outlier.Point) merge.Cell {
	c := merge.Cell{
		Key: k, Counts: f.counts, Overdue: f.overdue, Score: f.score,
		LastOK: f.lastOK, LastOKStart: f.okStart, LastHard: f.lastHard, LastHardStart: f.hardStart,
	}
	if before.N != f.counts.N {
		c.History = []merge.Point{before}
	}
	if f.lastHard > f.lastOK {
		c.Witness = outlier.LevelConnect
	}
	return c
}
