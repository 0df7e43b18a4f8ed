//go:build !linux

package upstream

import "net"

// lookFD cannot tell an end from data here without taking what there is.
func lookFD(uintptr) condition { return unclear }

// TellsAborts: of no connection here.
func TellsAborts(net.Conn) bool { return false }

// Aborted cannot tell here a reset that a Read has missed from an end.
func Aborted(net.Conn) bool { return false }
