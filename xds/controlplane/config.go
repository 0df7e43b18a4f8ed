package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/ingest"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/server"
)

// Config is the control plane's own part of the mesh file. It is read once, at
// the start.
type Config struct {
	// XDS is the address that serves xDS and takes reports; default
	// 127.0.0.1:15010.
	XDS string `yaml:"xds"`
	// HTTP is the address of the operator's API, the probes and the metrics;
	// default 127.0.0.1:15014.
	HTTP string `yaml:"http"`
	// Insecure permits an XDS address that is not loopback: whoever reaches it can
	// read the mesh, and say what he likes about services that he subscribes to.
	Insecure bool `yaml:"insecure"`
	// StateDir is where verdicts are kept over a restart; default: nowhere. Then
	// only what sidecars still hold survives one.
	StateDir string `yaml:"state_dir"`
	// ReturnWait is how long a restarted control plane stays silent while it waits
	// for the reporters of before; default 2s.
	ReturnWait time.Duration `yaml:"return_wait"`
	// APIToken is what a call that changes something must bear, 16 characters or
	// more; default: such calls are refused. OVERHEAR_API_TOKEN overrides it.
	APIToken string `yaml:"api_token"`
	// APIHosts are names, beside localhost and IP addresses, under which the API
	// may be called to change something.
	APIHosts []string `yaml:"api_hosts"`
	// Events is how many events the history keeps; default 4096.
	Events int `yaml:"events"`
	// Merge is the part of the policy that holds for the fleet as a whole.
	Merge merge.Config `yaml:"merge"`
	// Reports bounds what one report stream may do.
	Reports report.CollectorConfig `yaml:"reports"`
	// Envoys is what Envoys without a sidecar may report.
	Envoys ingest.Config `yaml:"envoys"`
	// Server bounds what one xDS stream may do.
	Server server.Config `yaml:"server"`
}

// DefaultConfig binds loopback and changes nothing on request.
func DefaultConfig() Config {
	return Config{
		XDS:        "127.0.0.1:15010",
		HTTP:       "127.0.0.1:15014",
		ReturnWait: 2 * time.Second,
		Events:     4096,
		Merge:      merge.DefaultConfig(),
		Reports:    report.DefaultCollectorConfig(),
		Envoys:     ingest.DefaultConfig(),
		Server:     server.DefaultConfig(),
	}
}

// Validate says which of the control plane's own fields cannot be used.
func (c Config) Validate() error {
	var errs []error
	add := func(field, format string, args ...any) {
		errs = append(errs, strictyaml.Invalid(field, format, args...))
	}
	loopback, err := listenAddress(c.XDS)
	switch {
	case err != nil:
		add("xds", "%v", err)
	case !loopback && !c.Insecure:
		add("xds", "%s is not loopback, and there is no TLS yet: set insecure: true if everybody who can reach it may read the mesh and report", c.XDS)
	}
	if _, err := listenAddress(c.HTTP); err != nil {
		add("http", "%v", err)
	}
	if c.ReturnWait < 0 || c.ReturnWait > time.Minute {
		add("return_wait", "%v is not between 0s and 1m", c.ReturnWait)
	}
	if n := len(c.APIToken); n > 0 && n < 16 {
		add("api_token", "is %d characters long: want 16 or more", n)
	}
	if strings.ContainsFunc(c.APIToken, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		add("api_token", "has blanks or control characters")
	}
	if c.Events < 1 || c.Events > 1_000_000 {
		add("events", "%d is not between 1 and 1000000", c.Events)
	}
	return errors.Join(errs...)
}

// listenAddress checks an address to listen on and says whether only this
// machine can reach it.
func listenAddress(s string) (loopback bool, err error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return false, fmt.Errorf("%q is no address: want host:port, such as 127.0.0.1:15010", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false, fmt.Errorf("%q has no port number", s)
	}
	if host == "localhost" {
		return true, nil
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback(), nil // a name, or none, may be anything
}

// Listen opens a listening socket. The whole control plane runs in memory when
// it is given one that does.
type Listen func(ctx context.Context, network, address string) (net.Listener, error)

// Options is what a control plane is made with beside its Config.
type Options struct {
	Registry *registry.Registry // required; Run runs it
	Listen   Listen             // nil: the network's
	Log      *slog.Logger       // nil: discarded
	Seed     uint64             // of the table's dice; 0: random
	Version  string             // shown in status
}
