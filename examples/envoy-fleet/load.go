package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// maxOutstanding bounds the requests through one Envoy that wait for an answer.
const maxOutstanding = 512

// drive sends requests at a rate until ctx ends, whether or not the earlier ones have been
// answered, and waits for the answers that are still out.
func drive(ctx context.Context, url string, rate float64, l *ledger) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: maxOutstanding}}
	var out sync.WaitGroup
	defer func() {
		out.Wait()
		client.CloseIdleConnections()
	}()
	places := make(chan struct{}, maxOutstanding)
	next := time.Now()
	for {
		next = next.Add(time.Duration(rand.ExpFloat64() / rate * float64(time.Second)))
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
		}
		select {
		case places <- struct{}{}:
		default:
			continue
		}
		out.Go(func() {
			defer func() { <-places }()
			began := time.Now()
			err := get(client, url)
			l.request(request{began, time.Now(), err})
		})
	}
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
