//go:build unix

package upstream

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// ask is a request that is written, and the answer that is waited for, as one
// operation on a socket.
//
// A Read tries before it waits, and right after a request there is nothing yet: that
// is one system call of six per request. Who waits without a try may miss what came
// before he did. Not so if the request leaves while the runtime listens already:
// RawConn.Read forgets what the socket was ready for, then calls the function, and
// waits if that returns false. So the function writes, the first time, and whatever
// follows the request wakes it.
type ask struct {
	call func(fd uintptr) bool // Conn.askFD, made once: a method value allocates

	request, answer []byte
	sent, got       int
	written         bool
	err             error
}

// Ask writes request and reads what follows it into answer, as Write and then Read
// would. sent says how much of the request has been written: if that is not all,
// nothing has been read, and err is of writing; nil means that it did not fit, and the
// rest is for Write.
func (c *Conn) Ask(request, answer []byte) (sent, n int, err error) {
	if c.raw == nil {
		return c.writeThenRead(request, answer)
	}
	a := &c.ask
	a.request, a.answer = request, answer
	a.sent, a.got, a.written, a.err = 0, 0, false, nil
	err = c.raw.Read(a.call)
	a.request, a.answer = nil, nil
	if !a.written { // of reading it may be that it was interrupted, and of nothing else
		if sent, werr := c.Write(request); werr != nil {
			return sent, 0, werr
		}
		return len(request), 0, err
	}
	if a.err != nil {
		err = a.err
	}
	return a.sent, a.got, err
}

func (c *Conn) askFD(fd uintptr) bool {
	a := &c.ask
	if !a.written {
		a.written = true
		n, err := retry(syscall.Write, fd, a.request)
		a.sent = max(0, n)
		if err != nil && !errors.Is(err, syscall.EAGAIN) {
			a.err = c.failed("write", err)
		}
		return a.sent < len(a.request)
	}
	n, err := ReadSocket(fd, a.answer)
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return false
	case err != nil && !errors.Is(err, io.EOF):
		err = c.failed("read", err)
	}
	a.got, a.err = n, err
	return true
}

// ReadSocket reads what has come, for functions that syscall.RawConn.Read calls until
// something has: io.EOF is the end, and EAGAIN that nothing is there yet.
func ReadSocket(fd uintptr, p []byte) (n int, err error) {
	switch n, err = retry(syscall.Read, fd, p); {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// retry repeats what a signal has interrupted.
func retry(call func(int, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := call(int(fd), p)
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// failed is an error in the words of package net.
func (c *Conn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(op, err)}
}
