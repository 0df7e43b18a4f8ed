// Package cadence says when a reporter tells what it has overheard, and of which
// endpoints.
//
//	the first hard failure or overdue attempt on an endpoint   at once
//	while that goes on                                         each 50 ms, after 500 ms each 250 ms
//	a score that has left 0, or rises again                    at once, at most one a second (burst 4)
//	endpoints that are watched by order                        each failure at once
//	endpoints under suspicion or out                           each second
//	all that has changed                                       each ten seconds
//	results of probes, answers to polls                        at once
//	after the stream began                                     everything
//
// Reports are at least 50 ms apart, except that hard news wait for hard news alone, and
// each one speaks of every endpoint that is under suspicion and has news. At a base error rate of one percent a tenth of all
// endpoints is in some excursion at any time, which is why soft news have a budget. Of
// ten such excursions one sees a second failure, so that half of the burst is kept for
// those: they are the better news. The ten-second report is also how the control plane knows that the sidecar lives.
//
// Nothing here starts a goroutine, reads a clock or takes a lock: sidecars and gRPC clients
// call it beside their streams, and the simulator in virtual time.
//
//	s.Hear(step.Urgency, now)              // after each step of a detector
//	if s.Due(now) {
//		turn := s.Turn(now)
//		asked := questions.Take(&turn)
//		for … each cluster whose Topic is Due {
//			seen := Observe(detector, service, asked.Polls(service), now)
//			memory.Weigh(&turn, topic, &seen, &asked, &report)
//		}
//		s.End(&turn)                       // … send if turn.Tell; Next says when again
//	}
package cadence
