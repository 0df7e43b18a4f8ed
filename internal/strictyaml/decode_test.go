package strictyaml_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

type level int

func (l *level) UnmarshalText(text []byte) error {
	switch string(text) {
	case "low":
		*l = 1
	case "high":
		*l = 2
	default:
		return fmt.Errorf("%q is no level: want low or high", text)
	}
	return nil
}

type fieldError struct{ field, message string }

func (e fieldError) Field() string { return e.field }
func (e fieldError) Error() string { return e.field + ": " + e.message }

type backend struct {
	Address string `yaml:"address"`
	Weight  uint8  `yaml:"weight"`
}

func (b backend) Validate() error {
	var errs []error
	if b.Address == "" {
		errs = append(errs, fieldError{"address", "is missing: want host:port"})
	}
	if b.Weight > 100 {
		errs = append(errs, fieldError{"weight", fmt.Sprintf("is %d: want at most 100", b.Weight)})
	}
	return errors.Join(errs...)
}

type shared struct {
	Note string `yaml:"note"`
}

func (s shared) Validate() error {
	if s.Note == "bad" {
		return fieldError{"note", "is bad"}
	}
	return nil
}

type file struct {
	Inline   shared             `yaml:",inline"`
	Name     string             `yaml:"name"`
	Timeout  time.Duration      `yaml:"timeout"`
	Buffer   strictyaml.Size    `yaml:"buffer"`
	Share    float64            `yaml:"share"`
	Level    level              `yaml:"level"`
	On       bool               `yaml:"on"`
	Count    int                `yaml:"count"`
	Labels   map[string]string  `yaml:"labels"`
	Backends []backend          `yaml:"backends"`
	ByName   map[string]backend `yaml:"by_name"`
	Optional *backend           `yaml:"optional"`
}

func TestAGoodFileIsDecodedOverItsDefaults(t *testing.T) {
	got := file{Timeout: time.Second, Count: 3, Labels: map[string]string{"kept": "yes"}}
	err := strictyaml.Decode("f.yaml", []byte(`
# a comment
name: "api"          # and another
note: hello
buffer: 64KiB
share: 10%
level: high
on: true
labels: {zone: a}
backends:
  - address: 127.0.0.1:80
    weight: 5
  - {address: "127.0.0.1:81"}
by_name:
  x: {address: "127.0.0.1:82"}
optional:
  address: 127.0.0.1:83
`), &got)
	if err != nil {
		t.Fatal(err)
	}
	want := file{
		Inline: shared{"hello"}, Name: "api", Timeout: time.Second, Buffer: 64 << 10, Share: 0.1, Level: 2, On: true, Count: 3,
		Labels:   map[string]string{"kept": "yes", "zone": "a"},
		Backends: []backend{{"127.0.0.1:80", 5}, {"127.0.0.1:81", 0}},
		ByName:   map[string]backend{"x": {"127.0.0.1:82", 0}},
		Optional: &backend{"127.0.0.1:83", 0},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(file{})); diff != "" {
		t.Errorf("decoded file differs (-want +got):\n%s", diff)
	}
}

func TestValuesThatTheFileMakesCanHaveDefaults(t *testing.T) {
	var got file
	err := strictyaml.Decode("f.yaml", []byte(`
backends: [{address: a}, {address: b, weight: 2}]
by_name: {x: {address: c}}
optional: {address: d}
`), &got, func(value any) {
		if b, ok := value.(*backend); ok {
			b.Weight = 7
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := file{Backends: []backend{{"a", 7}, {"b", 2}}, ByName: map[string]backend{"x": {"c", 7}}, Optional: &backend{"d", 7}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(file{})); diff != "" {
		t.Errorf("decoded file differs (-want +got):\n%s", diff)
	}
}

func TestAListIsDecodedAfterWhatStandsBesideIt(t *testing.T) {
	var base *backend
	var got file
	err := strictyaml.Decode("f.yaml", []byte("backends: [{address: a}]\noptional: {weight: 9}\n"), &got, func(value any) {
		if b, ok := value.(*backend); ok && base == nil {
			base = b
			base.Address = "default"
		} else if ok {
			*b = *base
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]backend{{"a", 9}}, got.Backends); diff != "" {
		t.Errorf("the list's element did not start from the optional value (-want +got):\n%s", diff)
	}
}

func TestEveryProblemIsReportedAtOnceWithItsPlace(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     []string
	}{
		{"unknown, mis-cased and mistyped fields together", `
nmae: api
Timeout: 5s
timeout: soon
count: many
share: "0.5"
on: yes
level: middle
buffer: 3 parsecs
backends:
  - adress: 127.0.0.1:80
    weight: 300
zzz: 1
`, []string{
			`f.yaml:2:1: nmae: unknown field: did you mean "name"?`,
			`f.yaml:3:1: Timeout: unknown field: did you mean "timeout"?`,
			`f.yaml:4:10: timeout: "soon" is no duration: want a number with a unit such as 250ms, 10s or 5m`,
			`f.yaml:5:8: count: "many" is no whole number`,
			`f.yaml:6:8: share: "0.5" in quotes is a string: want number or percentage such as 10%`,
			`f.yaml:7:5: on: "yes" is no boolean (true or false)`,
			`f.yaml:8:8: level: "middle" is no level: want low or high`,
			`f.yaml:9:9: buffer: "3 parsecs" is no size: want a number of bytes such as 64KiB or 1MiB`,
			`f.yaml:11:5: backends[0].adress: unknown field: did you mean "address"?`,
			`f.yaml:12:13: backends[0].weight: "300" is no whole number from 0 to 255`,
			`f.yaml:13:1: zzz: unknown field: known here are backends, buffer, by_name, count, labels, level, name, note, on, optional, share, timeout`,
		}},
		{"an inlined struct that has something to say", "name: a\nnote: bad\n", []string{`f.yaml:2:1: note: is bad`}},
		{"a repeated field", "name: a\ncount: 1\nname: b\n", []string{
			`f.yaml:3:1: name: stands here a second time, first on line 1`}},
		{"the wrong shape", "name: [a]\nbackends: 7\nlabels: [x]\noptional: {address: [1]}\n", []string{
			`f.yaml:1:7: name: is a list: want string`,
			`f.yaml:2:11: backends: "7" is a single value: want list of mapping`,
			`f.yaml:3:9: labels: is a list: want mapping of names to string`,
			`f.yaml:4:21: optional.address: is a list: want string`}},
		{"no value", "name:\n", []string{`f.yaml:1:7: name: has no value: want string`}},
		{"aliases", "name: &n api\nlabels: {a: *n}\n", []string{
			`f.yaml:1:7: name: anchors, aliases and tags are not supported: write the value out`,
			`f.yaml:2:13: labels.a: anchors, aliases and tags are not supported: write the value out`}},
		{"two documents", "name: a\n---\nname: b\n", []string{
			`f.yaml:3:1: a second document: want one document in a file`}},
		{"not a mapping", "just words\n", []string{`f.yaml:1:1: "just words" is a single value: want mapping`}},
		{"mistakes of form and invalid values together, none of them twice", `
backends:
  - adress: 127.0.0.1:80
    weight: 101
  - address: [x]
    weight: 102
by_name:
  x:
    weight: many
optional: 7
`, []string{
			`f.yaml:3:5: backends[0].adress: unknown field: did you mean "address"?`,
			`f.yaml:4:5: backends[0].weight: is 101: want at most 100`,
			`f.yaml:5:14: backends[1].address: is a list: want string`,
			`f.yaml:6:5: backends[1].weight: is 102: want at most 100`,
			`f.yaml:8:3: by_name.x.address: is missing: want host:port`,
			`f.yaml:9:13: by_name.x.weight: "many" is no whole number from 0 to 255`,
			`f.yaml:10:11: optional: "7" is a single value: want mapping`}},
		{"invalid values, placed at their fields", `
backends:
  - address: 127.0.0.1:80
    weight: 101
  - weight: 1
by_name:
  x:
    weight: 200
optional: {}
`, []string{
			`f.yaml:4:5: backends[0].weight: is 101: want at most 100`,
			`f.yaml:5:5: backends[1].address: is missing: want host:port`,
			`f.yaml:7:3: by_name.x.address: is missing: want host:port`,
			`f.yaml:8:5: by_name.x.weight: is 200: want at most 100`,
			`f.yaml:9:1: optional.address: is missing: want host:port`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := file{Name: "before", Labels: map[string]string{"k": "v"}}
			got := before
			err := strictyaml.Decode("f.yaml", []byte(tc.in), &got)
			if err == nil {
				t.Fatal("got no error")
			}
			if diff := cmp.Diff(tc.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("problems differ (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, got, cmp.AllowUnexported(file{})); diff != "" {
				t.Errorf("the target of a refused file was changed:\n%s", diff)
			}
		})
	}
}

func TestASyntaxErrorNamesItsLine(t *testing.T) {
	err := strictyaml.Decode("f.yaml", []byte("name: a\n  bad: [1\n"), &file{})
	var ps strictyaml.Problems
	if !errors.As(err, &ps) || len(ps) != 1 || ps[0].Line == 0 {
		t.Fatalf("got %#v, want one problem with a line", err)
	}
}

func TestWhatTheFileLacksCanBeAddedBeforeValidation(t *testing.T) {
	decode := func(text, address string) (file, error) {
		var got file
		err := strictyaml.DecodeWith("f.yaml", []byte(text), &got, func(decoded any) {
			f := decoded.(*file)
			f.Backends[0].Address = address
		})
		return got, err
	}
	got, err := decode("backends: [{weight: 5}]", "127.0.0.1:80")
	if want := []backend{{"127.0.0.1:80", 5}}; err != nil || !cmp.Equal(got.Backends, want) {
		t.Errorf("got %+v, %v; want %+v", got.Backends, err, want)
	}
	got, err = decode("backends: [{weight: 5}]", "")
	if want := "f.yaml:1:12: backends[0].address: is missing: want host:port"; fmt.Sprint(err) != want || got.Backends != nil {
		t.Errorf("got %+v, %v; want nothing but the error %s", got.Backends, err, want)
	}
}

func TestAConfigurationBuiltInGoIsValidatedAsAFileIs(t *testing.T) {
	err := strictyaml.Validate(file{Backends: []backend{{Address: "x", Weight: 150}}})
	if got, want := fmt.Sprint(err), "backends[0].weight: is 150: want at most 100"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSizesReadBackAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]strictyaml.Size{"0": 0, "512": 512, "1B": 1, "64KiB": 64 << 10, "3MB": 3e6, "2GiB": 2 << 30} {
		got, err := strictyaml.ParseSize(text)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
		if again, err := strictyaml.ParseSize(got.String()); err != nil || again != got {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", got.String(), again, err, got)
		}
	}
	for _, text := range []string{"", "-1", "KiB", "9999999999999GiB", "1.5MiB"} {
		if got, err := strictyaml.ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", text, got)
		}
	}
}

func FuzzDecodeNeverPanicsAndNeverWritesARefusedFile(f *testing.F) {
	f.Add("name: a\nbackends: [{address: x, weight: 3}]\n")
	f.Add("labels: {a: b}\nby_name: {x: {}}\n? complex\n: key\n")
	f.Add("name: |\n  text\ntimeout: 5s\n<<: {name: b}\n")
	f.Fuzz(func(t *testing.T, in string) {
		into := file{Name: "before"}
		if err := strictyaml.Decode("f", []byte(in), &into); err != nil && into.Name != "before" {
			t.Errorf("a refused file wrote %q", into.Name)
		}
	})
}
