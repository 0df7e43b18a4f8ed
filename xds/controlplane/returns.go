package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// returns is the time between the start and the opening of the gate, in which a
// control plane that was restarted collects what the world still knows. Nothing
// is judged or answered in it.
type returns struct {
	over    bool
	overAt  time.Duration
	until   time.Duration
	awaited map[string]struct{} // reporters of before that are not back
	unknown bool                // who reported before is not known: wait the time out
}

func (r *returns) complete() bool { return !r.unknown && len(r.awaited) == 0 }

// remember reads what was kept over the restart.
func (l *loop) remember() {
	now := l.now()
	l.returns.until = now + l.cfg.ReturnWait
	m, known, err := l.store.load()
	if err != nil {
		// Sidecars and Envoys keep what they were told, and the sidecars will say.
		path := filepath.Join(l.cfg.StateDir, memoryFile)
		aside := os.Rename(path, path+".unreadable")
		l.log.Error("file of verdicts is unreadable, going by what reporters still hold", "error", err, "kept_as", path+".unreadable", "rename", aside)
	}
	l.returns.unknown = !known
	for _, id := range m.Reporters {
		l.returns.awaited[id] = struct{}{}
	}
	// The file counts in ages: the time that the process was away is part of them.
	away := max(0, time.Since(m.Written))
	for i := range m.Verdicts {
		v := &m.Verdicts[i]
		v.Age += away
		l.before[v.Epoch] = time.Now().Add(-v.Age)
		if v.Override != nil && v.Override.Left > 0 {
			o := *v.Override
			o.Left = max(time.Nanosecond, o.Left-away)
			v.Override = &o
		}
	}
	l.table.Restore(m.Verdicts, now)
	l.believe(now)
	l.publishAll(now, time.Now())
}

// believe takes over the verdicts in force from the table.
func (l *loop) believe(now time.Duration) {
	clear(l.beliefs)
	for _, v := range l.table.Verdicts() {
		l.beliefs.note(v, now)
	}
}

// open opens the gate: from here on clients are answered and endpoints judged.
func (l *loop) open(now time.Duration) {
	began := time.Now()
	l.returns.over, l.returns.overAt = true, now
	missing := slices.Sorted(maps.Keys(l.returns.awaited))
	l.believe(now)
	l.publishAll(now, began)
	l.server.Ready()
	close(l.opened)
	l.stepAt = now
	l.keep()
	text := fmt.Sprintf("serving: %s, %s, %s kept", count(len(l.services), "service"), count(l.mesh.Len(), "endpoint"), count(len(l.beliefs), "verdict"))
	l.history.add(Event{Time: l.wall(now), Kind: "ready", Text: text})
	l.log.LogAttrs(context.Background(), slog.LevelInfo, "serving", slog.Int("services", len(l.services)), slog.Int("endpoints", l.mesh.Len()),
		slog.Int("verdicts_kept", len(l.beliefs)), slog.Int("reporters_back", len(l.streams)), slog.Any("reporters_missing", missing))
}

// keep hands what must outlive a restart to the store.
func (l *loop) keep() {
	l.keepAt = never
	if !l.returns.over {
		return // what is on the disk is more than what is here
	}
	// Reporters need a moment to come. Whoever finds a list without them must not
	// take them for nobody: killed a moment after a verdict, that would be
	// forgotten, though all of them still hold it.
	grown := l.returns.overAt + l.cfg.ReturnWait
	young := l.now() < grown
	if young {
		l.keepAt = grown
	}
	verdicts := l.table.Verdicts()
	for i := range verdicts {
		if since, ok := l.before[verdicts[i].Epoch]; ok {
			verdicts[i].Age = time.Since(since)
		}
	}
	l.store.keep(memory{Written: time.Now(), Reporters: slices.Sorted(maps.Keys(l.streams)), Young: young, Verdicts: verdicts})
}
