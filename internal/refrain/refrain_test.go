package refrain_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/internal/refrain"
)

// bubble runs a test in virtual time; lines are those written since it was asked last.
func bubble(t *testing.T, f func(say func(about string), lines func() []string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		log := refrain.New(slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
					return slog.Attr{}
				}
				return a
			},
		})))
		f(func(about string) { log.Write(t.Context(), slog.LevelWarn, about, "wrong", slog.String("who", about)) },
			func() []string {
				all := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
				text.Reset()
				return all
			})
	})
}

func TestWhatIsSaidAgainIsCountedAndLeftOutForAWhile(t *testing.T) {
	bubble(t, func(say func(string), lines func() []string) {
		for range 1000 {
			say("a")
			time.Sleep(10 * time.Millisecond)
		}
		say("b")
		say("a")
		say("a")
		time.Sleep(time.Minute)
		say("a")
		say("b")
		want := []string{"msg=wrong who=a", "msg=wrong who=b", "msg=wrong who=a left_out=999", "msg=wrong who=a left_out=1", "msg=wrong who=b"}
		if got := lines(); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestAnyNumberOfThingsMakesABoundedNumberOfLines(t *testing.T) {
	bubble(t, func(say func(string), lines func() []string) {
		for i := range 100_000 {
			say(fmt.Sprint("thing-", i))
		}
		if n := len(lines()); n != 257 {
			t.Errorf("%d lines, want 257", n)
		}
		time.Sleep(time.Minute)
		say("another")
		if got := lines(); len(got) != 1 || got[0] != "msg=wrong who=another" {
			t.Errorf("after a minute: got %q, want a line about another", got)
		}
	})
}
