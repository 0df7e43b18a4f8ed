package reporting

import (
	"log/slog"

	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/xds/report"
)

// Record opens the file in which a sidecar keeps what it reports. maxSize is that of
// one of the files, in bytes.
func Record(path string, maxSize int64, files int, clk clock.Clock, log *slog.Logger) (*report.Recorder, error) {
	return report.NewRecorder(report.RecorderConfig{Path: path, MaxSize: maxSize, Files: files, Started: clk.Time(0), Log: log})
}
