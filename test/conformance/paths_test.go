package conformance

import (
	"context"
	"net"

	"github.com/overhear-mesh/overhear/proxy"
)

// paths are the two ways in which a sidecar moves bytes: on the descriptors of its sockets,
// and by Read and Write of connections that show it none.
var paths = []struct {
	name    string
	options proxy.Options
}{
	{"descriptors", proxy.Options{}},
	{"connections", proxy.Options{Dial: dialBare, Listen: listenBare}},
}

// bare is a TCP connection that shows no descriptor. It can end its half of the stream,
// and reset it: a connection that cannot has no way to say that what it brought is cut.
type bare struct {
	net.Conn
	half interface {
		CloseWrite() error
		SetLinger(sec int) error
	}
}

func (b bare) CloseWrite() error       { return b.half.CloseWrite() }
func (b bare) SetLinger(sec int) error { return b.half.SetLinger(sec) }

func bareOf(c net.Conn) net.Conn { return bare{c, c.(*net.TCPConn)} }

func dialBare(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return bareOf(c), nil
}

func listenBare(ctx context.Context, network, address string) (net.Listener, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, network, address)
	return bareListener{ln}, err
}

type bareListener struct{ net.Listener }

func (l bareListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return bareOf(c), nil
}
