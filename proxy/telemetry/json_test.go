package telemetry

import (
	"encoding/json"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

func TestMillisecondsReadAsAFloatWouldWriteThem(t *testing.T) {
	for _, us := range []int64{0, 1, 9, 10, 99, 100, 120, 999, 1000, 1001, 1010, 1100, 12034, 3_600_000_000} {
		o := object{}
		o.millis("d", time.Duration(us)*time.Microsecond+999)
		want := `"d":` + strconv.FormatFloat(float64(us)/1e3, 'f', -1, 64)
		if got := string(o.buf); got != want {
			t.Errorf("%d us: got %s, want %s", us, got, want)
		}
	}
}

func FuzzAStringIsReadAsItWasMeant(f *testing.F) {
	for _, s := range []string{"", "plain", `"`, `\`, "a\"b\\c", "\x00\x1f\x7f", "é", "a\xffb", "\xe2\x82", "\u2028"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text := appendString(nil, s)
		var got string
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%q: %v in %s", s, err, text)
		}
		if want := string([]rune(s)); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	})
}

func TestAClientIsWrittenWithThePortThatItIsKnownBy(t *testing.T) {
	for from, want := range map[string]string{
		"192.0.2.7:5":          `"c":"192.0.2.7:5"`,
		"192.0.2.7:0":          `"c":"192.0.2.7"`, // named by a proxy
		"[2001:db8::1]:5":      `"c":"[2001:db8::1]:5"`,
		"[2001:db8::1]:0":      `"c":"2001:db8::1"`,
		"[::ffff:192.0.2.7]:0": `"c":"192.0.2.7"`,
	} {
		o := object{}
		o.address("c", net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from)))
		if got := string(o.buf); got != want {
			t.Errorf("%s: got %s, want %s", from, got, want)
		}
	}
}
