//go:build unix

package http2

import (
	"errors"
	"syscall"

	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// writeFD writes as much of l.writes as the socket takes at once. It returns true
// so that the runtime does not wait for more room.
func (l *link) writeFD(fd uintptr) bool {
	for len(l.writes) > 0 {
		n, err := syscall.Write(int(fd), l.writes)
		if n > 0 {
			l.writes = l.writes[n:]
		}
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return true
		case err != nil:
			l.writeErr = err
			return true
		case n <= 0:
			return true
		}
	}
	return true
}

// awaiter is how the next bytes are waited for without a buffer.
func (l *link) awaiter() func(uintptr) bool { return l.readFD }

// readFD reads what is there. The runtime calls it whenever something may have come:
// only then a buffer is taken, and given back if there was nothing. It returns false to
// be called again.
func (l *link) readFD(fd uintptr) bool {
	if l.in == nil {
		l.in = getBuffer()
	}
	if l.got, l.gotErr = upstream.ReadSocket(fd, l.in); errors.Is(l.gotErr, syscall.EAGAIN) {
		putBuffer(l.in)
		l.in = nil
		return false
	}
	return true
}
