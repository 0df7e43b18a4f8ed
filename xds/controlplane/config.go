package controlplane

import (
	"context"
	"log/slog"
	"net"

	"github.com/overhear-mesh/overhear/xds/registry"
)

// Config is the control plane's own part of the mesh file. It is read once, at
// the start.
type Config struct {
	// XDS is the address that serves xDS and takes reports; default
	// 127.0.0.1:15010.
	XDS string `yaml:"xds"`
	// HTTP is the address of the operator's API, of the probes and of the
	// metrics; default 127.0.0.1:15014.
	HTTP string `yaml:"http"`
	// StateDir is where verdicts are kept over a restart; empty: nowhere.
	StateDir string `yaml:"state_dir"`
	// Insecure permits an XDS address that is not loopback.
	Insecure bool `yaml:"insecure"`
	// APIToken is what a call that changes something must bear. Empty: there
	// are no such calls.
	APIToken string `yaml:"api_token"`
}

// DefaultConfig binds loopback and changes nothing on request.
func DefaultConfig() Config {
	return Config{XDS: "127.0.0.1:15010", HTTP: "127.0.0.1:15014"}
}

// Listen opens a listening socket. The whole control plane runs in memory when
// it is given one that does.
type Listen func(ctx context.Context, network, address string) (net.Listener, error)

// Options is what a control plane is made with beside its Config.
type Options struct {
	Registry *registry.Registry // required
	Listen   Listen             // nil: net.ListenConfig
	Log      *slog.Logger       // nil: discarded
	Version  string             // shown in status
}
