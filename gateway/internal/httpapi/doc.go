// Package httpapi is the gateway's HTTP surface. routes.go shows all of it.
//
// It speaks the OpenAI Images API, so that its SDKs work unchanged; what this
// gateway adds are flat scalar fields of a request and extra keys of an answer.
// openapi.json describes both; tests compare it with the code.
//
// A handler reads a request into an input (fields.go, body.go), lets the
// pipeline check it, submits a job and turns the job's events into one JSON
// answer (images.go) or a stream (stream.go). Every error takes one way out,
// through the table in errors.go.
package httpapi
