package mirror

import "testing"

func TestACopySaysThatItIsOne(t *testing.T) {
	for host, want := range map[string]string{
		"api":            "api-shadow",
		"api.local:8080": "api.local-shadow:8080",
		"10.0.0.1:80":    "10.0.0.1-shadow:80",
		"[::1]":          "[::1]-shadow",
		"[::1]:80":       "[::1]-shadow:80",
		"":               "-shadow",
	} {
		head := "POST /x HTTP/1.1\r\nhost: " + host + "\r\nx-a: b\r\n\r\n"
		got := string(shadow([]byte(head), []byte("body"), []byte("\r\n0\r\n\r\n")))
		if want := "POST /x HTTP/1.1\r\nhost: " + want + "\r\nconnection: close\r\nx-a: b\r\n\r\nbody\r\n0\r\n\r\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
