package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/overhear-mesh/overhear/test/openload"
	"github.com/overhear-mesh/overhear/test/trial"
)

// drive sends requests at a rate until ctx ends, and waits for the answers that are still
// out.
func drive(ctx context.Context, url string, rate float64, l *trial.Ledger) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: openload.MaxOutstanding}}
	defer client.CloseIdleConnections()
	l.Drive(ctx, rate, func() error { return get(client, url) })
}

// refused is an answer that is none: of the backend, or, if it is empty, of the Envoy for
// want of one.
type refused struct {
	backend string
	status  string
}

func (r *refused) Error() string { return fmt.Sprintf("%s answered %s", r.backend, r.status) }

func get(client *http.Client, url string) error {
	res, err := client.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return &refused{res.Header.Get("x-upstream"), res.Status}
	}
	return nil
}
