package httpguard_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/overhear-mesh/overhear/internal/httpguard"
)

func TestOnlyAnOperatorsCallPasses(t *testing.T) {
	passed := false
	h := httpguard.Guard("secret", []string{"mesh.example"},
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
