package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/proxy/config"
)

func TestARecordingIsBounded(t *testing.T) {
	const rest = "outbound: [{address: \"127.0.0.1:1\", cluster: api}]\ncontrol_plane: {addresses: [\"127.0.0.1:2\"]}\n"
	c, err := config.Decode("f", []byte(rest+"record: {path: /var/lib/overhear/record}\n"), none)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Record{Path: "/var/lib/overhear/record", MaxSize: 64 << 20, Files: 4}, c.Record); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	_, err = config.Decode("f", []byte(rest+"record: {path: x, max_size: 64KiB, files: 0}\n"), none)
	if err == nil {
		t.Fatal("got no error")
	}
	want := []string{
		"f:3:19: record.max_size: is 64KiB: want 1MiB or more",
		"f:3:36: record.files: is 0: want 1 to 100",
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}
