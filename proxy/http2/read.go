package http2

import (
	"encoding/binary"
	"maps"
	"slices"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// maxContinuations is how many CONTINUATION frames a header block may have that is
// within its limit: they may be empty (CVE-2023-45288 and its kin).
const maxContinuations = 16

// olderAnswer is how a server that speaks HTTP/1.1 begins its answer to a preface.
const olderAnswer = "HTTP/1."

// parse handles every whole frame of l.in[:l.w] and keeps the rest.
func (l *link) parse(b *batch) *fault {
	at := 0
	l.ahead.looked = false
	if !l.greeted {
		n := min(l.w, len(preface))
		if string(l.in[:n]) != preface[:n] {
			return errPreface
		}
		if n < len(preface) {
			return nil
		}
		l.greeted, at = true, n
	}
	for l.w-at >= frameHeader {
		head := l.in[at : at+frameHeader]
		n := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		if l.client && !l.settingsIn && string(head[:len(olderAnswer)]) == olderAnswer {
			return errOlder
		}
		if n > maxFrame {
			return errFrameSize
		}
		if l.w-at < frameHeader+n {
			break
		}
		at += frameHeader
		payload := l.in[at : at+n : at+n]
		at += n
		l.ahead.from = at
		if f := l.frame(b, frameType(head[3]), head[4], binary.BigEndian.Uint32(head[5:])&maxWindow, payload); f != nil {
			return f
		}
	}
	l.w = copy(l.in, l.in[at:l.w])
	l.note(b)
	return nil
}

// note watches the time that a head may take to come.
func (l *link) note(b *batch) {
	complete := l.settingsIn && l.blockID == 0 && (l.w == 0 || l.active.Load() > 0)
	if complete {
		if l.partial.Load() != int64(wheel.Never) {
			l.partial.Store(int64(wheel.Never))
		}
		return
	}
	if l.partial.Load() == int64(wheel.Never) {
		l.partial.Store(int64(b.now))
		l.wheel.Arm(&l.timer, b.now+l.cfg.HeadTimeout)
	}
}

// frame handles one frame. What it returns ends the connection.
func (l *link) frame(b *batch, t frameType, flags uint8, id uint32, p []byte) *fault {
	switch {
	case !l.settingsIn && (t != frameSettings || flags&flagAck != 0):
		return errNoSettings
	case l.blockID != 0 && (t != frameContinuation || id != l.blockID):
		return errContinuation
	}
	switch t {
	case frameData:
		return l.data(b, flags, id, p)
	case frameHeaders:
		return l.headers(b, flags, id, p)
	case frameContinuation:
		return l.continuation(b, flags, id, p)
	case framePriority:
		return l.priority(b, id, p)
	case frameReset:
		return l.resetFrame(b, id, p)
	case frameSettings:
		return l.settings(b, flags, id, p)
	case framePush:
		return errPush // nobody may push to us (section 8.4)
	case framePing:
		return l.ping(b, flags, id, p)
	case frameGoAway:
		if id != 0 {
			return errStreamZero
		}
		if len(p) < 8 {
			return errFrameSize
		}
		l.role.goneAway(b, l, binary.BigEndian.Uint32(p)&maxWindow, code(binary.BigEndian.Uint32(p[4:])))
		return nil
	case frameWindow:
		return l.window(b, id, p)
	}
	return l.pointless(b) // section 5.5: unknown types are ignored
}

// pointless charges for a frame that brings nothing.
func (l *link) pointless(b *batch) *fault {
	if l.nuisance.spend(1, b.now, nuisanceBurst, nuisancePerSec) {
		return nil
	}
	l.settle()
	if l.nuisance.spent > nuisanceBurst {
		return errNuisance
	}
	return nil
}

// cancelled charges for a stream that ended before its answer.
func (l *link) cancelled(b *batch) *fault {
	burst := resetBurst
	if l.client {
		burst += resetCredit // whom we ask does not flood us, he only has trouble
	}
	if l.resets.spend(1, b.now, burst, resetPerSec) {
		return nil
	}
	l.settle()
	if l.resets.spent > burst {
		return errResets
	}
	return nil
}

// settle sets what has been done for the peer against what it has cost.
func (l *link) settle() {
	l.mu.Lock()
	work, finished := l.work, l.finished
	l.work, l.finished = 0, 0
	l.mu.Unlock()
	l.nuisance.earn(work*nuisancePerWork, 0)
	l.resets.earn(finished*resetPerWork, resetCredit)
}

// opener reports whether a stream number is one that the peer may open.
func (l *link) opener(id uint32) bool { return id&1 == 1 && !l.client }

// idle reports whether a stream has not been opened yet, by either side.
func (l *link) idle(id uint32) bool {
	if l.client {
		l.mu.Lock()
		defer l.mu.Unlock()
		return id >= l.nextID || id&1 == 0
	}
	return id > l.last.Load() || id&1 == 0
}

// known reports whether a stream that is closed was closed by us, so that the peer
// may not know yet.
func (l *link) known(id uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.resetByUs {
		if r == id {
			return true
		}
	}
	return false
}

// streamFault ends a stream, if it is open, for a fault of the peer's. It is looked for
// anew: it may have been moved since the frame was looked at.
func (l *link) streamFault(b *batch, id uint32, f *fault) *fault {
	l.mu.Lock()
	st := l.streams[id]
	var told party
	if st != nil {
		told = st.party
		l.removeLocked(st)
	}
	l.forgetLocked(id)
	l.out = appendReset(l.out, id, f.code)
	l.mu.Unlock()
	b.touch(l)
	if told != nil {
		told.onLost(b, st, place{l, id}, &loss{cause: causeFault})
		l.role.freed(b, l)
	}
	return l.cancelled(b)
}

func (l *link) data(b *batch, flags uint8, id uint32, p []byte) *fault {
	if id == 0 {
		return errStreamZero
	}
	n := int64(len(p))
	p, f := unpad(p, flags)
	if f != nil {
		return f
	}
	end := flags&flagEndStream != 0
	l.mu.Lock()
	if l.recvWin -= n; l.recvWin < 0 {
		l.mu.Unlock()
		return errWindow
	}
	st := l.streams[id]
	if st == nil || st.received {
		granted := l.usedLocked(nil, 0, n)
		l.mu.Unlock()
		if granted {
			b.touch(l)
		}
		switch {
		case st != nil:
			return l.streamFault(b, id, errClosed)
		case l.idle(id):
			return errIdle
		case l.known(id):
			return l.pointless(b)
		}
		return l.streamFault(b, id, errClosed)
	}
	if st.recvWin -= n; st.recvWin < 0 {
		l.usedLocked(nil, 0, n)
		l.mu.Unlock()
		return l.streamFault(b, id, errWindow)
	}
	if st.length >= 0 {
		if st.length -= int64(len(p)); st.length < 0 || end && st.length > 0 {
			l.usedLocked(nil, 0, n)
			l.mu.Unlock()
			return l.streamFault(b, id, errLength)
		}
	}
	granted := false
	if pad := n - int64(len(p)); pad > 0 {
		granted = l.usedLocked(st, id, pad)
	}
	freed := false
	if end {
		st.received = true
		freed = l.closeLocked(st)
	}
	if len(p) > 0 {
		l.work++
	}
	party := st.party
	l.mu.Unlock()
	if granted {
		b.touch(l)
	}
	if len(p) == 0 && !end {
		return l.pointless(b)
	}
	if !party.onData(b, st, place{l, id}, p, end) {
		l.used(b, nil, 0, len(p))
	}
	if freed {
		l.role.freed(b, l)
	}
	return nil
}

func (l *link) headers(b *batch, flags uint8, id uint32, p []byte) *fault {
	if id == 0 {
		return errStreamZero
	}
	p, f := unpad(p, flags)
	if f != nil {
		return f
	}
	if flags&flagPriority != 0 {
		if len(p) < 5 {
			return errFrameSize
		}
		if binary.BigEndian.Uint32(p)&maxWindow == id {
			f = errDependency
		}
		p = p[5:]
	}
	if f != nil {
		l.over = f
	}
	if flags&flagEndHeaders != 0 {
		return l.headerBlock(b, id, flags, p)
	}
	l.blockID, l.blockFlags, l.blockFrames = id, flags, 0
	l.block = append(l.block[:0], p...)
	return nil
}

func (l *link) continuation(b *batch, flags uint8, id uint32, p []byte) *fault {
	if l.blockID == 0 {
		return errUnexpected
	}
	if l.blockFrames++; l.blockFrames > maxContinuations || len(l.block)+len(p) > 2*int(l.cfg.MaxHead) {
		return errBlockSize
	}
	l.block = append(l.block, p...)
	if flags&flagEndHeaders == 0 {
		return nil
	}
	l.blockID = 0
	f := l.headerBlock(b, id, l.blockFlags, l.block)
	if cap(l.block) > maxFrame {
		l.block = nil
	}
	return f
}

// emit takes one field of a header block in. A block beyond the limits is still
// decoded, since all that follow depend on it, but not kept.
func (l *link) emit(f hpack.HeaderField) {
	l.listSize += len(f.Name) + len(f.Value) + 32 // section 6.5.2
	switch {
	case f.Name == "cookie":
		l.crumbs++
	case len(f.Name) > 0 && f.Name[0] == ':':
		l.pseudo++
	}
	switch {
	case l.listSize > int(l.cfg.MaxHead):
		l.over = errTooLarge
	case len(l.fields)+1-l.pseudo-max(0, l.crumbs-1) > l.cfg.MaxFields:
		l.over = errTooMany
	default:
		l.fields = append(l.fields, f)
		return
	}
	l.dec.SetEmitEnabled(false)
}

// headerBlock decodes a whole header block and hands it to whom it is for.
func (l *link) headerBlock(b *batch, id uint32, flags uint8, block []byte) *fault {
	l.fields, l.listSize, l.crumbs, l.pseudo = l.fields[:0], 0, 0, 0
	l.dec.SetEmitEnabled(true)
	if _, err := l.dec.Write(block); err != nil {
		return errHeaderBlock
	}
	if l.dec.Close() != nil {
		return errHeaderBlock
	}
	over := l.over
	l.over = nil
	end := flags&flagEndStream != 0
	l.mu.Lock()
	st := l.streams[id]
	freed := false
	var received bool
	var party party
	if st != nil {
		received, party = st.received, st.party
		trailers := !l.client || st.headed
		switch {
		case received:
		case over == nil && trailers && !end:
			over = errTrailers
		case over == nil && end && st.length > 0 && trailers:
			over = errLength
		case over == nil && end:
			st.received = true
			freed = l.closeLocked(st)
		}
	}
	l.work++
	l.mu.Unlock()
	switch {
	case st == nil:
		return l.opening(b, id, over, end)
	case received:
		return l.streamFault(b, id, errClosed)
	case over != nil:
		return l.streamFault(b, id, over)
	}
	party.onHeaders(b, st, place{l, id}, l.fields, end)
	if freed {
		l.role.freed(b, l)
	}
	return nil
}

// opening handles a header block on a stream that is not open.
func (l *link) opening(b *batch, id uint32, over *fault, end bool) *fault {
	switch {
	case l.opener(id) && id > l.last.Load():
		l.last.Store(id)
		return l.role.opened(b, l, id, l.fields, over, end)
	case id&1 == 0:
		return errStreamID
	case l.client && l.idle(id):
		return errIdle
	case l.known(id):
		return l.pointless(b)
	case l.client:
		return nil // answered and closed already; nothing depends on it
	}
	return errClosed
}

func (l *link) resetFrame(b *batch, id uint32, p []byte) *fault {
	switch {
	case id == 0:
		return errStreamZero
	case len(p) != 4:
		return errFrameSize
	case l.idle(id):
		return errIdle
	}
	l.mu.Lock()
	st := l.streams[id]
	var party party
	var premature bool
	if st != nil {
		party, premature = st.party, l.client || st.premature(b.now)
		l.removeLocked(st)
	}
	l.mu.Unlock()
	if st == nil {
		return l.pointless(b)
	}
	party.onReset(b, st, place{l, id}, code(binary.BigEndian.Uint32(p)))
	l.role.freed(b, l)
	if !premature {
		return l.pointless(b)
	}
	return l.cancelled(b)
}

// open lists the streams that are open. A stream that is closed lives on in another
// place: so others may be named by their numbers only, and looked for again.
func (l *link) open() []uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.streams) == 0 {
		return nil
	}
	return slices.AppendSeq(make([]uint32, 0, len(l.streams)), maps.Keys(l.streams))
}

func (l *link) find(id uint32) (*stream, party) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if st := l.streams[id]; st != nil {
		return st, st.party
	}
	return nil, nil
}
