package pipenet

import (
	"fmt"
	"net/netip"
	"time"
)

// A fault is what befalls packets of one direction. When several rules match, the
// greatest counts.
type fault uint8

const (
	blackhole fault = iota + 1 // new connections hang
	cut                        // everything hangs
	reject                     // new connections fail at once, old ones hang
)

type delay struct{ latency, jitter time.Duration }

// A link is what all rules together say about one direction between two addresses.
type link struct {
	fault fault
	delay delay
}

// A place is one side of a rule: a prefix, and a port unless it is 0.
type place struct {
	prefix netip.Prefix // invalid: any address but loopback, which is no network
	port   uint16
}

type flow struct{ from, to place }

func mustFlow(from, to string) flow { return flow{mustPlace(from), mustPlace(to)} }

func mustPlace(s string) place {
	if s == "*" {
		return place{}
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return place{prefix: p.Masked()}
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return place{prefix: netip.PrefixFrom(a, a.BitLen())}
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		panic(fmt.Sprintf("pipenet: %q is not \"*\", an address, a prefix or address:port", s))
	}
	return place{prefix: netip.PrefixFrom(ap.Addr(), ap.Addr().BitLen()), port: ap.Port()}
}

func (p place) match(a netip.AddrPort) bool {
	if !p.prefix.IsValid() {
		return !a.Addr().IsLoopback()
	}
	return p.prefix.Contains(a.Addr()) && (p.port == 0 || p.port == a.Port())
}

// specific orders places: a port, then the longer prefix.
func (p place) specific() int {
	s := 0
	if p.prefix.IsValid() {
		s = 1 + p.prefix.Bits()
	}
	if p.port != 0 {
		s += 256
	}
	return s
}

func (f flow) match(from, to netip.AddrPort) bool { return f.from.match(from) && f.to.match(to) }

func (f flow) specific() int { return f.to.specific()*1024 + f.from.specific() }
