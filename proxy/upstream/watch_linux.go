package upstream

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// run waits on an epoll instance of our own, which waits in the runtime's poller like
// any file: no thread is kept. It is opened with the first socket.
func (w *Watch) run(ctx context.Context) error {
	var file *os.File
	select {
	case <-ctx.Done():
		return nil
	case file = <-w.files:
	}
	stop := context.AfterFunc(ctx, func() { w.close(file) })
	defer stop()
	defer w.close(file)
	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch of idle connections: %w", err)
	}
	var events [128]unix.EpollEvent
	for {
		n := 0
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, failed = unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || failed != nil
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("watch of idle connections: %w", err)
		case failed != nil && !errors.Is(failed, unix.EINTR):
			return os.NewSyscallError("epoll_wait", failed)
		}
		now := w.clock.Now()
		for _, ev := range events[:max(0, n)] {
			w.noticed(uint64(uint32(ev.Fd))|uint64(uint32(ev.Pad))<<32, now)
		}
	}
}

// close ends it, so that nothing is registered with the descriptor's next owner.
func (w *Watch) close(file *os.File) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.epoll = -1
	_ = file.Close() // twice, maybe
}

// openLocked opens the epoll instance and hands it to run. If that fails, there is no
// room for descriptors: then the next connection tries again.
func (w *Watch) openLocked() bool {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	if unix.SetNonblock(fd, true) != nil {
		_ = unix.Close(fd)
		return false
	}
	w.epoll = fd
	w.files <- os.NewFile(uintptr(fd), "epoll")
	return true
}

// registerLocked reports whether the kernel tells of c from now on: of its end, once,
// and of nothing that arrives before. A socket that is closed leaves by itself.
func (w *Watch) registerLocked(c *Conn, serial uint64) bool {
	var failed error
	err := c.raw.Control(func(fd uintptr) {
		failed = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{
			Events: unix.EPOLLRDHUP | unix.EPOLLET,
			Fd:     int32(uint32(serial)), Pad: int32(uint32(serial >> 32)), // the 64 bits that come back
		})
	})
	return err == nil && failed == nil
}
