// Command controlplane runs the control plane of a mesh, and talks to a running
// one for its operators.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/overhear-mesh/overhear/internal/buildversion"
	"github.com/overhear-mesh/overhear/internal/cmdline"
	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// command runs one command line and returns the exit status: 0 when it did what
// was asked, 1 when it could not, 2 when it did not understand.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if _, ok := errors.AsType[strictyaml.Problems](err); ok {
		root.PrintErrln(err) // a problem a line, in the form that editors link
		return 1
	}
	root.PrintErrf("controlplane: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}

// usageError is a command line that makes no sense, as opposed to one that
// could not be carried out.
type usageError struct{ error }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "controlplane",
		Short: "The control plane of an Overhear mesh",
		Long: `controlplane merges what all sidecars overhear of real requests, decides which
endpoints are bad, and tells sidecars, Envoys and gRPC clients over xDS.

"controlplane run" runs it, "controlplane replay" tries a policy on what sidecars
have recorded. The other commands talk to a running one.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			var names []string
			for _, one := range c.Commands() {
				names = append(names, one.Name())
			}
			hint := cmp.Or(strictyaml.DidYouMean(args[0], names), ": controlplane --help lists those that there are")
			return usageError{fmt.Errorf("there is no command %q%s", args[0], hint)}
		},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		return usageError{cmdline.Unknown(err, names)}
	})

	var r remote
	remotes := []*cobra.Command{
		statusCommand(&r), whyCommand(&r), watchCommand(&r), reportersCommand(&r), clientsCommand(&r),
		changeCommand(&r, "eject", "Take an endpoint out of use", `Take an endpoint out of use, whatever the evidence says, until the time is up
or "release" is called. The caps still hold: the last usable endpoint of a
service is not taken out.`),
		changeCommand(&r, "pin", "Keep an endpoint in use", `Keep an endpoint in use, whatever the evidence of the fleet says, until the
time is up or "release" is called. A sidecar that cannot reach the endpoint
still avoids it by itself.`),
		changeCommand(&r, "release", "Leave an endpoint to the evidence again", `End an "eject" or "pin". An endpoint that was ejected comes back as after any
ejection: by probes, probation and a ramp.`),
	}
	for _, c := range remotes {
		c.Flags().StringVar(&r.address, "address", "127.0.0.1:15014", "host:port of the control plane's HTTP API")
		c.Flags().StringVarP(&r.output, "output", "o", "table", "table, json or yaml")
	}
	root.AddCommand(remotes...)
	root.AddCommand(runCommand(), validateCommand(), replayCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "controlplane", buildversion.String())
			return err
		},
	})
	return root
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no argument, got %q", c.Name(), args[0])}
	}
	return nil
}

func oneEndpoint(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("%s wants one endpoint: an instance, an address, or SERVICE/INSTANCE", c.Name())}
	}
	return nil
}
