// Package arch holds the rules of the house: which room may import which.
//
// The rules are checked by parsing the source files, not by asking the go
// command, whose answer a cached test would not notice to have changed.
package arch
