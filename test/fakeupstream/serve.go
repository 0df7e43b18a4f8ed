package fakeupstream

import (
	"io"
	"net/http"
	"strconv"
)

// serveHTTP answers one request.
func (b *Backend) serveHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(connKey{}).(*conn)
	ping := b.cfg.Ping(r)
	a := b.record.arrived(Arrival{Path: r.URL.Path, Ping: ping, Conn: c.id})
	defer b.record.left()
	w.Header().Set("x-upstream", b.cfg.Name)
	_, _ = io.Copy(io.Discard, r.Body) // a request cut short is answered like any other
	f, ok := b.await(r.Context().Done(), r.URL.Path, ping)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	switch {
	case ping && f.Drains:
		b.record.failed(a)
		f.Status = http.StatusServiceUnavailable
		b.fail(w, &f)
	case !ping && b.roll(f.ErrorRate):
		b.record.failed(a)
		if b.cfg.Failure != nil {
			b.cfg.Failure.ServeHTTP(w, r)
			return
		}
		b.fail(w, &f)
	case !ping && f.Body != Whole:
		b.record.failed(a)
		b.half(w, r, c, f.Body)
	case b.cfg.Handler != nil:
		b.cfg.Handler.ServeHTTP(w, r)
	default:
		w.Header().Set("content-length", strconv.Itoa(len(b.cfg.Body)))
		_, _ = w.Write(b.cfg.Body) // the client may have left
	}
}

func (b *Backend) fail(w http.ResponseWriter, f *Fault) {
	for name, values := range f.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	status := f.Status
	if status == 0 {
		status = http.StatusInternalServerError
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "injected\n") // the client may have left
}

// half begins an answer. A stalled one is completed if the fault ends first.
func (b *Backend) half(w http.ResponseWriter, r *http.Request, c *conn, how Body) {
	body := b.cfg.Body
	if len(body) < 2 {
		body = []byte("body\n")
	}
	w.Header().Set("content-length", strconv.Itoa(len(body)))
	_, _ = w.Write(body[:len(body)/2]) // the client may have left
	_ = http.NewResponseController(w).Flush()
	if how == Cut {
		c.cut()
		panic(http.ErrAbortHandler)
	}
	b.stall(r.Context().Done())
	_, _ = w.Write(body[len(body)/2:])
}

// cut makes the end of the connection a reset.
func (c *conn) cut() {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0) // fails on a connection that has gone by itself
	}
}

// echo serves one TCP connection. Its first bytes count as the request.
func (b *Backend) echo(c *conn) {
	defer c.Close()
	buf := make([]byte, 32<<10)
	first := true
	for {
		n, err := c.Read(buf)
		if n > 0 && !b.answer(c, buf[:n], first) {
			return
		}
		first = first && n == 0
		if err != nil {
			return
		}
	}
}

// answer sends what was read back; false: the connection is to end.
func (b *Backend) answer(c *conn, data []byte, first bool) bool {
	a := -1
	if first {
		a = b.record.arrived(Arrival{Conn: c.id})
		defer b.record.left()
	}
	f, ok := b.await(c.gone, "", false)
	if !ok {
		return false
	}
	switch {
	case first && b.roll(f.ErrorRate):
		b.record.failed(a)
		return false
	case f.Body == Cut:
		b.record.failed(a)
		_, _ = c.Write(data[:(len(data)+1)/2]) // the client may have left
		c.cut()
		return false
	case f.Body == Stalled:
		b.record.failed(a)
		half := (len(data) + 1) / 2
		if _, err := c.Write(data[:half]); err != nil {
			return false
		}
		b.stall(c.gone)
		data = data[half:]
	}
	_, err := c.Write(data)
	return err == nil
}
