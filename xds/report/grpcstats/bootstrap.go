package grpcstats

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/xds/bootstrap"
)

// The variables by which gRPC finds its bootstrap (gRFC A27): the first names a file, the
// second has the content.
const (
	bootstrapFile    = "GRPC_XDS_BOOTSTRAP"
	bootstrapContent = "GRPC_XDS_BOOTSTRAP_CONFIG"
)

// identity is what a bootstrap says that matters here.
type identity struct {
	Servers []struct {
		URI   string `json:"server_uri"`
		Creds []struct {
			Type   string          `json:"type"`
			Config json.RawMessage `json:"config"`
		} `json:"channel_creds"`
	} `json:"xds_servers"`
	Node struct {
		ID       string `json:"id"`
		Locality struct {
			Region string `json:"region"`
			Zone   string `json:"zone"`
		} `json:"locality"`
	} `json:"node"`
}

// load reads a bootstrap: this one, or if it is empty the one that gRPC reads.
func load(text []byte) (identity, error) {
	var id identity
	where := "bootstrap"
	if len(text) == 0 {
		if name := os.Getenv(bootstrapFile); name != "" {
			read, err := os.ReadFile(name)
			if err != nil {
				return id, fmt.Errorf("%s: %w", bootstrapFile, err)
			}
			text, where = read, name
		} else if text, where = []byte(os.Getenv(bootstrapContent)), bootstrapContent; len(text) == 0 {
			return id, fmt.Errorf("no xDS bootstrap: want %s, %s or Config.Bootstrap", bootstrapFile, bootstrapContent)
		}
	}
	if err := json.Unmarshal(text, &id); err != nil {
		return id, fmt.Errorf("%s: %w", where, err)
	}
	var problems []error
	if id.Node.ID == "" {
		problems = append(problems, fmt.Errorf("%s: node.id: want the name of this process, have none", where))
	}
	if len(id.Servers) == 0 || id.Servers[0].URI == "" {
		problems = append(problems, fmt.Errorf("%s: xds_servers: want one with a server_uri, have none", where))
	}
	return id, errors.Join(problems...)
}

// credentials are the first of the first server's that this program has.
func (id identity) credentials() (creds credentials.Bundle, end func(), err error) {
	var types []string
	for _, c := range id.Servers[0].Creds {
		if builder := bootstrap.GetChannelCredentials(c.Type); builder != nil {
			creds, end, err := builder.Build(c.Config)
			if err != nil {
				return nil, nil, fmt.Errorf("xds_servers: channel_creds %q: %w", c.Type, err)
			}
			return creds, end, nil
		}
		if c.Type == "insecure" { // also where gRPC's xDS is not linked in
			return insecure.NewBundle(), func() {}, nil
		}
		types = append(types, c.Type)
	}
	return nil, nil, fmt.Errorf("xds_servers: channel_creds: want a type that is registered, as by importing google.golang.org/grpc/xds; have %q", types)
}
