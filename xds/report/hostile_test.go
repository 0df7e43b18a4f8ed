package report

import (
	"encoding/binary"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

// Whatever one stream sends, message after message, from the bytes to the verdicts:
// nothing breaks, times stay within bounds, and it alone takes nobody out.
func FuzzAStreamIntoTheTable(f *testing.F) {
	// A tape is a list of messages, each behind its length and the time that has passed.
	tape := func(messages ...*reportpb.Up) []byte {
		var b []byte
		for _, up := range messages {
			raw, err := proto.Marshal(up)
			if err != nil {
				f.Fatal(err)
			}
			b = binary.LittleEndian.AppendUint16(b, uint16(len(raw)))
			b = append(b, 50) // ms
			b = append(b, raw...)
		}
		return b
	}
	e := newEncoder()
	var all []*reportpb.Up
	for i := range int64(20) {
		m := everything()
		m.Report.Own = nil
		for j := range m.Report.Cells {
			c := &m.Report.Cells[j]
			c.Counts.N += uint32(10 * i)
			c.Counts.Conn += uint32(5 * i)
			if c.LastHard > 0 {
				c.LastHard, c.LastHardStart = ms(1000+50*i), ms(999+50*i)
			}
		}
		all = append(all, e.encode(m, ms(1000+50*i))...)
	}
	f.Add(tape(all...))
	f.Add(tape(all[5], all[0], all[5], all[3], all[3], all[1])) // replayed, out of order
	back := proto.CloneOf(all[7])
	back.MonoMs = 3
	f.Add(tape(all[0], all[1], back, all[8])) // a clock that goes back
	f.Fuzz(func(t *testing.T, b []byte) {
		table := merge.NewTable(merge.DefaultConfig(), 1)
		policy := merge.DefaultPolicy()
		policy.Ping = merge.PingOff
		now := time.Hour
		for _, service := range []string{"api", "db"} {
			var endpoints []merge.Endpoint
			for _, k := range []merge.Key{api1, api2, db1, {Service: service, Instance: "other"}} {
				if k.Service == service {
					endpoints = append(endpoints, merge.Endpoint{Key: k})
				}
			}
			table.SetService(service, policy, endpoints, now)
		}
		if err := table.Join(merge.Reporter{ID: "sidecar-1"}, []string{"api", "db"}, now); err != nil {
			t.Fatal(err)
		}
		d := newDecoder(openRegistry())
		for range 64 {
			if len(b) < 3 {
				break
			}
			size := min(int(binary.LittleEndian.Uint16(b)), len(b)-3)
			now += time.Duration(b[2]) * time.Millisecond
			var up reportpb.Up
			err := proto.Unmarshal(b[3:3+size], &up)
			b = b[3+size:]
			if err != nil {
				continue
			}
			out := d.decode(&up, now)
			if r := out.report; r != nil {
				if r.At > now || r.At < now-jumped-time.Second && up.GetMonoMs() > 0 {
					t.Fatalf("at %v a report is of %v", now, r.At)
				}
				r.Own = nil // first-hand news may say that an instance drains
				table.Apply(*r, now)
			}
			for _, p := range out.probes {
				table.Probed(p.ID, "sidecar-1", p.Level, p.Result, p.Start, p.End, now)
			}
			for _, a := range out.polls {
				table.Polled(a, now)
			}
			for _, p := range out.probations {
				table.Probation("sidecar-1", p.Key, p.Epoch, p.Counts, now)
			}
			for _, c := range table.Step(now).Changes {
				if c.Refused == "" && c.To != outlier.In {
					t.Fatalf("one stream alone has put %s to %s: %s", c.Verdict.Key, c.To, c.Verdict.Explain.Reason)
				}
			}
		}
	})
}
