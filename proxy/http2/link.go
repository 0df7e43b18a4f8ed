package http2

import (
	"cmp"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

const (
	// highWater is how much may wait to be written before data is held back in its
	// stream: from then on the peer, or the network, is the bottleneck.
	highWater = 256 << 10
	// drownedAt is how much may wait in all. What is not data, frames that answer
	// frames and heads, is not held back, so a peer that makes us answer without
	// reading is cut off here (CVE-2019-9512, 9514, 9515).
	drownedAt = 4 << 20

	// manyStreams is how many streams may be on one connection to an endpoint before
	// another one is opened beside it.
	manyStreams = 100

	// restAfter is how long a connection may be idle with its buffer.
	restAfter = 2 * time.Second
	// pingAgain is the wait before a peer that is silent but there is asked again.
	pingAgain = 5*time.Minute + 10*time.Second

	tableSize = 4096 // of HPACK's dynamic tables (RFC 7541), in both directions
)

var longAgo = time.Unix(1, 0)

// party is who stands behind a stream. The link's reader tells it what comes, and
// nobody holds a lock meanwhile, so that the stream may have been given up in
// between: at and the stream's own place then differ. fields and p are the
// reader's again when the call returns.
type party interface {
	onHeaders(b *batch, st *stream, at place, fields []hpack.HeaderField, end bool)
	// onData reports whether it has taken the data, and answers for its being used.
	onData(b *batch, st *stream, at place, p []byte, end bool) bool
	onReset(b *batch, st *stream, at place, c code)
	// onRoom says that the stream may send more than it could the last time.
	onRoom(b *batch, st *stream, at place)
	// onLost says that the stream ended with its connection, or was not taken.
	onLost(b *batch, st *stream, at place, l *loss)
	// visit looks at the time of a stream from a client and returns when to come
	// again.
	visit(b *batch, st *stream, at place) time.Duration
}

// place is where a stream is. Its number alone would not tell it from one of the same
// number on another link, to which its party may have gone on.
type place struct {
	link *link
	id   uint32 // 0: in no use
}

// stream is one stream on one link. It lives in the party that uses it, and again
// in the next one. Its place changes only under the locks of party and link; the
// rest is guarded by the link's.
type stream struct {
	place

	party    party
	sendWin  int64
	recvWin  int64
	debt     int64 // received, used up, and not granted anew
	length   int64 // bytes that content-length promises and that are still to come; -1: any
	waiting  bool  // in link.waiting
	sent     bool  // END_STREAM has been appended
	received bool  // END_STREAM has come
	headed   bool  // a final head has come, of a response
	answered bool  // a head has been sent, of a response
	since    time.Duration
}

// role is what makes one end of a connection differ from the other.
type role interface {
	// opened handles the header block of a stream that is new.
	opened(b *batch, l *link, id uint32, fields []hpack.HeaderField, over *fault, end bool) *fault
	// freed says that one stream less is open, or that the connection has ended. A
	// party's lock may be held.
	freed(b *batch, l *link)
	// goneAway handles GOAWAY.
	goneAway(b *batch, l *link, last uint32, c code)
	// settled says that the peer's settings have come.
	settled(b *batch, l *link)
	// visit looks at the time and returns when to come again.
	visit(b *batch, l *link) time.Duration
}

// link is one HTTP/2 connection, at either end.
type link struct {
	cfg    *Config
	clock  clock.Clock
	wheel  *wheel.Wheel
	timer  wheel.Timer
	nc     net.Conn
	raw    syscall.RawConn // nil if the connection is no socket
	role   role
	client bool   // we have opened it
	offers bool   // clients may ask for tunnels by extended CONNECT
	hash   uint32 // of an endpoint's connection

	// The reader's own.
	b           batch
	in          []byte // in[:w] has been read; nil while idle
	w           int
	first       [64]byte              // reads the first bytes while there is no buffer
	await       func(fd uintptr) bool // does without; nil if the connection is no socket
	got         int                   // what await has read
	gotErr      error
	greeted     bool // the preface has come
	settingsIn  bool // and the first SETTINGS
	dec         *hpack.Decoder
	fields      []hpack.HeaderField
	listSize    int
	crumbs      int // fields that are crumbs of a cookie, and
	pseudo      int // pseudo-headers
	over        *fault
	block       []byte // of a header block that is continued
	blockID     uint32
	blockFlags  uint8
	blockFrames int
	nuisance    budget
	resets      budget
	ahead       ahead
	resetByUs   [64]uint32
	resetNext   int

	last     atomic.Uint32 // highest stream that the peer has opened; written by the reader
	heard    atomic.Int64  // instant of the last read
	partial  atomic.Int64  // instant since which an incomplete head is waited for; Never: none
	active   atomic.Int32  // streams
	idleFrom atomic.Int64  // instant since which there has been none
	resting  atomic.Int32  // what has become of the reader's buffer: see below

	promised atomic.Bool // somebody is about to flush it; see batch.flush

	writes   []byte // being written by flush; see writeFD
	writeErr error
	write    func(fd uintptr) bool

	mu       sync.Mutex // guards what follows
	out      []byte     // frames that wait to be written
	spare    []byte
	inflight int           // bytes that a goroutine is writing
	writing  bool          // somebody writes
	closing  bool          // and then closes the connection
	wrote    chan struct{} // closed when nobody writes any more; nil: nobody wants to know
	closed   bool          // the connection is of no use any more
	why      *loss
	enc      encoder
	streams  map[uint32]*stream
	waiting  []*stream     // have data, and wait for the connection's window or for room
	nextID   uint32        // of a client
	reserved int64         // streams of a client that are about to be opened
	idleFor  time.Duration // how long it was idle before its present streams, if nothing came since
	sendWin  int64
	recvWin  int64
	debt     int64
	work     int // frames of data and heads, and
	finished int // streams that ended well, since the reader last looked
	peer     struct {
		initial   int64
		frameSize int
		streams   int64
		connects  bool // takes extended CONNECT
	}
	settled    bool          // its settings have come
	born       time.Duration // of an endpoint's connection
	lifetime   upstream.Lifetime
	aged       bool          // it has lasted as long as it may
	goingAway  bool          // GOAWAY has been received, or the last one sent
	pinged     time.Duration // when a PING was sent that is not answered; Never: none
	askedAt    time.Duration // when the last PING was sent
	pingNumber uint64
}

// The reader has its buffer, has been asked to give it back, or has done so.
const (
	wakeful int32 = iota
	asked
	rested
)

// loss is why streams end that have done nothing wrong.
type loss struct {
	cause   cause
	text    string // what the peer did wrong; "": nothing
	charged bool   // an attempt has been charged with it: it is one event
	race    bool   // the connection had been idle, and its peer may have closed it for that
	// clean: the peer has promised that it has not processed the stream.
	clean bool
}

type cause uint8

const (
	causeEnd     cause = iota // of the connection, by the peer or the network
	causeFault                // of the peer's
	causePing                 // not answered
	causeStopped              // this sidecar stops, or has given the connection up
	causeGoAway               // with an error
	causeCalm                 // GOAWAY with ENHANCE_YOUR_CALM
)

func newLink(cfg *Config, k clock.Clock, w *wheel.Wheel, nc net.Conn, r role, client bool) *link {
	l := &link{cfg: cfg, clock: k, wheel: w, nc: nc, role: r, client: client, streams: map[uint32]*stream{}}
	socket := nc
	if c, ok := nc.(*upstream.Conn); ok {
		socket, l.hash, l.lifetime = c.Conn, c.Hash(), c.Lifetime()
	}
	if s, ok := socket.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			l.raw, l.write = raw, l.writeFD
			if _, plain := socket.(*net.TCPConn); plain { // another may have bytes that the socket has not
				l.await = l.awaiter()
			}
		}
	}
	l.dec = hpack.NewDecoder(tableSize, l.emit)
	l.dec.SetMaxStringLength(2 * int(cfg.MaxHead))
	l.enc.init()
	l.sendWin, l.recvWin = initialWindow, cfg.connWindow()
	l.peer.initial, l.peer.frameSize, l.peer.streams = initialWindow, maxFrame, maxWindow
	l.nextID, l.pinged, l.askedAt = 1, wheel.Never, -pingAgain
	l.greeted = client
	now := k.Now()
	l.heard.Store(int64(now))
	l.idleFrom.Store(int64(now))
	l.partial.Store(int64(now))
	l.timer.Init(l.visit)
	l.b.now, l.born = now, now
	return l
}

// start says how we would like it.
func (l *link) start(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client {
		l.out = append(l.out, preface...)
	}
	var s []byte
	if l.client {
		s = appendSetting(s, settingPush, 0)
	} else {
		s = appendSetting(s, settingStreams, uint32(l.cfg.MaxStreams))
	}
	if l.offers {
		s = appendSetting(s, settingConnect, 1)
	}
	if l.cfg.StreamWindow != initialWindow {
		s = appendSetting(s, settingInitialWindow, uint32(l.cfg.StreamWindow))
	}
	s = appendSetting(s, settingListSize, uint32(l.cfg.MaxHead))
	l.out = append(appendFrame(l.out, len(s), frameSettings, 0, 0), s...)
	if more := l.recvWin - initialWindow; more > 0 {
		l.out = appendWindow(l.out, 0, uint32(more))
	}
	b.touch(l)
	l.wheel.Arm(&l.timer, b.now+min(l.cfg.HeadTimeout, restAfter))
}

// run reads until the connection ends, and tells everybody.
func (l *link) run() {
	b := &l.b
	for {
		n, err := l.receive()
		if n > 0 {
			b.now = l.clock.Now()
			l.heard.Store(int64(b.now))
			l.resting.CompareAndSwap(rested, wakeful)
			l.w += n
			if f := l.parse(b); f != nil {
				l.violated(b, f)
				break
			}
			b.flush()
			if l.drowned() {
				l.violated(b, errNotReading)
				break
			}
			continue
		}
		if err != nil && !l.rest() {
			break
		}
	}
	l.end(b)
}

// receive reads behind l.in[:l.w]. The buffer may be there only afterwards.
func (l *link) receive() (n int, err error) {
	switch {
	case l.await != nil && l.w == 0:
		if err := l.raw.Read(l.await); err != nil {
			return 0, err // interrupted or closed
		}
		return l.got, l.gotErr
	case l.in != nil:
		return l.nc.Read(l.in[l.w:])
	}
	if n, err = l.nc.Read(l.first[:]); n > 0 {
		l.in = getBuffer()
		copy(l.in, l.first[:n])
	}
	return n, err
}

// rest gives the buffer back and reports whether that was what the reader was
// interrupted for.
func (l *link) rest() bool {
	if l.resting.Load() != asked {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.nc.SetReadDeadline(time.Time{}) != nil {
		return false
	}
	if l.w == 0 {
		putBuffer(l.in)
		l.in = nil
	}
	l.resting.Store(rested)
	return true
}

// violated ends the connection for a fault of the peer's.
func (l *link) violated(b *batch, f *fault) {
	l.mu.Lock()
	ours := !l.closed
	if ours {
		l.out = appendGoAway(l.out, l.last.Load(), f.code)
		l.why = &loss{cause: causeFault, text: f.text}
	}
	l.mu.Unlock()
	if c, ok := l.role.(*serverConn); ok && ours {
		c.blamed(b.now, f)
	}
	b.flush()
	l.flush() // also if somebody else is about to: it must be out before the end
	l.shut(causeFault)
	l.linger()
}

// linger reads on for a moment what the peer has sent already: closing at once
// would reset the connection, and the peer might never see why.
func (l *link) linger() {
	l.mu.Lock()
	if l.writing {
		l.wrote = make(chan struct{})
	}
	wrote := l.wrote
	l.mu.Unlock()
	if wrote != nil {
		<-wrote // its deadline has been set
	}
	half, ok := l.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || l.nc.SetReadDeadline(time.Now().Add(lingerFor)) != nil {
		return
	}
	for read := 0; read < lingerBytes; {
		n, err := l.nc.Read(l.in)
		if read += n; err != nil {
			return
		}
	}
}

const (
	lingerFor   = 100 * time.Millisecond
	lingerBytes = 256 << 10
)

// shut makes the connection unusable; the first cause counts. The reader, which is
// interrupted, does the rest.
func (l *link) shut(c cause) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shutLocked(c)
}

func (l *link) shutLocked(c cause) {
	if l.closed {
		return
	}
	l.closed = true
	if l.why == nil {
		l.why = &loss{cause: c}
	}
	if c == causeEnd || c == causePing {
		_ = l.nc.SetDeadline(longAgo) // wakes the reader, and whoever writes
		return
	}
	_ = l.nc.SetReadDeadline(longAgo)
	_ = l.nc.SetWriteDeadline(time.Now().Add(lingerFor)) // for GOAWAY
}

// end is the end of the reader.
func (l *link) end(b *batch) {
	l.shut(causeEnd)
	l.wheel.Remove(&l.timer)
	l.flush() // the last answer may be waiting for whoever wrote it
	l.mu.Lock()
	l.closing = l.writing
	if !l.closing {
		_ = l.nc.Close()
	}
	l.mu.Unlock()
	putBuffer(l.in)
	l.in = nil
	b.now = l.clock.Now()
	l.mu.Lock()
	why := l.why
	type victim struct {
		id     uint32
		headed bool
	}
	victims := make([]victim, 0, len(l.streams))
	for id, st := range l.streams {
		victims = append(victims, victim{id, st.headed})
	}
	// idleFor is 0 as soon as one of them has been answered.
	if c, ok := l.role.(clientRole); ok && len(victims) > 0 && why.cause == causeEnd {
		why.race = c.p.ep.Raced(l.idleFor, b.now)
	}
	// Streams would tell of it as failures, and GOAWAY announces it.
	left := len(victims) == 0 && why.cause == causeEnd && l.settled && !l.goingAway
	l.mu.Unlock()
	if c, ok := l.role.(clientRole); ok && left {
		c.p.ep.Left(b.now-time.Duration(l.idleFrom.Load()), b.now)
	}
	// Those that await a head are told first: the loss is charged to one of them.
	slices.SortFunc(victims, func(a, b victim) int {
		if a.headed != b.headed {
			if a.headed {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.id, b.id)
	})
	for _, v := range victims {
		l.lose(b, v.id, why)
	}
	l.role.freed(b, l)
	b.flush()
}

// lose ends one stream without its doing.
func (l *link) lose(b *batch, id uint32, why *loss) {
	l.mu.Lock()
	st := l.streams[id]
	if st == nil {
		l.mu.Unlock()
		return
	}
	told := st.party
	l.removeLocked(st)
	l.mu.Unlock()
	told.onLost(b, st, place{l, id}, why)
}
