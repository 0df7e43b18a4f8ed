package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/proxy"
)

// errFailed is an answer that is none, or none that is whole, and looks like it.
var errFailed = errors.New("no answer")

// newSoak puts together endpoints, two sidecars one behind the other, and clients.
func newSoak(t *testing.T, options proxy.Options) *soak {
	t.Helper()
	s := &soak{t: t}
	apps, opaque := &group{}, &group{}
	var direct, in, inbound, tcp string
	for i := range 3 {
		app, echo := newEndpoint(t, s.web), newEndpoint(t, echoTCP)
		apps.endpoints, opaque.endpoints = append(apps.endpoints, app), append(opaque.endpoints, echo)
		direct += fmt.Sprintf("{address: %q},", app.address)
		tcp += fmt.Sprintf("{address: %q},", echo.address)
		in += fmt.Sprintf("  - {name: in%d, address: \"127.0.0.1:0\", protocol: auto, application: %q, application_protocol: http1, service: s, instance: i%d}\n", i, app.address, i)
	}
	s.groups = []*group{apps, opaque}
	behind, stopBehind := startSidecarWith(t, options, "inbound:\n"+in)
	for i := range 3 {
		inbound += fmt.Sprintf("{address: %q, inbound: true},", behind.Addr(fmt.Sprintf("in%d", i)))
	}
	front, stopFront := startSidecarWith(t, options, fmt.Sprintf(`
outbound:
  - {name: new-new, address: "127.0.0.1:0", protocol: http2, cluster: newer}
  - {name: new-old, address: "127.0.0.1:0", protocol: http2, cluster: older}
  - {name: old-new, address: "127.0.0.1:0", protocol: http1, cluster: newer}
  - {name: old-old, address: "127.0.0.1:0", protocol: http1, cluster: older}
  - {name: new-mesh, address: "127.0.0.1:0", protocol: auto, cluster: mesh}
  - {name: tcp, address: "127.0.0.1:0", protocol: tcp, cluster: opaque}
clusters:
  - {name: newer, protocol: http2, endpoints: [%s]}
  - {name: older, endpoints: [%s]}
  - {name: mesh, protocol: http2, endpoints: [%s]}
  - {name: opaque, protocol: tcp, endpoints: [%s]}
`, direct, direct, inbound, tcp))
	at := func(listener string) string { return front.Addr(listener).String() }

	var ends []func()
	web := func(name, listener string, protocols *http.Protocols) {
		transport := &http.Transport{Protocols: protocols, MaxIdleConnsPerHost: soakWorkers}
		ends = append(ends, transport.CloseIdleConnections)
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			s.kinds = append(s.kinds, &kind{name: name + " " + method, once: method == http.MethodPost, ask: exchanges(transport, method, at(listener))})
		}
	}
	web("HTTP/1.1 to HTTP/1.1", "old-old", nil)
	web("HTTP/1.1 to HTTP/2", "old-new", nil)
	web("HTTP/2 to HTTP/1.1", "new-old", only2())
	web("HTTP/2 to HTTP/2", "new-new", only2())
	web("HTTP/2, two sidecars", "new-mesh", only2())

	cc, err := grpc.NewClient(at("new-new"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	ends = append(ends, func() { _ = cc.Close() })
	calls := testgrpc.NewTestServiceClient(cc)
	s.kinds = append(s.kinds,
		&kind{name: "gRPC, unary", once: true, ask: calling(calls)},
		&kind{name: "gRPC, streams", once: true, ask: streaming(calls)},
		&kind{name: "WebSocket, 1.1 to 1.1", ask: upgrading(at("old-old"))},
		&kind{name: "WebSocket, 1.1, two sidecars", ask: upgrading(at("new-mesh"))},
		&kind{name: "TCP", ask: opaquely(at("tcp"))},
	)
	plain := func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	for name, listener := range map[string]string{"WebSocket, 2 to 1.1": "new-old", "WebSocket, 2, two sidecars": "new-mesh"} {
		transport := &http2.Transport{AllowHTTP: true, DialTLSContext: plain} //nolint:staticcheck // net/http refuses to send :protocol
		client := &http.Client{Transport: transport}
		ends = append(ends, client.CloseIdleConnections)
		s.kinds = append(s.kinds, &kind{name: name, ask: connecting(client, at(listener))})
	}
	s.close = func() {
		for _, end := range ends {
			end()
		}
		stopFront()
		stopBehind()
		for _, e := range append(apps.endpoints, opaque.endpoints...) {
			e.crash()
		}
	}
	return s
}

// exchanges makes requests of HTTP.
func exchanges(transport http.RoundTripper, method, address string) func(context.Context, string, []byte) error {
	return func(ctx context.Context, id string, body []byte) error {
		if method == http.MethodGet {
			body = nil
		}
		q, err := http.NewRequestWithContext(ctx, method, "http://"+address+"/", bytes.NewReader(body))
		if err != nil {
			return err
		}
		q.GetBody = nil // the client does not repeat
		sum := sha256.Sum256(body)
		q.Header.Set("Id", id)
		q.Header.Set("Sum", hex.EncodeToString(sum[:]))
		res, err := transport.RoundTrip(q)
		if err != nil {
			return errFailed
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		switch {
		case err != nil, res.StatusCode == http.StatusBadGateway, res.StatusCode == http.StatusServiceUnavailable, res.StatusCode == http.StatusGatewayTimeout:
			return errFailed
		case res.StatusCode != http.StatusOK:
			return fmt.Errorf("got %d: %s", res.StatusCode, got)
		case res.Header.Get("Id") != id:
			return fmt.Errorf("got the answer to %s instead of %s", res.Header.Get("Id"), id)
		}
		return same(got, body)
	}
}

func same(got, want []byte) error {
	if !bytes.Equal(got, want) {
		return fmt.Errorf("got %d bytes that are not the %d sent", len(got), len(want))
	}
	return nil
}

// calling makes calls of gRPC.
func calling(client testgrpc.TestServiceClient) func(context.Context, string, []byte) error {
	return func(ctx context.Context, id string, body []byte) error {
		ctx = metadata.AppendToOutgoingContext(ctx, "id", id)
		got, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: body}})
		if err != nil {
			return failedCall(err)
		}
		return same(got.GetPayload().GetBody(), body)
	}
}

// failedCall is the error of a call: what a proxy may say, or the endpoint's stream.
func failedCall(err error) error {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Canceled:
		return errFailed
	}
	return err
}

// streaming sends several messages on a stream and compares what comes back.
func streaming(client testgrpc.TestServiceClient) func(context.Context, string, []byte) error {
	return func(ctx context.Context, id string, body []byte) error {
		ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "id", id))
		defer cancel()
		stream, err := client.FullDuplexCall(ctx)
		if err != nil {
			return failedCall(err)
		}
		for range 1 + rand.IntN(5) {
			if err := stream.Send(&testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: body}}); err != nil && !errors.Is(err, io.EOF) {
				return failedCall(err) // after io.EOF Recv knows why
			}
			got, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return errors.New("the stream ended in order, too early")
			}
			if err != nil {
				return failedCall(err)
			}
			if err := same(got.GetPayload().GetBody(), body); err != nil {
				return err
			}
		}
		if stream.CloseSend() != nil {
			return errFailed
		}
		switch got, err := stream.Recv(); {
		case err == nil:
			return fmt.Errorf("got %d bytes behind the last message", len(got.GetPayload().GetBody()))
		case !errors.Is(err, io.EOF):
			return failedCall(err)
		}
		return nil
	}
}

// opaquely sends bytes, and compares what comes back.
func opaquely(address string) func(context.Context, string, []byte) error {
	return func(ctx context.Context, _ string, body []byte) error {
		c, err := dial(ctx, address)
		if err != nil {
			return err
		}
		defer c.Close()
		return echoed(c, c, c.CloseWrite, body)
	}
}

// dial opens a connection that lasts no longer than ctx.
func dial(ctx context.Context, address string) (*net.TCPConn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, errFailed
	}
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	return c.(*net.TCPConn), nil
}

// echoed writes a body, ends the writing, and reads it back. An end that is in order
// comes only behind all of it, or before anything.
func echoed(w io.Writer, r io.Reader, end func() error, body []byte) error {
	wrote := make(chan error, 1)
	go func() {
		_, err := w.Write(body)
		wrote <- errors.Join(err, end())
	}()
	got, err := io.ReadAll(r)
	if werr := <-wrote; err != nil || werr != nil || len(got) == 0 && len(body) > 0 {
		return errFailed
	}
	return same(got, body)
}
