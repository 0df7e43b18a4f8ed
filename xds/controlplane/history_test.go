package controlplane

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func texts(events []Event) []string {
	var all []string
	for _, e := range events {
		all = append(all, fmt.Sprintf("%d:%s", e.Cursor, e.Text))
	}
	return all
}

func TestHistoryGivesWhatCameAfterACursor(t *testing.T) {
	h := newHistory(4)
	for i := range 6 {
		h.add(Event{Text: fmt.Sprint("e", i+1)})
	}
	for _, tc := range []struct {
		name   string
		cursor uint64
		limit  int
		want   []string
		lost   uint64
	}{
		{"from the beginning, of which two are overwritten", 0, 10, []string{"3:e3", "4:e4", "5:e5", "6:e6"}, 2},
		{"from the oldest", 2, 10, []string{"3:e3", "4:e4", "5:e5", "6:e6"}, 0},
		{"from the middle", 4, 10, []string{"5:e5", "6:e6"}, 0},
		{"a page", 2, 2, []string{"3:e3", "4:e4"}, 0},
		{"nothing new", 6, 10, nil, 0},
		{"a cursor of another process", 99, 10, []string{"3:e3", "4:e4", "5:e5", "6:e6"}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, lost, _ := h.after(tc.cursor, tc.limit)
			if diff := cmp.Diff(tc.want, texts(got)); diff != "" {
				t.Errorf("events differ (-want +got):\n%s", diff)
			}
			if lost != tc.lost {
				t.Errorf("lost: got %d, want %d", lost, tc.lost)
			}
		})
	}
}

func TestHistoryWakesWhoeverWaits(t *testing.T) {
	h := newHistory(4)
	_, _, more := h.after(0, 10)
	select {
	case <-more:
		t.Fatal("woken without an event")
	default:
	}
	h.add(Event{Text: "a"})
	select {
	case <-more:
	default:
		t.Fatal("not woken by an event")
	}
}
