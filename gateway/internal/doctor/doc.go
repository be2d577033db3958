// Package doctor examines the Triton servers that a gateway is to use: whether they
// answer, whether their models fit the contract and the family, whether they are
// alike, and how fast they are.
//
//	examine.go   what is looked at, in which order
//	inspect.go   one server: health, configurations, versions
//	compare.go   the servers beside one another
//	measure.go   every network run on one server: its time, and whether its answer makes sense
//	predict.go   from those times to seconds a picture and pictures an hour
//	report.go    the report, and as a text
//
// The contract itself is package networks'.
package doctor
