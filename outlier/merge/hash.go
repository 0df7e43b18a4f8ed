package merge

import "time"

// hash64 is FNV-1a over the parts with a final mix (Steele, Lea, Flood 2014), so
// that near-equal names land far apart. It depends on nothing but its input:
// every replica and every run chooses alike.
func hash64(seed uint64, parts ...string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset) ^ seed
	for _, p := range parts {
		for i := range len(p) {
			h = (h ^ uint64(p[i])) * prime
		}
		h = (h ^ 0xff) * prime
	}
	return mix(h)
}

func mix(h uint64) uint64 {
	h ^= h >> 30
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 27
	h *= 0x94d049bb133111eb
	return h ^ h>>31
}

// jittered spreads d over 80 % to 120 %, by a hash in place of dice.
func jittered(d time.Duration, share float64, h uint64) time.Duration {
	u := float64(h>>11) / (1 << 53)
	return time.Duration(float64(d) * (1 - share + 2*share*u))
}
