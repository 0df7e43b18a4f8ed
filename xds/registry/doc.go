// Package registry knows which endpoints exist when all is well.
//
// Its source is one YAML file, the mesh file. It names services and, below
// each, the endpoints that offer it; it says nothing of their health, which is
// for others to find out. A [Registry] reads the file, looks at it again each
// second, and tells whoever listens that there is another [Mesh].
//
// # Words
//
// A service is what callers name. An endpoint is one address that offers it.
// An instance is the identity of an endpoint: a restarted instance on another
// port is the same endpoint, another instance on a reused port is not. Without
// an instance id the address is the identity.
//
// Draining and removal are different news. A draining endpoint is known, gets
// no new request, finishes what it has, and its failures count for nothing. A
// removed one is forgotten, together with everything that anyone learned of it.
// Whoever takes an endpoint down in peace first sets draining, and removes it
// later.
//
// # The file
//
// All that is not said has a default; see [Service] and [Endpoint].
//
//	detection:                     # where each service's own block starts from
//	  leave_out: 1
//	  outlier: {max_out: 50%}
//	services:
//	  - name: api
//	    protocol: http1            # or http2, grpc, tcp
//	    listen: 127.0.0.1:8080     # where Envoys that we configure take callers
//	    hosts: [api.internal]
//	    ping: {kind: http, path: /healthz}
//	    balancer: {policy: maglev, bounded_load: 1.25}
//	    hash: [{header: x-user}]
//	    detection: {outlier: {mode: shadow}}
//	    endpoints:
//	      - {address: "10.0.0.1:8080", instance: api-1, zone: a, node: n1, inbound: true}
//	      - {address: "10.0.0.2:8080", instance: api-2, zone: b, node: n2, draining: true}
//
// # Reload
//
// A mesh file that cannot be read, decoded or validated changes nothing: the
// mesh of before stays current, [Registry.Status] holds every problem of the
// file with line and column, and the count of failed reloads goes up. An
// endpoint list that became empty by accident would take a service down, so a
// file is believed as a whole or not at all.
package registry
