// Package app is the program: its commands and the only place where the parts are put together.
//
//	app.go          the command line as a whole, exit codes
//	serve.go        facediffuser serve: from configuration to the end of the last request
//	gateway.go      configuration → Triton → pipeline → jobs → HTTP
//	generate.go     facediffuser generate: what is asked for
//	subjects.go     reference images: files, pipes, limits
//	output.go       where pictures go: files, pipes, devices, a terminal
//	client.go       a picture through the HTTP API
//	progress.go     what generate shows while it works
//	doctor.go       facediffuser doctor
//	keys.go         facediffuser keys
//	healthcheck.go  facediffuser healthcheck
package app
