package cmdline_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"testing"

	"github.com/spf13/cobra"

	"github.com/overhear-mesh/overhear/internal/cmdline"
)

func flags() (*flag.FlagSet, *bool) {
	f := flag.NewFlagSet("x", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.String("c", "", "")
	f.Int("seeds", 1, "")
	f.String("scenario", "", "")
	asked := new(bool)
	f.Usage = func() {
		*asked = true
		_, _ = io.WriteString(f.Output(), "help")
	}
	return f, asked
}

func TestAFlagThatDoesNotExistIsAnsweredWithTheNearest(t *testing.T) {
	for arg, want := range map[string]string{
		"-scenaro=1": "there is no flag -scenaro: did you mean -scenario?",
		"-x":         "there is no flag -x: -help lists those that there are",
		"-zebra":     "there is no flag -zebra: -help lists those that there are",
		"-seeds=x":   `invalid value "x" for flag -seeds: parse error`,
	} {
		f, asked := flags()
		err := cmdline.Parse(f, []string{arg}, io.Discard)
		if err == nil || err.Error() != want || *asked {
			t.Errorf("%s: got %v, help printed %t; want %q and no help", arg, err, *asked, want)
		}
	}
}

func TestHelpGoesWhereItIsWanted(t *testing.T) {
	f, asked := flags()
	var out bytes.Buffer
	if err := cmdline.Parse(f, []string{"-h"}, &out); !errors.Is(err, flag.ErrHelp) || !*asked || out.String() != "help" {
		t.Errorf("got %v and %q, want %v and the help", err, out.String(), flag.ErrHelp)
	}
	if err := cmdline.Parse(f, []string{"-seeds", "3"}, &out); err != nil {
		t.Errorf("a flag that exists: %v", err)
	}
}

// The texts that are looked for are those of the libraries.
func TestTheErrorOfCobraIsKnown(t *testing.T) {
	c := &cobra.Command{Use: "x", RunE: func(*cobra.Command, []string) error { return nil }, SilenceErrors: true, SilenceUsage: true}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cmdline.Unknown(err, []string{"address", "output"}) })
	c.SetArgs([]string{"--addrss", "y"})
	want := "there is no flag --addrss: did you mean --address?"
	if err := c.Execute(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
