// Command controlplane runs the control plane of a mesh, and talks to a running
// one for its operators.
package main

func main() {}
