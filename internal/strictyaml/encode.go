package strictyaml

import "github.com/goccy/go-yaml"

// Encode writes a value as a file that Decode would read.
func Encode(v any) ([]byte, error) { return yaml.Marshal(v) }
