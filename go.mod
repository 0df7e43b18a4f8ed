module github.com/overhear-mesh/overhear

go 1.26.0

require (
	github.com/cespare/xxhash/v2 v2.3.0 // the hash of ring and Maglev
	github.com/envoyproxy/go-control-plane v0.14.0 // tests, benchmarks: another control plane
	github.com/envoyproxy/go-control-plane/envoy v1.40.0 // Envoy's protos
	github.com/goccy/go-yaml v1.19.2 // YAML with line and column of every node
	github.com/google/go-cmp v0.7.0 // tests: diffs
	github.com/pires/go-proxyproto v0.8.1 // PROXY headers
	github.com/prometheus/client_golang v1.25.0 // metrics
	github.com/prometheus/client_model v0.6.3 // metrics, as they are read in test/bench/failover
	github.com/prometheus/common v0.72.0 // the same
	github.com/rogpeppe/go-internal v1.16.0 // tests: testscript for the commands
	github.com/sony/gobreaker/v2 v2.4.0 // cluster breakers
	github.com/spf13/cobra v1.10.2 // the operator's verbs
	github.com/spf13/pflag v1.0.9 // cobra's flags, by name
	go.opentelemetry.io/otel v1.47.0 // spans: names of attributes
	go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc v1.47.0 // spans: OTLP
	go.opentelemetry.io/otel/sdk v1.47.0 // spans: batches and their queue
	go.opentelemetry.io/otel/trace v1.47.0 // spans: ids
	go.opentelemetry.io/proto/otlp v1.11.0 // tests: an OTLP receiver
	go.uber.org/goleak v1.3.0 // tests: leaked goroutines
	golang.org/x/image v0.46.0 // benchmarks: text and shapes of PNG pictures
	golang.org/x/net v0.60.0 // HPACK; in tests an oracle of HTTP/2, and nettest for the in-memory network
	golang.org/x/sync v0.25.0 // errgroup
	golang.org/x/sys v0.50.0 // socket options, poll, CPU affinity
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260928230214-8a89bd6388cc // error details of a NACK
	google.golang.org/grpc v1.85.0 // xDS and report streams
	google.golang.org/protobuf v1.36.12 // their messages
)

require (
	cel.dev/expr v0.25.3 // indirect
	cloud.google.com/go/compute/metadata v0.9.0 // indirect
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/cncf/xds/go v0.0.0-20260202195803-dba9d589def2 // indirect
	github.com/envoyproxy/protoc-gen-validate v1.3.3 // indirect
	github.com/go-jose/go-jose/v4 v4.1.4 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/kylelemons/godebug v1.1.0 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/planetscale/vtprotobuf v0.6.1-0.20240319094008-0393e58bdf10 // indirect
	github.com/prometheus/procfs v0.22.0 // indirect
	github.com/spiffe/go-spiffe/v2 v2.8.1 // indirect
	golang.org/x/oauth2 v0.37.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	golang.org/x/tools v0.49.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20260928230214-8a89bd6388cc // indirect
	google.golang.org/grpc/cmd/protoc-gen-go-grpc v1.6.2 // indirect
)

require (
	github.com/cenkalti/backoff/v5 v5.0.3 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	github.com/go-logr/stdr v1.2.2 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/grpc-ecosystem/grpc-gateway/v2 v2.30.0 // indirect
	go.opentelemetry.io/auto/sdk v1.2.1 // indirect
	go.opentelemetry.io/otel/exporters/otlp/otlptrace v1.47.0 // indirect
	go.opentelemetry.io/otel/log v1.47.0 // indirect
	go.opentelemetry.io/otel/metric v1.47.0 // indirect
)

tool (
	google.golang.org/grpc/cmd/protoc-gen-go-grpc
	google.golang.org/protobuf/cmd/protoc-gen-go
)
