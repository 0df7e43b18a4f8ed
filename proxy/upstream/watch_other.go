//go:build !linux

package upstream

import "context"

func (w *Watch) run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (w *Watch) openLocked() bool { return false }

func (w *Watch) registerLocked(*Conn, uint64) bool { return false }
