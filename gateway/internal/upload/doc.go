// Package upload reads the bodies of requests: forms and JSON, with pictures in
// them. Pictures are decoded while the rest of the body still arrives.
//
// A face is biometric data: no byte of an upload is written to disk or logged,
// and of each picture only the pixels at object resolution stay.
//
// # Memory
//
// Everything of a body that is in memory, pictures as they were sent and text
// alike, shares Limits.MemoryBytes with all other bodies (see budget). What
// decoding takes is bounded by package picture.
//
// # Time
//
// A client that stalls, that is slow while others wait for memory, or that
// needs longer than Limits.Timeout for the whole body is cut off with
// [KindTooSlow]. One that leaves ends the decoding of what it has sent.
package upload
