package http1

import (
	"net"
	"sync"
)

const (
	// smallBuffer holds a 16 KiB body with its head. It is a size class of the Go
	// allocator.
	smallBuffer = 18 << 10
	// largeBuffer holds a head and a body of the default limits, and carries bulk
	// in fewer system calls.
	largeBuffer = 144 << 10
	// copyMax is how much data is copied behind a head, to leave in the same
	// write, rather than gathered by the kernel.
	copyMax = 4 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

// getBuffer returns a buffer of at least n bytes, with garbage in it.
func getBuffer(n int) []byte {
	switch {
	case n <= smallBuffer:
		return smallBuffers.Get().(*[smallBuffer]byte)[:]
	case n <= largeBuffer:
		return largeBuffers.Get().(*[largeBuffer]byte)[:]
	}
	return make([]byte, n)
}

// putBuffer takes a buffer back; nil is none.
func putBuffer(b []byte) {
	switch cap(b) {
	case smallBuffer:
		smallBuffers.Put((*[smallBuffer]byte)(b[:smallBuffer]))
	case largeBuffer:
		largeBuffers.Put((*[largeBuffer]byte)(b[:largeBuffer]))
	}
}

// keepSmall is b if it is a small buffer; any other is taken back.
func keepSmall(b []byte) []byte {
	if cap(b) == smallBuffer {
		return b[:smallBuffer]
	}
	putBuffer(b)
	return nil
}

// changeBuffer takes b back, and returns one of at least n bytes that begins with b[:w].
func changeBuffer(b []byte, w, n int) []byte {
	other := getBuffer(n)
	copy(other, b[:w])
	putBuffer(b)
	return other
}

// outbox writes a message: what is in head goes out together with data.
type outbox struct {
	head  []byte
	parts [3][]byte
	vec   net.Buffers
}

// send writes head, data and tail as one, and leaves head as it is.
func (o *outbox) send(to net.Conn, data, tail []byte) (n int64, err error) {
	if p := o.join(data, tail); p != nil {
		k, err := to.Write(p)
		return int64(k), err
	}
	o.vec = append(o.parts[:0], o.head, data, tail)
	n, err = o.vec.WriteTo(to)
	o.parts = [3][]byte{}
	return n, err
}

// join returns head, data and tail in one piece, nil if they are better gathered.
func (o *outbox) join(data, tail []byte) []byte {
	switch rest := len(data) + len(tail); {
	case rest == 0:
		return o.head
	case len(o.head) == 0 && len(tail) == 0:
		return data
	case rest <= copyMax && rest <= cap(o.head)-len(o.head):
		return append(append(o.head, data...), tail...)
	}
	return nil
}
