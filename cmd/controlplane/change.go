package main

import (
	"fmt"
	"io"
	"os"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/controlplane"
)

// changeCommand is eject, pin or release.
func changeCommand(r *remote, verb, short, long string) *cobra.Command {
	var order controlplane.Order
	var length time.Duration
	c := &cobra.Command{
		Use:   verb + " ENDPOINT",
		Short: short,
		Long: long + `

ENDPOINT is an instance, an address, or SERVICE/INSTANCE. The control plane must
have an API token; this command takes it from OVERHEAR_API_TOKEN.`,
		Args: oneEndpoint,
		RunE: func(c *cobra.Command, args []string) error {
			if err := r.check(); err != nil {
				return err
			}
			if os.Getenv("OVERHEAR_API_TOKEN") == "" {
				return usageError{fmt.Errorf("%s needs the API token in OVERHEAR_API_TOKEN", verb)}
			}
			order.Endpoint, order.For, order.By = args[0], merge.Span(length), whoami()
			var why controlplane.Why
			answer, err := r.post(c.Context(), "/api/v1/"+verb, order, &why)
			if err != nil {
				return err
			}
			return r.print(c.OutOrStdout(), answer, func(w io.Writer) error { return printWhy(w, why) })
		},
	}
	c.Flags().StringVar(&order.Reason, "reason", "", "why, for the next person on call; eject and pin require it")
	if verb != "release" {
		c.Flags().DurationVar(&length, "for", time.Hour, "how long; 0: until released")
	}
	return c
}

// whoami is for the record; nobody checks it.
func whoami() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
