package httpguard_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/overhear-mesh/overhear/internal/httpguard"
)

func TestOnlyAnOperatorsCallPasses(t *testing.T) {
	passed := false
	h := httpguard.Guard("secret", "admin.token", []string{"mesh.example"},
		func(w http.ResponseWriter, status int, message string) { http.Error(w, message, status) },
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true }))
	for _, tc := range []struct {
		name, method, host, authorization, origin string
		want                                      int
	}{
		{"the right token by address", "POST", "127.0.0.1:15000", "Bearer secret", "", 200},
		{"IPv6", "POST", "[::1]:15000", "bearer secret", "", 200},
		{"a configured name, whatever its case", "POST", "Mesh.Example", "Bearer secret", "", 200},
		{"GET", "GET", "127.0.0.1", "Bearer secret", "", 405},
		{"no token", "POST", "127.0.0.1", "", "", 401},
		{"a wrong token", "POST", "127.0.0.1", "Bearer secre", "", 401},
		{"another scheme", "POST", "127.0.0.1", "Basic secret", "", 401},
		{"a foreign name: DNS rebinding", "POST", "evil.example", "Bearer secret", "", 421},
		{"another site's page", "POST", "127.0.0.1", "Bearer secret", "http://evil.example", 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			passed = false
			r := httptest.NewRequest(tc.method, "http://x/drain", nil)
			r.Host = tc.host
			r.Header.Set("Authorization", tc.authorization)
			if tc.origin != "" {
				r.Header.Set("Origin", tc.origin)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tc.want || passed != (tc.want == 200) {
				t.Errorf("got status %d, passed %t, want %d", w.Code, passed, tc.want)
			}
		})
	}
}

func TestWhoIsTurnedAwayIsToldOfTheToken(t *testing.T) {
	for _, tc := range []struct {
		name, token, authorization string
		status                     int
		want                       string
	}{
		{"no token is set", "", "", 403, "off, because no token is set: set admin.token"},
		{"no token is set, and an empty one is borne", "", "Bearer ", 403, "no token is set"},
		{"none is borne", "secret", "", 401, "needs the token of admin.token, as \"Authorization: Bearer TOKEN\": this one has none"},
		{"another is borne", "secret", "Bearer x", 401, "this one has another"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := httpguard.Guard(tc.token, "admin.token", nil,
				func(w http.ResponseWriter, status int, message string) { http.Error(w, message, status) },
				http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it has passed") }))
			r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/drain", nil)
			r.Header.Set("Authorization", tc.authorization)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if body := w.Body.String(); w.Code != tc.status || !strings.Contains(body, tc.want) {
				t.Errorf("got status %d, %q, want %d with %q", w.Code, body, tc.status, tc.want)
			}
		})
	}
}
