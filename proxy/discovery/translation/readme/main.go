// Command readme writes the tables of xDS fields into a document, between two marks.
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/overhear-mesh/overhear/proxy/discovery/translation"
)

const (
	begin = "<!-- xds fields: written by go generate, do not edit -->\n"
	end   = "<!-- end of xds fields -->\n"
)

func main() {
	if len(os.Args) != 2 {
		fail("want the name of one file")
	}
	path := os.Args[1]
	text, err := os.ReadFile(path)
	if err != nil {
		fail("%v", err)
	}
	head, rest, found := bytes.Cut(text, []byte(begin))
	_, tail, ended := bytes.Cut(rest, []byte(end))
	if !found || !ended {
		fail("%s has no marks to write between", path)
	}
	out := bytes.Join([][]byte{head, []byte(begin), []byte(translation.Markdown()), []byte(end), tail}, nil)
	if bytes.Equal(out, text) {
		return
	}
	if err := os.WriteFile(path, out, 0o644); err != nil { //nolint:gosec // a document
		fail("%v", err)
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "readme: "+format+"\n", args...)
	os.Exit(1)
}
