package upstream

import (
	"net"
	"time"
)

// tune sets the socket options of a new connection. A connection that refuses
// one is still a connection, so errors are of no interest.
func tune(c net.Conn, opts *Options) {
	tcp, ok := c.(*net.TCPConn) // which has TCP_NODELAY from its birth
	if !ok || opts.KeepAlive <= 0 {
		return
	}
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable:   true,
		Idle:     opts.KeepAlive,
		Interval: max(time.Second, opts.KeepAlive/3),
		Count:    3,
	})
	setUserTimeout(tcp, 2*opts.KeepAlive)
}
