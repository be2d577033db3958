package localtriton

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

const (
	modelsLink = "models" // in the instance's folder

	minBackoff = 500 * time.Millisecond
	maxBackoff = 30 * time.Second
	// A server that has served this long starts again with minBackoff.
	healthyAfter = time.Minute
	// A server that dies so often before it was ready once will not become ready.
	maxFailedStarts = 2
	// After the server is dead, its output is read for at most this long.
	outputDelay = time.Second
	// How often the model processes are looked at.
	modelCheckInterval = time.Second
	// How often a ready server is asked whether it lives, and how long an answer may take.
	askInterval = time.Second
	askTimeout  = 5 * time.Second
	// A server that loads uses more of a core than this. One that waits for a lock uses 0.002 of it.
	progressShare = 0.01
)

// launch is how to start tritonserver.
type launch struct {
	path        string
	arguments   []string
	environment []string
	dir         string
}

// prepare fills the instance's folder (backend folder, libpython) and composes the
// command line.
func prepare(ctx context.Context, config Config, w wheel, in *instance) (launch, error) {
	backend := filepath.Join(in.dir, "backends", "python")
	libraries := filepath.Join(in.dir, "lib")
	for _, dir := range []string{backend, libraries, filepath.Join(in.dir, "tmp")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return launch{}, err
		}
	}
	stub := filepath.Join(backend, filepath.Base(w.stub))
	links := map[string]string{
		filepath.Join(backend, "libtriton_python.so"):            filepath.Join(w.backend, "libtriton_python.so"),
		filepath.Join(backend, "triton_python_backend_utils.py"): filepath.Join(w.backend, "triton_python_backend_utils.py"),
		stub:                              w.stub,
		filepath.Join(in.dir, modelsLink): config.ModelsDir,
	}
	// The stub embeds the interpreter as a shared library. The one that belongs to
	// the environment comes first; only its own file is linked, so that nothing else
	// beside it (another libstdc++) gets in front of the wheel's libraries.
	if w.sharedLibrary != "" {
		links[filepath.Join(libraries, filepath.Base(w.sharedLibrary))] = w.sharedLibrary
	}
	for link, target := range links {
		if err := os.Symlink(target, link); err != nil {
			return launch{}, err
		}
	}
	command := launch{
		path: w.server,
		dir:  in.dir,
		arguments: []string{
			// Names in its working directory, for the Python backend hands them to a shell without quotes.
			"--model-repository=" + modelsLink,
			"--backend-directory=backends",
			"--model-control-mode=none",
			// What the configuration files say is what runs: Triton guesses nothing.
			"--disable-auto-complete-config",
			"--strict-readiness=true",
			// A model that does not load ends the server with a reason in its log,
			// instead of a server that is never ready and does not say why.
			"--exit-on-error=true",
			"--exit-timeout-secs=15",
			fmt.Sprintf("--model-load-thread-count=%d", min(4, runtime.NumCPU())),
			"--allow-http=false",
			"--allow-metrics=false",
			"--allow-grpc=true",
			// A socket in the instance's folder, which is the working directory: whoever may enter it
			// may call everything, so that there is no secret which a list of processes would show.
			"--grpc-address=unix:" + socketName,
			"--grpc-port=" + socketPort,
			"--pinned-memory-pool-byte-size=0", // for GPUs only
			"--backend-config=python,shm-region-prefix-name=" + in.SharedMemory,
		},
		environment: append([]string{
			markVariable + "=" + in.Mark,
			"PATH=" + filepath.Dir(w.python) + ":/usr/local/bin:/usr/bin:/bin",
			"VIRTUAL_ENV=" + w.environment, // where the stub's interpreter finds its packages
			"LD_LIBRARY_PATH=" + w.libraries + ":" + libraries,
			"HOME=" + in.dir,
			"TMPDIR=" + filepath.Join(in.dir, "tmp"),
			"LANG=C.UTF-8",
			"PYTHONUNBUFFERED=1", // a model's last words reach the log
			"PYTHONDONTWRITEBYTECODE=1",
			"PYTHONNOUSERSITE=1",
			// Every model is a process of its own: libraries that start a thread per
			// core in each of them only get in each other's way. ONNX Runtime sets its
			// own threads and does not read these.
			"OMP_NUM_THREADS=1",
			"OPENBLAS_NUM_THREADS=1",
			"MKL_NUM_THREADS=1",
		}, config.Environment...),
	}
	return command, checkStub(ctx, stub, command.environment)
}

// checkStub lets the loader resolve the stub's libraries before Triton needs it:
// Triton itself would only say that a model's stub did not start.
func checkStub(ctx context.Context, stub string, environment []string) error {
	command := exec.CommandContext(ctx, stub)
	command.Env = environment
	output, err := command.CombinedOutput() // without arguments it explains itself and exits
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("start the Python backend's stub: %w", err)
	}
	if !strings.Contains(string(output), "error while loading shared libraries") {
		return nil
	}
	wanted := "libpython"
	if file, err := elf.Open(stub); err == nil {
		names, _ := file.ImportedLibraries()
		file.Close()
		if i := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, "libpython") }); i >= 0 {
			wanted = names[i]
		}
	}
	return fmt.Errorf("the Python backend's stub does not start (%s): it needs the shared library of its Python, %s; "+
		"install it (on Debian and Ubuntu the package libpython3.x) or make the serving environment from a Python that was built with --enable-shared",
		strings.TrimSpace(string(output)), wanted)
}

// supervise runs the server until it is closed or given up. The first attempt to
// start reports on started; an error there ends supervision.
func (s *Server) supervise(started chan<- error) {
	// The kernel takes the end of the thread that started a process for the death of its parent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(s.done)
	defer s.update(func(status *Status) { status.State, status.PID = Stopped, 0 })
	defer func() {
		if err := errors.Join(s.conn.Close(), s.instance.remove()); err != nil {
			s.config.Logger.Error("local Triton: clean up", "error", err)
		}
	}()
	wasReady := false
	for attempt := 1; ; attempt++ {
		ready, lived, err := s.run(started)
		started = nil
		var exit *ExitError
		if !errors.As(err, &exit) {
			return // closed, or never started
		}
		wasReady = wasReady || ready
		s.config.Logger.Error("local Triton died", "error", exit, "lived", lived.Round(time.Millisecond))
		s.update(func(status *Status) {
			status.State, status.PID, status.LastExit = Restarting, 0, exit
			status.Restarts++
			s.since, s.backoff = time.Now(), s.nextBackoff(lived)
		})
		if !wasReady && attempt == maxFailedStarts {
			s.mu.Lock()
			s.err = exit
			s.mu.Unlock()
			return
		}
		wait := time.NewTimer(s.backoff) // which this goroutine alone writes
		select {
		case <-wait.C:
		case <-s.stopping:
			wait.Stop()
			return
		}
	}
}

// nextBackoff is how long a server that dies after it has lived so long waits for its next start.
func (s *Server) nextBackoff(lived time.Duration) time.Duration {
	if lived >= healthyAfter || s.backoff == 0 {
		return minBackoff
	}
	return min(2*s.backoff, maxBackoff)
}

// run starts the server once and waits for its end. The error is an *ExitError when
// the server died by itself and nil when it was closed.
func (s *Server) run(started chan<- error) (ready bool, lived time.Duration, err error) {
	report := func(err error) {
		if started != nil {
			started <- err
		}
	}
	log, err := openLog(s.config.LogFile)
	if err != nil {
		report(err)
		return false, 0, s.startError(started, err)
	}
	defer log.Close()
	guard, err := startGuard(s.python, s.instance)
	if err != nil {
		report(err)
		return false, 0, s.startError(started, err)
	}
	defer func() { guard.close() }() // the latest
	log.loaded = func(model string) { s.update(func(*Status) { s.loaded[model] = true }) }
	output, input, err := os.Pipe()
	if err != nil {
		report(err)
		return false, 0, s.startError(started, err)
	}
	defer output.Close()
	command := exec.Command(s.command.path, s.command.arguments...)
	command.Env, command.Dir = s.command.environment, s.command.dir
	// A file, not a writer: the models hold the pipe too, and Wait shall return when
	// the server is dead, not when the last of them has noticed.
	command.Stdout, command.Stderr = input, input
	command.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // a group of its own: the terminal's Ctrl-C goes to the gateway alone
		Pdeathsig: syscall.SIGKILL, // should the guard be gone or stopped too
	}
	served := make(chan map[int]string, 1) // its model processes
	log.serving = func() {
		if err := closeSharedMemory(s.instance.SharedMemory); err != nil {
			s.config.Logger.Error("local Triton: others may read its shared memory", "error", err)
			_ = command.Process.Kill() // fails only when it is gone
			return
		}
		ready = true
		// Before anybody is told, so that the death of any of them is noticed from then on.
		select {
		case served <- modelProcesses(command.Process.Pid):
		default:
		}
		s.update(func(status *Status) {
			status.State = Ready
			// The slower of the latest starts, for one more may be as slow.
			s.loadTime = max(time.Since(s.since), s.loadTime-s.loadTime/4)
			s.since, s.answered = time.Now(), time.Now()
		})
	}
	// What a request that an earlier server failed has asked for.
	select {
	case <-s.restart:
	default:
	}
	begin := time.Now()
	err = command.Start()
	input.Close()
	if err != nil {
		report(err)
		return false, 0, s.startError(started, err)
	}
	pid := command.Process.Pid
	s.update(func(status *Status) {
		status.State, status.PID = Starting, pid
		s.since = begin
		clear(s.loaded)
	})
	report(nil)
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(log, output) // ends when the last holder of the pipe is gone
	}()
	exited := make(chan error, 1)
	go func() { exited <- command.Wait() }()
	closed, killed := s.attend(command, &guard, exited, served, log)
	// The models must be gone before their shared memory is unlinked and before a
	// new server loads the same models beside them.
	if _, err := killMarked(context.Background(), s.instance.Mark); err != nil {
		s.config.Logger.Error("local Triton: end its models", "error", err)
	}
	if err := removeSharedMemory(s.instance.SharedMemory); err != nil {
		s.config.Logger.Error("local Triton: unlink shared memory", "error", err)
	}
	_ = output.SetReadDeadline(time.Now().Add(outputDelay)) // a process that could not be killed
	<-copied
	if closed {
		return false, 0, nil
	}
	exit := &ExitError{Status: command.ProcessState.String(), Reason: log.reason(), LogFile: s.config.LogFile}
	if killed != "" {
		exit.Status = "killed because " + killed
	}
	return ready, time.Since(begin), exit
}

// attend waits for the end of the server, which it brings about when s is closed, and when the
// server is of no more use:
//   - its Restart is asked for;
//   - its guard is gone, or does not answer, and no other one can be started;
//   - the process of a model has died: this Triton goes on without it, says that the model is ready
//     and fails every call of it after a second;
//   - it answers nothing for Config.SilenceTimeout;
//   - it makes no progress for Config.LoadTimeout as it loads, which was seen on a machine without a
//     core to spare.
func (s *Server) attend(command *exec.Cmd, g **guard, exited <-chan error, served <-chan map[int]string, log *serverLog) (closed bool, killed string) {
	kill := func(why string) {
		if killed == "" {
			killed = why
			_ = command.Process.Kill() // fails only when it is gone
		}
	}
	pid := command.Process.Pid
	look := time.NewTicker(modelCheckInterval)
	defer look.Stop()
	asking, stop := context.WithCancel(context.Background())
	defer stop()
	var models map[int]string
	loading := progress{at: time.Now(), needed: time.Duration(progressShare * float64(s.config.LoadTimeout))}
	for {
		select {
		case models = <-served:
			go s.keepAsking(asking)
		case <-exited:
			return false, killed
		case why := <-s.restart:
			kill(why)
		case <-look.C:
			if err := s.replaceGuard(g); err != nil {
				kill("its guard is gone: " + err.Error())
			}
			for model, name := range models {
				if !alive(model) {
					kill("the process of its model " + name + " died")
				}
			}
			if limit := s.config.SilenceTimeout; limit > 0 && models != nil && s.silence() > limit {
				kill(fmt.Sprintf("it answered nothing for %v", limit))
			}
			if limit := s.config.LoadTimeout; limit > 0 && models == nil && loading.stalled(log.lastWrite(), processorTime(pid)) > limit {
				kill(fmt.Sprintf("it made no progress for %v while it loaded its models", limit))
			}
		case <-s.stopping:
			_ = command.Process.Signal(syscall.SIGTERM)
			select {
			case <-exited:
			case <-s.kill:
				_ = syscall.Kill(-pid, syscall.SIGKILL)
				<-exited
			}
			return true, ""
		}
	}
}

// replaceGuard starts another guard where *g is gone or has been silent for too long.
func (s *Server) replaceGuard(g **guard) error {
	old := *g
	why := old.fault(s.config.SilenceTimeout)
	if why == "" {
		return nil
	}
	next, err := startGuard(s.python, s.instance)
	if err != nil {
		return err
	}
	s.config.Logger.Warn("local Triton: its guard is replaced", "reason", why)
	*g = next
	old.close()
	return nil
}

// progress is that of a server which loads its models: it prints something, or uses processor time.
type progress struct {
	at     time.Time     // of the last sign of it
	used   time.Duration // processor time then
	needed time.Duration // processor time from there that counts as progress
}

// stalled says for how long there has been none.
func (p *progress) stalled(printed time.Time, used time.Duration) time.Duration {
	if used-p.used >= p.needed {
		p.at, p.used = time.Now(), used
	}
	if printed.After(p.at) {
		p.at, p.used = printed, used
	}
	return time.Since(p.at)
}

// keepAsking asks the server whether it lives until ctx ends.
func (s *Server) keepAsking(ctx context.Context) {
	client := inference.NewGRPCInferenceServiceClient(s.conn)
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, askTimeout)
		_, err := client.ServerLive(asking, &inference.ServerLiveRequest{})
		cancel()
		if err == nil {
			s.mu.Lock()
			s.answered = time.Now()
			s.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// silence is for how long a ready server has answered nothing.
func (s *Server) silence() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.answered)
}

// startError is err for the first start, which Start returns, and a death for a
// later one, which is tried again.
func (s *Server) startError(started chan<- error, err error) error {
	if started != nil {
		return err
	}
	return &ExitError{Status: "not started", Reason: err.Error(), LogFile: s.config.LogFile}
}
