package http2

import (
	"encoding/binary"

	"github.com/overhear-mesh/overhear/proxy/wheel"
)

func (l *link) priority(b *batch, id uint32, p []byte) *fault {
	switch {
	case id == 0:
		return errStreamZero
	case len(p) != 5:
		return errFrameSize
	case binary.BigEndian.Uint32(p)&maxWindow == id:
		return l.streamFault(b, id, errDependency)
	}
	return l.pointless(b)
}

func (l *link) settings(b *batch, flags uint8, id uint32, p []byte) *fault {
	switch {
	case id != 0:
		return errStreamZero
	case flags&flagAck != 0 && len(p) != 0, len(p)%6 != 0:
		return errFrameSize
	case flags&flagAck != 0:
		return nil
	}
	first := !l.settingsIn
	l.settingsIn = true
	l.mu.Lock()
	l.settled = true
	var f *fault
	for ; len(p) > 0 && f == nil; p = p[6:] {
		f = l.settingLocked(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:]))
	}
	if f == nil {
		l.out = appendFrame(l.out, 0, frameSettings, flagAck, 0)
	}
	l.mu.Unlock()
	if f != nil {
		return f
	}
	b.touch(l)
	l.wake(b)
	l.role.settled(b, l)
	if first {
		return nil
	}
	return l.pointless(b)
}

func (l *link) settingLocked(id uint16, value uint32) *fault {
	switch id {
	case settingTableSize:
		l.enc.limit(min(value, tableSize))
	case settingPush:
		if value > 1 || l.client && value != 0 {
			return errSetting
		}
	case settingStreams:
		l.peer.streams = int64(value)
	case settingInitialWindow:
		if value > maxWindow {
			return errWindowSize
		}
		more := int64(value) - l.peer.initial
		l.peer.initial = int64(value)
		for _, st := range l.streams {
			if st.sendWin += more; st.sendWin > maxWindow {
				return errWindowSize
			}
		}
	case settingConnect:
		if value > 1 || value == 0 && l.peer.connects {
			return errSetting
		}
		l.peer.connects = value == 1
	case settingFrameSize:
		if value < maxFrame || value > 1<<24-1 {
			return errSetting
		}
		l.peer.frameSize = int(min(value, 64<<10)) // longer ones would only hold up the others
	}
	return nil
}

// wake lets every stream try again that has data: the initial window has changed.
func (l *link) wake(b *batch) {
	for _, id := range l.open() {
		if st, p := l.find(id); st != nil {
			p.onRoom(b, st, place{l, id})
		}
	}
}

func (l *link) ping(b *batch, flags uint8, id uint32, p []byte) *fault {
	switch {
	case id != 0:
		return errStreamZero
	case len(p) != 8:
		return errFrameSize
	case flags&flagAck != 0:
		l.mu.Lock()
		if binary.BigEndian.Uint64(p) == l.pingNumber {
			l.pinged = wheel.Never
		}
		l.mu.Unlock()
		return nil
	}
	l.mu.Lock()
	l.out = appendPing(l.out, flagAck, [8]byte(p))
	l.mu.Unlock()
	b.touch(l)
	return l.pointless(b)
}

func (l *link) window(b *batch, id uint32, p []byte) *fault {
	if len(p) != 4 {
		return errFrameSize
	}
	n := int64(binary.BigEndian.Uint32(p) & maxWindow)
	if id == 0 {
		if n == 0 {
			return errWindowZero
		}
		l.mu.Lock()
		l.sendWin += n
		over := l.sendWin > maxWindow
		l.mu.Unlock()
		if over {
			return errWindowSize
		}
		l.resume(b)
		return l.pointless(b)
	}
	if l.idle(id) {
		return errIdle
	}
	l.mu.Lock()
	st := l.streams[id]
	if st == nil {
		l.mu.Unlock()
		return l.pointless(b) // it may not know yet that the stream is closed
	}
	st.sendWin += n
	over, sender, sent := st.sendWin > maxWindow, st.party, st.sent
	l.mu.Unlock()
	switch {
	case n == 0:
		return l.streamFault(b, id, errWindowZero)
	case over:
		return l.streamFault(b, id, errWindowSize)
	case !sent:
		sender.onRoom(b, st, place{l, id})
	}
	return l.pointless(b)
}
