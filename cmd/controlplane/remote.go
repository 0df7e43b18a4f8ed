package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"
)

// remote is a running control plane, and how to print what it says.
type remote struct {
	address string
	output  string
}

// callTimeout bounds every call but the one that watches.
const callTimeout = 10 * time.Second

// maxAnswer bounds what is read of an answer.
const maxAnswer = 256 << 20

func (r *remote) check() error {
	switch r.output {
	case "table", "json", "yaml":
		return nil
	}
	return usageError{fmt.Errorf("-o %s: want table, json or yaml", r.output)}
}

func (r *remote) url(path string, query url.Values) string {
	base := r.address
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	u := strings.TrimSuffix(base, "/") + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return u
}

// open sends a request and returns the answer's body and fields if it is a success.
func (r *remote) open(ctx context.Context, method, path string, query url.Values, body any, token string) (io.ReadCloser, http.Header, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, nil, err
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.url(path, query), payload)
	if err != nil {
		return nil, nil, usageError{fmt.Errorf("--address %s: %w", r.address, err)}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil, fmt.Errorf("nothing listens at %s: is the control plane running, and is this its HTTP address (--address)?", r.address)
	}
	if err != nil && speaksOtherwise(err) {
		return nil, nil, fmt.Errorf("%s does not speak HTTP/1.1: is it the xDS address? want that of control_plane.http (--address)", r.address)
	}
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, resp.Header, nil
	}
	defer func() { _ = resp.Body.Close() }()                 // it was only read
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // the status alone is an answer, too
	var failure struct{ Error string }
	if json.Unmarshal(text, &failure) == nil && failure.Error != "" {
		return nil, nil, errors.New(failure.Error)
	}
	return nil, nil, fmt.Errorf("%s %s: %s", method, req.URL, resp.Status)
}

// speaksOtherwise says whether what came was no HTTP/1.1, after the request or before it
// had left; net/http has types for neither.
func speaksOtherwise(err error) bool {
	said := err.Error()
	return strings.Contains(said, "malformed HTTP response") || strings.Contains(said, "readLoopPeekFailLocked")
}

// get asks for path, decodes the answer into v and returns its bytes.
func (r *remote) get(ctx context.Context, path string, query url.Values, v any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, _, err := r.open(ctx, http.MethodGet, path, query, nil, "")
	if err != nil {
		return nil, err
	}
	return decode(answer, v)
}

// post sends body to path, decodes the answer into v and returns its bytes.
func (r *remote) post(ctx context.Context, path string, body, v any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, _, err := r.open(ctx, http.MethodPost, path, nil, body, os.Getenv("OVERHEAR_API_TOKEN"))
	if err != nil {
		return nil, err
	}
	return decode(answer, v)
}

func decode(body io.ReadCloser, v any) ([]byte, error) {
	defer func() { _ = body.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return nil, fmt.Errorf("the answer is not what this version of the command understands: %w", err)
	}
	return text, nil
}

// print writes an answer as json or yaml, or by table.
func (r *remote) print(w io.Writer, answer []byte, table func(io.Writer) error) error {
	switch r.output {
	case "json":
		_, err := w.Write(answer)
		return err
	case "yaml":
		text, err := yaml.JSONToYAML(answer)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	return table(w)
}
