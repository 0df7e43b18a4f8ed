package exchange_test

import (
	"testing"

	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// fields are header fields by their names in lower case.
type fields map[string]string

func (f fields) Field(name string) ([]byte, bool) {
	v, ok := f[name]
	return []byte(v), ok
}

func TestARedirectKeepsTheSchemeOfTheClient(t *testing.T) {
	for _, test := range []struct {
		fields   router.Fields
		to       router.Redirect
		location string
	}{
		{nil, router.Redirect{Host: "b"}, "http://b/x"},
		{fields{}, router.Redirect{Host: "b"}, "http://b/x"},
		{fields{"x-forwarded-proto": "HTTPS"}, router.Redirect{Host: "b"}, "https://b/x"},
		{fields{"x-forwarded-proto": "ftp"}, router.Redirect{Host: "b"}, "http://b/x"},
		{fields{"x-forwarded-proto": "http"}, router.Redirect{Host: "b", Scheme: "https"}, "https://b/x"},
	} {
		rule := router.DefaultRule()
		rule.Redirect, rule.Hosts = &test.to, []string{"a"}
		table, err := router.New([]router.Rule{rule}, nil, new(router.IDs))
		if err != nil {
			t.Fatal(err)
		}
		var x exchange.Exchange
		x.Open(0, nil, 1, 1, false)
		x.Record.Method, x.Record.Host, x.Record.Path, x.Fields = []byte("GET"), []byte("a"), []byte("/x"), test.fields
		_, refusal := x.Route(&exchange.Deps{Router: func() *router.Table { return table }}, 0)
		if refusal == nil || refusal.Location != test.location {
			t.Errorf("%v to %+v: got %+v, want %s", test.fields, test.to, refusal, test.location)
		}
	}
}
