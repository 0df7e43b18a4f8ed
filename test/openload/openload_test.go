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

func TestARequestKnowsWhenItWasToBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var made atomic.Int64
		began := time.Now()
		At(ctx, 100, func(intended time.Time) {
			// The clock of a bubble stands still while anyone works: nobody is late.
			if late := time.Since(intended); late != 0 {
				t.Errorf("a request began %v late", late)
			}
			made.Add(1)
		})
		if got := time.Since(began); got < time.Minute {
			t.Errorf("it ended after %v, want a minute", got)
		}
		if n := made.Load(); n < 5000 || n > 7000 {
			t.Errorf("%d requests in a minute at 100/s, want some 6000", n)
		}
	})
}
