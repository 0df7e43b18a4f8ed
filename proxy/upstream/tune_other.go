//go:build !linux

package upstream

import (
	"net"
	"time"
)

// setUserTimeout has no portable form; a vanished host costs the attempt's
// own time-out here.
func setUserTimeout(*net.TCPConn, time.Duration) {}
