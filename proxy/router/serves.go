package router

// Serves reports whether there are rules for a host, or for every host.
func (t *Table) Serves(host string) bool { return len(t.competing([]byte(host))) > 0 }
