package pipenet

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// A Network connects hosts. Its methods may be called from any goroutine, also
// while traffic flows.
type Network struct {
	mu      sync.Mutex
	hosts   map[netip.Addr]*Host
	pairs   map[*pair]struct{} // open connections: those that a changed rule must reach
	faults  map[flow]fault
	delays  map[flow]delay
	changed chan struct{} // closed and replaced when the rules change: wakes hanging dials

	dice sync.Mutex // guards rng; taken last, under any other lock
	rng  *rand.Rand
}

// New returns a network without hosts, delays or faults. The seed decides jitter
// and nothing else.
func New(seed uint64) *Network {
	return &Network{
		hosts:   map[netip.Addr]*Host{},
		pairs:   map[*pair]struct{}{},
		faults:  map[flow]fault{},
		delays:  map[flow]delay{},
		changed: make(chan struct{}),
		rng:     rand.New(rand.NewPCG(seed, 0)),
	}
}

// Host returns the host with this IP address, and makes it on first use. It panics
// if ip is not an address.
func (n *Network) Host(ip string) *Host {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		panic(fmt.Sprintf("pipenet: host %q: %v", ip, err))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[addr]
	if h == nil {
		h = &Host{net: n, addr: addr, listeners: map[netip.AddrPort]*Listener{}, port: firstEphemeral}
		n.hosts[addr] = h
	}
	return h
}

// Delay makes packets from one place to another take latency plus a random share of
// jitter; they stay in order. The most specific rule wins, destination before
// source; "*" leaves loopback connections alone. Zero for both removes the rule.
func (n *Network) Delay(from, to string, latency, jitter time.Duration) {
	f := mustFlow(from, to)
	n.change(func() {
		if latency == 0 && jitter == 0 {
			delete(n.delays, f)
			return
		}
		n.delays[f] = delay{latency: latency, jitter: jitter}
	})
}

// Cut holds back every packet of this direction. A dial in either direction hangs,
// since it needs both. Cut twice, with the places swapped, is a partition.
func (n *Network) Cut(from, to string) { n.setFault(from, to, cut) }

// Blackhole swallows the first packet of new connections; open connections live on.
// A full accept queue and a firewall rule for new connections look like that.
func (n *Network) Blackhole(from, to string) { n.setFault(from, to, blackhole) }

// Reject answers dials at once with EHOSTUNREACH, as a router without a route does.
// Open connections are cut, since TCP waits for the route to come back.
func (n *Network) Reject(from, to string) { n.setFault(from, to, reject) }

// Heal ends the fault that was set for exactly this pair of places.
func (n *Network) Heal(from, to string) {
	f := mustFlow(from, to)
	n.change(func() { delete(n.faults, f) })
}

func (n *Network) setFault(from, to string, kind fault) {
	f := mustFlow(from, to)
	n.change(func() { n.faults[f] = kind })
}

// change applies edit to the rules and the rules to every open connection, so that
// reading and writing never look a rule up.
func (n *Network) change(edit func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	edit()
	for p := range n.pairs {
		p.relink(n)
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

// linkLocked is what the rules say about packets from one address to another.
// n.mu is held.
func (n *Network) linkLocked(from, to netip.AddrPort) link {
	var l link
	for f, kind := range n.faults {
		if f.match(from, to) {
			l.fault = max(l.fault, kind)
		}
	}
	best := -1
	for f, d := range n.delays {
		if s := f.specific(); f.match(from, to) && s > best {
			best, l.delay = s, d
		}
	}
	return l
}

// transit draws how long a packet is under way.
func (n *Network) transit(d delay) time.Duration {
	if d.jitter <= 0 {
		return d.latency
	}
	n.dice.Lock()
	defer n.dice.Unlock()
	return d.latency + time.Duration(n.rng.Int64N(int64(d.jitter)))
}

func (n *Network) forget(p *pair) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pairs, p)
}
