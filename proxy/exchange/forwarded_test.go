package exchange_test

import (
	"net"
	"slices"
	"testing"

	"github.com/overhear-mesh/overhear/proxy/exchange"
)

func TestTheClientIsWhomTheTrustedProxiesNamed(t *testing.T) {
	const peer = "10.0.0.9:4711"
	for _, test := range []struct {
		hops   int
		fields []string // from first to last
		want   string
	}{
		{1, []string{"192.0.2.1"}, "192.0.2.1:0"},
		{1, []string{"6.6.6.6, 192.0.2.1"}, "192.0.2.1:0"},
		{2, []string{"6.6.6.6, 192.0.2.1, 10.0.0.1"}, "192.0.2.1:0"},
		{2, []string{"6.6.6.6", "192.0.2.1", "10.0.0.1"}, "192.0.2.1:0"},
		{2, []string{"6.6.6.6,192.0.2.1", " ,10.0.0.1 ,"}, "192.0.2.1:0"},
		{1, []string{"2001:db8::1"}, "[2001:db8::1]:0"},
		{1, []string{"::ffff:192.0.2.1"}, "192.0.2.1:0"},
		{1, []string{"192.0.2.1:5000"}, "192.0.2.1:5000"},
		{1, []string{"[2001:db8::1]:5000"}, "[2001:db8::1]:5000"},
		{3, []string{"192.0.2.1, 10.0.0.1"}, peer},
		{1, []string{"unknown"}, peer},
		{1, []string{"192.0.2.1, unknown"}, peer},
		{1, []string{","}, peer},
		{1, nil, peer},
	} {
		var x exchange.Exchange
		client, err := net.ResolveTCPAddr("tcp", peer)
		if err != nil {
			t.Fatal(err)
		}
		x.Open(0, client, 1, 1, false)
		x.Trust(test.hops, func(yield func([]byte) bool) {
			for _, f := range slices.Backward(test.fields) {
				if !yield([]byte(f)) {
					return
				}
			}
		})
		if got := x.Record.Client.String(); got != test.want {
			t.Errorf("%d hops, %q: got %s, want %s", test.hops, test.fields, got, test.want)
		}
	}
}
