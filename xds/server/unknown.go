package server

import "google.golang.org/grpc/codes"

// topicSize is about what a topic takes beside its name.
const topicSize = 256

// unknown are the bytes of topics without content, by the address of the client that was
// the first to ask for them. A name that exists costs a client a few bits; one that does
// not makes the server remember it for as long as somebody wants it, and may be of any
// length. Who wants the same name later pays nothing: a fleet that is back before its
// services are known is charged for each of them once.
type unknown map[string]int

// charge puts a topic on the account of an address.
func (u unknown) charge(t *topic, address string) {
	if address == "" {
		return // not over a network
	}
	t.asker = address
	u[address] += t.size()
}

// settle takes a topic off, because it exists now or is gone.
func (u unknown) settle(t *topic) {
	if t.asker == "" {
		return
	}
	if u[t.asker] -= t.size(); u[t.asker] == 0 {
		delete(u, t.asker)
	}
	t.asker = ""
}

// within refuses a subscription that makes an account too large. Who adds nothing goes on:
// it is not to blame for another stream of its address.
func (u unknown) within(address string, most int, subscribe func()) error {
	before := u[address]
	subscribe()
	if now := u[address]; now > before && now > most {
		return endFor(TooManyUnknown, codes.ResourceExhausted, "the names that %s asks for and that do not exist take %d bytes: at most %d", address, now, most)
	}
	return nil
}

func (t *topic) size() int { return topicSize + len(t.name) }
