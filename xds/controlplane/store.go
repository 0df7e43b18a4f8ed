package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
)

// memory is what must outlive a restart: the verdicts, so that nobody is
// readmitted by one, and who was reporting, so that the gate knows whom to wait
// for.
type memory struct {
	Version   int       `json:"version"`
	Written   time.Time `json:"written"`
	Reporters []string  `json:"reporters"`
	// Young: written so soon after a start that reporters may not have come yet.
	Young    bool            `json:"young,omitempty"`
	Verdicts []merge.Verdict `json:"verdicts"`
}

const (
	memoryVersion = 1
	memoryFile    = "verdicts.json"
)

// store keeps the newest memory in a file. Writing waits for the disk, so it has
// a goroutine of its own; memories that come while it writes replace each other.
type store struct {
	dir    string // "": nothing is kept
	log    *slog.Logger
	newest chan memory // capacity 1, newest wins
	failed atomic.Uint64
}

func newStore(dir string, log *slog.Logger) *store {
	return &store{dir: dir, log: log, newest: make(chan memory, 1)}
}

// load reads the file. Without one there is nothing to remember. known says
// whether it is certain that who was reporting is among what is remembered, which
// it is not where nothing is kept, and where the last life was short.
func (s *store) load() (m memory, known bool, err error) {
	if s.dir == "" {
		return memory{}, false, nil
	}
	data, err := os.ReadFile(filepath.Join(s.dir, memoryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return memory{}, true, nil
	}
	if err != nil {
		return memory{}, false, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return memory{}, false, fmt.Errorf("%s: %w", memoryFile, err)
	}
	if m.Version != memoryVersion {
		return memory{}, false, fmt.Errorf("%s: version %d, want %d", memoryFile, m.Version, memoryVersion)
	}
	return m, !m.Young, nil
}

// keep hands m over to be written. It has one caller, the loop.
func (s *store) keep(m memory) {
	if s.dir == "" {
		return
	}
	select {
	case <-s.newest:
	default:
	}
	s.newest <- m // never blocks: this goroutine alone sends
}

// run writes what keep was given until ctx ends, and then what is left.
func (s *store) run(ctx context.Context) error {
	for {
		select {
		case m := <-s.newest:
			s.note(s.write(m))
		case <-ctx.Done():
			select {
			case m := <-s.newest:
				s.note(s.write(m))
			default:
			}
			return nil
		}
	}
}

// note counts and logs a failure. The mesh goes on: what is lost is the memory
// of a later restart.
func (s *store) note(err error) {
	if err != nil {
		s.failed.Add(1)
		s.log.Error("verdicts are not kept over a restart", "dir", s.dir, "error", err)
	}
}

// write replaces the file in one step, so that a crash leaves the old or the
// new one, and never half of one.
func (s *store) write(m memory) error {
	m.Version = memoryVersion
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	name := filepath.Join(s.dir, memoryFile)
	f, err := os.OpenFile(name+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	// The rename itself is on the disk only when the directory is.
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
