// Package controlplane closes the loop: reports in, verdicts, endpoint sets out.
package controlplane
