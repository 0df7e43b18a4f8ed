// Package proxy assembles one sidecar: it opens the listeners of a configuration,
// puts engines behind them, lets discovery bring clusters and reporting carry the
// evidence away, and takes everything down again without losing a request.
//
//	sidecar, err := proxy.New(cfg, proxy.Options{Log: log})
//	…
//	err = sidecar.Run(ctx) // until ctx ends; then drains, up to cfg.Drain.Timeout
//
// Everything that touches the outside is an option, so that a whole mesh of
// sidecars runs in one process, on an in-memory network and in virtual time.
package proxy
