//go:build !linux

package upstream

import "context"

func (w *Watch) run(ctx context.Context) error {
	close(w.opened)
	<-ctx.Done()
	return nil
}

func (w *Watch) register(*Conn, uint64) bool { return false }
