package outlier_test

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// One of three endpoints begins to answer each request with an error.
func Example() {
	d := outlier.New(outlier.DefaultConfig(), rand.New(rand.NewPCG(1, 2)))
	ids := []string{"a", "b", "c"}
	now := time.Second
	d.SetMembers([]outlier.Member{{ID: "a"}, {ID: "b"}, {ID: "c"}}, now)

	for i := 0; now < 40*time.Second; i++ {
		now += 10 * time.Millisecond
		id := ids[i%len(ids)]
		e := d.Endpoint(id)
		a := e.Start(now, true)
		e.Headers(&a, now+2*time.Millisecond)
		class := outlier.OK
		if id == "b" && now > 30*time.Second {
			class = outlier.Server
		}
		e.End(&a, outlier.Outcome{Class: class, Now: now + 2*time.Millisecond, Conn: uint32(i)})

		for _, c := range d.Step(now + 2*time.Millisecond).Changes {
			fmt.Printf("%s: %v -> %v by rule %v, %d failures\n", c.ID, c.From, c.To, c.Rule, c.Explain.Counts.K())
		}
		if d.View()[1].Weight == 0 {
			break
		}
	}
	// Output:
	// b: in -> ejected by rule fast, 6 failures
}
