//go:build !unix

package http2

// writeFD leaves the write to the goroutine that may wait for it.
func (l *link) writeFD(uintptr) bool { return true }

// awaiter is nothing here: an idle connection gives its buffer back after a while.
func (l *link) awaiter() func(uintptr) bool { return nil }
