//go:build unix

package http2

import "syscall"

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
