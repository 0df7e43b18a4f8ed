package balancer

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// keyBits is how many bits stand for all keys. They tell how many keys there are up
	// to some times their own number; beyond, that there are many will do.
	keyBits = 4096
	// keysFor is how long a key counts as one in use.
	keysFor = 30 * time.Second
)

// Keys estimates how many different keys requests have, by linear counting (Whang,
// Vander-Zanden, Taylor 1990): each key sets one of many bits, and from how many are set
// follows how many keys there were. A key that was seen before costs one load.
type Keys struct {
	set  [keyBits / 64]atomic.Uint64
	next time.Duration // when the present count ends; 0: none has begun
}

// See takes in the key of a request, 64 evenly spread bits, on any goroutine.
func (k *Keys) See(key uint64) {
	i := key % keyBits
	if word, bit := &k.set[i/64], uint64(1)<<(i%64); word.Load()&bit == 0 {
		word.Or(bit)
	}
}

// Turn gives, each half minute, the keys that were in use in that time, for each of so
// many endpoints, and begins anew. It is for one goroutine. news is false while the time
// runs, and when there was no key.
func (k *Keys) Turn(now time.Duration, endpoints int) (each int, news bool) {
	if k.next == 0 {
		k.next = now + keysFor
	}
	if now < k.next {
		return 0, false
	}
	k.next = now + keysFor
	used := 0
	for i := range k.set {
		used += bits.OnesCount64(k.set[i].Swap(0))
	}
	if used == 0 || endpoints == 0 {
		return 0, false
	}
	unused := max(1, keyBits-used)
	keys := keyBits * math.Log(keyBits/float64(unused))
	return max(1, int(keys+0.5)/endpoints), true
}
