//go:build unix

package http1

import (
	"errors"
	"net"
	"syscall"

	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// rester waits for the next request of a socket without a task, and so without a
// buffer. The runtime asks it whenever something may have come; only then does it take
// one, and gives it back if there was nothing. An idle connection holds none at all,
// from the first moment on, and pays with no system call more than Read makes.
type rester struct {
	c   *conn
	raw syscall.RawConn
	ask func(fd uintptr) bool // made once: a method value allocates

	parked bool // no task is to be taken
	n      int
	err    error
}

// newRester returns nil if nc is no plain socket.
func newRester(c *conn, nc net.Conn) *rester {
	socket, ok := nc.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	r := &rester{c: c, raw: raw}
	r.ask = r.look
	return r
}

// read is a Read into the connection's buffer.
func (r *rester) read() (int, error) {
	if err := r.raw.Read(r.ask); err != nil {
		return 0, err // interrupted or closed
	}
	return r.n, r.err
}

// park waits as read does, but reads into conn.first: it must get by with a small stack.
// 0: the connection has ended.
func (r *rester) park() int {
	r.parked = true
	n, err := r.read()
	if r.parked = false; err != nil {
		return 0
	}
	return n
}

// look reads what is there. It returns false to wait until there is something.
func (r *rester) look(fd uintptr) bool {
	c := r.c
	if r.parked {
		r.n, r.err = upstream.ReadSocket(fd, c.first[:])
		return !errors.Is(r.err, syscall.EAGAIN)
	}
	if c.task == nil {
		c.task = getTask()
	}
	if r.n, r.err = upstream.ReadSocket(fd, c.in); errors.Is(r.err, syscall.EAGAIN) {
		c.release()
		return false
	}
	return true
}
