package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/overhear-mesh/overhear/internal/buildversion"
	"github.com/overhear-mesh/overhear/xds/controlplane"
	"github.com/overhear-mesh/overhear/xds/registry"
)

// meshFile is all that a mesh file says.
type meshFile struct {
	ControlPlane controlplane.Config `yaml:"control_plane"`
	Mesh         registry.Mesh       `yaml:",inline"`
}

// decodeMeshFile decodes and checks a mesh file.
func decodeMeshFile(name string, data []byte) (*meshFile, error) {
	f := &meshFile{ControlPlane: controlplane.DefaultConfig()}
	if err := registry.DecodeInto(name, data, f); err != nil {
		return nil, err
	}
	return f, nil
}

func runCommand() *cobra.Command {
	var path, level, format string
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the control plane",
		Long: `Run the control plane until SIGTERM or SIGINT. SIGHUP reads the mesh file again at
once; a change of it is also noticed within two seconds. The part control_plane
is read at the start only.

OVERHEAR_API_TOKEN overrides control_plane.api_token.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := newLog(c.ErrOrStderr(), level, format)
			if err != nil {
				return err
			}
			return run(c.Context(), path, log)
		},
	}
	c.Flags().StringVarP(&path, "config", "c", "mesh.yaml", "mesh file")
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.Flags().StringVar(&format, "log-format", "text", "text or json")
	return c
}

func run(ctx context.Context, path string, log *slog.Logger) error {
	var first *meshFile
	decode := func(name string, data []byte) (*registry.Mesh, error) {
		f, err := decodeMeshFile(name, data)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = f
		} else if !reflect.DeepEqual(first.ControlPlane, f.ControlPlane) {
			log.Warn("control_plane has changed in the mesh file: that takes a restart", "path", path)
		}
		return &f.Mesh, nil
	}
	mesh, err := registry.Open(path, decode, log)
	if err != nil {
		return err
	}
	cfg := first.ControlPlane
	if token := os.Getenv("OVERHEAR_API_TOKEN"); token != "" {
		cfg.APIToken = token
	}
	cp, err := controlplane.New(cfg, controlplane.Options{Registry: mesh, Log: log, Version: buildversion.String()})
	if err != nil {
		return err
	}

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for {
			select {
			case <-hup:
				mesh.Reload()
			case <-ctx.Done():
				return
			}
		}
	}()
	return cp.Run(ctx)
}

func validateCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "validate",
		Short: "Check a mesh file",
		Long:  "Check a mesh file and say everything that is wrong with it, with line and column.",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			f, err := decodeMeshFile(path, data)
			if err != nil {
				// One problem a line, in the form that editors link.
				c.PrintErrln(err)
				n := strings.Count(err.Error(), "\n") + 1
				return fmt.Errorf("%s is not valid: %s", path, count(n, "problem"))
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is valid: %s, %s\n", path,
				count(len(f.Mesh.Services), "service"), count(f.Mesh.Len(), "endpoint"))
			return err
		},
	}
	c.Flags().StringVarP(&path, "config", "c", "mesh.yaml", "mesh file")
	return c
}

func newLog(w io.Writer, level, format string) (*slog.Logger, error) {
	var options slog.HandlerOptions
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level %s: want debug, info, warn or error", level)}
	}
	options.Level = l
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, &options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &options)), nil
	}
	return nil, usageError{errors.New("--log-format " + format + ": want text or json")}
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
