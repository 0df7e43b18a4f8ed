// Package cputime says what a benchmark or a test has cost where the clock on the wall
// says little, because others are busy on the machine.
package cputime

import (
	"syscall"
	"time"
)

// Used is the CPU time that this process has used.
func Used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it knows only wrong arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
