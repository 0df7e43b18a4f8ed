// Package pipenet is a TCP network in memory.
//
// It exists so that a whole mesh (sidecars, applications, a control plane, real
// net/http and real gRPC) can run inside one testing/synctest bubble: every wait
// is on a sync.Cond, a channel or a timer, so that virtual time moves on when
// nobody has anything to do. It works outside a bubble as well.
//
// # Words
//
// A [Network] has hosts. A [Host] is one IP address with a loopback of its own,
// as a pod has: 127.0.0.1:8080 on host 10.0.0.1 is not 127.0.0.1:8080 on host
// 10.0.0.2. Its Dial and Listen have the shape that the product takes as
// arguments, and the connections that it makes carry the right addresses.
//
//	n := pipenet.New(1)
//	server, client := n.Host("10.0.0.2"), n.Host("10.0.0.1")
//	ln, err := server.Listen(ctx, "tcp", ":80")
//	c, err := client.Dial(ctx, "tcp", "10.0.0.2:80")
//
// # What is as in a real kernel
//
// A connection exists as soon as the listener's backlog has room, before anyone
// accepts it. Nobody listening refuses (ECONNREFUSED), which is also what an
// address without a host does. A closed socket that is written to, closed with
// unread data, or closed with SetLinger(0) resets its peer: what had arrived is
// still readable, then comes ECONNRESET, and writing gives EPIPE or ECONNRESET.
// Closing a listener resets what nobody has accepted. A write succeeds while the
// window (64 KiB) has room, whether the peer reads or not. Errors are *net.OpError
// around *os.SyscallError, so that errors.Is finds the errno.
//
// # Faults
//
// Faults and delays are rules about packets of one direction, by source and
// destination: "*", an IP address, a prefix in CIDR form, or address:port. Bytes
// that meet a cut are not lost but held, as TCP would send them again, and arrive
// after [Network.Heal].
package pipenet
