// Package httpguard lets through only those HTTP requests that an operator meant.
package httpguard

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Fail writes an answer that is not a success.
type Fail func(w http.ResponseWriter, status int, message string)

// Guard lets a request that changes something through to next only if it is a
// POST that bears the token and names a host that is ours: an IP address,
// localhost, or one of hosts. Without a token nothing passes. The setting is where
// the token comes from, in words: who is turned away is told.
//
// The Host check is against DNS rebinding: a web page in an operator's browser
// can reach 127.0.0.1 under the page's own name, and is then of the same origin
// as this server. An IP address in Host cannot come about that way.
func Guard(token, setting string, hosts []string, fail Fail, next http.Handler) http.Handler {
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			fail(w, http.StatusMethodNotAllowed, "a call that changes something is a POST")
			return
		}
		if !known(r.Host, hosts) {
			fail(w, http.StatusMisdirectedRequest, fmt.Sprintf("host %q is not one of this server's: use an IP address, localhost or a configured name", r.Host))
			return
		}
		given := r.Header.Get("Authorization")
		switch {
		case token == "":
			fail(w, http.StatusForbidden, "calls that change something are off, because no token is set: set "+setting)
			return
		case !Bears(given, token):
			w.Header().Set("WWW-Authenticate", `Bearer realm="overhear"`)
			has := "another"
			if given == "" {
				has = "none"
			}
			fail(w, http.StatusUnauthorized, "a call that changes something needs the token of "+setting+
				", as \"Authorization: Bearer TOKEN\": this one has "+has)
			return
		}
		next.ServeHTTP(w, r)
	}))
}

// Bears says whether the field Authorization of a request has the token.
func Bears(authorization, token string) bool {
	scheme, credentials, _ := strings.Cut(authorization, " ")
	got, want := sha256.Sum256([]byte(strings.TrimSpace(credentials))), sha256.Sum256([]byte(token))
	// Hashes have one length, so that the comparison does not tell the token's.
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// known says whether a Host header names this server by address, as localhost, or
// by one of the configured names.
func known(hostport string, names []string) bool {
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
