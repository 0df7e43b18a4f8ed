package cadence

import (
	"hash/fnv"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Never is an instant after everything.
const Never = time.Duration(1<<63 - 1)

// Config is how often to report.
type Config struct {
	// UrgentGap is between reports of an endpoint with hard news; default 50ms.
	UrgentGap time.Duration
	// UrgentGapSlow is the same once the news have lasted 500 ms; default 250ms.
	UrgentGapSlow time.Duration
	// Full is between reports of an endpoint under suspicion; default 1s.
	Full time.Duration
	// Summary is between reports of everything that has changed; default 10s.
	Summary time.Duration
}

// DefaultConfig is the cadence that every figure of this project is measured with.
func DefaultConfig() Config {
	return Config{
		UrgentGap: 50 * time.Millisecond, UrgentGapSlow: 250 * time.Millisecond,
		Full: time.Second, Summary: 10 * time.Second,
	}
}

// Or returns c with the fields that are not above 0 taken from d.
func (c Config) Or(d Config) Config {
	for _, f := range []struct {
		value *time.Duration
		or    time.Duration
	}{
		{&c.UrgentGap, d.UrgentGap}, {&c.UrgentGapSlow, d.UrgentGapSlow}, {&c.Full, d.Full}, {&c.Summary, d.Summary},
	} {
		if *f.value <= 0 {
			*f.value = f.or
		}
	}
	return c
}

const (
	fastFor   = 500 * time.Millisecond // of hard news, until UrgentGapSlow
	newsFor   = time.Second            // without news, until the next ones are new
	softBurst = 4
	softKept  = 2           // tokens that are kept for endpoints that fail again
	softGap   = time.Second // per token
	// Each message takes a token, so that a sidecar sends no more than the control
	// plane reads. A fault of one endpoint takes a dozen messages; a service that
	// refuses everything would take sixty a second, for as long as it does.
	messageBurst = 30
	messageGap   = 55 * time.Millisecond
	// lookGap is the least time between two looks at a cluster whose hard news last.
	// Its steps say that they do, each look is a step, and so they would follow each
	// other as fast as they can, with nothing to tell.
	lookGap = 5 * time.Millisecond
	// shareGap is between looks at what a share has counted.
	shareGap = 100 * time.Millisecond
	// refusedGap is between looks whether an application is back.
	refusedGap = 100 * time.Millisecond
)

// Schedule is when the reports of one sidecar are built. It is not safe for
// concurrent use.
type Schedule struct {
	cfg        Config
	next       time.Duration // when to build
	reported   time.Duration // when the last report was built
	urgent     time.Duration // when the last one with hard news was
	looked     time.Duration // when one was last thought of
	summary    time.Duration // when everything that has changed is told
	everything bool          // the stream is new: tell all
	soft       time.Duration // when soft news are told; 0: there are none
	softFull   time.Duration // when all tokens for soft news are back
	full       time.Duration // when all tokens for messages are back
	watching   time.Duration // until when something is watched
}

// NewSchedule returns one by which nothing is due.
func NewSchedule(cfg Config) Schedule { return Schedule{cfg: cfg, next: Never} }

// Begin starts a new stream, on which everything is told. By who the sidecar is, the
// summaries of many spread.
func (s *Schedule) Begin(who string, now time.Duration) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(who)) // never fails
	s.everything, s.soft = true, 0
	s.summary = now + time.Duration(h.Sum64()%uint64(s.cfg.Summary))
}

// Next is when to build; Never: it waits for news.
func (s *Schedule) Next() time.Duration { return s.next }

// Due reports whether it is time to build, and if so leaves the next time to End.
func (s *Schedule) Due(now time.Duration) bool {
	if s.next > now {
		return false
	}
	s.next = Never
	return true
}

// Wake makes sure that a report is built at this time, or as soon after as the bound on
// messages allows, and says whether that is sooner
// than it would have been.
func (s *Schedule) Wake(at time.Duration) bool {
	at = max(at, s.full-(messageBurst-1)*messageGap) // when there is a token
	if at >= s.next {
		return false
	}
	s.next = at
	return true
}

// Watch takes in an order to watch an endpoint until then, and answers as Wake does.
func (s *Schedule) Watch(until time.Duration) bool {
	s.watching = max(s.watching, until)
	return s.WakeUrgent()
}

// WakeUrgent is Wake as soon as the gap between two reports allows.
func (s *Schedule) WakeUrgent() bool { return s.Wake(s.reported + s.cfg.UrgentGap) }

// WakeShare is Wake when a share that was given at now may have shown something.
func (s *Schedule) WakeShare(now time.Duration) bool { return s.Wake(now + shareGap) }

// Hear takes in how urgent a step of a detector found its news at that time, and
// answers as Wake does. The cluster's topic is hot then.
func (s *Schedule) Hear(t *Topic, u outlier.Urgency, at time.Duration) bool {
	switch u {
	case outlier.UrgencyHard:
		t.hot = true
		// What is soft has not used up the haste of what is hard.
		return s.Wake(max(s.urgent+s.cfg.UrgentGap, s.looked+lookGap))
	case outlier.UrgencySoft, outlier.UrgencyRising:
		t.hot = true
		// Without a token the news wait for the full report.
		then := at + s.cfg.Full
		tokens := time.Duration(softBurst)
		if u == outlier.UrgencySoft {
			tokens -= softKept
		}
		if full := max(s.softFull, at) + softGap; s.soft == 0 && full <= at+tokens*softGap {
			s.softFull, s.soft = full, at
		}
		if s.soft > 0 || at < s.watching {
			then = at
		}
		return s.Wake(max(then, s.reported+s.cfg.UrgentGap))
	}
	return false
}

// Topic is one cluster of which a stream speaks. The zero value is one whose endpoints
// have not been named yet.
type Topic struct {
	hot        bool // it has news that do not wait for the summary
	listed     bool // its endpoints have been named
	suspicious bool // it must be asked again before the summary
}

// Rename has all endpoints named again.
func (t *Topic) Rename() { t.listed = false }

// Failed undoes Due for a cluster that did not answer.
func (t *Topic) Failed(turn *Turn, named bool) {
	t.hot, t.listed = true, t.listed && !named
	turn.Again(turn.Now + turn.cfg.Full)
}

// Turn is one report under construction.
type Turn struct {
	Now     time.Duration
	Summary bool          // tell all that has changed
	Soft    bool          // soft news may go
	Tell    bool          // there is a reason to report
	Answers bool          // orders are answered, whatever there is to report
	next    time.Duration // when there may be another
	urgent  bool          // hard news are told

	cfg      *Config
	reported time.Duration
}

// Turn begins a report.
func (s *Schedule) Turn(now time.Duration) Turn {
	s.looked = now
	t := Turn{
		Now: now, Summary: s.everything || now >= s.summary, Soft: s.soft > 0 && now >= s.soft,
		next: Never, cfg: &s.cfg, reported: s.reported,
	}
	t.Tell = t.Summary // also an empty one: it says that we live
	if t.Soft {
		s.soft = 0
	}
	for s.summary <= now {
		s.summary += s.cfg.Summary
	}
	s.everything = false
	return t
}

// Again has the next report built at this time at the latest.
func (t *Turn) Again(at time.Duration) { t.next = min(t.next, at) }

// Watched reports whether an order to watch an endpoint until then still counts; if so
// its next report is due soon.
func (t *Turn) Watched(until time.Duration) bool {
	if until <= t.Now {
		return false
	}
	t.Again(t.Now + t.cfg.Full)
	return true
}

// Due reports whether the cluster is to be asked for its counters, and whether to name
// all its endpoints. asked: one of them is watched or polled.
func (t *Turn) Due(c *Topic, asked bool) (due, name bool) {
	if !t.Summary && !c.hot && c.listed && !asked {
		return false, false
	}
	name = !c.listed
	c.hot, c.listed, c.suspicious = false, true, false
	return true, name
}

// Asked closes a topic whose endpoints have all been weighed.
func (t *Turn) Asked(c *Topic) { c.hot = c.hot || c.suspicious }

// End closes the turn, and answers as Wake does.
func (s *Schedule) End(t *Turn) bool {
	if t.Tell {
		s.reported = t.Now
		if t.urgent {
			s.urgent = t.Now
		}
	}
	if t.Tell || t.Answers {
		s.full = max(s.full, t.Now) + messageGap
	}
	if s.soft > 0 {
		t.Again(s.soft)
	}
	return s.Wake(min(t.next, s.summary))
}
