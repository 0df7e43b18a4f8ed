package controlplane

import "context"

// ControlPlane serves xDS, takes reports and answers operators.
type ControlPlane struct {
	cfg  Config
	opts Options
}

// New checks cfg and starts nothing.
func New(cfg Config, opts Options) (*ControlPlane, error) {
	return &ControlPlane{cfg: cfg, opts: opts}, nil
}

// Run serves until ctx ends, and returns when all that it started has ended.
func (cp *ControlPlane) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
