// Command sidecar is Overhear's data plane: a proxy beside each service that
// carries its traffic and learns from it which endpoints are sick.
//
//	sidecar run -c sidecar.yaml        (also without the verb)
//	sidecar validate -c sidecar.yaml
//	sidecar status
//	sidecar version
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"syscall"
	"time"

	"github.com/overhear-mesh/overhear/internal/buildversion"
	"github.com/overhear-mesh/overhear/internal/cmdline"
	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy"
	"github.com/overhear-mesh/overhear/proxy/admin"
	"github.com/overhear-mesh/overhear/proxy/config"
)

const usage = `Overhear sidecar: carries a service's traffic and overhears which endpoints are sick.

  sidecar run      -c sidecar.yaml     run until SIGTERM, then drain (the default verb); SIGHUP reloads
  sidecar validate -c sidecar.yaml     say everything that is wrong with the file
  sidecar status   [-address HOST:PORT] [-o table|json]
                                       what a running sidecar believes of its endpoints
  sidecar version

Settings may also come from the environment: `

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	verb := "run"
	if len(args) > 0 && len(args[0]) > 0 && args[0][0] != '-' {
		verb, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("sidecar "+verb, flag.ContinueOnError)
	flags.Usage = func() { help(flags) }
	var err error
	switch verb {
	case "run", "validate":
		file := flags.String("c", "sidecar.yaml", "the configuration `file`")
		if code, stop := parse(flags, args, stdout, stderr); stop {
			return code
		}
		if verb == "run" {
			err = serve(*file, stderr)
		} else if _, err = config.Load(*file, os.LookupEnv); err == nil {
			fmt.Fprintf(stdout, "%s is valid\n", *file)
		}
	case "status":
		address := flags.String("address", "127.0.0.1:15000", "the sidecar's admin `address`")
		format := flags.String("o", "table", "table or json")
		if code, stop := parse(flags, args, stdout, stderr); stop {
			return code
		}
		if *format != "table" && *format != "json" {
			fmt.Fprintf(stderr, "%s: -o %s: want table or json\n", flags.Name(), *format)
			return 2
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err = admin.PrintStatus(ctx, stdout, *address, *format == "json"); errors.Is(err, syscall.ECONNREFUSED) {
			err = fmt.Errorf("nothing listens at %s: is the sidecar running, and is this its admin address (-address)?", *address)
		}
	case "version":
		if code, stop := parse(flags, args, stdout, stderr); stop {
			return code
		}
		fmt.Fprintf(stdout, "overhear sidecar %s %s %s/%s\n", buildversion.String(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	case "help":
		flags.SetOutput(stdout)
		help(flags)
	default:
		hint := cmp.Or(strictyaml.DidYouMean(verb, verbs), ": want "+strings.Join(verbs, ", "))
		fmt.Fprintf(stderr, "sidecar: there is no verb %q%s\n", verb, hint)
		return 2
	}
	if _, ok := errors.AsType[strictyaml.Problems](err); ok {
		fmt.Fprintln(stderr, err) // a problem a line, in the form that editors link
		return 1
	}
	if err != nil {
		fmt.Fprintf(stderr, "sidecar: %v\n", err)
		return 1
	}
	return 0
}

// verbs are what can be asked of the command.
var verbs = []string{"run", "validate", "status", "version", "help"}

// help says what the command can do, and the settings that the environment may have.
func help(flags *flag.FlagSet) {
	out := flags.Output()
	fmt.Fprint(out, usage)
	for i, e := range config.Environment {
		if i > 0 {
			fmt.Fprint(out, ", ")
		}
		fmt.Fprint(out, e.Name)
	}
	fmt.Fprintln(out, ".")
}

// parse reports the exit code when the arguments end the command.
func parse(flags *flag.FlagSet, args []string, stdout, stderr io.Writer) (code int, stop bool) {
	switch err := cmdline.Parse(flags, args, stdout); {
	case errors.Is(err, flag.ErrHelp):
		return 0, true
	case err != nil:
		fmt.Fprintf(stderr, "%s: %v\n", flags.Name(), err)
		return 2, true
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "%s: unexpected argument %q\n", flags.Name(), flags.Arg(0))
		return 2, true
	}
	return 0, false
}

// serve runs one sidecar until it is told to stop, and reloads its file on SIGHUP.
func serve(file string, stderr io.Writer) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // before anything takes time: unheard, it would end the process
	defer signal.Stop(hangup)
	cfg, err := config.Load(file, os.LookupEnv)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	log := newLogger(cfg.Log, level, stderr)
	sidecar, err := proxy.New(cfg, proxy.Options{Log: log, LogLevel: level, Version: buildversion.String()})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	go func() {
		// A second signal ends the process at once: the default action is back.
		<-ctx.Done()
		stop()
	}()
	go func() {
		for {
			tidy := time.AfterFunc(settled, settle)
			select {
			case <-ctx.Done():
				tidy.Stop()
				return
			case <-hangup:
			}
			if err := reload(sidecar, file); err != nil {
				log.Error("reload refused, the running configuration stays", "file", file, "error", err)
			}
		}
	}()
	return sidecar.Run(ctx)
}

// settled is how long after a start or a reload the clusters are in place.
const settled = 2 * time.Second

// settle gives what reading a large file has left back to the system, and sets how
// much garbage may lie beside what is in use. GOGC in the environment overrides that.
func settle() {
	debug.FreeOSMemory()
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	debug.SetGCPercent(gcPercent(live[0].Value.Uint64()))
}

// gcPercent is lower than Go's 100: a request allocates next to nothing, so that
// collecting often costs little, and a sidecar runs beside every instance, where its
// memory counts. What a large configuration leaves in use grows no further with
// traffic, and so needs no more room for garbage than a small one.
func gcPercent(live uint64) int {
	const (
		most, least = 50, 20
		room        = 8 << 20
	)
	return int(min(most, max(least, 100*room/max(live, 1))))
}

func reload(sidecar *proxy.Sidecar, file string) error {
	next, err := config.Load(file, os.LookupEnv)
	if err != nil {
		sidecar.ReloadFailed(err)
		return err
	}
	return sidecar.Reload(next)
}

func newLogger(cfg config.Log, level *slog.LevelVar, w io.Writer) *slog.Logger {
	// The file was validated: the level is one that slog knows.
	_ = level.UnmarshalText([]byte(cfg.Level))
	options := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
