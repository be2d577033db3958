package localtriton

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"
)

//go:embed guard.py
var guardProgram string

// guard is a process that ends a server when this one is gone. The kernel's
// parent-death signal reaches the server alone, not its models; a model that is
// busy would not notice for long that its server died.
type guard struct {
	command *exec.Cmd
	held    *os.File      // its end is the end of this process
	beats   *os.File      // a byte each second, as long as the guard runs
	exited  chan struct{} // closed when the guard has ended and beats was read to its end
	beat    atomic.Int64  // Unix nanoseconds of the last of them, at first of the start
}

// startGuard starts a guard of the server of in. It runs in a group of its own, so that no
// signal to the gateway's reaches it, but in the same session: the kernel continues the
// stopped processes of a group when the last parent of it in its session ends (setpgid(2)).
func startGuard(python string, in *instance) (*guard, error) {
	end, held, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer end.Close()
	beats, beating, err := os.Pipe()
	if err != nil {
		held.Close()
		return nil, err
	}
	defer beating.Close()
	g := &guard{
		command: exec.Command(python, "-I", "-S", "-c", guardProgram, markVariable+"="+in.Mark, in.SharedMemory),
		held:    held,
		beats:   beats,
		exited:  make(chan struct{}),
	}
	g.command.Env, g.command.Dir, g.command.Stdin, g.command.Stdout = []string{}, in.dir, end, beating
	g.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	g.beat.Store(time.Now().UnixNano())
	if err := g.command.Start(); err != nil {
		held.Close()
		beats.Close()
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	go func() {
		defer close(g.exited)
		for buffer := make([]byte, 64); ; {
			if _, err := beats.Read(buffer); err != nil {
				break // the guard has ended
			}
			g.beat.Store(time.Now().UnixNano())
		}
		_ = g.command.Wait() // how it ended matters to nobody
	}()
	return g, nil
}

// fault says why the guard is of no use: it has ended, or has not answered for longer than
// silence, unless that is 0. It is "" while the guard is well.
func (g *guard) fault(silence time.Duration) string {
	select {
	case <-g.exited:
		return "it died"
	default:
	}
	if silence > 0 && time.Since(time.Unix(0, g.beat.Load())) > silence {
		return fmt.Sprintf("it did not answer for %v", silence)
	}
	return ""
}

// close ends the guard; nothing of the server may be left, or another guard has taken over.
func (g *guard) close() {
	_ = g.command.Process.Kill() // fails only when it is gone
	<-g.exited
	g.held.Close()
	g.beats.Close()
}
