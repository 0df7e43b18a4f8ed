package http2

// flush writes what waits, unless somebody does already: then he does it. It never
// waits for the peer. It reports whether there are streams that may go on now.
func (l *link) flush() (room bool) {
	l.mu.Lock()
	l.promised.Store(false) // from here on nobody may count on what is done here
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
			return false
		default:
			l.writing = false
			l.keepLocked(buf)
		}
	}
	room = len(l.waiting) > 0 && !l.writing
	l.writtenLocked()
	l.mu.Unlock()
	return room
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
		b.flush()
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

// drowned reports whether more waits to be written than a peer that reads would let
// come together.
func (l *link) drowned() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.out)+l.inflight > drownedAt
}
