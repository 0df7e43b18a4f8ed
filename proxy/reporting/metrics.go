package reporting

import "sync/atomic"

// stats counts since the start.
type stats struct {
	reports, cells, polls, probes, overrun, mutes atomic.Uint64
}

// Stats are totals since the start, by name: reports built and endpoints in them, poll
// answers, probe and ping results, results dropped because newer ones came, how often
// the control plane set this sidecar's evidence aside, and, of a recording, messages
// written and lost.
func (r *Reporter) Stats() map[string]uint64 {
	all := map[string]uint64{
		"reports": r.stats.reports.Load(), "cells": r.stats.cells.Load(), "polls": r.stats.polls.Load(),
		"probes": r.stats.probes.Load(), "overrun": r.stats.overrun.Load(), "mutes": r.stats.mutes.Load(),
	}
	if r.deps.Recorder != nil {
		all["recorded"], all["recording_lost"] = r.deps.Recorder.Stats()
	}
	return all
}
