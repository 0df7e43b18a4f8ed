package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// driveH2 has h2load make requests.
func driveH2(ctx context.Context, w work, address, dir string, d time.Duration) (turn, error) {
	log := filepath.Join(dir, "h2load.log")
	defer func() { _ = os.Remove(log) }() // it is in a folder that goes anyway
	// A number of requests instead of a duration: h2load breaks off what is under way
	// at the end of a duration, which would look like failures.
	n := max(w.connections*w.streams, int(30_000*d.Seconds()))
	args := []string{"-n", strconv.Itoa(n), "-c", strconv.Itoa(w.connections), "-m", strconv.Itoa(w.streams), "--log-file=" + log}
	if w.grpc {
		body := filepath.Join(dir, "message")
		if err := os.WriteFile(body, []byte("\x00\x00\x00\x00\x05hello"), 0o644); err != nil {
			return turn{}, err
		}
		args = append(args, "-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers")
	}
	out, err := exec.CommandContext(ctx, "h2load", append(args, "http://"+address+"/work")...).CombinedOutput()
	if err != nil {
		return turn{}, fmt.Errorf("h2load: %w\n%s", err, out)
	}
	if !bytes.Contains(out, fmt.Appendf(nil, "%d 2xx, 0 3xx, 0 4xx, 0 5xx", n)) {
		return turn{}, fmt.Errorf("not every request was answered with 200:\n%s", out)
	}
	return readLog(log)
}

// readLog reads what h2load says of each request: start, status, microseconds.
func readLog(path string) (turn, error) {
	f, err := os.Open(path)
	if err != nil {
		return turn{}, err
	}
	defer f.Close()
	var micros []float64
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			return turn{}, fmt.Errorf("h2load: %q is no line of its log", lines.Text())
		}
		us, err := strconv.Atoi(fields[2])
		if err != nil {
			return turn{}, err
		}
		micros = append(micros, float64(us))
	}
	if err := lines.Err(); err != nil {
		return turn{}, err
	}
	return turnOf(micros)
}

const echoMethod = "/bench.Echo/Stream"

// driveStreams keeps a message going there and back on each of the streams.
func driveStreams(ctx context.Context, w work, address, _ string, d time.Duration) (turn, error) {
	ctx, cancel := context.WithTimeout(ctx, d+10*time.Second)
	defer cancel()
	end := time.Now().Add(d)
	conns := make([]*grpc.ClientConn, w.connections)
	for i := range conns {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
		if err != nil {
			return turn{}, err
		}
		defer conn.Close()
		conns[i] = conn
	}
	return together(w.connections*w.streams, func(i int) ([]float64, error) { return echo(ctx, conns[i/w.streams], end) })
}

// echo is one stream.
func echo(ctx context.Context, conn *grpc.ClientConn, end time.Time) (micros []float64, err error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, echoMethod)
	if err != nil {
		return nil, err
	}
	message := bytes.Repeat([]byte("m"), streamSize)
	for time.Now().Before(end) {
		start := time.Now()
		if err := stream.SendMsg(&message); err != nil {
			return nil, err
		}
		var back []byte
		if err := stream.RecvMsg(&back); err != nil {
			return nil, err
		}
		if !bytes.Equal(back, message) {
			return nil, fmt.Errorf("%q came back", back)
		}
		micros = append(micros, since(start))
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	var more []byte
	if err := stream.RecvMsg(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("a stream did not end, but sent %q: %w", more, err)
	}
	return micros, nil
}
