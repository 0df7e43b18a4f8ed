package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"

	program "github.com/overhear-mesh/overhear/test/process"
)

const bodySize = 1024

// server is what stands behind the proxies.
type server interface {
	address() string
	close()
}

// listening is a server of this process.
type listening struct{ net.Listener }

func (l listening) address() string { return l.Addr().String() }
func (l listening) close()          { _ = l.Close() }

// serve accepts connections and hands each to a goroutine of its own.
func serve(handle func(net.Conn)) (server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return listening{l}, nil
}

// startHTTP1 answers every request with 200 and one kilobyte, spending as little as
// Go can: its cost is not under test.
func startHTTP1(work, string) (server, error) {
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", bodySize, bytes.Repeat([]byte("x"), bodySize))
	return serve(func(c net.Conn) {
		buf := make([]byte, 2*postSize)
		kept := 0
		for {
			n, err := c.Read(buf[kept:])
			if err != nil {
				return
			}
			kept += n
			for size := requestSize(buf[:kept]); size > 0; size = requestSize(buf[:kept]) {
				kept = copy(buf, buf[size:kept])
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}
	})
}

var (
	headEnd = []byte("\r\n\r\n")
	length  = []byte("content-length: ")
)

// requestSize is how long the first request of buf is with its body; 0: it is not
// there yet. Proxies write the one field that counts in lower case or as here.
func requestSize(buf []byte) int {
	end := bytes.Index(buf, headEnd)
	if end < 0 {
		return 0
	}
	size := end + len(headEnd)
	for line := range bytes.Lines(buf[:size]) {
		if len(line) > len(length) && bytes.EqualFold(line[:len(length)], length) {
			n, err := strconv.Atoi(string(bytes.TrimSpace(line[len(length):])))
			if err != nil {
				return 0
			}
			size += n
		}
	}
	if size > len(buf) {
		return 0
	}
	return size
}

// bulkByte asks startTCP's server for bytes without end; any other has it send back
// what it gets.
const bulkByte = 'B'

func startTCP(work, string) (server, error) {
	return serve(func(c net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			for again := buf[0] == bulkByte; ; {
				if again {
					n = len(buf)
				}
				if _, err := c.Write(buf[:n]); err != nil {
					return
				}
				if !again {
					break
				}
			}
		}
	})
}

// raw passes messages through as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (raw) Unmarshal(b []byte, v any) error { *v.(*[]byte) = bytes.Clone(b); return nil }
func (raw) Name() string                    { return "raw" }

var _ encoding.Codec = raw{}

type grpcServer struct {
	listening
	server *grpc.Server
}

func (g grpcServer) close() { g.server.Stop() }

// startEcho sends each message of a stream back; of a unary call it answers with an
// empty one, which is what a receiver of spans says.
func startEcho(work, string) (server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		for {
			var message []byte
			switch err := stream.RecvMsg(&message); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			}
			if method != echoMethod {
				message = nil
			}
			if err := stream.SendMsg(&message); err != nil {
				return err
			}
		}
	}))
	go func() { _ = s.Serve(l) }() // ends with close
	return grpcServer{listening{l}, s}, nil
}

// nghttpd is nghttp2's server, on the core of the load: what a request costs it was
// measured to be a third of what it costs the fastest proxy. It comes with h2load, in
// Debian's packages nghttp2-server and nghttp2-client.
type nghttpd struct {
	at      string
	command *exec.Cmd
}

func startNghttpd(w work, dir string) (server, error) {
	root := filepath.Join(dir, "www")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(root, "work"), bytes.Repeat([]byte("x"), bodySize), 0o644); err != nil {
		return nil, err
	}
	address, err := program.FreeAddress()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	args := []string{"--no-tls", "--address=127.0.0.1", "-d", root}
	if w.grpc {
		args = append(args, "--trailer=grpc-status:0")
	}
	n := &nghttpd{at: address, command: exec.Command("nghttpd", append(args, port)...)}
	if err := n.command.Start(); err != nil {
		return nil, err
	}
	for range 100 {
		if c, err := net.Dial("tcp", address); err == nil {
			return n, c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	n.close()
	return nil, errors.New("nghttpd does not listen")
}

func (n *nghttpd) address() string { return n.at }

func (n *nghttpd) close() {
	_ = n.command.Process.Kill() // it has no other end
	_ = n.command.Wait()
}
