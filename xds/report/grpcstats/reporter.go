package grpcstats

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
)

// Config is how a reporter speaks. The zero Config is what most want.
type Config struct {
	// Bootstrap is the xDS bootstrap of this client, in JSON. Default: the one that gRPC
	// reads, of GRPC_XDS_BOOTSTRAP or GRPC_XDS_BOOTSTRAP_CONFIG. Reports go to the first of
	// its servers.
	Bootstrap []byte
	// Node names the machine. Clients on one machine are one witness: what only they see
	// may be their machine's fault. Default: the host's name.
	Node string
	// Labels are for people.
	Labels map[string]string
	// DialOptions are added to those of the connection to the control plane.
	DialOptions []grpc.DialOption
	// Log gets a line when the link to the control plane goes up or down. Default: none.
	Log *slog.Logger
}

const (
	closeWithin = time.Second      // what Close waits for, at most
	askGap      = time.Millisecond // the least time between two looks at the counters
	sweepEvery  = time.Minute      // between two looks for endpoints that are gone
	idlest      = time.Second      // between two looks at most
)

// patience is how long the connection waits before it tries again: gRPC's own two minutes
// would leave a control plane that is back without evidence for as long.
var patience = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 8 * time.Second},
	MinConnectTimeout: 5 * time.Second,
})

// Reporter tells the control plane what this process's calls came to.
type Reporter struct {
	id     identity
	cfg    Config
	epoch  time.Time // instants are since then
	client *report.Client
	self   *outlier.Self
	seed   maphash.Seed // of the hash of methods
	prober prober
	woken  chan struct{} // the loop should look
	ready  chan struct{} // the client should build

	closeOnce sync.Once
	stop      context.CancelFunc
	dropConn  func()
	running   sync.WaitGroup
	said      chan struct{} // closed when the client has ended

	mu       sync.Mutex // guards what follows, and of channels what they say
	channels map[string]*channel
	schedule cadence.Schedule
	linked   bool
	closing  bool
	swept    time.Duration
	results  []report.Probed
	asked    cadence.Questions
	leases   map[merge.Key]*lease
}

// Start reads the bootstrap and begins to report. It does not wait for the control plane.
func Start(cfg Config) (*Reporter, error) {
	id, err := load(cfg.Bootstrap)
	if err != nil {
		return nil, err
	}
	creds, end, err := id.credentials()
	if err != nil {
		return nil, err
	}
	options := append([]grpc.DialOption{
		grpc.WithCredentialsBundle(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		patience,
	}, cfg.DialOptions...)
	conn, err := grpc.NewClient(id.Servers[0].URI, options...)
	if err != nil {
		end()
		return nil, fmt.Errorf("xds_servers: %w", err)
	}
	return start(cfg, id, conn, func() {
		_ = conn.Close() // all that was to be said has been
		end()
	}), nil
}

func start(cfg Config, id identity, conn grpc.ClientConnInterface, end func()) *Reporter {
	if cfg.Node == "" {
		cfg.Node, _ = os.Hostname() // without a name the address tells who is one witness
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Reporter{
		id: id, cfg: cfg, epoch: time.Now(), self: outlier.NewSelf(), seed: maphash.MakeSeed(),
		woken: make(chan struct{}, 1), ready: make(chan struct{}, 1), stop: cancel, dropConn: end, said: make(chan struct{}),
		channels: map[string]*channel{}, leases: map[merge.Key]*lease{},
		schedule: cadence.NewSchedule(cadence.DefaultConfig()), asked: cadence.NewQuestions(),
	}
	r.prober.ctx, r.prober.now, r.prober.dial = ctx, r.now, new(net.Dialer).DialContext
	r.client = report.NewClient(conn, report.ClientConfig{
		Incarnation: uint64(r.epoch.UnixMilli()), Now: r.now, Log: cfg.Log,
	}, source{r})
	r.running.Go(func() {
		defer close(r.said)
		_ = r.client.Run(ctx) // it has no error but the end of ctx
	})
	r.running.Go(func() { r.loop(ctx) })
	return r
}

// now is the time since the reporter began: monotonic.
func (r *Reporter) now() time.Duration { return time.Since(r.epoch) }

// Handler is for one channel, grpc.WithStatsHandler: target is what the channel dials, such
// as xds:///api. Channels of one target may share it.
func (r *Reporter) Handler(target string) stats.Handler {
	service := target
	if _, rest, ok := strings.Cut(target, "://"); ok {
		_, service, _ = strings.Cut(rest, "/")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.channels[service]
	if c == nil {
		c = newChannel(r, service)
		r.channels[service] = c
	}
	return c
}

// Close tells what has not been told, if a control plane listens, and ends the reporter.
// It takes a second at most. Handlers may go on being called.
func (r *Reporter) Close() {
	r.closeOnce.Do(func() {
		r.mu.Lock()
		linked := r.linked
		r.closing, r.prober.closed = true, true
		r.mu.Unlock()
		r.callBuild()
		if linked {
			late := time.NewTimer(closeWithin)
			select {
			case <-r.said:
			case <-late.C:
			}
			late.Stop()
		}
		r.stop()
		r.running.Wait()
		r.prober.running.Wait()
		r.dropConn()
	})
}

// callBuild has the client build a message.
func (r *Reporter) callBuild() {
	select {
	case r.ready <- struct{}{}:
	default: // it has been called for already
	}
}

// wake has the loop look at the counters now. It never blocks.
func (r *Reporter) wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// loop looks at the counters when a call asked for it, and at the latest when a detector
// wants it, and calls for reports.
func (r *Reporter) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.woken:
		case <-timer.C:
		}
		timer.Reset(r.look())
		// Failures that come in a storm are looked at together.
		if report.Pause(ctx, askGap) != nil {
			return
		}
	}
}

// look takes one look, and says how long the next may wait.
func (r *Reporter) look() time.Duration {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.pingLocked(now)
	for _, c := range r.channels {
		next = min(next, c.stepLocked(now))
	}
	if now >= r.swept+sweepEvery {
		r.swept = now
		for _, c := range r.channels {
			c.sweepLocked(now)
		}
	}
	if r.schedule.Due(now) {
		r.callBuild()
	}
	return max(0, min(next, r.schedule.Next())-now)
}

// labels are those that a reporter tells of itself.
func (r *Reporter) labels() map[string]string {
	all := maps.Clone(r.cfg.Labels)
	if all == nil {
		all = map[string]string{}
	}
	if r.cfg.Node != "" {
		all["node"] = r.cfg.Node
	}
	all["client"] = cmp.Or(all["client"], "grpc")
	return all
}

// dice are for jitter alone.
func dice() *rand.Rand { return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) }
