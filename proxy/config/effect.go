package config

import (
	"errors"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// idle names settings of HTTP in a listener that reads none, and a wait for the first
// bytes where nobody waits: what is set in vain is set by mistake.
func idle(p Protocol, transparent bool, detect time.Duration, u exchange.Upgrades, paths exchange.Paths) error {
	var errs []error
	usual := exchange.DefaultUpgrades()
	for _, f := range []struct {
		name  string
		set   bool
		where string
	}{
		{"detect_timeout", detect != 0 && detect != detectTimeout && p != Auto && !transparent, "only with protocol auto the first bytes are waited for"},
		{"upgrades", p == TCP && !slices.Equal(u.Protocols, usual.Protocols), "tcp carries whatever comes unread"},
		{"tunnel_idle_timeout", p == TCP && u.TunnelIdle != usual.TunnelIdle, "tcp carries whatever comes unread; see tcp.idle_timeout"},
		{"paths", p == TCP && paths != exchange.DefaultPaths(), "tcp carries whatever comes unread"},
	} {
		if f.set {
			errs = append(errs, strictyaml.Invalid(f.name, "without effect: %s", f.where))
		}
	}
	return errors.Join(errs...)
}

// maxHops is more than there are proxies in a row.
const maxHops = 32

// checkHops bounds the number of proxies before a listener.
func checkHops(p Protocol, hops int) error {
	switch {
	case hops < 0 || hops > maxHops:
		return strictyaml.Invalid("trusted_hops", "is %d: want 0 to %d", hops, maxHops)
	case hops > 0 && p == TCP:
		return strictyaml.Invalid("trusted_hops", "without effect: tcp carries whatever comes unread; see proxy_protocol")
	}
	return nil
}

// idleLifetime names bounds of a connection in a listener that does not know its requests.
func idleLifetime(p Protocol, l upstream.Lifetime) error {
	if p != TCP {
		return nil
	}
	return l.InVain()
}

// idlePing names what a cluster's pings do not say.
func idlePing(p cluster.Protocol, c ping.Config) error {
	var errs []error
	if c.Service != "" && c.Kind != ping.GRPC {
		errs = append(errs, strictyaml.Invalid("ping.service", "without effect: want kind grpc"))
	}
	if c.Path != ping.DefaultConfig().Path && p == cluster.TCP {
		errs = append(errs, strictyaml.Invalid("ping.path", "without effect: endpoints of protocol tcp are asked for none"))
	}
	return errors.Join(errs...)
}
