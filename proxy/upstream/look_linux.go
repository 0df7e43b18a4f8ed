package upstream

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// lookFD asks the kernel. A peer's end of stream counts as an end, although bytes
// may be left to read before it: nothing will come after them.
func lookFD(fd uintptr) condition {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	switch {
	case err != nil:
		return unclear
	case n > 0:
		return ended // POLLRDHUP, or what is told unasked: POLLERR, POLLHUP, POLLNVAL
	}
	return stands
}

// TellsAborts reports whether Aborted knows of c.
func TellsAborts(c net.Conn) bool { return Socket(c) != nil }

// Aborted reports whether a TCP connection of which a Read has found the end was reset
// instead, which the kernel tells to one system call only: to a write of another
// goroutine, maybe. It says so as well of one that both sides have ended in order. Of a
// connection without a descriptor only that write knows.
func Aborted(c net.Conn) bool {
	socket := Socket(c)
	if socket == nil {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	aborted := false
	_ = raw.Control(func(fd uintptr) { aborted = hungUp(fd) })
	return aborted
}

// hungUp reports whether nothing can be written either. After the peer's end of stream
// alone it can.
func hungUp(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	for {
		_, err := unix.Poll(fds, 0)
		if !errors.Is(err, syscall.EINTR) {
			return err == nil && fds[0].Revents&unix.POLLHUP != 0
		}
	}
}
