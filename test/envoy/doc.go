// Package envoy finds and runs a real, unmodified Envoy for tests.
package envoy
