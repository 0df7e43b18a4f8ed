package registry_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/xds/registry"
)

// names decodes a file of service names, one a line; a line with "!" is refused.
func names(name string, data []byte) (*registry.Mesh, error) {
	m := &registry.Mesh{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "!") {
			return nil, errors.New(name + ":1:1: " + line)
		}
		m.Services = append(m.Services, registry.Service{Name: line})
	}
	return m, nil
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// running opens path and runs the registry in a bubble for the time of the test.
func running(t *testing.T, path string) (*registry.Registry, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	r, err := registry.Open(path, names, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := r.Run(t.Context()); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	synctest.Wait()
	return r, &log
}

func services(r *registry.Registry) string {
	var all []string
	for _, s := range r.Current().Services {
		all = append(all, s.Name)
	}
	return strings.Join(all, " ")
}

func changed(r *registry.Registry) bool {
	select {
	case <-r.Changed():
		return true
	default:
		return false
	}
}

func TestAChangedFileIsTakenOverWithinTwoSeconds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, "a\n")
	synctest.Test(t, func(t *testing.T) {
		r, _ := running(t, path)
		time.Sleep(10 * time.Second)
		if changed(r) {
			t.Error("an untouched file was announced as a change")
		}
		write(t, path, "b\n") // the same size, and on a coarse clock the same time
		time.Sleep(2 * time.Second)
		if !changed(r) {
			t.Error("the change was not announced")
		}
		if got, want := services(r), "b"; got != want {
			t.Errorf("services: got %q, want %q", got, want)
		}
		if st := r.Status(); st.Loads != 2 || st.Failures != 0 || st.Path != path {
			t.Errorf("status: got %+v, want 2 loads of %s and no failure", st, path)
		}
	})
}

func TestABadFileKeepsWhatRunsAndIsCountedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, "a\n")
	synctest.Test(t, func(t *testing.T) {
		r, log := running(t, path)
		write(t, path, "no good!\n")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if changed(r) || services(r) != "a" {
			t.Errorf("services: got %q, want the mesh of before", services(r))
		}
		st := r.Status()
		if st.Failures != 1 {
			t.Errorf("failures: got %d, want 1 for one bad file that was looked at ten times", st.Failures)
		}
		if want := path + ":1:1: no good!"; st.LastError != want || st.FailedAt.IsZero() {
			t.Errorf("last error: got %q at %v, want %q", st.LastError, st.FailedAt, want)
		}
		if got := strings.Count(log.String(), "mesh file refused"); got != 1 {
			t.Errorf("log lines about the refusal: got %d, want 1:\n%s", got, log)
		}

		r.Reload() // a person asks again, and is told again
		time.Sleep(500 * time.Millisecond)
		if got := r.Status().Failures; got != 2 {
			t.Errorf("failures after a reload by hand: got %d, want 2", got)
		}

		write(t, path, "a\n") // as before
		time.Sleep(2 * time.Second)
		if st := r.Status(); st.LastError != "" || st.Loads != 1 || changed(r) {
			t.Errorf("status after the file was put back: got %+v, want no error and no reload", st)
		}
	})
}

func TestAMissingFileKeepsWhatRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, "a\n")
	synctest.Test(t, func(t *testing.T) {
		r, _ := running(t, path)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if got := services(r); got != "a" {
			t.Errorf("services: got %q, want the mesh of before", got)
		}
		if st := r.Status(); st.Failures != 1 || !strings.Contains(st.LastError, "no such file") {
			t.Errorf("status: got %+v, want one failure that says that the file is gone", st)
		}
		write(t, path, "c\n")
		time.Sleep(2 * time.Second)
		if got := services(r); got != "c" {
			t.Errorf("services after the file came back: got %q, want c", got)
		}
	})
}

func TestAFileThatIsStillBeingWrittenIsNotBelieved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, "a\nb\nc\n")
	synctest.Test(t, func(t *testing.T) {
		r, _ := running(t, path)
		// A slow writer: half of the file is there when Run looks at it, the
		// rest 50 ms later.
		time.Sleep(1950 * time.Millisecond)
		write(t, path, "a\n")
		time.Sleep(100 * time.Millisecond)
		write(t, path, "a\nb\nd\n")
		for range 20 {
			if got := services(r); got == "a" {
				t.Fatal("half a file was taken for a mesh")
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got, want := services(r), "a b d"; got != want {
			t.Errorf("services: got %q, want %q", got, want)
		}
	})
}

func TestReloadDoesNotWaitForTheNextLook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, "a\n")
	synctest.Test(t, func(t *testing.T) {
		r, _ := running(t, path)
		write(t, path, "b\n")
		r.Reload()
		time.Sleep(200 * time.Millisecond)
		if got := services(r); got != "b" {
			t.Errorf("services 200 ms after Reload: got %q, want b", got)
		}
	})
}

func TestABadFileAtTheStartIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	if _, err := registry.Open(path, names, slog.New(slog.DiscardHandler)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: got %v, want %v", err, os.ErrNotExist)
	}
	write(t, path, "bad!\n")
	if _, err := registry.Open(path, names, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a bad file: got no error")
	}
}
