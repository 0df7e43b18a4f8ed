//go:build unix

package upstream

import "syscall"

// peekFD looks at the socket without waiting and without taking anything. It
// returns true so that the runtime does not wait for readiness.
func (c *Conn) peekFD(fd uintptr) bool {
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	c.peeked = err != syscall.EAGAIN && err != syscall.EINTR
	return true
}
