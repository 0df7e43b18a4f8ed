package http2

import (
	"slices"
	"time"
)

// addLocked opens a stream.
func (l *link) addLocked(b *batch, st *stream, id uint32, p party, length int64) {
	*st = stream{place: place{l, id}, party: p, sendWin: l.peer.initial, recvWin: int64(l.cfg.StreamWindow), length: length, since: b.now}
	l.streams[id] = st
	if l.active.Add(1) == 1 {
		l.idleFor = b.now - time.Duration(l.idleFrom.Load())
	}
	if l.cfg.PingAfter > 0 {
		l.wheel.Arm(&l.timer, b.now+l.cfg.PingAfter)
	}
}

// beginLocked opens a stream to an endpoint.
func (l *link) beginLocked(b *batch, st *stream, p party) {
	id := l.nextID
	l.nextID += 2
	l.addLocked(b, st, id, p, -1)
}

// removeLocked closes a stream for good. The caller sees to it that role.freed is
// called.
func (l *link) removeLocked(st *stream) {
	delete(l.streams, st.id)
	if st.waiting {
		st.waiting = false
		l.waiting = slices.DeleteFunc(l.waiting, func(other *stream) bool { return other == st })
	}
	if l.active.Add(-1) == 0 {
		now := l.clock.Now()
		l.idleFrom.Store(int64(now))
		l.wheel.Arm(&l.timer, now+restAfter)
	}
}

// closeLocked removes a stream if both sides have ended.
func (l *link) closeLocked(st *stream) bool {
	if !st.sent || !st.received {
		return false
	}
	l.removeLocked(st)
	l.finished++
	return true
}

// acceptsLocked reports whether a stream may be opened. A peer that has not said how
// many it takes is not sent any: a server that hangs, whose kernel takes connections,
// then has seen nothing of the requests, and any of them may be tried elsewhere.
func (l *link) acceptsLocked() bool {
	return !l.closed && !l.goingAway && !l.wornLocked() && l.settled && int64(l.active.Load())+l.reserved < l.peer.streams
}

// wornLocked reports whether the lifetime of a connection to an endpoint is over: what is
// under way on it, or about to be, finishes.
func (l *link) wornLocked() bool {
	return l.aged || l.lifetime.Over(0, int(int64(l.nextID/2)+l.reserved))
}

// expect is told that a final head has come, which promises so many bytes; -1: any
// number.
func (l *link) expect(st *stream, length int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st.headed, st.length = true, length
	l.idleFor = 0
}

// room is how much data may be appended.
func (l *link) room() int { return highWater - len(l.out) - l.inflight }

// send appends as much of p as the windows allow, and reports how much that is. end
// ends the stream behind p. Of what is left, onRoom tells when to try again.
func (l *link) send(b *batch, st *stream, p []byte, end bool) (n int) {
	l.mu.Lock()
	n, freed := l.sendLocked(st, p, end)
	l.mu.Unlock()
	b.touch(l)
	if freed {
		l.role.freed(b, l)
	}
	return n
}

func (l *link) sendLocked(st *stream, p []byte, end bool) (n int, freed bool) {
	if l.closed || st.sent {
		return len(p), false // whoever sends is about to be told
	}
	if len(p) == 0 && !end {
		return 0, false
	}
	for {
		k := min(len(p)-n, l.peer.frameSize, max(0, int(min(st.sendWin, l.sendWin, int64(l.room())))))
		last := end && k == len(p)-n
		if k <= 0 && (!last || len(p) > n) {
			break
		}
		flags := uint8(0)
		if last {
			flags = flagEndStream
		}
		l.out = append(appendFrame(l.out, k, frameData, flags, st.id), p[n:n+k]...)
		n += k
		st.sendWin -= int64(k)
		l.sendWin -= int64(k)
		l.work++
		if last {
			st.sent = true
			return n, l.closeLocked(st)
		}
		if n == len(p) {
			return n, false
		}
	}
	if st.sendWin > 0 && !st.waiting {
		st.waiting = true
		l.waiting = append(l.waiting, st)
	}
	return n, false
}

// sendHead appends a header block that encode writes; trailers are one, too.
func (l *link) sendHead(b *batch, st *stream, end bool, encode func(*encoder)) {
	l.mu.Lock()
	freed := l.sendHeadLocked(st, end, encode)
	l.mu.Unlock()
	b.touch(l)
	if freed {
		l.role.freed(b, l)
	}
}

func (l *link) sendHeadLocked(st *stream, end bool, encode func(*encoder)) (freed bool) {
	if l.closed || st.sent {
		return false
	}
	l.enc.begin()
	encode(&l.enc)
	l.appendBlock(st.id, l.enc.block(), end)
	l.work++
	st.answered = !l.client
	if !end {
		return false
	}
	st.sent = true
	return l.closeLocked(st)
}

// appendBlock frames a header block (RFC 9113, section 4.3).
func (l *link) appendBlock(id uint32, block []byte, end bool) {
	flags := uint8(0)
	if end {
		flags = flagEndStream
	}
	for t := frameHeaders; ; t, flags = frameContinuation, 0 {
		k := min(len(block), l.peer.frameSize)
		if k == len(block) {
			flags |= flagEndHeaders
		}
		l.out = append(appendFrame(l.out, k, t, flags, id), block[:k]...)
		if block = block[k:]; len(block) == 0 {
			return
		}
	}
}

// reset ends a stream in both directions, if it is open.
func (l *link) reset(b *batch, st *stream, c code) {
	l.mu.Lock()
	open := l.streams[st.id] == st
	if open {
		l.resetLocked(st, c)
	}
	l.mu.Unlock()
	if open {
		b.touch(l)
		l.role.freed(b, l)
	}
}

func (l *link) resetLocked(st *stream, c code) {
	l.removeLocked(st)
	l.forgetLocked(st.id)
	l.out = appendReset(l.out, st.id, c)
}

// forgetLocked remembers that frames of a stream may be under way which are
// nobody's fault.
func (l *link) forgetLocked(id uint32) {
	l.resetByUs[l.resetNext%len(l.resetByUs)] = id
	l.resetNext++
}

// used says that n bytes that came on a stream have found their place, so that the
// peer may send as many anew.
func (l *link) used(b *batch, st *stream, id uint32, n int) {
	if n == 0 {
		return
	}
	l.mu.Lock()
	granted := l.usedLocked(st, id, int64(n))
	l.mu.Unlock()
	if granted {
		b.touch(l)
	}
}

// usedLocked grants what has been used once it is half of a window: a frame for
// each frame would cost both sides more than it brings.
func (l *link) usedLocked(st *stream, id uint32, n int64) (granted bool) {
	if l.closed {
		return false
	}
	if l.debt += n; l.debt >= l.cfg.connWindow()/2 {
		l.out = appendWindow(l.out, 0, uint32(l.debt))
		l.recvWin += l.debt
		l.debt, granted = 0, true
	}
	if st == nil || l.streams[id] != st || st.received {
		return granted
	}
	if st.debt += n; st.debt >= int64(l.cfg.StreamWindow)/2 {
		l.out = appendWindow(l.out, id, uint32(st.debt))
		st.recvWin += st.debt
		st.debt, granted = 0, true
	}
	return granted
}

// resume lets those send that waited.
func (l *link) resume(b *batch) {
	for {
		l.mu.Lock()
		if l.closed || len(l.waiting) == 0 || l.sendWin <= 0 || l.room() <= 0 {
			l.mu.Unlock()
			return
		}
		st := l.waiting[0]
		l.waiting = slices.Delete(l.waiting, 0, 1)
		st.waiting = false
		id, p := st.id, st.party
		l.mu.Unlock()
		p.onRoom(b, st, place{l, id})
	}
}
