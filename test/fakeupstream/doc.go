// Package fakeupstream is a backend whose faults are switched on and off while it
// runs, for tests, simulations, and demonstrations.
//
// It speaks HTTP/1.1 (through net/http, which is not what is tested) or echoes TCP, on
// real sockets or on any network that a Listen function brings. It counts what arrives
// and when, because harm is judged at the backend: a request that a proxy retried is
// still one that came.
//
//	b, err := fakeupstream.Start(ctx, fakeupstream.Config{Address: "127.0.0.1:0"})
//	defer b.Close()
//	err = b.Set(fakeupstream.Crash())
//	err = b.Set(fakeupstream.Fault{}) // well again, on the same port
//
// # Faults
//
// A crash closes the listener and resets all connections. A listener that is closed
// alone leaves open connections answering: a different fault, that must not be taken
// for a crash. Connections that are reset alone, with a listener that stays, are none either:
// whoever calls again is served. A drain ends connections in peace, and says no to pings, while
// it serves on. A hang accepts, reads and never answers; what hung is
// answered when the fault ends. Errors and broken bodies spare pings: the gray failure
// that active checks do not see. A bounded capacity has requests wait for one another.
package fakeupstream
