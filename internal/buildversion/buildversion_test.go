package buildversion

import (
	"runtime/debug"
	"testing"
)

func TestAVersionIsTheModulesOrTheCommit(t *testing.T) {
	for _, tc := range []struct{ module, commit, want string }{
		{"v1.2.3", "", "v1.2.3"},
		{"v0.0.0-20260102030405-0123456789ab+dirty", "0123456789abcdef0123", "v0.0.0-20260102030405-0123456789ab+dirty"},
		{"(devel)", "0123456789abcdef0123", "devel-0123456789ab"},
		{"(devel)", "0123", "devel-0123"},
		{"(devel)", "", "devel"},
		{"", "", "devel"},
	} {
		info := &debug.BuildInfo{Main: debug.Module{Version: tc.module}}
		if tc.commit != "" {
			info.Settings = []debug.BuildSetting{{Key: "vcs.revision", Value: tc.commit}}
		}
		if got := of(info); got != tc.want {
			t.Errorf("module %q at %q: got %q, want %q", tc.module, tc.commit, got, tc.want)
		}
	}
}
