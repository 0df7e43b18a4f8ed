package router

// Empty reports whether there are no rules.
func (t *Table) Empty() bool { return len(t.routes) == 0 }

// Serves reports whether there are rules for a host, or for every host.
func (t *Table) Serves(host string) bool { return len(t.competing([]byte(host))) > 0 }
