// Package discovery brings clusters and their endpoints to the routes that name
// them, from the sidecar's file or from a control plane over xDS.
//
// A name leads to the same *cluster.Cluster for as long as the sidecar runs,
// whether the control plane has told of it yet or not: until then the cluster is
// there and has no endpoints. A cluster of the file hides one of the same name
// that the control plane offers.
//
// # Listeners
//
// A control plane may also tell of listeners and their routes, as standard xDS
// resources: package translation makes of them what the file would say, or refuses
// them. Nothing breaks on the way from one state of the world to the next, in whatever
// order its parts come: a listener waits for its routes, and routes wait for their
// clusters' endpoints, for as long as a resource that was asked for may take; what ran
// before goes on meanwhile. A cluster that is withdrawn while routes still lead to it
// stays for as long.
//
// # Without a control plane
//
// What was accepted last is kept in a file in the state directory. A sidecar
// that starts while the control plane is away serves from it at once, however old
// it is: old endpoints are better than none, and detection goes on. The control
// plane's first answer takes its place. While a control plane is away, what it
// said last stays in force; only a cluster that it has withdrawn by name is gone.
package discovery
