// Package telemetry holds the metrics for Prometheus and the structured logs.
//
// docs/metrics.md lists every metric; a test compares the two. No metric
// label and no log attribute holds a prompt, a face or anything made of one.
package telemetry
