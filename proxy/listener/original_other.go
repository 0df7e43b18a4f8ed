//go:build !linux

package listener

import (
	"net"
	"net/netip"
)

// OriginalDestination is where a redirected connection was to go. Only Linux tells.
func OriginalDestination(net.Conn) (netip.AddrPort, error) {
	return netip.AddrPort{}, ErrNotRedirected
}
