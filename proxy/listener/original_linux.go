package listener

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST
// of linux/netfilter_ipv6/ip6_tables.h, which is the same number.
const soOriginalDst = 80

// OriginalDestination is where a connection was to go that netfilter's REDIRECT, or
// DNAT, has led here. The error of one that has not been redirected is
// ErrNotRedirected.
func OriginalDestination(c net.Conn) (netip.AddrPort, error) {
	socket, ok := c.(syscall.Conn)
	if !ok {
		return netip.AddrPort{}, ErrNotRedirected
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	local, _ := c.LocalAddr().(*net.TCPAddr)
	if local == nil {
		return netip.AddrPort{}, ErrNotRedirected
	}
	own := local.AddrPort()
	own = netip.AddrPortFrom(own.Addr().Unmap().WithZone(""), own.Port())
	var to netip.AddrPort
	var failed error
	if err := raw.Control(func(fd uintptr) {
		if own.Addr().Is4() { // of a socket for both families, too
			to, failed = original4(int(fd))
		} else {
			to, failed = original6(int(fd))
		}
	}); err != nil {
		return netip.AddrPort{}, err
	}
	switch {
	case errors.Is(failed, unix.ENOENT), errors.Is(failed, unix.ENOPROTOOPT), errors.Is(failed, unix.EOPNOTSUPP):
		// No entry in the table of connections; no table at all.
		return netip.AddrPort{}, ErrNotRedirected
	case failed != nil:
		return netip.AddrPort{}, fmt.Errorf("SO_ORIGINAL_DST: %w", failed)
	case to == own:
		return netip.AddrPort{}, ErrNotRedirected
	}
	return to, nil
}

// original4 reads a sockaddr_in, which fits what another option of the same level
// answers with: family, port and address are its first eight bytes.
func original4(fd int) (netip.AddrPort, error) {
	answer, err := unix.GetsockoptIPv6Mreq(fd, unix.IPPROTO_IP, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b := answer.Multiaddr
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4])), nil
}

// original6 reads a sockaddr_in6, with which the answer to another option begins.
func original6(fd int) (netip.AddrPort, error) {
	answer, err := unix.GetsockoptIPv6MTUInfo(fd, unix.IPPROTO_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], answer.Addr.Port) // it lies there as the network has it
	return netip.AddrPortFrom(netip.AddrFrom16(answer.Addr.Addr).Unmap(), binary.BigEndian.Uint16(port[:])), nil
}
