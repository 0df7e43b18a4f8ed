package balancer_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/proxy/balancer"
)

func TestKeysInUseAreCountedForEachEndpoint(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, tt := range []struct {
		keys, endpoints int
		least, most     int
	}{
		{1, 10, 1, 1},
		{20, 10, 1, 2},
		{90, 10, 8, 9},
		{120, 10, 11, 12},
		{1000, 10, 90, 110},
		{10_000, 1000, 9, 11},
		{1_000_000, 100, 300, 400}, // more than it can tell
	} {
		var k balancer.Keys
		k.Turn(time.Second, tt.endpoints)
		for range tt.keys {
			key := rng.Uint64()
			k.See(key)
			k.See(key)
		}
		if each, news := k.Turn(30*time.Second, tt.endpoints); news {
			t.Errorf("%d keys: %d each before half a minute was over", tt.keys, each)
		}
		if each, news := k.Turn(31*time.Second, tt.endpoints); !news || each < tt.least || each > tt.most {
			t.Errorf("%d keys on %d endpoints: %d each (news %v), want %d to %d", tt.keys, tt.endpoints, each, news, tt.least, tt.most)
		}
		if each, news := k.Turn(time.Hour, tt.endpoints); news {
			t.Errorf("%d keys: still %d each when there are none", tt.keys, each)
		}
	}
}

func TestKeysAreCountedWithoutAllocation(t *testing.T) {
	var k balancer.Keys
	key := uint64(0)
	if n := testing.AllocsPerRun(1000, func() { key++; k.See(key) }); n != 0 {
		t.Errorf("%v allocations for a key, want none", n)
	}
}

func BenchmarkKeysSee(b *testing.B) {
	var k balancer.Keys
	key := uint64(0)
	for b.Loop() {
		key++
		k.See(key & 1023)
	}
}
