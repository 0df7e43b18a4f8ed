// Package mesh runs whole meshes in virtual time: real sidecars, the real control
// plane, real reports over gRPC and real xDS, on an in-memory network, inside a
// testing/synctest bubble. Nothing is modelled but the network, the backends and the
// users.
//
//	synctest.Test(t, func(t *testing.T) {
//		m := mesh.Start(t, mesh.Config{Callers: 5, Endpoints: 6, Rate: 50})
//		m.Wait(10 * time.Second)
//		began := m.Now()
//		m.Endpoints[2].Set(fakeupstream.Crash())
//		m.Wait(time.Second)
//		r := m.Removal(2, began, m.Now()) // who left it when, and what it cost
//		…
//	})
//
// The tests of this package are the scenarios of the first complete mesh. They print
// their figures as tables:
//
//	go test ./test/sim/mesh -v            # about a minute on two cores
//	go test ./test/sim/mesh -v -long      # five times as many runs of each scenario
//	go test ./test/sim/mesh -v -run Crash
//
// # Words
//
// A Caller is a host with users and the sidecar through which they reach the service
// "api". An Endpoint is a host that offers it: an application, and in front of it a
// sidecar of its own if Config.Inbound says so. Users send an open load: requests come
// when the dice say, whether or not the earlier ones are answered. The Ledger has
// every attempt, as the sidecars' access logs tell it, every request, as users saw
// it, and every change of belief of a sidecar.
//
// # Time
//
// A bubble's clock stands still while anything computes, so that a figure is what the
// network's latency, the timers and the rules make of it, and CPU time is no part of
// it. Two runs with one seed are alike but not equal: goroutines are scheduled as they
// come, and gRPC throws dice of its own.
package mesh
