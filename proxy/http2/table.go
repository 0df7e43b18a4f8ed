package http2

// octets is what the name or the value of a field may be.
type octets interface{ ~string | ~[]byte }

// table is the dynamic table of an encoder (RFC 7541, section 2.3.2): fields that have
// been written, and are a number the next time. The encoder of x/net/http2/hpack looks
// for each field in two maps from pairs of strings, which was a tenth of what a call of
// gRPC costs. Here a guess says where the field is likely to be; if it is not there, the
// few entries that fit are looked through.
type table struct {
	ring        []entry // entry n is at n modulo the length, a power of two
	first, next uint32  // numbers of the oldest entry, and of the one to come
	size, limit int     // as section 4.1 counts
	guesses     [32]uint32
}

type entry struct{ name, value string }

// overhead is what section 4.1 counts for an entry beside its text.
const overhead = 32

func (t *table) at(n uint32) *entry { return &t.ring[n&uint32(len(t.ring)-1)] }

// index is the number of entry n on the wire, behind the 61 of the static table.
func (t *table) index(n uint32) int { return 61 + int(t.next-n) }

// guess is where a field is looked for first. It need not be good, but cheap.
func guess[N, V octets](name N, value V) int {
	h := uint32(len(name))<<8 + uint32(len(value))
	if n := len(name); n > 0 {
		h = h*31 + uint32(name[n-1])
	}
	if n := len(value); n > 0 {
		h = h*31 + uint32(value[n/2])
		h = h*31 + uint32(value[n-1])
	}
	return int(h * 2654435769 >> 27)
}

// find looks for a field. If whole is false, only its name is at index; 0: not even that.
func find[N, V octets](t *table, name N, value V) (index int, whole bool) {
	g := &t.guesses[guess(name, value)]
	if t.next-1-*g < t.next-t.first {
		if e := t.at(*g); e.value == string(value) && e.name == string(name) {
			return t.index(*g), true
		}
	}
	for n := t.next; n != t.first; {
		n--
		if e := t.at(n); e.name == string(name) {
			if e.value == string(value) {
				*g = n
				return t.index(n), true
			}
			if index == 0 {
				index = t.index(n)
			}
		}
	}
	return index, false
}

// fits reports whether a field can be in the table.
func (t *table) fits(name, value int) bool { return name+value+overhead <= t.limit }

// insert takes in a field that fits.
func (t *table) insert(name, value string) {
	need := len(name) + len(value) + overhead
	t.evict(t.limit - need)
	if int(t.next-t.first) == len(t.ring) {
		t.grow()
	}
	t.size += need
	*t.at(t.next) = entry{name, value}
	t.guesses[guess(name, value)] = t.next
	t.next++
}

// evict makes the table no larger than size.
func (t *table) evict(size int) {
	for t.size > size {
		e := t.at(t.first)
		t.size -= len(e.name) + len(e.value) + overhead
		*e = entry{}
		t.first++
	}
}

func (t *table) grow() {
	larger := table{ring: make([]entry, max(8, 2*len(t.ring)))}
	for n := t.first; n != t.next; n++ {
		*larger.at(n) = *t.at(n)
	}
	t.ring = larger.ring
}
