package http2

import "sync"

// readBuffer holds the longest frame, and as a rule all that the kernel has.
const readBuffer = 32 << 10

var readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}

func getBuffer() []byte { return readBuffers.Get().(*[readBuffer]byte)[:] }

// putBuffer takes a buffer back; nil is none.
func putBuffer(b []byte) {
	if b != nil {
		readBuffers.Put((*[readBuffer]byte)(b))
	}
}
