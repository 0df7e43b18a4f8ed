package pipenet

import (
	"net"
	"net/netip"
	"sync"
)

// A Listener accepts connections on one address of one host.
type Listener struct {
	host   *Host
	at     netip.AddrPort
	queue  chan *Conn
	once   sync.Once
	closed chan struct{}
}

// Accept returns the oldest connection that nobody has accepted.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, l.errClosed("accept")
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, l.errClosed("accept")
	}
}

// Close frees the address and resets what waits in the queue. Accepted connections
// live on.
func (l *Listener) Close() error {
	err := l.errClosed("close")
	l.once.Do(func() {
		err = nil
		l.host.net.mu.Lock()
		delete(l.host.listeners, l.at)
		l.host.net.mu.Unlock()
		close(l.closed)
		l.sweep()
	})
	return err
}

// Addr is the bound address, as *net.TCPAddr.
func (l *Listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

// sweep resets what is left in the queue of a closed listener.
func (l *Listener) sweep() {
	select {
	case <-l.closed:
	default:
		return
	}
	for {
		select {
		case c := <-l.queue:
			_ = c.Reset() // nobody else has it
		default:
			return
		}
	}
}

func (l *Listener) errClosed(op string) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
}
