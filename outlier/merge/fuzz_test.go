package merge

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// tape reads numbers out of fuzz input; at its end it reads zeros.
type tape struct{ data []byte }

func (t *tape) byte() int {
	if len(t.data) == 0 {
		return 0
	}
	b := t.data[0]
	t.data = t.data[1:]
	return int(b)
}

func (t *tape) uint32() uint32 {
	var b [4]byte
	for i := range b {
		b[i] = byte(t.byte())
	}
	return binary.LittleEndian.Uint32(b[:])
}

// instant is near now, rarely far off.
func (t *tape) instant(now time.Duration) time.Duration {
	switch b := t.byte(); {
	case b < 8:
		return time.Duration(t.uint32())<<16 - 1<<47
	case b < 40:
		return -1
	default:
		return now - time.Duration(b-40)*10*ms
	}
}

func (t *tape) counts(have outlier.Counts) outlier.Counts {
	switch b := t.byte(); {
	case b < 8: // anything at all
		return outlier.Counts{N: t.uint32(), Conn: t.uint32(), Timeout: t.uint32(), Server: t.uint32(), Over: t.uint32()}
	case b < 16: // backwards
		have.N -= uint32(b)
		return have
	default:
		n := uint32(t.byte())
		have.N += n
		for _, class := range []*uint32{&have.Conn, &have.Timeout, &have.Server} {
			k := min(uint32(t.byte())/64, n)
			*class += k
			n -= k
		}
		have.Over += uint32(b) & 1
		return have
	}
}

// Whatever arrives, in whatever order: nothing panics, the caps hold, no set is
// emptied, epochs grow, and what Step says next is never in the past.
func FuzzTable(f *testing.F) {
	f.Add([]byte("\x00"))
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmnopqrstuvwxyz"))
	// One reporter after the other tells of failures, time goes on between them.
	var crash []byte
	for i := range 60 {
		crash = append(crash, 0, byte(i%5), 1, byte(i), 100, 200, byte(i), 255, 255, 255, 60, 60, 41, 41, 1, 3, 0, 0, 4, byte(i))
	}
	f.Add(crash)
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &tape{data}
		policy := DefaultPolicy()
		policy.Ping = []PingKind{PingTCP, PingHTTP, PingOff}[in.byte()%3]
		table := NewTable(DefaultConfig(), 1)
		specs := func(n int, change int) []Endpoint {
			var list []Endpoint
			for i := range n {
				list = append(list, Endpoint{
					Key: Key{"api", fmt.Sprintf("e%d", i)}, Zone: twoZones[i%2], Node: fmt.Sprintf("m%d", i),
					Inbound: i == 1, Draining: change&(1<<i) != 0, Priority: uint32(change >> 6 & i), Started: time.Duration(change) * time.Second,
				})
			}
			return list
		}
		now := time.Second
		table.SetService("api", policy, specs(6, 0), now)
		ids := []string{"r0", "r1", "r2", "r3", "r4"}
		counts := map[[2]string]outlier.Counts{}
		seq := map[string]uint64{}
		incarnation := map[string]uint64{}
		join := func(id string, i int) {
			_ = table.Join(Reporter{ID: id, Incarnation: incarnation[id], Node: fmt.Sprintf("n%d", i%4), Zone: twoZones[i%2]}, []string{"api"}, now) // a refusal is as good
		}
		for i, id := range ids {
			join(id, i)
		}
		var orders []OrderID
		var polls []Poll
		var epoch uint64
		states := map[string]outlier.State{}

		step := func() {
			out := table.Step(now)
			if out.Next < now { // also if the clock went back: it stands still until then
				t.Fatalf("next Step at %v, it is %v", out.Next, now)
			}
			for _, o := range out.Orders {
				orders = append(orders, o.ID)
			}
			for _, l := range out.Leases {
				orders = append(orders, l.ID)
			}
			polls = append(polls, out.Polls...)
			for _, ch := range out.Changes {
				if ch.Refused != "" {
					continue
				}
				if ch.Verdict.State != ch.To {
					t.Fatalf("a change to %s says %s", ch.To, ch.Verdict.State)
				}
				id := ch.Verdict.Key.Instance + string(ch.Verdict.Scope)
				states[id] = ch.To
			}
			for _, s := range table.services {
				for _, g := range s.groups {
					n := g.judged()
					for _, view := range g.views() {
						if out := g.countOut(view); n > 0 && out >= n {
							t.Fatalf("%d of %d are out for the %s", out, n, view)
						}
					}
				}
			}
			top := epoch
			for _, v := range table.Verdicts() {
				top = max(top, v.Epoch)
				if v.N < 0 || v.Age < 0 {
					t.Fatalf("verdict %+v", v)
				}
			}
			epoch = top
			if table.epoch < epoch {
				t.Fatalf("the epoch fell from %d to %d", epoch, table.epoch)
			}
		}
		for len(in.data) > 0 {
			id := ids[in.byte()%len(ids)]
			i := int(id[1] - '0')
			key := Key{"api", fmt.Sprintf("e%d", in.byte()%7)}
			c := &Cell{Key: key}
			switch op := in.byte() % 16; op {
			default: // a report
				seq[id] += uint64(in.byte() % 3)
				rep := Report{Reporter: id, Incarnation: incarnation[id], Seq: seq[id], At: in.instant(now), Received: now, LHM: in.byte() - 100, Jitter: time.Duration(in.byte()) * ms}
				for range 1 + in.byte()%3 {
					c.Counts = in.counts(counts[[2]string{id, key.Instance}])
					counts[[2]string{id, key.Instance}] = c.Counts
					c.LastOK, c.LastHard = in.instant(now), in.instant(now)
					c.LastOKStart, c.LastHardStart = c.LastOK-ms, c.LastHard-ms
					c.Overdue = in.byte() % 4
					c.Witness = outlier.Level(in.byte())
					c.State = outlier.State(in.byte() % 8)
					c.Score = int64(in.byte() & 1)
					for range in.byte() % 4 {
						c.History = append(c.History, Point{At: in.instant(now), N: uint32(in.byte()), K: uint32(in.byte() / 8)})
					}
					rep.Cells = append(rep.Cells, *c)
				}
				table.Apply(rep, now)
			case 8:
				table.Apply(Report{Reporter: id, Incarnation: incarnation[id], Seq: seq[id] + 1, At: now, Own: []OwnCell{{
					Key: key, LastOK: in.instant(now), Refused: in.instant(now), Draining: in.byte()&1 == 1, Started: time.Duration(in.byte()) * time.Second,
				}}}, now)
			case 9:
				if len(orders) > 0 {
					o := orders[in.byte()%len(orders)]
					end := in.instant(now)
					table.Probed(o, id, outlier.Level(in.byte()%5), outlier.ProbeResult(in.byte()%9), end-ms, end, now)
				}
			case 10:
				if len(polls) > 0 {
					p := polls[in.byte()%len(polls)]
					seq[id]++
					table.Polled(PollAnswer{ID: p.ID, Reporter: id, Seq: seq[id], At: now, Cell: Cell{Key: p.Key, Counts: in.counts(counts[[2]string{id, p.Key.Instance}]), LastOK: -1, LastOKStart: -1, LastHard: -1, LastHardStart: -1}}, now)
				}
			case 11:
				table.Probation(id, key, uint64(in.byte()), in.counts(outlier.Counts{}), now)
			case 12:
				switch in.byte() % 4 {
				case 0:
					table.Leave(id, now)
				case 1:
					incarnation[id]++
					join(id, i)
				case 2:
					join(id, in.byte())
				case 3:
					table.Held(id, []Verdict{{Key: key, State: outlier.State(in.byte() % 8), Epoch: uint64(in.uint32())}}, now)
				}
			case 13:
				table.SetService("api", policy, specs(in.byte()%7, in.byte()), now)
			case 14:
				o := Override{Kind: []OverrideKind{OverrideEject, OverridePin}[in.byte()%2]}
				if in.byte()&1 == 1 {
					o.Until = now + time.Second
				}
				if in.byte()&3 == 0 {
					_ = table.Release(key, now) // there may be nothing to release
				} else {
					_ = table.Override(key, o, now) // or no such endpoint
				}
			case 15:
				if in.byte() < 16 {
					saved := table.Verdicts()
					table.Restore(saved, now)
				}
			}
			now += time.Duration(in.byte()*in.byte()) * ms / 8
			switch jump := in.byte(); { // of the owner's clock, which must do no harm
			case jump > 250:
				now += time.Duration(jump-250) * time.Hour
			case jump == 250:
				now -= time.Hour
			}
			if in.byte()&1 == 0 {
				step()
			}
			table.Explain(key, now)
		}
		step()
		table.Status(now)
		table.Reporters(now)
	})
}
