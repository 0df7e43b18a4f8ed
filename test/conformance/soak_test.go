package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/proxy"
)

var (
	soakCount = flag.Int64("soak", 0, "requests of TestSoak; 0: as many as there are in -soak-for")
	soakFor   = flag.Duration("soak-for", 5*time.Second, "how long TestSoak lasts without -soak")
)

const (
	// soakWorkers are for each combination of protocols.
	soakWorkers = 3
	// soakLost is when a request counts as lost. The sidecar gives up much sooner.
	soakLost = time.Minute
	// soakLate is for how long a request that has ended may still be carried out.
	soakLate = 10 * time.Second
)

// TestSoak carries requests of all protocols, in all combinations, while endpoints
// crash, hang, drain and return. Each request says what it is and what its answer must
// be: an answer is its own, and whole, or an error. None is without either, and none
// that must not be repeated is carried out twice.
//
//	go test ./test/conformance -run TestSoak -v -soak 10000000 -timeout 0
func TestSoak(t *testing.T) {
	for _, path := range paths {
		t.Run(path.name, func(t *testing.T) { soakOn(t, path.options) })
	}
}

func soakOn(t *testing.T, options proxy.Options) {
	before := settled()
	s := newSoak(t, options)
	ctx, stop := context.WithCancel(t.Context())
	if *soakCount == 0 {
		time.AfterFunc(*soakFor, stop)
	}
	var trouble, clients sync.WaitGroup
	troubled, calm := context.WithCancel(t.Context())
	for _, group := range s.groups {
		trouble.Go(func() { group.suffer(troubled) })
	}
	for _, k := range s.kinds {
		for range soakWorkers {
			clients.Go(func() { s.work(ctx, k) })
		}
	}
	clients.Go(func() { s.watch(ctx) })
	clients.Wait()
	stop()
	calm()
	trouble.Wait()
	s.close()

	for _, k := range s.kinds {
		t.Logf("%-28s %8d answered %8d failed", k.name, k.good.Load(), k.failed.Load())
		if k.good.Load() == 0 {
			t.Errorf("%s: nothing was answered", k.name)
		}
	}
	after := settled()
	t.Logf("%d requests, %d carried out twice; %d goroutines and %d KiB before, %d and %d after",
		s.total.Load(), s.twice.Load(), before.goroutines, before.heap>>10, after.goroutines, after.heap>>10)
	if after.goroutines > before.goroutines+10 {
		t.Errorf("%d goroutines are left, and there were %d", after.goroutines, before.goroutines)
		_ = pprof.Lookup("goroutine").WriteTo(t.Output(), 1)
	}
	if after.heap > before.heap+32<<20 {
		t.Errorf("%d bytes are left on the heap, and there were %d", after.heap, before.heap)
	}
}

// size is what a process holds.
type size struct {
	goroutines int
	heap       uint64
}

// settled waits for what is on its way out.
func settled() size {
	var s size
	for range 40 {
		last := s.goroutines
		if s = held(); s.goroutines == last {
			return s
		}
		time.Sleep(100 * time.Millisecond)
	}
	return s
}

// kind is one combination of protocols.
type kind struct {
	name string
	// ask makes a request with a body and compares the answer with it. An error that
	// is an errFailed is one that may be; any other is a fault.
	ask func(ctx context.Context, id string, body []byte) error
	// once: the sidecar must not repeat it.
	once bool

	good, failed atomic.Int64
}

// soak is a run of them all.
type soak struct {
	t      *testing.T
	kinds  []*kind
	groups []*group
	close  func()

	total, twice atomic.Int64
	times        sync.Map // id of a request that must not be repeated → *atomic.Int64, how often it was carried out
}

// carriedOut is called by endpoints.
func (s *soak) carriedOut(id string) {
	if n, ok := s.times.Load(id); ok {
		n.(*atomic.Int64).Add(1)
	}
}

// work makes one request after the other.
func (s *soak) work(ctx context.Context, k *kind) {
	var ended []done
	begun := time.Now()
	// On a machine that is starved it goes on until there is an answer.
	for ctx.Err() == nil || k.good.Load() == 0 && time.Since(begun) < 2*soakLost {
		if *soakCount > 0 && s.total.Load() >= *soakCount {
			break
		}
		s.total.Add(1)
		id := fmt.Sprintf("%016x", rand.Uint64())
		if k.once {
			s.times.Store(id, new(atomic.Int64))
		}
		start := time.Now()
		limit, cancel := context.WithTimeout(s.t.Context(), soakLost)
		err := k.ask(limit, id, someBytes())
		cancel()
		switch {
		case time.Since(start) >= soakLost:
			s.t.Errorf("%s: a request got no answer in %v", k.name, soakLost)
			return
		case err == nil:
			k.good.Add(1)
		case errors.Is(err, errFailed):
			k.failed.Add(1)
		default:
			s.t.Errorf("%s: %v", k.name, err)
			return
		}
		if k.once {
			ended = s.judge(k, append(ended, done{id, time.Now()}), soakLate)
		}
	}
	s.judge(k, ended, 0)
}

// done is a request that has ended, and may be under way still.
type done struct {
	id string
	at time.Time
}

// judge looks at those that ended so long ago, and returns the others.
func (s *soak) judge(k *kind, ended []done, late time.Duration) []done {
	for len(ended) > 0 && time.Since(ended[0].at) >= late {
		if n, ok := s.times.LoadAndDelete(ended[0].id); ok && n.(*atomic.Int64).Load() > 1 {
			s.twice.Add(1)
			s.t.Errorf("%s: a request was carried out %d times", k.name, n.(*atomic.Int64).Load())
		}
		ended = ended[1:]
	}
	return ended
}

// watch sees to it that the heap does not grow with the number of requests.
func (s *soak) watch(ctx context.Context) {
	if *soakCount == 0 {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var quarter size
	for reported := int64(0); ctx.Err() == nil; {
		<-tick.C
		n := s.total.Load()
		if n >= *soakCount {
			return
		}
		if quarter.heap == 0 && n >= *soakCount/4 {
			quarter = held()
		}
		if n < reported+*soakCount/20 {
			continue
		}
		reported = n
		now := held()
		s.t.Logf("%d requests: %d goroutines, %d MiB", n, now.goroutines, now.heap>>20)
		if quarter.heap > 0 && now.heap > 2*quarter.heap+32<<20 {
			s.t.Errorf("the heap has grown from %d to %d bytes", quarter.heap, now.heap)
		}
	}
}

func held() size {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return size{runtime.NumGoroutine(), m.HeapAlloc}
}

// someBytes is a body: mostly short, sometimes larger than any buffer.
func someBytes() []byte {
	n := rand.IntN(2000)
	if rand.IntN(8) == 0 {
		n = rand.IntN(100_000)
	}
	body := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		x := rand.Uint64()
		for j := range 8 {
			body[i+j] = byte(x >> (8 * j))
		}
	}
	return body
}
