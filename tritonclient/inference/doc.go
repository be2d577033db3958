// Package inference holds the messages and the service of the open inference
// protocol (KServe v2, gRPC) as far as package tritonclient uses them.
//
// They keep the protocol's own names (package inference), so a program cannot
// link these stubs together with another copy of the protocol's stubs.
package inference

//go:generate go run -C ../../tools/proto . -root ../.. tritonclient/inference/inference.proto
