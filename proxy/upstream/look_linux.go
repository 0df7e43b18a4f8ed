package upstream

import "golang.org/x/sys/unix"

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
