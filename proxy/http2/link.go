package http2

import (
	"cmp"
	"encoding/binary"
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
// between: id and the stream's own number then differ. fields and p are the
// reader's again when the call returns.
type party interface {
	onHeaders(b *batch, st *stream, id uint32, fields []hpack.HeaderField, end bool)
	onData(b *batch, st *stream, id uint32, p []byte, end bool)
	onReset(b *batch, st *stream, id uint32, c code)
	// onRoom says that the stream may send more than it could the last time.
	onRoom(b *batch, st *stream, id uint32)
	// onLost says that the stream ended with its connection, or was not taken.
	onLost(b *batch, st *stream, id uint32, l *loss)
	// visit looks at the time of a stream from a client and returns when to come
	// again.
	visit(b *batch, st *stream, id uint32) time.Duration
}

// stream is one stream on one link. It lives in the party that uses it, and again
// in the next one. link and id change only under the locks of party and link; the
// rest is guarded by the link's.
type stream struct {
	link *link
	id   uint32 // 0: in no use

	party    party
	sendWin  int64
	recvWin  int64
	debt     int64 // received, used up, and not granted anew
	length   int64 // bytes that content-length promises and that are still to come; -1: any
	waiting  bool  // in link.waiting
	sent     bool  // END_STREAM has been appended
	received bool  // END_STREAM has come
	headed   bool  // a final head has come, of a response
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
	hash   uint32 // of an endpoint's connection

	// The reader's own.
	b           batch
	in          []byte // in[:w] has been read; nil while idle
	w           int
	first       [64]byte // reads the first bytes while there is no buffer
	greeted     bool     // the preface has come
	settingsIn  bool     // and the first SETTINGS
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
	resetByUs   [64]uint32
	resetNext   int

	last     atomic.Uint32 // highest stream that the peer has opened; written by the reader
	heard    atomic.Int64  // instant of the last read
	partial  atomic.Int64  // instant since which an incomplete head is waited for; Never: none
	active   atomic.Int32  // streams
	idleFrom atomic.Int64  // instant since which there has been none
	resting  atomic.Int32  // what has become of the reader's buffer: see below

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
	}
	settled    bool          // its settings have come
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
	charged bool // an attempt has been charged with it: it is one event
	race    bool // the connection had been idle, and its peer may have closed it for that
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
		socket, l.hash = c.Conn, c.Hash()
	}
	if s, ok := socket.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			l.raw, l.write = raw, l.writeFD
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
	l.b.now = now
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
		buf := l.in
		if buf == nil {
			buf = l.first[:]
		}
		n, err := l.nc.Read(buf[l.w:])
		if n > 0 {
			b.now = l.clock.Now()
			l.heard.Store(int64(b.now))
			if l.in == nil {
				l.in = getBuffer()
				copy(l.in, l.first[:n])
			}
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
	if !l.closed {
		l.out = appendGoAway(l.out, l.last.Load(), f.code)
	}
	l.mu.Unlock()
	b.touch(l)
	b.flush()
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
	why.race = l.idleFor >= raceAfter && why.cause == causeEnd
	type victim struct {
		id     uint32
		headed bool
	}
	victims := make([]victim, 0, len(l.streams))
	for id, st := range l.streams {
		victims = append(victims, victim{id, st.headed})
	}
	l.mu.Unlock()
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

const raceAfter = time.Second

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
	told.onLost(b, st, id, why)
}

// addLocked opens a stream.
func (l *link) addLocked(b *batch, st *stream, id uint32, p party, length int64) {
	*st = stream{link: l, id: id, party: p, sendWin: l.peer.initial, recvWin: int64(l.cfg.StreamWindow), length: length}
	l.streams[id] = st
	if l.active.Add(1) == 1 {
		l.idleFor = b.now - time.Duration(l.idleFrom.Load())
	}
	if l.cfg.PingAfter > 0 {
		l.wheel.Arm(&l.timer, b.now+l.cfg.PingAfter)
	}
}

// removeLocked closes a stream for good. The caller sees to it that role.freed is
// called.
func (l *link) removeLocked(st *stream) {
	delete(l.streams, st.id)
	if st.waiting {
		st.waiting = false
		l.waiting = slices.DeleteFunc(l.waiting, func(other *stream) bool { return other == st })
	}
	if l.active.Add(-1) == 0 {
		now := l.clock.Now()
		l.idleFrom.Store(int64(now))
		l.wheel.Arm(&l.timer, now+restAfter)
	}
}

// closeLocked removes a stream if both sides have ended.
func (l *link) closeLocked(st *stream) bool {
	if !st.sent || !st.received {
		return false
	}
	l.removeLocked(st)
	l.finished++
	return true
}

// acceptsLocked reports whether a stream may be opened. A peer that has not said how
// many it takes is not sent any: a server that hangs, whose kernel takes connections,
// then has seen nothing of the requests, and any of them may be tried elsewhere.
func (l *link) acceptsLocked() bool {
	return !l.closed && !l.goingAway && l.settled && int64(l.active.Load())+l.reserved < l.peer.streams
}

// expect is told that a final head has come, which promises so many bytes; -1: any
// number.
func (l *link) expect(st *stream, length int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st.headed, st.length = true, length
	l.idleFor = 0
}

// room is how much data may be appended.
func (l *link) room() int { return highWater - len(l.out) - l.inflight }

// send appends as much of p as the windows allow, and reports how much that is. end
// ends the stream behind p. Of what is left, onRoom tells when to try again.
func (l *link) send(b *batch, st *stream, p []byte, end bool) (n int) {
	l.mu.Lock()
	n, freed := l.sendLocked(st, p, end)
	l.mu.Unlock()
	b.touch(l)
	if freed {
		l.role.freed(b, l)
	}
	return n
}

func (l *link) sendLocked(st *stream, p []byte, end bool) (n int, freed bool) {
	if l.closed || st.sent {
		return len(p), false // whoever sends is about to be told
	}
	if len(p) == 0 && !end {
		return 0, false
	}
	for {
		k := min(len(p)-n, l.peer.frameSize, int(min(st.sendWin, l.sendWin, int64(l.room()))))
		last := end && k == len(p)-n
		if k <= 0 && (!last || len(p) > n) {
			break
		}
		flags := uint8(0)
		if last {
			flags = flagEndStream
		}
		l.out = append(appendFrame(l.out, k, frameData, flags, st.id), p[n:n+k]...)
		n += k
		st.sendWin -= int64(k)
		l.sendWin -= int64(k)
		l.work++
		if last {
			st.sent = true
			return n, l.closeLocked(st)
		}
		if n == len(p) {
			return n, false
		}
	}
	if st.sendWin > 0 && !st.waiting {
		st.waiting = true
		l.waiting = append(l.waiting, st)
	}
	return n, false
}

// sendHead appends a header block that encode writes; trailers are one, too.
func (l *link) sendHead(b *batch, st *stream, end bool, encode func(*encoder)) {
	l.mu.Lock()
	freed := l.sendHeadLocked(st, end, encode)
	l.mu.Unlock()
	b.touch(l)
	if freed {
		l.role.freed(b, l)
	}
}

func (l *link) sendHeadLocked(st *stream, end bool, encode func(*encoder)) (freed bool) {
	if l.closed || st.sent {
		return false
	}
	l.enc.begin()
	encode(&l.enc)
	l.appendBlock(st.id, l.enc.block(), end)
	l.work++
	if !end {
		return false
	}
	st.sent = true
	return l.closeLocked(st)
}

// appendBlock frames a header block (RFC 9113, section 4.3).
func (l *link) appendBlock(id uint32, block []byte, end bool) {
	flags := uint8(0)
	if end {
		flags = flagEndStream
	}
	for t := frameHeaders; ; t, flags = frameContinuation, 0 {
		k := min(len(block), l.peer.frameSize)
		if k == len(block) {
			flags |= flagEndHeaders
		}
		l.out = append(appendFrame(l.out, k, t, flags, id), block[:k]...)
		if block = block[k:]; len(block) == 0 {
			return
		}
	}
}

// reset ends a stream in both directions, if it is open.
func (l *link) reset(b *batch, st *stream, c code) {
	l.mu.Lock()
	open := l.streams[st.id] == st
	if open {
		l.resetLocked(st, c)
	}
	l.mu.Unlock()
	if open {
		b.touch(l)
		l.role.freed(b, l)
	}
}

func (l *link) resetLocked(st *stream, c code) {
	l.removeLocked(st)
	l.forgetLocked(st.id)
	l.out = appendReset(l.out, st.id, c)
}

// forgetLocked remembers that frames of a stream may be under way which are
// nobody's fault.
func (l *link) forgetLocked(id uint32) {
	l.resetByUs[l.resetNext%len(l.resetByUs)] = id
	l.resetNext++
}

// used says that n bytes that came on a stream have found their place, so that the
// peer may send as many anew.
func (l *link) used(b *batch, st *stream, id uint32, n int) {
	if n == 0 {
		return
	}
	l.mu.Lock()
	granted := l.usedLocked(st, id, int64(n))
	l.mu.Unlock()
	if granted {
		b.touch(l)
	}
}

// usedLocked grants what has been used once it is half of a window: a frame for
// each frame would cost both sides more than it brings.
func (l *link) usedLocked(st *stream, id uint32, n int64) (granted bool) {
	if l.closed {
		return false
	}
	if l.debt += n; l.debt >= l.cfg.connWindow()/2 {
		l.out = appendWindow(l.out, 0, uint32(l.debt))
		l.recvWin += l.debt
		l.debt, granted = 0, true
	}
	if st == nil || l.streams[id] != st || st.received {
		return granted
	}
	if st.debt += n; st.debt >= int64(l.cfg.StreamWindow)/2 {
		l.out = appendWindow(l.out, id, uint32(st.debt))
		st.recvWin += st.debt
		st.debt, granted = 0, true
	}
	return granted
}

// resume lets those send that waited.
func (l *link) resume(b *batch) {
	for {
		l.mu.Lock()
		if l.closed || len(l.waiting) == 0 || l.sendWin <= 0 || l.room() <= 0 {
			l.mu.Unlock()
			return
		}
		st := l.waiting[0]
		l.waiting = slices.Delete(l.waiting, 0, 1)
		st.waiting = false
		id, p := st.id, st.party
		l.mu.Unlock()
		p.onRoom(b, st, id)
	}
}

// flush writes what waits, unless somebody does already: then he does it. It never
// waits for the peer.
func (l *link) flush() {
	l.mu.Lock()
	for !l.writing && !l.brokenLocked() && len(l.out) > 0 {
		buf := l.out
		l.out, l.spare = l.spare[:0], nil
		l.writing = true
		l.mu.Unlock()
		rest, err := l.try(buf)
		l.mu.Lock()
		switch {
		case err != nil:
			l.writing = false
			l.shutLocked(causeEnd)
		case len(rest) > 0:
			l.inflight = len(rest)
			l.mu.Unlock()
			go l.finish(rest)
			return
		default:
			l.writing = false
			l.keepLocked(buf)
		}
	}
	l.writtenLocked()
	l.mu.Unlock()
}

// brokenLocked reports whether nothing can be written any more. A connection that is
// shut for a fault still says so.
func (l *link) brokenLocked() bool {
	return l.closed && (l.why == nil || l.why.cause != causeFault && l.why.cause != causeStopped)
}

// keepLocked keeps a buffer for the next time, unless it is a large one.
func (l *link) keepLocked(buf []byte) {
	if cap(buf) <= 64<<10 {
		l.spare = buf[:0]
	}
}

// try writes what the socket takes at once; of a connection that is none, nothing.
func (l *link) try(buf []byte) (rest []byte, err error) {
	if l.raw == nil {
		return buf, nil
	}
	l.writes, l.writeErr = buf, nil
	if err := l.raw.Write(l.write); err != nil {
		return nil, err
	}
	rest = l.writes
	l.writes = nil
	return rest, l.writeErr
}

// finish writes what a socket did not take at once, and what has come to it since.
// There is at most one such goroutine for a connection, and none as long as the
// peer reads.
func (l *link) finish(buf []byte) {
	b := batch{}
	for {
		n, err := l.nc.Write(buf)
		b.now = l.clock.Now()
		l.mu.Lock()
		l.inflight -= n
		if err != nil {
			l.writing, l.inflight = false, 0
			l.shutLocked(causeEnd)
			l.writtenLocked()
			l.mu.Unlock()
			return
		}
		l.keepLocked(buf)
		if len(l.out) == 0 {
			l.writing = false
			l.writtenLocked()
			l.mu.Unlock()
			l.resume(&b)
			b.flush()
			return
		}
		buf = l.out
		l.out, l.spare = l.spare[:0], nil
		l.inflight = len(buf)
		l.mu.Unlock()
		l.resume(&b)
	}
}

// writtenLocked tells who waits for the end of writing, and closes the connection, if
// the reader has left that to the writer.
func (l *link) writtenLocked() {
	if l.writing {
		return
	}
	if l.wrote != nil {
		close(l.wrote)
		l.wrote = nil
	}
	if l.closing {
		_ = l.nc.Close()
	}
}

// visit is the wheel's.
func (l *link) visit(now time.Duration) time.Duration {
	b := batch{now: now}
	next := min(l.visitSelf(&b), l.role.visit(&b, l))
	b.flush()
	return next
}

// drowned reports whether more waits to be written than a peer that reads would let
// come together.
func (l *link) drowned() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.out)+l.inflight > drownedAt
}

// visitSelf looks at what concerns the connection as such.
func (l *link) visitSelf(b *batch) time.Duration {
	now := b.now
	next := wheel.Never
	if since := time.Duration(l.partial.Load()); since != wheel.Never {
		if due := since + l.cfg.HeadTimeout; now >= due {
			l.shut(causeFault)
		} else {
			next = min(next, due)
		}
	}
	heard, active := time.Duration(l.heard.Load()), l.active.Load() > 0
	if !active {
		if due := max(heard, time.Duration(l.idleFrom.Load())) + restAfter; now < due {
			next = min(next, due)
		} else if l.resting.CompareAndSwap(wakeful, asked) {
			_ = l.nc.SetReadDeadline(longAgo)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return wheel.Never
	}
	if l.pinged != wheel.Never {
		if now >= l.pinged+l.cfg.PingTimeout {
			l.shutLocked(causePing)
			return wheel.Never
		}
		return min(next, l.pinged+l.cfg.PingTimeout)
	}
	if !active || l.cfg.PingAfter == 0 {
		return next
	}
	// A peer that has said something since may be asked as after the first time.
	due := heard + l.cfg.PingAfter
	if l.askedAt >= heard-l.cfg.PingTimeout {
		due = max(due, l.askedAt+pingAgain)
	}
	if now < due {
		return min(next, due)
	}
	l.pinged, l.askedAt = now, now
	l.pingNumber++
	var data [8]byte
	binary.BigEndian.PutUint64(data[:], l.pingNumber)
	l.out = appendPing(l.out, 0, data)
	b.touch(l)
	return min(next, now+l.cfg.PingTimeout)
}
