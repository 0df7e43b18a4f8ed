package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/pprof"
)

// profileOf names the file for the profile of a process; each turn of the same server
// overwrites it.
func (o options) profileOf(f feed, process string) string {
	if o.profile == "" {
		return ""
	}
	return filepath.Join(o.profile, f.name+"-"+process+".pprof")
}

// startProfile has CPU time profiled into a file until stop is called; "": not at all.
func startProfile(name string) (stop func() error, err error) {
	if name == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}
