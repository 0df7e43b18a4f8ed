package listener

import "errors"

// ErrNotRedirected says that nobody has redirected a connection, as far as the kernel
// knows: its peer has called this listener.
var ErrNotRedirected = errors.New("the connection has not been redirected")
