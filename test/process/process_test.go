package process

import (
	"net"
	"strings"
	"testing"
)

func TestNoAddressIsGivenOutTwiceOrInUse(t *testing.T) {
	taken, err := FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nextPort.Add(^uint32(0)) // the next would be the same again
	seen := map[string]bool{taken: true}
	for range 500 {
		address, err := FreeAddress()
		if err != nil {
			t.Fatal(err)
		}
		if seen[address] {
			t.Fatalf("%s is given out again", address)
		}
		seen[address] = true
	}
}

func TestAProcessSaysThatItHasEnded(t *testing.T) {
	p, err := Start([]string{"sleep", "600"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Ended(); err != nil {
		t.Errorf("it runs, and has ended: %v", err)
	}
	p.Kill()
	if err := p.Ended(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v, want that it was killed", err)
	}
}
