package localtriton

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// Config says what to run. Python, ModelsDir and RunDir are required.
type Config struct {
	// Python is the interpreter of an environment that holds nvidia-pytriton and
	// whatever the models import.
	Python string
	// ModelsDir is the model repository: one folder per model.
	ModelsDir string
	// RunDir holds what this package writes; it may be shared by several gateways.
	RunDir string
	// LogFile receives everything the server prints; it is cut at 8 MiB, and the
	// part before stays beside it as LogFile.1. Default: triton.log in RunDir.
	LogFile string
	// Logger receives starts, exits and restarts. Default: slog.Default().
	Logger *slog.Logger
	// Needed are the models without which no request can be served.
	Needed []string
	// LoadTimeout is how long a server may make no progress (print nothing and use no
	// processor time to speak of) while it loads its models before it counts as hung
	// and is started again; 0 is for ever.
	LoadTimeout time.Duration
	// SilenceTimeout is how long a server that has loaded its models may answer nothing
	// before it counts as hung and is started again; 0 is for ever.
	SilenceTimeout time.Duration
	// Environment holds further variables for the models, as NAME=value.
	Environment []string
}

// State is where a Server stands.
type State string

const (
	Starting   State = "starting"   // the process runs and loads its models
	Ready      State = "ready"      // every model is loaded and calls are accepted
	Restarting State = "restarting" // the process died and waits to be started again
	Stopped    State = "stopped"    // closed, or given up
)

// Status is a snapshot of a Server.
type Status struct {
	State    State
	PID      int      // of tritonserver; 0 when there is none
	Loaded   []string // models that this process has loaded so far, sorted
	Models   int      // models in the repository
	Restarts int      // deaths since Start
	LastExit error    // an *ExitError: why the process died last; nil if it never did
}

// Server is a supervised Triton. It is safe for concurrent use.
type Server struct {
	config   Config
	address  string
	python   string
	instance *instance
	command  launch
	conn     *grpc.ClientConn

	stopOnce sync.Once
	stopping chan struct{} // closed by Close: end the process and do not restart it
	killOnce sync.Once
	kill     chan struct{} // closed by Close when its context ends first
	done     chan struct{} // closed by supervise, last
	restart  chan string   // reasons to end the process and start it again

	mu      sync.Mutex
	status  Status
	loaded  map[string]bool
	changed chan struct{} // closed and replaced at every change of status
	err     error
	// What Recovery goes by.
	since    time.Time     // begin of the present state
	backoff  time.Duration // between the last death and the start after it; 0 before
	loadTime time.Duration // from a start to its readiness, of the latest that succeeded; 0 before
	answered time.Time     // when a ready server answered last
}

// Start checks the environment, ends what a killed gateway has left in RunDir, and
// starts Triton. It returns as soon as the process runs, before its models are
// loaded; ctx bounds this call only.
func Start(ctx context.Context, config Config) (*Server, error) {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	for _, path := range []*string{&config.ModelsDir, &config.RunDir, &config.LogFile} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path) // the child runs in another folder
		if err != nil {
			return nil, fmt.Errorf("localtriton: %w", err)
		}
		*path = absolute
	}
	models, err := listModels(config.ModelsDir, config.Needed)
	if err != nil {
		return nil, fmt.Errorf("localtriton: %w", err)
	}
	wheel, err := findWheel(ctx, config.Python)
	if err != nil {
		return nil, fmt.Errorf("localtriton: %w", err)
	}
	if config.RunDir == "" {
		return nil, errors.New("localtriton: no run folder given")
	}
	if err := checkRoom(config.RunDir, sharedMemory, len(models)); err != nil {
		return nil, fmt.Errorf("localtriton: %w", err)
	}
	instance, err := newInstance(ctx, config.RunDir, config.Logger)
	if err != nil {
		return nil, fmt.Errorf("localtriton: %w", explain(err, config.RunDir))
	}
	if config.LogFile == "" {
		config.LogFile = filepath.Join(config.RunDir, "triton.log")
	}
	command, err := prepare(ctx, config, wheel, instance)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("localtriton: %w", explain(err, config.RunDir)), instance.remove())
	}
	address := instance.address()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("localtriton: %w", err), instance.remove())
	}
	s := &Server{
		config:   config,
		address:  address,
		python:   wheel.python,
		instance: instance,
		command:  command,
		conn:     conn,
		restart:  make(chan string, 1),
		stopping: make(chan struct{}),
		kill:     make(chan struct{}),
		done:     make(chan struct{}),
		status:   Status{State: Starting, Models: len(models)},
		loaded:   make(map[string]bool),
		changed:  make(chan struct{}),
	}
	config.Logger.Warn("starting a local Triton 2.51 from the nvidia-pytriton wheel: for development, for this user only; it predates NVIDIA's security bulletins",
		"address", s.address, "models", config.ModelsDir, "log", config.LogFile)
	started := make(chan error, 1)
	go s.supervise(started)
	if err := <-started; err != nil {
		<-s.done
		return nil, fmt.Errorf("localtriton: %w", explain(err, config.RunDir))
	}
	return s, nil
}

// Address is the gRPC target of the service, a Unix socket that only this user can
// reach; it stays the same over restarts.
func (s *Server) Address() string { return s.address }

// Done is closed when the server has ended for good: after Close, or when it never
// became ready (see Err).
func (s *Server) Done() <-chan struct{} { return s.done }

// Err says why Done was closed: nil while the server is supervised and after a
// Close, an *ExitError when it died again and again before it was ready once.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Status is where the server stands now.
func (s *Server) Status() Status {
	status, _ := s.watch()
	return status
}

// WaitReady returns nil once every model is loaded and the server answers so over
// gRPC. progress, if not nil, is called at every change on the way. The error is
// ctx's, or Err's when the server was given up.
func (s *Server) WaitReady(ctx context.Context, progress func(Status)) error {
	for {
		status, changed := s.watch()
		if progress != nil {
			progress(status)
		}
		if status.State == Ready {
			return s.confirmReady(ctx)
		}
		select {
		case <-changed:
		case <-s.done:
			if err := s.Err(); err != nil {
				return err
			}
			return errors.New("localtriton: closed")
		case <-ctx.Done():
			return fmt.Errorf("localtriton: %w while %d of %d models are loaded (see %s)",
				context.Cause(ctx), len(status.Loaded), status.Models, s.config.LogFile)
		}
	}
}

// confirmReady asks the server itself: the log has said that it listens.
func (s *Server) confirmReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answer, err := inference.NewGRPCInferenceServiceClient(s.conn).ServerReady(ctx, &inference.ServerReadyRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("localtriton: the server loaded its models but does not answer: %w", err)
	}
	if !answer.Ready {
		return errors.New("localtriton: the server loaded its models but says that it is not ready")
	}
	return nil
}

// Restart ends a ready server at once and starts it again; why stands in its ExitError,
// after "killed because". It is for callers that know of it what it does not say itself,
// such as that a model fails every call.
func (s *Server) Restart(why string) {
	if s.Status().State != Ready {
		return // a new one is on its way
	}
	select {
	case s.restart <- why:
	default: // asked for already
	}
}

const (
	// What a first start is expected to take, before one has been measured.
	usualLoadTime = 10 * time.Second
	// From the first failed call of a model to its Restart, as measured.
	usualNotice = 3 * time.Second
	// After a start, until clients that probe have noticed it (tritonclient).
	usedWithin = 2 * time.Second
)

// Recovery is when the server can be expected to be ready again, given that it does not
// serve now: what the present state still takes, and what the last start took.
func (s *Server) Recovery() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	start := s.loadTime
	if start == 0 {
		start = usualLoadTime
	}
	passed := time.Since(s.since)
	switch s.status.State {
	case Starting:
		if passed < start {
			return start - passed
		}
		return max(passed-start, start/2) // late, and perhaps as late again
	case Restarting:
		return max(s.backoff-passed, 0) + start
	}
	if passed < usedWithin {
		return usedWithin - passed
	}
	notice := usualNotice
	if silence := time.Since(s.answered); silence > 2*askInterval && s.config.SilenceTimeout > 0 {
		notice = max(s.config.SilenceTimeout-silence, 0)
	}
	return notice + s.nextBackoff(passed) + start
}

// Close ends the server: SIGTERM, which lets requests in flight finish and the
// models release what they hold, then SIGKILL to the whole process group when ctx
// ends first. It returns when nothing of the server is left.
func (s *Server) Close(ctx context.Context) error {
	s.stopOnce.Do(func() { close(s.stopping) })
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
	}
	s.killOnce.Do(func() { close(s.kill) })
	<-s.done
	return fmt.Errorf("localtriton: the server did not stop in time and was killed: %w", context.Cause(ctx))
}

func (s *Server) watch() (Status, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := s.status
	status.Loaded = slices.Sorted(maps.Keys(s.loaded))
	return status, s.changed
}

func (s *Server) update(change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.status)
	close(s.changed)
	s.changed = make(chan struct{})
}

// listModels names the model folders of a repository. An empty one is an error:
// Triton would start and be "ready" with nothing to call.
func listModels(dir string, needed []string) ([]string, error) {
	if dir == "" {
		return nil, errors.New("no models folder given")
	}
	configs, err := filepath.Glob(filepath.Join(dir, "*", "config.pbtxt"))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("models folder: %w", err)
	}
	if len(configs) == 0 {
		return nil, fmt.Errorf("models folder %s holds no model (expected <model>/config.pbtxt)", dir)
	}
	names := make([]string, len(configs))
	for i, path := range configs {
		names[i] = filepath.Base(filepath.Dir(path))
	}
	missing := slices.DeleteFunc(slices.Clone(needed), func(model string) bool { return slices.Contains(names, model) })
	if len(missing) > 0 {
		return nil, &UnfitError{
			What:   fmt.Sprintf("the models folder %s lacks %s (%s/config.pbtxt is not there)", dir, strings.Join(missing, ", "), missing[0]),
			Remedy: "put back what the export of the family wrote, or name another family with --family",
		}
	}
	return names, nil
}
