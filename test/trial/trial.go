// Package trial is what the examples do alike: they show faults to what a control plane
// watches, under steady traffic, and judge what it made of them.
package trial

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Main runs an example until it ends or is interrupted. The process fails if it could not
// be shown, or if what it showed did not go well.
func Main(name string, run func(context.Context) (ok bool, err error)) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

// Flag defines the flag by which a user chooses some of the faults of these names.
func Flag(names []string, chosen *[]string) {
	list := strings.Join(names, ", ")
	flag.Func("fault", "show just this `fault`, or several, separated by commas: "+list, func(v string) error {
		for name := range strings.SplitSeq(v, ",") {
			if !slices.Contains(names, name) {
				return fmt.Errorf("no fault %q: want one of %s", name, list)
			}
			*chosen = append(*chosen, name)
		}
		return nil
	})
}

// Sleep waits, or says why it did not.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Wait tries until it works, for at most 30 s.
func Wait(ctx context.Context, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		if Sleep(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("%s: not within 30 s: %w", what, err)
		}
	}
}
