package controlplane

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// guard lets a request that changes something through to next only if it bears
// the token and names a host that is ours.
//
// The Host check is against DNS rebinding: a web page in an operator's browser
// can reach 127.0.0.1 under the page's own name, and is then of the same origin
// as this API. An IP address in Host cannot come about that way.
func guard(token string, hosts []string, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(token))
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !knownHost(r.Host, hosts) {
			fail(w, http.StatusMisdirectedRequest, "host %q is not one of this API: use an IP address, localhost, or a name in api_hosts", r.Host)
			return
		}
		scheme, credentials, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(strings.TrimSpace(credentials)))
		// Hashes have one length, so that the comparison does not tell the
		// token's.
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="overhear"`)
			fail(w, http.StatusUnauthorized, "a call that changes something needs the API token")
			return
		}
		next.ServeHTTP(w, r)
	}))
}

// knownHost says whether a Host header names this API by address, as localhost,
// or by one of the configured names.
func knownHost(hostport string, names []string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if _, err := netip.ParseAddr(host); err == nil || strings.EqualFold(host, "localhost") {
		return true
	}
	return slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, host) })
}
