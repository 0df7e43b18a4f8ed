// Package scenarios has the stories that products are put through: a text file each,
// in the language of package world.
package scenarios

import "embed"

// Files are all scenarios.
//
//go:embed *.txt
var Files embed.FS
