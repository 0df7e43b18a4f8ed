package outlier

import "time"

// Mute says that the control plane sets what this process observes aside until an
// instant, because it fails towards many endpoints of which nobody else complains. It
// is more likely to be broken than they are, and so it fails open: what merely fails
// keeps its traffic, and what it took out for failing comes back with nothing on
// record. To send the same load to half of the endpoints would help no request and
// hurt the endpoints. Two things it still acts upon, because they concern the way from
// here, which others cannot judge, and because the first answer or good probe ends
// them: it leaves alone what it cannot connect to and what does not answer, within the
// cap. Verdicts of the fleet hold as always. Anybody may call Mute; 0 ends it.
func (s *Self) Mute(until time.Duration) { s.muted.Store(int64(until)) }

// Muted says whether the control plane sets our observations aside.
func (s *Self) Muted(now time.Duration) bool { return int64(now) < s.muted.Load() }

// amnesty brings back what was taken out on evidence that is set aside now.
func (d *Detector) amnesty(now time.Duration) {
	for _, m := range d.members {
		if l := &m.record; l.state.Out() && l.state != Suspended && l.cause.asksGroup() {
			d.reinstate(m, now)
		}
	}
}
