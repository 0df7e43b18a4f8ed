// Package ping asks one endpoint once whether it is alive, over TCP, HTTP/1.1 or gRPC.
//
// A ping opens a connection of its own: a pooled one says nothing about whether
// a new one could be had. The answer is an [outlier.ProbeResult]; what it means
// is the detector's business. A ping that failed by this machine's own fault (no
// descriptor left, no port, its caller gone) was not run, and says so.
//
// # Applications behind an inbound sidecar
//
// Where the server has a sidecar too, that sidecar accepts the connection even
// if the application is dead, so a connect alone proves nothing. It lets a dead
// application look dead in two ways, which pings rely on:
//
//   - TCP: it connects to the application as soon as it has accepted, and resets
//     the connection if that fails. [Held] therefore stays on the connection for
//     a moment; a reset in that time is a refusal by the application. Silence, a
//     byte or an orderly close come from a live one.
//   - HTTP: it answers in the application's place, marked x-overhear-origin:
//     app-refused, app-reset or app-timeout. [Answered] takes any answer without
//     that mark as a sign of life, whatever its status.
//   - gRPC: the same mark, in the header or trailer of a status.
package ping
