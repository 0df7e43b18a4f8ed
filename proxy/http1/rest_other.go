//go:build !unix

package http1

import "net"

// rester is nothing here: an idle connection gives its buffers back after a while.
type rester struct{}

func newRester(*conn, net.Conn) *rester { return nil }

func (r *rester) read() (int, error) { return 0, nil }

func (r *rester) park() int { return 0 }
