package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Build builds one of our commands into dir, as the README has it, unless it is there.
func Build(dir, command string) (path string, err error) {
	path = filepath.Join(dir, command)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	// With net/trace, gRPC would bring text/template, whose calls by name keep the linker
	// from dropping any exported method.
	build := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", path, "github.com/overhear-mesh/overhear/cmd/"+command)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/%s: %w\n%s", command, err, out)
	}
	return path, nil
}

var versionNumber = regexp.MustCompile(`\d+\.\d+[\w.+-]*`)

// Version is what the program at path says of itself when it is asked with these arguments:
// all of it if it is our sidecar, else the number in it.
func Version(path string, args ...string) (string, error) {
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", path, strings.Join(args, " "), err)
	}
	said := strings.TrimSpace(string(out))
	if ours, ok := strings.CutPrefix(said, "overhear sidecar"); ok {
		return strings.TrimSpace(ours), nil
	}
	if number := versionNumber.FindString(said); number != "" {
		return number, nil
	}
	return said, nil
}
