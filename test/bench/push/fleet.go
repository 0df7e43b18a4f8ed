package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// fleetSpec, in the environment, makes this program the clients of a setting.
const fleetSpec = "OVERHEAR_PUSH_FLEET"

// fleet is what the clients are to be.
type fleet struct {
	setting
	Address string `json:"address"`
	Storm   bool   `json:"storm"`   // they come when they are told, all at once
	Profile string `json:"profile"` // a file; "": none

	rest []string // all that never changes, in any order
}

// word is what the process of the clients says on its standard output.
type word struct {
	Ready   bool  `json:"ready,omitempty"` // everybody has everything
	Memory  int64 `json:"memory,omitempty"`
	Verdict int   `json:"verdict,omitempty"` // everybody has it
	// When it came, on the monotonic clock of the machine.
	First time.Duration `json:"first,omitempty"`
	Users time.Duration `json:"users,omitempty"`
	Half  time.Duration `json:"half,omitempty"`
	Last  time.Duration `json:"last,omitempty"`
	// Of a storm: how many are served, who began to come then.
	Served    int           `json:"served,omitempty"`
	Began     time.Duration `json:"began,omitempty"`
	Resources int           `json:"resources,omitempty"` // sent to all
}

// runFleet connects the clients and tells how verdicts arrive, until the input ends.
func runFleet(spec string, in io.Reader, out io.Writer) (failed error) {
	var f fleet
	if err := json.Unmarshal([]byte(spec), &f); err != nil {
		return err
	}
	for _, i := range rand.Perm(f.Clusters - hot) {
		f.rest = append(f.rest, clusterName(hot+i))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// The clients of a real fleet do not share a heap of a hundred megabytes.
	debug.SetGCPercent(400)
	before := memory()
	t := &tally{streams: f.Streams, users: f.Users, out: json.NewEncoder(out), at: map[int]*arrivals{}}
	if f.Storm {
		stop, err := startProfile(f.Profile)
		if err != nil {
			return err
		}
		return errors.Join(f.runStorm(in, t), stop())
	}
	broken := make(chan error, f.Streams)
	streams, err := f.connect(ctx)
	if err != nil {
		return err
	}
	for i, st := range streams {
		c := &client{stream: st, tally: t, user: isUser(i, f.setting)}
		for cluster := range c.has {
			c.has[cluster] = -1
		}
		go func() { broken <- c.run() }()
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = io.Copy(io.Discard, in) }()
	for t.missing() > 0 {
		select {
		case err := <-broken:
			return err
		case <-ended:
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
	time.Sleep(calm)
	stop, err := startProfile(f.Profile)
	if err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, stop()) }()
	t.say(word{Ready: true, Memory: memory() - before})
	select {
	case err := <-broken:
		return err
	case <-ended:
		return nil
	}
}

// isUser says whether a client lately sent traffic to the endpoint: some throughout the
// fleet.
func isUser(i int, s setting) bool {
	apart := s.Streams / s.Users
	return i%apart == apart/2 && i/apart < s.Users
}

func nodeID(i int) string { return fmt.Sprint("n", i) }

// dial makes the connections; they are opened when they are needed.
func (f *fleet) dial() ([]*grpc.ClientConn, error) {
	conns := make([]*grpc.ClientConn, f.Connections)
	for i := range conns {
		var err error
		conns[i], err = grpc.NewClient("passthrough:///"+f.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{encoding.GetCodecV2(proto.Name)}), grpc.MaxCallRecvMsgSize(1<<30), grpc.WaitForReady(true)),
			// With windows that grow, gRPC measures the way with pings.
			grpc.WithStaticStreamWindowSize(1<<20), grpc.WithStaticConnWindowSize(1<<20), grpc.WithDisableServiceConfig())
		if err != nil {
			return nil, err
		}
	}
	return conns, nil
}

// connect opens the streams, some at a time, and subscribes.
func (f *fleet) connect(ctx context.Context) ([]grpc.ClientStream, error) {
	conns, err := f.dial()
	if err != nil {
		return nil, err
	}
	streams := make([]grpc.ClientStream, f.Streams)
	var g errgroup.Group
	g.SetLimit(64)
	for i := range streams {
		g.Go(func() (err error) {
			streams[i], err = subscribe(ctx, conns[i%len(conns)], nodeID(i), f.names(i), nil)
			return err
		})
	}
	return streams, g.Wait()
}

// subscribe opens a stream that wants those names, and holds some of them.
func subscribe(ctx context.Context, conn *grpc.ClientConn, node string, names []string, holds map[string]string) (grpc.ClientStream, error) {
	st, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName)
	if err != nil {
		return nil, err
	}
	return st, st.SendMsg(&discoveryv3.DeltaDiscoveryRequest{
		Node:    &corev3.Node{Id: node, UserAgentName: "overhear"},
		TypeUrl: resource.TypeEndpoints, ResourceNamesSubscribe: names, InitialResourceVersions: holds,
	})
}

// names are what a client subscribes to: all that changes, and some of the rest.
func (f *fleet) names(client int) []string {
	names := make([]string, f.Subscriptions)
	for i := range hot {
		names[i] = clusterName(i)
	}
	from := rand.New(rand.NewPCG(1, uint64(client))).IntN(f.Clusters)
	for i := hot; i < len(names); i++ {
		names[i] = f.rest[(from+i)%len(f.rest)]
	}
	return names
}

// client is one stream.
type client struct {
	stream grpc.ClientStream
	tally  *tally
	user   bool
	has    [hot]int // the last verdict of each cluster; -1: nothing
}

func (c *client) run() error {
	var m response
	for {
		if err := c.stream.RecvMsg(&m); err != nil {
			return err
		}
		c.tally.arrived(c, m.verdicts)
		err := c.stream.SendMsg(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeEndpoints, ResponseNonce: m.nonce})
		if err != nil && !errors.Is(err, io.EOF) { // the end is told by RecvMsg
			return err
		}
	}
}

// response is what a client reads of a DeltaDiscoveryResponse.
type response struct {
	nonce     string
	resources int
	verdicts  []int
}

// codec reads responses, and leaves the rest to gRPC's own.
type codec struct{ encoding.CodecV2 }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*response)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return m.read(buf.ReadOnlyData())
}

func (m *response) read(all []byte) error {
	m.resources, m.verdicts = 0, m.verdicts[:0]
	for len(all) > 0 {
		num, typ, n := protowire.ConsumeTag(all)
		if n < 0 {
			return protowire.ParseError(n)
		}
		all = all[n:]
		size := protowire.ConsumeFieldValue(num, typ, all)
		if size < 0 {
			return protowire.ParseError(size)
		}
		value := all[:size]
		all = all[size:]
		if typ != protowire.BytesType {
			continue
		}
		value, _ = protowire.ConsumeBytes(value)
		switch num {
		case 2: // resources
			m.resources++
			if at := bytes.Index(value, []byte(marker)); at >= 0 {
				digits := value[at+len(marker):]
				verdict, err := strconv.Atoi(string(digits[:min(markerDigits, len(digits))]))
				if err != nil {
					return err
				}
				m.verdicts = append(m.verdicts, verdict)
			}
		case 5:
			m.nonce = string(value)
		}
	}
	return nil
}

// tally counts whom verdicts have reached.
type tally struct {
	streams, users int

	mu       sync.Mutex // guards the rest
	out      *json.Encoder
	complete int // clients that have everything that was there at first
	at       map[int]*arrivals
}

// arrivals of one verdict.
type arrivals struct {
	word
	all, users int
}

func (t *tally) missing() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.streams - t.complete
}

func (t *tally) say(w word) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sayLocked(w)
}

func (t *tally) sayLocked(w word) {
	// Who listens is gone only when the run has ended.
	_ = t.out.Encode(w)
}

// arrived notes verdicts that a client has, and with each those of its cluster before
// that the client was not told one by one.
func (t *tally) arrived(c *client, verdicts []int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := monotonic()
	for _, verdict := range verdicts {
		cluster := verdict % hot
		before := c.has[cluster]
		c.has[cluster] = max(before, verdict)
		if before < 0 {
			if verdict == hot-1 { // responses list clusters in any order, but all at once
				t.complete++
			}
			continue
		}
		for v := before + hot; v <= verdict; v += hot {
			t.countLocked(v, c.user, now)
		}
	}
}

func (t *tally) countLocked(verdict int, user bool, now time.Duration) {
	a := t.at[verdict]
	if a == nil {
		a = &arrivals{word: word{Verdict: verdict, First: now}}
		t.at[verdict] = a
	}
	a.all++
	if user {
		if a.users++; a.users == t.users {
			a.Users = now
		}
	}
	if a.all == (t.streams+1)/2 {
		a.Half = now
	}
	if a.all == t.streams {
		a.Last = now
		delete(t.at, verdict)
		t.sayLocked(a.word)
	}
}
