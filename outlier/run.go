package outlier

import (
	"encoding/binary"
	"hash/fnv"
	"math"
)

// runs are failures in a row, by what counts: those of all kinds, those of
// gateways, and those without an answer. See [Config.RunAny].
type runs struct{ any, gateway, local uint16 }

// In Endpoint.runs: three counts of 16 bits, and above them a bit for each that
// has become as long as asked, which outlives the run until Step has seen it.
const (
	runsCounts  uint64 = 1<<48 - 1
	runsReached        = 48
)

func runsOf(word uint64) runs {
	return runs{any: uint16(word), gateway: uint16(word >> 16), local: uint16(word >> 32)}
}

func (r runs) word() uint64 {
	return uint64(r.any) | uint64(r.gateway)<<16 | uint64(r.local)<<32
}

// after is what one more failure makes of them.
func (r runs) after(o Outcome) runs {
	next := runs{any: longer(r.any)}
	if o.Class != Server || o.Gateway {
		next.gateway = longer(r.gateway)
	}
	if o.Class != Server {
		next.local = longer(r.local)
	}
	return next
}

func longer(n uint16) uint16 {
	if n == math.MaxUint16 {
		return n
	}
	return n + 1
}

// reached are the runs that are as long as asked.
func (r runs) reached(asked runs) (bits uint64) {
	long := r.list()
	for i, n := range asked.list() {
		if n > 0 && long[i] >= n {
			bits |= 1 << i
		}
	}
	return bits
}

// run counts a failure, and says that a run has just become as long as asked.
func (e *Endpoint) run(asked runs, o Outcome) bool {
	for {
		was := e.runs.Load()
		next := runsOf(was).after(o)
		reached := next.reached(asked)
		if e.runs.CompareAndSwap(was, next.word()|(was>>runsReached|reached)<<runsReached) {
			return reached&^(was>>runsReached) != 0
		}
	}
}

// told takes back the marks of runs that have ended, and leaves those of runs that
// go on: they are judged again.
func (e *Endpoint) told(asked runs) {
	for {
		was := e.runs.Load()
		next := was&runsCounts | runsOf(was).reached(asked)<<runsReached
		if was == next || e.runs.CompareAndSwap(was, next) {
			return
		}
	}
}

func (c Config) runs() runs {
	return runs{any: uint16(c.RunAny), gateway: uint16(c.RunGateway), local: uint16(c.RunLocal)}
}

var runKinds = [...]string{"any", "gateway", "local"}

func (r runs) list() [len(runKinds)]uint16 { return [...]uint16{r.any, r.gateway, r.local} }

// ran looks for a run that is as long as asked: one that ejects, if there is one.
// kind is its place in runKinds.
func (d *Detector) ran(m *member) (kind int, found, enforced bool) {
	word := m.ep.runs.Load()
	if word>>runsReached == 0 {
		return 0, false, false
	}
	asked := d.cfg.runs()
	enforce := [...]float64{d.cfg.RunAnyEnforced, d.cfg.RunGatewayEnforced, d.cfg.RunLocalEnforced}
	for i, n := range asked.list() {
		if n == 0 || word>>(runsReached+i)&1 == 0 {
			continue
		}
		if m.lot() < enforce[i] {
			return i, true, true
		}
		kind, found = i, true
	}
	return kind, found, false
}

// ranEnough says that a run has come about that ejects.
func (d *Detector) ranEnough(m *member) bool {
	_, _, enforced := d.ran(m)
	return enforced
}

// run tells of the run that speaks; nil if there is none. It may have ended since.
func (d *Detector) run(m *member) *Run {
	kind, found, _ := d.ran(m)
	if !found {
		return nil
	}
	n := max(runsOf(m.ep.runs.Load()).list()[kind], d.cfg.runs().list()[kind])
	return &Run{Kind: runKinds[kind], Failures: int(n)}
}

// lot is a number in [0, 1) for the member's trouble of now, the same for as long as
// it lasts.
func (m *member) lot() float64 {
	h := fnv.New64a()
	h.Write([]byte(m.ID))
	h.Write(binary.LittleEndian.AppendUint64(nil, m.excursions))
	// The last byte moves the low bits most: the product spreads them upwards.
	return float64(h.Sum64()*0x9e3779b97f4a7c15>>11) / (1 << 53)
}
