package http2

import (
	"encoding/binary"
	"time"

	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// visit is the wheel's.
func (l *link) visit(now time.Duration) time.Duration {
	b := batch{now: now}
	next := min(l.visitSelf(&b), l.role.visit(&b, l))
	b.flush()
	return next
}

// visitSelf looks at what concerns the connection as such.
func (l *link) visitSelf(b *batch) time.Duration {
	now := b.now
	next := wheel.Never
	if since := time.Duration(l.partial.Load()); since != wheel.Never {
		switch due := since + l.cfg.HeadTimeout; {
		case now < due:
			next = min(next, due)
		case l.client:
			l.shut(causePing) // it is there, and says nothing
		default:
			l.shut(causeFault)
		}
	}
	heard, active := time.Duration(l.heard.Load()), l.active.Load() > 0
	if !active {
		if due := max(heard, time.Duration(l.idleFrom.Load())) + restAfter; now < due {
			next = min(next, due)
		} else if l.resting.CompareAndSwap(wakeful, asked) {
			_ = l.nc.SetReadDeadline(longAgo)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return wheel.Never
	}
	if l.pinged != wheel.Never {
		if now >= l.pinged+l.cfg.PingTimeout {
			l.shutLocked(causePing)
			return wheel.Never
		}
		return min(next, l.pinged+l.cfg.PingTimeout)
	}
	if !active || l.cfg.PingAfter == 0 {
		return next
	}
	// A peer that has said something since may be asked as after the first time.
	due := heard + l.cfg.PingAfter
	if l.askedAt >= heard-l.cfg.PingTimeout {
		due = max(due, l.askedAt+pingAgain)
	}
	if now < due {
		return min(next, due)
	}
	l.pinged, l.askedAt = now, now
	l.pingNumber++
	var data [8]byte
	binary.BigEndian.PutUint64(data[:], l.pingNumber)
	l.out = appendPing(l.out, 0, data)
	b.touch(l)
	return min(next, now+l.cfg.PingTimeout)
}
