// Package parameters is the one description of what a request for pictures may
// say: the name, type, range, default and help of every parameter. The HTTP
// fields, the flags of `facediffuser generate`, /v1/capabilities and the checks
// of package pipeline are made from it. openapi.json, the tables in docs and
// the parameters that a picture carries are tested against it.
//
// To add a parameter, add a row to table.go. The tests then name every place
// that has to follow.
package parameters
