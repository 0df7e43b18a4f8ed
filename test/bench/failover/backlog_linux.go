package main

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// backlog changes how many connections may wait for being accepted: Linux takes a second
// listen(2) for that.
func backlog(ln *net.TCPListener, n int) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.Listen(int(fd), n) })
	return errors.Join(err, failed)
}
