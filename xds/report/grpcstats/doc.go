// Package grpcstats lets a proxyless gRPC client tell the control plane what its calls came
// to, as a sidecar would. The client is told whom to avoid by xDS; with this it is one of
// those by whose evidence that is decided.
//
//	reporter, err := grpcstats.Start(grpcstats.Config{})
//	defer reporter.Close()
//	conn, err := grpc.NewClient("xds:///api", grpc.WithStatsHandler(reporter.Handler("xds:///api")), …)
//
// There is one [Reporter] in a process, however many channels there are: it speaks with the
// node id of the xDS bootstrap, which must be this process's alone. It is told to whom the
// channel leads because gRPC does not tell a stats.Handler; endpoints are known by their
// addresses, and the control plane knows which instance is behind each. It believes what is
// said of services whose endpoints this client's own xDS stream has accepted, and nothing
// else.
//
// # What is counted
//
// Attempts, not calls: each retry is one, on the endpoint that it was made on. A call that
// never got a connection is none. How an attempt ended is put into the words of
// [outlier.ClassifyHTTP]: the status that the server sent, in headers or trailers; a stream
// that it reset; a connection that was lost; a deadline that had come, or a caller who left,
// which say something only where an answer was due by then. gRPC has no type for the last
// four, so that they are told apart by the context and by the texts of its errors. One that
// is not known says nothing, unless there is no answer.
//
// What is counted is kept by the detector that sidecars have, with a route for each method,
// and told at the pace that sidecars keep (package cadence). The detector takes nobody out here:
// that is the business of the control plane, and of the client's balancer.
//
// When all connections to an endpoint have been lost it is asked once whether it still
// accepts any, and so it is when the control plane orders that. Such a probe is a TCP
// connection and no more.
//
// # Cost
//
// One allocation of 112 bytes per attempt, and three readings of the clock. No call ever
// waits for the reporter: what calls do is to count, and one goroutine looks at the
// counters, four times a second while all is well. It remembers 10 000 endpoints of each channel, and
// forgets those to which there was no connection for ten minutes. Without a control plane
// everything goes on; counters are cumulative, so that nothing is lost meanwhile but time.
package grpcstats
