package upstream_test

import (
	"net"
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// told notes what a Shared is told.
type told struct{ calls []string }

func (s *told) Expire(now, timeout time.Duration) {
	s.calls = append(s.calls, (now + timeout).String())
}
func (s *told) CloseIdle() { s.calls = append(s.calls, "close idle") }
func (s *told) Retire()    { s.calls = append(s.calls, "retire") }

func TestWhatIsKeptOfAnEndpointGoesItsWay(t *testing.T) {
	opts := upstream.DefaultOptions()
	opts.IdleTimeout = 30 * time.Second
	e := upstream.NewEndpoint("a", "10.0.0.1:80", "", 0, false, nil, nil, &opts)
	mine := &told{}
	for range 2 {
		if got := e.Shared(func() upstream.Shared { return mine }); got != mine {
			t.Errorf("got %v, want what was made first", got)
		}
	}
	e.Expire(10 * time.Second)
	e.CloseIdle()
	e.Retire()
	if want := []string{"40s", "close idle", "retire"}; !slices.Equal(mine.calls, want) {
		t.Errorf("told %q, want %q", mine.calls, want)
	}
	late := upstream.NewEndpoint("b", "10.0.0.1:80", "", 0, false, nil, nil, &opts)
	late.Retire()
	mine = &told{}
	late.Shared(func() upstream.Shared { return mine })
	if want := []string{"retire"}; !slices.Equal(mine.calls, want) {
		t.Errorf("made for a retired endpoint: told %q, want %q", mine.calls, want)
	}
}

func TestAPartThatWasLentIsNotKept(t *testing.T) {
	opts := upstream.DefaultOptions()
	e := upstream.NewEndpoint("a", "10.0.0.1:80", "", 0, false, nil, nil, &opts)
	here, there := net.Pipe()
	defer there.Close()
	c := e.Lend(here, 7)
	if c.Hash() != 7 || e.Open() != 0 {
		t.Errorf("hash %d, %d open: want 7, and none", c.Hash(), e.Open())
	}
	e.Put(c, 0)
	if e.Idle() != 0 || e.Open() != 0 {
		t.Errorf("%d idle, %d open: want none", e.Idle(), e.Open())
	}
	if _, err := here.Write(nil); err == nil {
		t.Error("the part is open")
	}
}
