package openload

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestRequestsAreMadeWhetherOrNotTheEarlierOnesWereAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int64
		answer := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan int64, 1)
		go func() {
			ended <- Run(ctx, 100, func() {
				made.Add(1)
				<-answer
			})
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := made.Load(); n != MaxOutstanding {
			t.Errorf("%d requests are out, want %d", n, MaxOutstanding)
		}
		cancel()
		synctest.Wait()
		select {
		case <-ended:
			t.Error("it has ended before its requests")
		default:
		}
		close(answer)
		// Some 6000 were due, give or take 80.
		if skipped := <-ended; skipped < 3000-MaxOutstanding {
			t.Errorf("%d were left out, want the rest of some 6000", skipped)
		}
	})
}
