package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// callerIP is where a caller without a proxy connects from, so that a relay knows whose a
// connection is.
func callerIP(caller int) net.IP { return net.IPv4(127, 0, 1, byte(caller+1)) }

// isFrom says whether the other end of an accepted connection is one of the first callers'.
func (f *fleet) isFrom(callers int, c net.Conn) bool {
	for i := range callers {
		if f.isOf(i, c) {
			return true
		}
	}
	return false
}

// isOf says whether it is a caller's: by its address, or because it is a socket of its
// proxy's process. Products need no setting for that, and pings and checks are known for
// what they are.
func (f *fleet) isOf(caller int, c net.Conn) bool {
	peer, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return false
	}
	if peer.Addr().Unmap() == netip.AddrFrom4([4]byte(callerIP(caller).To4())) {
		return true
	}
	if caller >= len(f.proxies) {
		return false
	}
	local, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return false
	}
	for _, pid := range f.proxies[caller].PIDs() {
		if inode := socket(filepath.Join("/proc", pid, "net/tcp"), peer, local); inode != "" && holds(pid, inode) {
			return true
		}
	}
	return false
}

// socket is the inode of the connection from one address to another in a table like
// /proc/net/tcp (man 5 proc); "": there is none.
func socket(table string, from, to netip.AddrPort) string {
	f, err := os.Open(table)
	if err != nil {
		return ""
	}
	defer f.Close()
	want := [2]string{hexadecimal(from), hexadecimal(to)}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
		if fields := strings.Fields(lines.Text()); len(fields) > 9 && [2]string(fields[1:3]) == want {
			return fields[9]
		}
	}
	return ""
}

// hexadecimal is an address as the kernel prints it: the four bytes of IPv4 as a number of the
// machine's own order.
func hexadecimal(a netip.AddrPort) string {
	ip := a.Addr().Unmap().As4()
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), a.Port())
}

// holds says whether a process has a socket open.
func holds(pid, inode string) bool {
	files, err := filepath.Glob(filepath.Join("/proc", pid, "fd", "*"))
	if err != nil {
		return false
	}
	want := "socket:[" + inode + "]"
	for _, name := range files {
		if target, err := os.Readlink(name); err == nil && target == want {
			return true
		}
	}
	return false
}
