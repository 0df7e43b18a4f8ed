package merge

import "time"

// oneMoment is how far apart hard failures must be to tell of more than one event.
const oneMoment = 100 * time.Millisecond

// once says whether row w of e rests on hard failures of one moment. Connections that
// stood and break all at once are one piece of news about the endpoint, however many
// there were and however many saw it: the test takes attempts to fail independently. A
// process that drops its connections and goes on serves the next attempts; one that
// does not fails some that begin later, and is asked about by probes in the meantime.
func (t *Table) once(e *endpoint, w *row, k kind) bool {
	if 2*w.classes.Conn < w.last.k {
		return false
	}
	broken, first, last := int64(0), never, never
	for i := range w.active {
		x := &w.active[i]
		if t.observers[x.slot].divisor == 0 || !w.has(e, k, x.cell) {
			continue
		}
		at := e.cells[x.cell].x.place(k)
		broken += int64(at.conn)
		if at.hard != never && (first == never || at.hard < first) {
			first = at.hard
		}
		if last = max(last, at.hardStart); last >= first+oneMoment {
			return false
		}
	}
	return 2*broken >= w.last.k && broken > 0
}
