package main

import (
	"fmt"
	"io"
	"os/exec"
	"strconv"
)

// meshPackage has whole meshes.
const meshPackage = "github.com/overhear-mesh/overhear/test/sim/mesh"

// meshes runs the tests in which everything is real.
func meshes(o options, out, errs io.Writer) error {
	args := []string{"-run", o.mesh}
	if o.long {
		args = append(args, "-timeout=1h", "-long")
	}
	return goTest(args, out, errs)
}

// whole plays scenarios in which everything is real.
func whole(o options, seeds []uint64, out, errs io.Writer) error {
	return goTest([]string{
		"-run", "^TestScenarios$", "-timeout=24h", "-scenario", o.scenario,
		"-first-seed", strconv.FormatUint(seeds[0], 10), "-seeds", strconv.Itoa(len(seeds)),
	}, out, errs)
}

// goTest runs tests of whole meshes: these need the bubble of testing/synctest, and a
// bubble needs a test.
func goTest(args []string, out, errs io.Writer) error {
	cmd := exec.Command("go", append([]string{"test", meshPackage, "-count=1", "-v"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%v: %w", cmd, err)
	}
	return nil
}
