// Package telemetry is what the gateway tells its operator: metrics for
// Prometheus and structured logs.
//
// Every metric stands in docs/metrics.md; a test compares the two. No metric
// label and no log attribute holds a prompt, a face or anything made of one.
package telemetry
