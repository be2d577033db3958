package pipeline

import (
	"context"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/errgroup"
)

// group is an errgroup whose panics surface in Wait: a goroutine's own panic
// would end the whole program, and the pictures of all other requests with it.
type group struct {
	calls    *errgroup.Group
	panicked chan string // the first one
}

func newGroup(ctx context.Context) (*group, context.Context) {
	calls, ctx := errgroup.WithContext(ctx)
	return &group{calls: calls, panicked: make(chan string, 1)}, ctx
}

// Go runs f in a goroutine. Its first error, or a panic, ends the group's context.
func (g *group) Go(f func() error) {
	g.calls.Go(func() (err error) {
		defer func() {
			if value := recover(); value != nil {
				err = fmt.Errorf("pipeline: panic: %v", value)
				select {
				case g.panicked <- fmt.Sprintf("%v\n\n%s", value, debug.Stack()):
				default:
				}
			}
		}()
		return f()
	})
}

// Wait returns the first error when all goroutines have ended, and panics if
// one of them did.
func (g *group) Wait() error {
	err := g.calls.Wait()
	select {
	case value := <-g.panicked:
		panic(value)
	default:
		return err
	}
}
