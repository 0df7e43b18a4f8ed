package conformance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
)

// upgrading opens a tunnel by Upgrade.
func upgrading(address string) func(context.Context, string, []byte) error {
	return func(ctx context.Context, id string, body []byte) error {
		c, err := dial(ctx, address)
		if err != nil {
			return err
		}
		defer c.Close()
		const key = "dGhlIHNhbXBsZSBub25jZQ=="
		if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: %s\r\nId: %s\r\n\r\n", key, id); err != nil {
			return errFailed
		}
		r := bufio.NewReader(c)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return errFailed
		}
		defer res.Body.Close()
		switch {
		case res.StatusCode >= http.StatusInternalServerError:
			return errFailed
		case res.StatusCode != http.StatusSwitchingProtocols:
			return fmt.Errorf("got %s, want 101", res.Status)
		case res.Header.Get("Id") != id || res.Header.Get("Sec-WebSocket-Accept") != acceptOf(key):
			return fmt.Errorf("got the consent to %s, %v instead of %s", res.Header.Get("Id"), res.Header, id)
		}
		return echoed(c, r, c.CloseWrite, body)
	}
}

// connecting opens one by extended CONNECT.
func connecting(client *http.Client, address string) func(context.Context, string, []byte) error {
	return func(ctx context.Context, id string, body []byte) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		up, feed := io.Pipe()
		q, err := http.NewRequestWithContext(ctx, http.MethodConnect, "http://"+address+"/", up)
		if err != nil {
			return err
		}
		q.Header.Set(":protocol", "websocket")
		q.Header.Set("Id", id)
		res, err := client.Do(q)
		if err != nil {
			return errFailed
		}
		defer res.Body.Close()
		defer up.Close()
		switch {
		case res.StatusCode >= http.StatusInternalServerError:
			return errFailed
		case res.StatusCode != http.StatusOK:
			return fmt.Errorf("got %s, want 200", res.Status)
		case res.Header.Get("Id") != id:
			return fmt.Errorf("got the consent to %s instead of %s", res.Header.Get("Id"), id)
		}
		return echoed(feed, res.Body, feed.Close, body)
	}
}
