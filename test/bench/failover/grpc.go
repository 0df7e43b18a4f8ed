package main

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"text/template"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds" // the balancer of A50 comes with it
	"google.golang.org/protobuf/types/known/emptypb"
)

// rpc is a caller that speaks gRPC by gRPC's client, in this process: to its proxy, or
// without one.
type rpc struct{ conn *grpc.ClientConn }

// serviceConfig is how gRPC's client chooses among the endpoints; before a proxy there is
// nothing to choose.
func (p product) serviceConfig() (string, error) {
	if p.library == "" {
		return "{}", nil
	}
	var s site
	if p.tune != nil {
		p.tune(&s)
	}
	text, err := template.ParseFS(configurations, "products/"+p.library)
	if err != nil {
		return "", err
	}
	var config strings.Builder
	err = text.Execute(&config, s)
	return config.String(), err
}

// dialRPC connects from an address; nil: from anywhere.
func dialRPC(p product, local net.IP, addresses []string) (*rpc, error) {
	config, err := p.serviceConfig()
	if err != nil {
		return nil, err
	}
	names := manual.NewBuilderWithScheme("service")
	var state resolver.State
	for _, a := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	names.InitialState(state)
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: local}}
	conn, err := grpc.NewClient("service:///api", grpc.WithResolvers(names), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(config), grpc.WithDisableRetry(),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return from.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		return nil, err
	}
	conn.Connect()
	return &rpc{conn}, nil
}

// get makes one call, and says whose answer came, and why it failed; "": it did not.
func (c *rpc) get(path string, timeout time.Duration) (from, why string) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var header, trailer metadata.MD
	err := c.conn.Invoke(ctx, path, new(emptypb.Empty), new(emptypb.Empty), grpc.Header(&header), grpc.Trailer(&trailer))
	from = strings.Join(metadata.Join(header, trailer).Get(upstream), "")
	if err != nil {
		why = status.Code(err).String()
	}
	return from, why
}

func (c *rpc) close() { c.conn.Close() }

// answerRPC is a method whose answer is an empty message, and how it ended, which gRPC
// tells in the trailers; without the message in the only block of headers ("Trailers-Only").
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
func answerRPC(code codes.Code, message bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-type", "application/grpc")
		if !message {
			w.Header().Set("grpc-status", strconv.Itoa(int(code)))
			return
		}
		_, _ = w.Write(make([]byte, 5)) // the client may have left
		w.Header().Set(http.TrailerPrefix+"grpc-status", strconv.Itoa(int(code)))
	})
}
