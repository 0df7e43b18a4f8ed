package replay

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// copied is a file that has the first bytes of another one.
func copied(t *testing.T, f File, share float64) File {
	t.Helper()
	data, err := os.ReadFile(f.Name)
	if err != nil {
		t.Fatal(err)
	}
	data = data[:int(share*float64(len(data)))]
	return File{Name: filepath.Base(f.Name) + ".copy", Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
}

func messagesOf(r []*Sidecar, id string) int {
	for _, s := range r {
		if s.ID == id {
			return s.Messages
		}
	}
	return 0
}

func TestWhatTwoFilesTellCountsOnce(t *testing.T) {
	f := fleet()
	f.Fails = failing(2, 20*second, 30*second)
	files := write(t, f)
	want := run(t, files, policy(4, nil))[0]
	for name, again := range map[string][]File{
		"a copy":                {copied(t, files[0], 1)},
		"the copy first":        append([]File{copied(t, files[0], 1)}, files...),
		"two copies":            {copied(t, files[0], 1), copied(t, files[0], 1)},
		"one taken too early":   {copied(t, files[1], 0.5)},
		"copies of all of them": {copied(t, files[0], 1), copied(t, files[1], 0.3), copied(t, files[2], 0.9), copied(t, files[3], 1)},
	} {
		all := append(append([]File{}, files...), again...)
		if len(again) > len(files) {
			all = again
		}
		got := run(t, all, policy(4, nil))[0]
		if len(got.Repeats) != len(all)-len(files) {
			t.Errorf("%s: %d files repeat others, want %d: %+v", name, len(got.Repeats), len(all)-len(files), got.Repeats)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Sidecar{}), cmpopts.IgnoreFields(Outcome{}, "Repeats", "Problems")); diff != "" {
			t.Errorf("%s makes a difference:\n%s", name, diff)
		}
	}
}

// The longer of two that begin together counts, and of the other one nothing: what a
// crash has cut off loses nothing that a copy has.
func TestACopyMakesUpForAFileThatWasCutOff(t *testing.T) {
	f := fleet()
	f.Fails = failing(2, 20*second, 30*second)
	files := write(t, f)
	whole := run(t, files, policy(4, nil))[0]
	files = append(files, files[0])
	files[0] = copied(t, files[0], 0.4)
	got := run(t, files, policy(4, nil))[0]
	if a, b := messagesOf(whole.Sidecars, "caller-1"), messagesOf(got.Sidecars, "caller-1"); a != b {
		t.Errorf("%d messages of caller-1, want %d", b, a)
	}
	if len(got.Repeats) != 1 || got.Repeats[0].File != files[0].Name {
		t.Errorf("repeats: %+v, want the one that was cut off", got.Repeats)
	}
	if diff := cmp.Diff(whole.Changes, got.Changes); diff != "" {
		t.Errorf("decisions differ (-whole +got):\n%s", diff)
	}
}

// Each of two files may have something that the other one has not.
func TestFilesThatOverlapInPartCountOnce(t *testing.T) {
	f := fleet()
	f.Fails = failing(2, 20*second, 30*second)
	whole := run(t, write(t, f), policy(4, nil))[0]
	f.MaxSize, f.Files = 1<<10, 100
	var files []File
	segments := map[string][]byte{}
	for _, one := range write(t, f) {
		data, err := os.ReadFile(one.Name)
		if err != nil {
			t.Fatal(err)
		}
		switch name := filepath.Base(one.Name); name {
		case "caller-2.rec.1", "caller-2.rec.2", "caller-2.rec.3":
			segments[name[len(name)-1:]] = data
		default:
			files = append(files, one)
		}
	}
	if len(segments) != 3 {
		t.Fatalf("caller-2 has not rotated three times")
	}
	// A title is a line before the frames. The higher the number, the older the segment.
	glued := func(older, newer string) File {
		more := segments[newer]
		data := append(bytes.Clone(segments[older]), more[bytes.IndexByte(more, '\n')+1:]...)
		return File{Name: older + newer, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
	}
	got := run(t, append(files, glued("2", "1"), glued("3", "2")), policy(4, nil))[0]
	if len(got.Repeats) != 1 || got.Repeats[0].File != "21" || got.Repeats[0].Messages == 0 {
		t.Errorf("repeats: %+v, want some messages of the newer of the two", got.Repeats)
	}
	if diff := cmp.Diff(whole, got, cmpopts.IgnoreUnexported(Sidecar{}), cmpopts.IgnoreFields(Outcome{}, "Repeats", "From")); diff != "" {
		t.Errorf("in one file and in some that overlap (-one +overlapping):\n%s", diff)
	}
}
