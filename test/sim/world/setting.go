package world

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// settings are the settings of a scenario, by name: each reads its value.
var settings = map[string]func(s *Scenario, value string) error{
	"about":         func(s *Scenario, v string) error { s.About = v; return nil },
	"callers":       counted(func(s *Scenario) *int { return &s.Callers }, 1),
	"endpoints":     counted(func(s *Scenario) *int { return &s.Endpoints }, 1),
	"zones":         counted(func(s *Scenario) *int { return &s.Zones }, 1),
	"per-node":      counted(func(s *Scenario) *int { return &s.PerNode }, 1),
	"routes":        counted(func(s *Scenario) *int { return &s.Routes }, 1),
	"backups":       counted(func(s *Scenario) *int { return &s.Backups }, 0),
	"keys":          counted(func(s *Scenario) *int { return &s.Keys }, 0),
	"report-delay":  timed(func(s *Scenario) *time.Duration { return &s.ReportDelay }),
	"report-jitter": timed(func(s *Scenario) *time.Duration { return &s.ReportJitter }),
	"balance":       func(s *Scenario, v string) error { return s.Balance.UnmarshalText([]byte(v)) },
	"prefer-zone":   asked(func(s *Scenario) *bool { return &s.PreferZone }),
	"control":       asked(func(s *Scenario) *bool { return &s.Control }),
	"leave-out":     counted(func(s *Scenario) *int { return &s.LeaveOut }, 0),
	"rate":          numbered(func(s *Scenario) *float64 { return &s.Rate }, 0, 1e6),
	"sigma":         numbered(func(s *Scenario) *float64 { return &s.Sigma }, 0, 3),
	"jitter":        numbered(func(s *Scenario) *float64 { return &s.Jitter }, 0, 10),
	"base":          shared(func(s *Scenario) *float64 { return &s.Base }),
	"unsafe":        shared(func(s *Scenario) *float64 { return &s.Unsafe }),
	"latency":       timed(func(s *Scenario) *time.Duration { return &s.Latency }),
	"timeout":       timed(func(s *Scenario) *time.Duration { return &s.Timeout }),
	"keep-alive":    timed(func(s *Scenario) *time.Duration { return &s.KeepAlive }),
	"patience":      timed(func(s *Scenario) *time.Duration { return &s.Patience }),
	"near":          timed(func(s *Scenario) *time.Duration { return &s.Near }),
	"far":           timed(func(s *Scenario) *time.Duration { return &s.Far }),
	"warmup":        timed(func(s *Scenario) *time.Duration { return &s.Warmup }),
	"length":        timed(func(s *Scenario) *time.Duration { return &s.Length }),
	"inbound":       asked(func(s *Scenario) *bool { return &s.Inbound }),
	"ping":          (*Scenario).setPing,
}

func counted(field func(*Scenario) *int, least int) func(*Scenario, string) error {
	return reading(field, func(text string) (int, error) { return count(text, least) })
}

func numbered(field func(*Scenario) *float64, low, high float64) func(*Scenario, string) error {
	return reading(field, func(text string) (float64, error) { return number(text, low, high) })
}

func shared(field func(*Scenario) *float64) func(*Scenario, string) error {
	return reading(field, percent)
}

func timed(field func(*Scenario) *time.Duration) func(*Scenario, string) error {
	return reading(field, span)
}

func asked(field func(*Scenario) *bool) func(*Scenario, string) error { return reading(field, yes) }

// reading makes a setting of a field and of what reads its value.
func reading[T any](field func(*Scenario) *T, read func(string) (T, error)) func(*Scenario, string) error {
	return func(s *Scenario, text string) error {
		v, err := read(text)
		if err == nil {
			*field(s) = v
		}
		return err
	}
}

func (s *Scenario) setPing(value string) error {
	if !slices.Contains([]string{"tcp", "http", "off"}, value) {
		return fmt.Errorf("want tcp, http or off, have %q", value)
	}
	s.Ping = value
	return nil
}

// lines are what may begin a line of a scenario and is no setting.
var lines = []string{"at", "label", "vary", "want"}

// Set changes one setting, as a line of a file does.
func (s *Scenario) Set(key, value string) error {
	set := settings[key]
	if set == nil {
		return fmt.Errorf("no such setting: %q%s", key, meant(key, append(slices.Sorted(maps.Keys(settings)), lines...)))
	}
	if err := set(s, value); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// meant says which name was probably meant, else which there are.
func meant(name string, known []string) string {
	return cmp.Or(strictyaml.DidYouMean(name, known), "; there are "+strings.Join(known, ", "))
}
