//go:build unix

package http2

import (
	"io"
	"syscall"
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
	for {
		n, err := syscall.Read(int(fd), l.in)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			putBuffer(l.in)
			l.in = nil
			return false
		case err != nil:
			l.gotErr = err
		case n == 0:
			l.gotErr = io.EOF
		default:
			l.got = n
		}
		return true
	}
}
