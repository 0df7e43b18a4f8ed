package config

import (
	"errors"
	"net/netip"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// Redirected are the settings of a listener to which the kernel redirects connections
// that were meant for others.
type Redirected struct {
	// Transparent: ask the kernel where each connection was to go (SO_ORIGINAL_DST).
	// One that has come by itself is served as by any listener, or reset where there
	// is neither cluster nor routes. Default false.
	Transparent bool `yaml:"transparent"`
	// UnknownDestinations is what becomes of a connection that was to go where nothing
	// of the file or the control plane is: pass carries it there, unread and
	// unjudged; close resets it. Default pass.
	UnknownDestinations Unknown `yaml:"unknown_destinations"`
}

// Destination is a place that the local application calls, such as the virtual address
// of a service.
type Destination struct {
	// Network is an address, or a prefix such as 10.96.0.0/16.
	Network string `yaml:"network"`
	// Port; default 0, every port.
	Port uint16 `yaml:"port"`
	// Cluster that gets what is sent there.
	Cluster string `yaml:"cluster"`
}

// Prefix is the network; a zero Prefix if it is none.
func (d Destination) Prefix() netip.Prefix {
	if p, err := netip.ParsePrefix(d.Network); err == nil {
		return p.Masked()
	}
	if a, err := netip.ParseAddr(d.Network); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
	}
	return netip.Prefix{}
}

// Holds returns what reports whether a connection was to go there.
func (d Destination) Holds() func(to netip.AddrPort) bool {
	network, port := d.Prefix(), d.Port
	return func(to netip.AddrPort) bool { return (port == 0 || port == to.Port()) && network.Contains(to.Addr()) }
}

// Validate checks that it can be recognised.
func (d Destination) Validate() error {
	var errs []error
	if !d.Prefix().IsValid() {
		errs = append(errs, strictyaml.Invalid("network", "is %q: want an address, or a prefix such as 10.96.0.0/16", d.Network))
	}
	if d.Cluster == "" {
		errs = append(errs, strictyaml.Invalid("cluster", "is empty: want the cluster that gets what is sent there"))
	}
	return errors.Join(errs...)
}

// check refuses what does not go together.
func (r Redirected) check(proxied bool) error {
	switch {
	case r.Transparent && proxied:
		return strictyaml.Invalid("proxy_protocol", "does not go with transparent: a load balancer calls a listener by its address")
	case !r.Transparent && r.UnknownDestinations != PassUnknown:
		return strictyaml.Invalid("unknown_destinations", "is for transparent listeners: others have one destination")
	}
	return nil
}

// Unknown is what becomes of connections to unknown destinations.
type Unknown uint8

// The choices.
const (
	PassUnknown Unknown = iota
	CloseUnknown
)

var unknowns = [...]string{PassUnknown: "pass", CloseUnknown: "close"}

// String is the name that files use.
func (u Unknown) String() string { return strictyaml.NameOf(u, unknowns[:], "unknown") }

// MarshalText writes the name that UnmarshalText reads.
func (u Unknown) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads a name.
func (u *Unknown) UnmarshalText(text []byte) error { return strictyaml.SetName(u, unknowns[:], text) }
