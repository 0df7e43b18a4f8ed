// Package cmdline answers a flag that does not exist with the one that was probably
// meant.
package cmdline

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// Parse parses args. Help that is asked for goes to out, and gives flag.ErrHelp; any
// other error is returned in one line, and the help is not printed on top of it.
func Parse(f *flag.FlagSet, args []string, out io.Writer) error {
	usage, to := f.Usage, f.Output()
	defer func() {
		f.Usage = usage
		f.SetOutput(to)
	}()
	f.Usage = func() {}
	f.SetOutput(io.Discard)
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		f.SetOutput(out)
		usage()
		return flag.ErrHelp
	}
	var known []string
	f.VisitAll(func(one *flag.Flag) { known = append(known, one.Name) })
	return Unknown(err, known)
}

// Unknown adds to an error of package flag, or of spf13/pflag, the flag that was
// probably meant. Other errors stay as they are.
func Unknown(err error, known []string) error {
	if err == nil {
		return nil
	}
	for _, says := range []string{"flag provided but not defined: -", "unknown flag: --"} {
		name, found := strings.CutPrefix(err.Error(), says)
		if !found {
			continue
		}
		dashes := says[strings.IndexByte(says, '-'):]
		if near := strictyaml.Nearest(name, known); near != "" && len(name) > 1 { // any letter is near another
			return fmt.Errorf("there is no flag %s%s: did you mean %s%s?", dashes, name, dashes, near)
		}
		return fmt.Errorf("there is no flag %s%s: %shelp lists those that there are", dashes, name, dashes)
	}
	return err
}
