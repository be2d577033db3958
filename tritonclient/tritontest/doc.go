// Package tritontest is the test double of a Triton server and the suite that
// shows that it is one.
//
// A Server speaks the real protocol on a real loopback port. Its models are Go
// functions with Triton configurations; a script of Faults says what goes wrong,
// call by call. Conformance is the contract between client and server: it runs on a
// Server with Models and on a real Triton that loads the same models from the folder
// that WriteModels fills, so what the double does is what Triton does.
package tritontest
