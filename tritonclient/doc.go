// Package tritonclient calls NVIDIA Triton, or any server of the open inference
// protocol (KServe v2, gRPC), on one or more replicas. It knows nothing of the models.
//
// A [Pool] keeps one connection to each replica, asks each for its readiness three
// times a second, sends every call to the replica with the fewest calls in flight and, when
// that one fails, to another. Which failures do what stands in policy.go. Tensors
// travel as raw contents: FP32, FP16 and INT64.
//
// # Ownership
//
//   - The inputs of a [Request] stay the caller's. Infer reads them and keeps nothing
//     after it returns, on success and on failure: each attempt copies them once, into
//     the message that gRPC sends and may still hold after a cancellation.
//   - The outputs of a [Response] are the caller's, until [Response.Release] if it is
//     called. A Response that is not released is garbage like any other.
//   - A replica's readiness is written by its probe, which runs in the pool's own
//     goroutine or in [Pool.Ready], and nowhere else. A breaker belongs to one replica
//     for one generation: a probe replaces it, nobody resets it.
//   - [Pool.Close] ends all goroutines. Calls in flight fail with Unavailable or Canceled.
package tritonclient
