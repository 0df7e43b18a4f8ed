package tunnel

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/overhear-mesh/overhear/proxy/upstream"
)

const (
	smallBuffer = 2 << 10
	largeBuffer = 32 << 10

	// bulkRun is how many bytes must come in reads that a small buffer would not
	// have held, one after the other, to make a direction bulk.
	bulkRun = 256 << 10
	// spliceChunk is how much the kernel moves between two looks at how far it
	// has come, and spliceWait is how long it may wait for the next bytes: a
	// source that is slower is not bulk any more.
	spliceChunk = 256 << 10
	spliceWait  = time.Second

	// resetWait is how long a Write under way may take to tell of a reset that a Read
	// has found as an end: it has only to return.
	resetWait = time.Second
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// stop is how a direction came to its end.
type stop uint8

const (
	endOfStream stop = iota
	readFailed
	writeFailed
)

// direction copies bytes one way. It is used by one goroutine; moved may be read
// by any.
type direction struct {
	src, dst net.Conn
	from, to *net.TCPConn // the same, for the kernel to move data; nil if it cannot
	first    func()       // called before the first bytes are passed on; may be nil
	back     *direction   // the other way
	over     atomic.Bool  // dst gets no more: src has ended
	began    atomic.Bool  // src has sent something, whether dst has taken it or not
	moved    atomic.Int64 // bytes that dst has taken
	bulk     int64        // of those, bytes that the kernel has moved
	small    [smallBuffer]byte

	// writing is held by a Write to dst, and guards reset: the last one was told of a
	// reset. nil: the kernel can be asked, or dst is a stream, whose Read knows.
	writing chan struct{}
	reset   bool
}

func (d *direction) connect(src, dst net.Conn, back *direction, spliced bool) {
	d.src, d.dst, d.back = src, dst, back
	if _, resets := dst.(lingerer); resets && !upstream.TellsAborts(dst) {
		d.writing, spliced = make(chan struct{}, 1), false
	}
	if from, to := upstream.Socket(src), upstream.Socket(dst); spliced && from != nil && to != nil {
		d.from, d.to = from, to // whatever a shell has read has been passed on before data is bulk
	}
}

// run passes ahead on, and then copies.
func (d *direction) run(ahead []byte) (stop, error) {
	if len(ahead) > 0 {
		if err := d.pass(ahead); err != nil {
			return writeFailed, err
		}
	}
	return d.copy()
}

// copy moves bytes until src ends or one of them fails.
func (d *direction) copy() (stop, error) {
	buffer := d.small[:]
	var large *[largeBuffer]byte
	release := func() {
		if large != nil {
			largeBuffers.Put(large)
			large = nil
		}
	}
	defer release()
	for run := 0; ; {
		n, err := d.src.Read(buffer)
		if n > 0 {
			if err := d.pass(buffer[:n]); err != nil {
				return writeFailed, err
			}
		}
		if errors.Is(err, io.EOF) {
			return d.ended()
		}
		if err != nil {
			return readFailed, err
		}
		switch {
		case large == nil && n == smallBuffer:
			large = largeBuffers.Get().(*[largeBuffer]byte)
			buffer = large[:]
		case n <= smallBuffer:
			release()
			buffer, run = d.small[:], 0
		default:
			run += n
		}
		if run >= bulkRun && d.from != nil {
			release()
			buffer, run = d.small[:], 0
			if how, over, err := d.splice(); over {
				return how, err
			}
		}
	}
}

// ended says whether src has ended in order. A reset is told to one system call only;
// if that was a write of the other direction, a read finds what looks like an end.
func (d *direction) ended() (stop, error) {
	// In this order: a connection that both sides have ended is closed as well.
	if (upstream.Aborted(d.src) || d.back.toldOfReset()) && !d.back.over.Load() {
		return readFailed, syscall.ECONNRESET
	}
	return endOfStream, nil
}

// toldOfReset reports whether a Write has been told that dst is reset. One that does
// not return waits for room, and has not: its peer has ended and does not read.
func (d *direction) toldOfReset() bool {
	if d.writing == nil {
		return false
	}
	select {
	case d.writing <- struct{}{}:
		defer func() { <-d.writing }()
		return d.reset
	case <-time.After(resetWait):
		return false
	}
}

// pass writes what has been read.
func (d *direction) pass(b []byte) error {
	if d.first != nil {
		d.first()
		d.first = nil
	}
	d.began.Store(true) // before dst can react to it
	n, err := d.write(b)
	d.moved.Add(int64(n))
	return err
}

func (d *direction) write(b []byte) (int, error) {
	if d.writing == nil {
		return d.dst.Write(b)
	}
	d.writing <- struct{}{}
	defer func() { <-d.writing }()
	n, err := d.dst.Write(b)
	d.reset = errors.Is(err, syscall.ECONNRESET)
	return n, err
}

// splice lets the kernel move data while it keeps coming (io.CopyN between two
// TCP connections is splice(2) on Linux). It is over when the direction has
// ended.
func (d *direction) splice() (how stop, over bool, err error) {
	for {
		_ = d.from.SetReadDeadline(time.Now().Add(spliceWait))
		n, err := io.CopyN(d.to, d.from, spliceChunk)
		d.moved.Add(n)
		d.bulk += n
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF):
			how, err = d.ended()
			return how, true, err
		case errors.Is(err, os.ErrDeadlineExceeded):
			_ = d.from.SetReadDeadline(time.Time{})
			return 0, false, nil
		case isWrite(err):
			return writeFailed, true, err
		}
		return readFailed, true, err
	}
}

// isWrite guesses which side of a splice failed, for the access log: the error
// does not say. EPIPE comes from writing only; a reset is taken for the source's.
func isWrite(err error) bool { return errors.Is(err, syscall.EPIPE) }

// finish passes on an end of stream.
func (d *direction) finish() {
	d.over.Store(true) // before dst can answer with its own
	if c, ok := d.dst.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
		return
	}
	_ = d.dst.Close() // cannot say it otherwise
}
