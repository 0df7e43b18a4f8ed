// Package config reads the sidecar's bootstrap file: who this sidecar is, where
// it listens, which clusters it knows without a control plane, and where its
// control plane is.
//
// The file is YAML, read strictly (see internal/strictyaml): all that is wrong
// with it is reported at once, with line and column. Every field has a default,
// so that the shortest useful file names one listener and one cluster:
//
//	outbound:
//	  - {address: "127.0.0.1:15001", cluster: api}
//	clusters:
//	  - name: api
//	    endpoints: [{address: "10.0.0.1:8080"}, {address: "10.0.0.2:8080"}]
//
// Some settings may come from the environment too, for images whose file is the
// same everywhere: see Environment.
//
// REFERENCE.md lists every field; it is made of the types' comments.
package config

//go:generate go test -run TestTheReferenceIsComplete -update .
