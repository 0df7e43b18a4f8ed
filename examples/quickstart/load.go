package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/test/openload"
)

// user sends requests through one caller's sidecar at a steady rate, whether or
// not the earlier ones have been answered.
type user struct {
	url    string
	rate   float64 // requests a second
	client *http.Client

	sent, failed atomic.Int64
	skipped      int64 // too many were waiting for an answer already; told when run has ended
}

func newUser(address string, rate float64) *user {
	return &user{
		url: "http://" + address + "/work", rate: rate,
		client: &http.Client{
			Timeout:   10 * time.Second,
			Transport: &http.Transport{MaxIdleConnsPerHost: openload.MaxOutstanding, DisableCompression: true},
		},
	}
}

// run sends until ctx ends, then waits for the answers that are still out.
func (u *user) run(ctx context.Context) {
	defer u.client.CloseIdleConnections()
	u.skipped = openload.Run(ctx, u.rate, u.send)
}

// send makes one request: nine in ten are GETs, which may be repeated.
func (u *user) send() {
	method, body := http.MethodGet, io.Reader(nil)
	if rand.IntN(10) == 0 {
		method, body = http.MethodPost, strings.NewReader(`{"order":1}`)
	}
	u.sent.Add(1)
	if err := u.exchange(method, body); err != nil {
		u.failed.Add(1)
	}
}

func (u *user) exchange(method string, body io.Reader) error {
	req, err := http.NewRequest(method, u.url, body)
	if err != nil {
		return err
	}
	res, err := u.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", res.Status)
	}
	return nil
}
