//go:build !unix

package http2

// writeFD leaves the write to the goroutine that may wait for it.
func (l *link) writeFD(uintptr) bool { return true }
