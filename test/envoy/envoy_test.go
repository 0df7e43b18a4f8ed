package envoy

import "testing"

func TestABootstrapMayBindLoopbackOnly(t *testing.T) {
	for bootstrap, public := range map[string]bool{
		`admin: { address: ` + AdminAddress + ` }`:                                    false,
		`address: { socket_address: { address: 127.0.0.1, port_value: 80 } }`:         false,
		`address: { socket_address: { address: "::1", port_value: 80 } }`:             false,
		`address: { socket_address: { address: 0.0.0.0, port_value: 80 } }`:           true,
		`address: { socket_address: { address: "::", port_value: 80 } }`:              true,
		"socket_address:\n  address: '::'\n  port_value: 80":                          true,
		"socket_address:\n  address: ::\n  port_value: 80":                            true,
		`{"socket_address": {"address": "0.0.0.0", "port_value": 80}}`:                true,
		`endpoint: { address: { socket_address: { address: 10.0.0.0, port_value: 1 }`: false,
	} {
		if got := publicAddress.MatchString(bootstrap); got != public {
			t.Errorf("%s: counts as public %t, want %t", bootstrap, got, public)
		}
	}
}

func TestAnEnvoyStartsAndAnswersItsAdmin(t *testing.T) {
	p := Start(t, `admin: { address: `+AdminAddress+` }`)
	if _, err := p.Get("/ready"); err != nil {
		t.Error(err)
	}
	if _, err := p.Get("/no-such-page"); err == nil {
		t.Error("a page that is not there gives no error")
	}
}
