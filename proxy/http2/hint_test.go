package http2

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"
)

func TestAnIdleConnectionThatEndsWithoutGoAwayIsAHint(t *testing.T) {
	for _, tt := range []struct {
		name string
		ends func(a *raw)
		want uint64
	}{
		{"closed", func(a *raw) { a.Close() }, 1},
		{"GOAWAY, then closed", func(a *raw) { _ = a.WriteGoAway(1<<31-1, xhttp2.ErrCodeNo, nil); a.Close() }, 0},
		{"nothing", func(*raw) {}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var server *raw
			inRig(t, nil, func(r *rig) {
				r.check(r.get(), 200, "*", "-", "10.0.1.1 ok")
				time.Sleep(2 * time.Second)
				tt.ends(server)
				synctest.Wait()
				if got := r.cluster.Stats().Hints; got != tt.want {
					t.Errorf("%d hints, want %d", got, tt.want)
				}
			}, misbehaves(t, func(a *raw) {
				if server == nil {
					server = a
				}
				a.each(func(f *xhttp2.MetaHeadersFrame) {
					a.answer(f.StreamID)
				})
			}))
		})
	}
}

// Its streams are the news then.
func TestAConnectionThatIsLostWithItsStreamsIsNoHint(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		r.get()
		if got := r.cluster.Stats().Hints; got != 0 {
			t.Errorf("%d hints, want none", got)
		}
	}, misbehaves(t, func(a *raw) {
		a.each(func(*xhttp2.MetaHeadersFrame) { a.Close() })
	}), func(c net.Conn, _ int) { c.Close() })
}

func TestAConnectionThatWeCloseIsNoHint(t *testing.T) {
	inRig(t, func(o *options) { o.cluster.IdleTimeout = 10 * time.Second }, func(r *rig) {
		r.check(r.get(), 200, "ok", "-", "10.0.1.1 ok")
		time.Sleep(time.Minute)
		if got := r.cluster.Stats().Hints; got != 0 {
			t.Errorf("%d hints, want none", got)
		}
	}, says("ok"))
}
