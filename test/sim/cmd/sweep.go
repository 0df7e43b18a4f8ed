package main

import "io"

func sweep(o options, seeds []uint64, out io.Writer) error { return nil }
