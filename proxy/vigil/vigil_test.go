package vigil_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/vigil"
)

// cluster has the endpoints a, b and c, of which those in idle have no traffic.
func cluster(alone bool, idle ...string) *vigil.Cluster {
	c := &vigil.Cluster{
		IDs: slices.Values([]string{"a", "b", "c"}), Alone: alone, Every: 10 * time.Second,
		Picked:   func(string) bool { return true },
		Allow:    func() bool { return true },
		Jittered: func(d time.Duration) time.Duration { return d },
	}
	for _, id := range idle {
		c.Idle = append(c.Idle, outlier.IdleMember{ID: id})
	}
	return c
}

// play runs a schedule to its end and notes each ping as it would be sent.
func play(s *vigil.Schedule, c *vigil.Cluster, until time.Duration) []string {
	var sent []string
	for now := s.Next(); now <= until; now = s.Next() {
		for _, p := range s.Due(c, now) {
			whose := " own"
			if p.Leased {
				whose = " leased"
			}
			sent = append(sent, now.String()+" "+p.ID+whose)
		}
	}
	return sent
}

func TestALeaseIsKeptInItsTurnAndEnds(t *testing.T) {
	for name, c := range map[string]struct {
		leases  []vigil.Lease // of b, taken at 0s, 1s, …
		cluster *vigil.Cluster
		want    []string
	}{
		"by its own rhythm": {
			leases:  []vigil.Lease{{Phase: 3 * time.Second, Every: 5 * time.Second, Until: 14 * time.Second}},
			cluster: cluster(false, "b"), want: []string{"3s b leased", "8s b leased", "13s b leased"},
		},
		"by the cluster's if it has none": {
			leases:  []vigil.Lease{{Phase: time.Second, Until: 14 * time.Second}},
			cluster: cluster(false, "b"), want: []string{"1s b leased", "11s b leased"},
		},
		"a renewal keeps the turn": {
			leases: []vigil.Lease{
				{Phase: 3 * time.Second, Every: 5 * time.Second, Until: 4 * time.Second},
				{Phase: 9 * time.Second, Every: 2 * time.Second, Until: 6 * time.Second},
			},
			cluster: cluster(false, "b"), want: []string{"3s b leased", "5s b leased"},
		},
		"one that has ended takes it back": {
			leases:  []vigil.Lease{{Every: 5 * time.Second, Until: time.Hour}, {}},
			cluster: cluster(false, "b"), want: []string{"0s b leased"},
		},
		"traffic puts it off": {
			leases:  []vigil.Lease{{Every: 5 * time.Second, Until: time.Minute}},
			cluster: cluster(false, "a"), want: nil,
		},
		"nobody pings without a lease while the control plane is heard": {cluster: cluster(false, "a", "b", "c")},
	} {
		var s vigil.Schedule
		var got []string
		for i, l := range c.leases {
			now := time.Duration(i) * time.Second
			s.Lend("b", l, now)
			got = append(got, play(&s, c.cluster, now)...)
		}
		got = append(got, play(&s, c.cluster, 30*time.Second)...)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestASidecarAlonePingsTheNeediestThatItCouldChoose(t *testing.T) {
	c := cluster(true, "a", "b", "c")
	c.Picked = func(id string) bool { return id != "a" }
	c.Idle[1].Due = 400 * time.Millisecond
	tokens := 2
	c.Allow = func() bool { tokens--; return tokens >= 0 }
	var s vigil.Schedule
	got := play(&s, c, time.Second)
	want := []string{"0s c own", "250ms c own"} // then b is due, but the bucket is empty
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A thousand clusters at rest must not cost what they would in use.
func TestWhoHasNothingToPingSeldomLooks(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(*vigil.Cluster)
		most int // looks in a minute
	}{
		"all have traffic":         {func(c *vigil.Cluster) { c.Idle = nil }, 61},
		"nothing is due":           {func(c *vigil.Cluster) { c.Idle[0].Due = time.Hour }, 61},
		"others have the pings":    {func(c *vigil.Cluster) { c.Allow = func() bool { return false } }, 20},
		"it is told what it pings": {func(c *vigil.Cluster) { c.Alone = false }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			c := cluster(true, "a")
			test.edit(c)
			var s vigil.Schedule
			looks := 0
			for now := s.Next(); now <= time.Minute; now = s.Next() {
				if sent := s.Due(c, now); len(sent) > 0 {
					t.Fatalf("pings: got %+v, want none", sent)
				}
				looks++
			}
			if looks > test.most {
				t.Errorf("looks in a minute: got %d, want at most %d", looks, test.most)
			}
		})
	}
}

func TestAMissedPingIsRepeatedWhenItIsDue(t *testing.T) {
	c := cluster(true, "a")
	c.Idle[0].Due = 400 * time.Millisecond
	var s vigil.Schedule
	if got, want := play(&s, c, 600*time.Millisecond), []string{"400ms a own"}; !slices.Equal(got, want) {
		t.Errorf("pings: got %q, want %q", got, want)
	}
}

func TestWhatIsBeingPingedIsNotPingedAgain(t *testing.T) {
	c := cluster(true, "b")
	var s vigil.Schedule
	s.Lend("b", vigil.Lease{Every: time.Millisecond, Until: time.Hour}, 0)
	if got := s.Due(c, 0); len(got) != 1 || !got[0].Leased {
		t.Fatalf("pings: %+v, want the leased one alone", got)
	}
	s.Begun("b")
	if got := s.Due(c, time.Second); len(got) != 0 {
		t.Errorf("pings of what is being pinged: %+v", got)
	}
	s.Ended("b")
	if got := s.Due(c, 2*time.Second); len(got) != 1 {
		t.Errorf("pings once that has ended: %+v, want one", got)
	}
}

func TestALeaseGoesWithItsEndpoint(t *testing.T) {
	c := cluster(false, "b")
	var s vigil.Schedule
	s.Lend("b", vigil.Lease{Every: time.Second, Until: time.Hour}, 0)
	s.Keep(func(id string) bool { return id != "b" }, 0)
	if got := play(&s, c, time.Minute); len(got) != 0 {
		t.Errorf("pings of one that has left and is another's name now: %v", got)
	}
	s.Rest()
	if s.Next() != vigil.Never {
		t.Errorf("something is due at %v while it rests", s.Next())
	}
}

// The other pingers have their turns between those of this one.
func TestALatePingMovesNoLaterTurn(t *testing.T) {
	var s vigil.Schedule
	c := cluster(false, "b")
	s.Lend("b", vigil.Lease{Every: 5 * time.Second, Until: time.Hour}, 0)
	for _, now := range []time.Duration{0, 7 * time.Second, 23 * time.Second} {
		if got := len(s.Due(c, now)); got != 1 {
			t.Errorf("%d pings at %v, want one", got, now)
		}
	}
	if got, want := s.Next(), 25*time.Second; got != want {
		t.Errorf("the next turn is at %v, want %v", got, want)
	}
}
