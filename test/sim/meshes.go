package main

import (
	"fmt"
	"io"
	"os/exec"
)

// meshPackage has the scenarios of whole meshes.
const meshPackage = "github.com/overhear-mesh/overhear/test/sim/mesh"

// meshes runs scenarios in which everything is real. They need the bubble of
// testing/synctest, and a bubble needs a test.
func meshes(o options, out, errs io.Writer) error {
	args := []string{"test", meshPackage, "-count=1", "-v", "-run", o.mesh}
	if o.long {
		args = append(args, "-timeout=1h", "-long")
	}
	cmd := exec.Command("go", args...)
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%v: %w", cmd, err)
	}
	return nil
}
