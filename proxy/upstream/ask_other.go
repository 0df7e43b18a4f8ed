//go:build !unix

package upstream

// ask is nothing here.
type ask struct{ call func(fd uintptr) bool }

// Ask writes request and reads what follows it into answer, as Write and then Read
// would. sent says how much of the request has been written: if that is not all,
// nothing has been read, and err is of writing.
func (c *Conn) Ask(request, answer []byte) (sent, n int, err error) {
	return c.writeThenRead(request, answer)
}

func (c *Conn) askFD(uintptr) bool { return true }
