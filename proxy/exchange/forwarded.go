package exchange

import (
	"bytes"
	"iter"
	"net"
	"net/netip"

	"github.com/overhear-mesh/overhear/proxy/syntax"
)

// Trust takes the client's address from x-forwarded-for, whose values are given from the
// last field to the first: each proxy has appended who called it, so that with one proxy
// before this sidecar the last address is the client's, with two the last but one. What
// stands before that anyone may have written. If there are fewer, or it is no address,
// the client stays whoever has opened the connection. (As Envoy's xff_num_trusted_hops
// with use_remote_address.)
func (x *Exchange) Trust(hops int, values iter.Seq[[]byte]) {
	for value := range values {
		for len(value) > 0 {
			i := bytes.LastIndexByte(value, ',')
			address := syntax.Trim(value[i+1:])
			value = value[:max(i, 0)]
			if len(address) == 0 {
				continue // RFC 9110, section 5.6.1.2
			}
			if hops--; hops > 0 {
				continue
			}
			if at, ok := forwarded(string(address)); ok {
				x.Record.Client = net.TCPAddrFromAddrPort(at)
			}
			return
		}
	}
}

// forwarded reads an address as proxies write it: some of them with a port.
func forwarded(text string) (netip.AddrPort, bool) {
	if ip, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(ip.Unmap(), 0), true
	}
	at, err := netip.ParseAddrPort(text)
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), err == nil
}
