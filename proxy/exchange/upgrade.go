package exchange

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/syntax"
)

// Connect is the name, among Upgrades.Protocols, of the method that makes a tunnel of
// its connection (RFC 9110, section 9.3.6). Every other name is one that the Upgrade
// field may have.
const Connect = "connect"

// Upgrades are the protocols to which the clients of a listener may change. What is
// exchanged afterwards is carried opaquely, in a tunnel.
type Upgrades struct {
	// Protocols by the name that the Upgrade field has, in lower case; connect is the
	// method CONNECT, which goes to the cluster's endpoints as it came: they open the
	// tunnel. Default [websocket]. What else a client asks for it does not get: the
	// field is not passed on, and CONNECT is answered 501.
	Protocols []string `yaml:"upgrades"`
	// TunnelIdle ends a tunnel in which nothing has moved for so long, up to a quarter
	// longer; default 1h, 0 is never.
	TunnelIdle time.Duration `yaml:"tunnel_idle_timeout"`
}

// DefaultUpgrades let WebSocket through, and keep a silent tunnel for an hour.
func DefaultUpgrades() Upgrades {
	return Upgrades{Protocols: []string{"websocket"}, TunnelIdle: time.Hour}
}

// Find returns the protocol of that name, in any case, if clients may change to it by
// Upgrade, else "".
func (u *Upgrades) Find(name []byte) string {
	for _, p := range u.Protocols {
		if p != Connect && syntax.Is(name, p) {
			return p
		}
	}
	return ""
}

// Connect reports whether clients may use the method CONNECT.
func (u *Upgrades) Connect() bool { return slices.Contains(u.Protocols, Connect) }

// Validate names everything that is wrong.
func (u Upgrades) Validate() error {
	var errs []error
	for _, name := range u.Protocols {
		product, version, versioned := strings.Cut(name, "/")
		switch {
		case product == "" || versioned && version == "" || !syntax.All(product, syntax.Token) || !syntax.All(version, syntax.Token):
			errs = append(errs, strictyaml.Invalid("upgrades", "%q: want names of protocols, such as websocket, or connect", name))
		case name != strings.ToLower(name):
			errs = append(errs, strictyaml.Invalid("upgrades", "%q: want it in lower case", name))
		case product == "h2c" || product == "http" || product == "tls":
			// Requests in a tunnel would be seen by no rule.
			errs = append(errs, strictyaml.Invalid("upgrades", "%q would carry requests past this sidecar; HTTP/2 needs no upgrade here", name))
		}
	}
	if u.TunnelIdle != 0 && u.TunnelIdle < time.Second {
		errs = append(errs, strictyaml.Invalid("tunnel_idle_timeout", "%v: want 0s (never) or at least 1s", u.TunnelIdle))
	}
	return errors.Join(errs...)
}
