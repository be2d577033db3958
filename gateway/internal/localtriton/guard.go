package localtriton

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

//go:embed guard.py
var guardProgram string

// guard is a process that ends a server when this one is gone. The kernel's
// parent-death signal reaches the server alone, not its models; a model that is
// stopped would never notice that its server died.
type guard struct {
	command *exec.Cmd
	held    *os.File      // its end is the end of this process
	exited  chan struct{} // closed when the guard has ended
}

// startGuard starts the guard of the server of in. It runs in a session of its own, so that no
// signal to the gateway's group reaches it.
func startGuard(python string, in *instance) (*guard, error) {
	end, held, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer end.Close()
	g := &guard{
		command: exec.Command(python, "-I", "-S", "-c", guardProgram, markVariable+"="+in.Mark, in.SharedMemory),
		held:    held,
		exited:  make(chan struct{}),
	}
	g.command.Env, g.command.Dir, g.command.Stdin = []string{}, in.dir, end
	g.command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := g.command.Start(); err != nil {
		held.Close()
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	go func() {
		defer close(g.exited)
		_ = g.command.Wait() // how it ended matters to nobody
	}()
	return g, nil
}

// close ends the guard; nothing of the server may be left.
func (g *guard) close() {
	_ = g.command.Process.Kill() // fails only when it is gone
	<-g.exited
	g.held.Close()
}
