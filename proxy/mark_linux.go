package proxy

import (
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// marking is a dialer whose connections carry a mark (SO_MARK), by which a firewall
// tells them from those of the application.
func marking(mark uint32) (*net.Dialer, error) {
	probe, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(probe) }() // it has done nothing
	if err := unix.SetsockoptInt(probe, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		return nil, fmt.Errorf("mark: %w: want the capability CAP_NET_ADMIN, or no mark and the sidecar's user excluded from redirection", err)
	}
	return &net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		if err := raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
		}); err != nil {
			return err
		}
		return failed
	}}, nil
}
