// Package refrain keeps a log from saying the same again and again: a client that comes
// back in a loop, and is wrong each time, must not fill a disk.
package refrain

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"
)

const (
	// every is how often there is a line about one thing.
	every = 10 * time.Second
	// most is about how many things there are lines of their own within that time; all
	// others share one.
	most = 256
)

// Log writes lines, of those about one thing the first and then one in ten seconds, which
// says how many were left out. Its methods may be called from any goroutine.
type Log struct {
	log *slog.Logger

	mu    sync.Mutex // guards what follows
	lines map[string]line
}

// line is the newest line about something.
type line struct {
	at      time.Time
	leftOut int // since then
}

// New returns a Log that has written nothing yet.
func New(log *slog.Logger) *Log { return &Log{log: log, lines: map[string]line{}} }

// Write writes a line about something, unless it is to be left out.
func (l *Log) Write(ctx context.Context, level slog.Level, about, text string, attrs ...slog.Attr) {
	leftOut, due := l.due(about, time.Now())
	if !due {
		return
	}
	if leftOut > 0 {
		attrs = append(attrs, slog.Int("left_out", leftOut))
	}
	l.log.LogAttrs(ctx, level, text, attrs...)
}

func (l *Log) due(about string, now time.Time) (leftOut int, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.lines[about]; !known && len(l.lines) >= most {
		maps.DeleteFunc(l.lines, func(_ string, one line) bool { return now.Sub(one.at) >= every })
		if len(l.lines) >= most {
			about = ""
		}
	}
	one, known := l.lines[about]
	if known && now.Sub(one.at) < every {
		l.lines[about] = line{one.at, one.leftOut + 1}
		return 0, false
	}
	l.lines[about] = line{at: now}
	return one.leftOut, true
}
