//go:build !linux

package main

import (
	"errors"
	"net"
)

func backlog(*net.TCPListener, int) error {
	return errors.New("what a full queue of connections does is known of Linux alone")
}
