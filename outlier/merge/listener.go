package merge

import (
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const (
	// toldAnswers are expected of connections that still stand before a listener
	// that is gone counts as a crash; toldLongest bounds the wait for them, and
	// toldAgain is the wait if they have answered within listenerMemory.
	toldAnswers    = 4
	toldLongest    = 50 * time.Millisecond
	toldAgain      = 250 * time.Millisecond
	listenerMemory = time.Minute
	// toldRate is the traffic per second below which waiting would show nothing,
	// unless an answer has come within toldRecent.
	toldRate   = 8
	toldRecent = 500 * time.Millisecond
	// connectionKept is for how long after an answer a sidecar still has the connection
	// on which it came: half of the default idle timeout.
	connectionKept = 15 * time.Second
)

// oldConnectionsTold tells a crash from a listener that is gone. A crash resets
// the connections that stand; if that was seen, there is nothing to wait for. If
// new connections fail and nothing else, requests on old ones may still be
// answered: they get the time in which some would have been, then everybody is
// asked again. Nor is there anything to wait for when a neighbour is down as well:
// that two listeners of a zone are lost in one moment, and nothing else with them,
// is not what happens.
func (t *Table) oldConnectionsTold(e *endpoint, now time.Duration) bool {
	s := &e.susp
	died := func(w witness) bool {
		x := e.cell(w.reporter.slot).x
		return w.kind == "own" || x != nil && x.diedAt >= now-witnessFor
	}
	again := s.listener != never && now-s.listener < listenerMemory
	rare := e.rate < toldRate && !again && e.lastOK < now-toldRecent
	switch {
	case slices.ContainsFunc(s.hard, died), t.lostWithListener(e, now), t.neighbourDown(e, now), s.active && rare:
		return true
	case !s.active && s.last != never && now < s.last+roundGap:
		// The last round was contradicted a moment ago: the probes of those whose
		// connections do not stand are late, and no news.
		t.due(s.last + roundGap)
		return false
	case s.told == never || !s.active && now >= s.told+witnessFor:
		// Without a round, in a storm, nobody was asked for answers yet: that they are
		// not told of means nothing.
		began, wait := now, toldLongest
		switch {
		case rare:
			wait = 0
		case again:
			wait = toldAgain
		case e.rate > toldRate:
			wait = min(wait, time.Duration(toldAnswers/e.rate*float64(time.Second)))
		}
		if s.active {
			began = s.last
		}
		s.told, s.retold = began+wait, false
		s.deadline = max(s.deadline, s.told+clockMargin+answerSlack)
	}
	if now < s.told {
		t.due(s.told)
		return false
	}
	if !s.retold {
		s.retold = true
		return !t.poll(e, s.firstAt, now, t.speaks(e, now))
	}
	return true
}

// lostWithListener says whether two fault domains that had answers lately were refused
// when they were asked to probe. A sidecar whose connections stand answers such a probe
// with good news, so theirs are gone with the listener. One alone may have had none: a
// server may close them when it likes.
func (t *Table) lostWithListener(e *endpoint, now time.Duration) bool {
	if e.Inbound {
		return false // the sidecar there takes the connections, and its word is that of the probe
	}
	var lost []witness
	for _, w := range e.susp.hard {
		c := e.cell(w.reporter.slot)
		// Whether the probe or the attempt that it was is told first makes no difference.
		if x := c.x; x != nil && x.probe == outlier.Refused && now-x.probeEnd <= witnessFor && c.lastOK >= now-connectionKept {
			lost = append(lost, w)
		}
	}
	return t.domainsOf(e.susp.zone, lost) >= 2
}

// refusesAnew says whether somebody has failed to open a connection. That those which
// stood were reset proves nothing by itself, however many saw it: a process that drops
// its connections and goes on serves the next ones, and the reports of that are the
// slower ones. A crash is asked about by then, and a probe of it is refused within a
// round trip.
func (t *Table) refusesAnew(e *endpoint, now time.Duration) bool {
	return slices.ContainsFunc(e.susp.hard, func(w witness) bool {
		if w.kind != "traffic" {
			return true
		}
		x := e.cell(w.reporter.slot).x
		// A probe that fails is an attempt of its prober too, and may be told as that.
		probed := x.probe.Hard() && now-x.probeEnd <= witnessFor
		return probed || x.level == outlier.LevelConnect || x.level == outlier.LevelTLS
	})
}

// neighbourDown says whether another endpoint of the zone is found down, or as
// good as found, at this moment.
func (t *Table) neighbourDown(e *endpoint, now time.Duration) bool {
	return slices.ContainsFunc(e.group.endpoints, func(o *endpoint) bool {
		return o != e && o.Zone == e.Zone && !o.leaving() && (o.susp.agreed || o.susp.confirmed != never ||
			o.fleet.state == outlier.Ejected && o.fleet.rule == outlier.RuleHard && now-o.fleet.since <= witnessFor)
	})
}
