// Command facediffuser serves Face-Diffuser: a picture of the people on reference images in the scene of a sentence.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/facediffuser/facediffuser/gateway/internal/app"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends the program at once. A second SIGTERM does not: make sends its children another one when it gets one itself.
	context.AfterFunc(ctx, func() { signal.Reset(os.Interrupt) })
	err := app.Run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	code := app.ExitCode(ctx, err) // asks whether ctx has ended, which stop does
	stop()
	os.Exit(code)
}
