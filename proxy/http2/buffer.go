package http2

import "sync"

// readBuffer holds the longest frame, and as a rule all that the kernel has.
const readBuffer = 32 << 10

// shelf keeps those that are taken and given back all the time: a connection has one
// only while there is something to read. What it has no room for goes to readBuffers,
// from where the garbage collector takes it some day.
var (
	shelf       = make(chan *[readBuffer]byte, 32)
	readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}
)

func getBuffer() []byte {
	select {
	case b := <-shelf:
		return b[:]
	default:
		return readBuffers.Get().(*[readBuffer]byte)[:]
	}
}

// putBuffer takes a buffer back; nil is none.
func putBuffer(b []byte) {
	if b == nil {
		return
	}
	select {
	case shelf <- (*[readBuffer]byte)(b):
	default:
		readBuffers.Put((*[readBuffer]byte)(b))
	}
}
