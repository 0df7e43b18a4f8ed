package controlplane

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAChangeNeedsTokenAndHost(t *testing.T) {
	for _, tc := range []struct {
		name, host, authorization, site string
		want                            int
	}{
		{"all is well", "127.0.0.1:15014", "Bearer secret", "", 200},
		{"the scheme is not case sensitive", "127.0.0.1:15014", "bearer secret", "", 200},
		{"IPv6", "[::1]:15014", "Bearer secret", "", 200},
		{"localhost", "localhost:15014", "Bearer secret", "", 200},
		{"a configured name", "Mesh.Example.", "Bearer secret", "", 200},
		{"a name that a web page made point here", "evil.example:15014", "Bearer secret", "", 421},
		{"no host", "", "Bearer secret", "", 421},
		{"no token", "127.0.0.1", "", "", 401},
		{"a wrong token", "127.0.0.1", "Bearer secret2", "", 401},
		{"an empty token", "127.0.0.1", "Bearer ", "", 401},
		{"another scheme", "127.0.0.1", "Basic secret", "", 401},
		{"a browser on another site", "127.0.0.1", "Bearer secret", "cross-site", 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			called := false
			h := guard("secret", []string{"mesh.example"}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
			r := httptest.NewRequest("POST", "/api/v1/eject", strings.NewReader("{}"))
			r.Host = tc.host
			r.Header.Set("Authorization", tc.authorization)
			if tc.site != "" {
				r.Header.Set("Sec-Fetch-Site", tc.site)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tc.want {
				t.Errorf("status: got %d (%s), want %d", w.Code, w.Body, tc.want)
			}
			if called != (tc.want == 200) {
				t.Errorf("handler called: got %v with status %d", called, w.Code)
			}
		})
	}
}
