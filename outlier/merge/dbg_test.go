package merge

import (
	"fmt"
	"github.com/overhear-mesh/overhear/outlier"
	"testing"
	"time"
)

func TestDbg(t *testing.T) {
	for _, share := range []float64{.3, 1} {
		for _, rate := range []float64{5, 50, 500} {
			ej := 0
			seeds := 12
			for s := range seeds {
				f := newFleet(t, mesh{callers: 10, endpoints: 10, zones: twoZones, rate: rate, base: 0.01, seed: uint64(s + 100)})
				f.run(30 * time.Second)
				for _, e := range f.targets {
					e.fault = f.sometimes(share)
				}
				f.run(10 * time.Second)
				v := f.verdicts(outlier.Ejected)
				ej += len(v)
				if len(v) > 0 {
					fmt.Println(describe(v[:1]))
				}
			}
			fmt.Println(share, rate, "ejections", ej, "in", seeds)
		}
	}
}
