package job

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/telemetry"
)

// Why a request was not admitted. A returned error is a *Rejection.
var (
	ErrRejected  = errors.New("job: not admitted")
	ErrQueueFull = fmt.Errorf("%w: the queue is full", ErrRejected)
	ErrDraining  = fmt.Errorf("%w: the gateway is shutting down", ErrRejected)
)

// Rejection says why a request was not admitted and when to try again.
type Rejection struct {
	Reason     error // ErrQueueFull or ErrDraining
	RetryAfter time.Duration
}

func (r *Rejection) Error() string { return r.Reason.Error() }
func (r *Rejection) Unwrap() error { return r.Reason }

// Generator makes the pictures of a request (see pipeline.Pipeline).
type Generator interface {
	Generate(ctx context.Context, r *pipeline.Request, observe func(pipeline.Event)) ([]pipeline.Result, error)
	// Capacity is how many pictures run at once.
	Capacity() int
}

// Options configure a Runner.
type Options struct {
	// MaxQueue is how many pictures may wait behind the running ones.
	MaxQueue int
	// Timeout ends a job that has not ended by itself, its time in the queue
	// included. 0 means never.
	Timeout time.Duration
	// Model labels the step metrics.
	Model   string
	Metrics *telemetry.Metrics
	Log     *slog.Logger
}

// Runner runs jobs in memory. It is safe for concurrent use.
type Runner struct {
	generator Generator
	o         Options

	mu       sync.Mutex
	live     map[string]*Job
	pictures int // of live jobs
	running  int // of those, in their loop
	draining bool
	idle     chan struct{} // non-nil while draining; closed when live is empty
	seconds  float64       // a picture's, moving average; 0 before the first
}

// NewRunner makes a runner.
func NewRunner(g Generator, o Options) *Runner {
	return &Runner{generator: g, o: o, live: map[string]*Job{}}
}

// Submit admits a request and starts its job, which ends early when ctx does.
// The error is a *Rejection.
func (r *Runner) Submit(ctx context.Context, request *pipeline.Request) (*Job, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rejection := r.refuse(request.N); rejection != nil {
		r.o.Metrics.Pictures.WithLabelValues("rejected").Add(float64(request.N))
		return nil, rejection
	}

	j := &Job{
		ID: "job_" + strings.ToLower(rand.Text()), Request: request, Created: time.Now(),
		done: make(chan struct{}), changed: make(chan struct{}),
	}
	ctx, j.cancel = context.WithCancelCause(ctx)
	j.record(j.Created, Queued, nil)
	r.live[j.ID] = j
	r.count(request.N, 0)
	go r.run(ctx, j)
	return j, nil
}

// refuse says why n more pictures cannot be admitted. An idle runner admits
// any request, even one with more pictures than the queue would hold.
func (r *Runner) refuse(n int) *Rejection {
	if r.draining {
		return &Rejection{ErrDraining, r.estimate(r.pictures)}
	}
	if over := r.pictures + n - r.generator.Capacity() - r.o.MaxQueue; over > 0 && r.pictures > 0 {
		return &Rejection{ErrQueueFull, r.estimate(over)}
	}
	return nil
}

// firstGuess stands for a picture's seconds before one has been measured.
const firstGuess = 5.0

// estimate is the time in which n pictures leave, in whole seconds, 1 to 120
// (beyond which clients do not heed retry-after).
func (r *Runner) estimate(n int) time.Duration {
	each := r.seconds
	if each == 0 {
		each = firstGuess
	}
	rounds := (n + r.generator.Capacity() - 1) / r.generator.Capacity()
	return min(max(time.Duration(each*float64(rounds)*float64(time.Second)).Round(time.Second), time.Second), 2*time.Minute)
}

// RetryAfter is the estimated time until the pictures that are admitted now are done.
func (r *Runner) RetryAfter() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.estimate(r.pictures)
}

// Job returns a job that has not ended.
func (r *Runner) Job(id string) (*Job, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	j, ok := r.live[id]
	return j, ok
}

// Draining says whether Drain has been called.
func (r *Runner) Draining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// Drain admits nothing more and waits for the jobs that are there. When ctx
// ends first, it cancels them, waits until they have stopped, and returns
// ctx's error.
func (r *Runner) Drain(ctx context.Context) error {
	r.mu.Lock()
	if r.idle == nil {
		r.draining, r.idle = true, make(chan struct{})
		if len(r.live) == 0 {
			close(r.idle)
		}
	}
	idle := r.idle
	r.mu.Unlock()

	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	for _, j := range r.live {
		j.cancel(ErrShutdown)
	}
	r.mu.Unlock()
	<-idle
	return context.Cause(ctx)
}

// run is a job's life, from admission to its end.
func (r *Runner) run(ctx context.Context, j *Job) {
	defer j.cancel(nil)
	if r.o.Timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, r.o.Timeout, ErrExpired)
		defer stop()
	}
	w := &watch{runner: r, job: j, left: j.Request.N, last: make([]time.Time, j.Request.N)}
	results, err := r.generate(ctx, j, w)
	state, err := outcome(ctx, err)

	// The places are free before anyone learns that the job has ended, so that
	// a client's next request finds them.
	left := string(state)
	var unsafe *pipeline.UnsafeError
	if state == Failed && errors.As(err, &unsafe) {
		left = "refused" // not a fault that anyone should be woken for
		w.judged(telemetry.SafetyRefused, unsafe.Image)
	}
	r.o.Metrics.Pictures.WithLabelValues(left).Add(float64(j.Request.N))
	r.mu.Lock()
	r.count(-w.left, -w.running)
	r.mu.Unlock()

	j.finalise(time.Now(), state, results, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, j.ID)
	if r.draining && len(r.live) == 0 {
		close(r.idle)
	}
}

// generate runs the generator; a panic becomes a failure of this job alone.
func (r *Runner) generate(ctx context.Context, j *Job, w *watch) (results []pipeline.Result, err error) {
	defer func() {
		if value := recover(); value != nil {
			failure := &PanicError{Value: value, Stack: debug.Stack()}
			r.o.Log.Error("panic in a job", "job", j.ID, "panic", value, "stack", string(failure.Stack))
			results, err = nil, failure
		}
	}()
	return r.generator.Generate(ctx, j.Request, w.observe)
}

// outcome is the final state for what Generate returned.
func outcome(ctx context.Context, err error) (State, error) {
	cause := context.Cause(ctx)
	switch {
	case err == nil:
		return Succeeded, nil
	case cause == nil:
		return Failed, err
	case errors.Is(cause, ErrExpired):
		return Expired, ErrExpired
	case errors.Is(cause, ErrCanceled):
		return Canceled, cause
	default: // the context that Submit was given ended
		return Canceled, fmt.Errorf("%w: %w", ErrCanceled, cause)
	}
}

// count changes the number of pictures; r.mu is held.
func (r *Runner) count(pictures, running int) {
	r.pictures += pictures
	r.running += running
	r.o.Metrics.PicturesWaiting.Set(float64(r.pictures - r.running))
	r.o.Metrics.PicturesRunning.Set(float64(r.running))
}

// watch turns the pipeline's events into a job's history and the metrics.
// Generate does not call observe twice at once.
type watch struct {
	runner  *Runner
	job     *Job
	left    int         // pictures that have not finished
	running int         // of those, pictures that have started
	last    []time.Time // of each picture, its last event in the loop; zero before its first step
}

func (w *watch) observe(e pipeline.Event) {
	now, m, r := time.Now(), w.runner.o.Metrics, w.runner
	if !w.job.record(now, Running, &e) {
		return // a leftover of a run that panicked
	}
	switch e.Kind {
	case pipeline.Started:
		w.running++
		m.QueueSeconds.Observe(now.Sub(w.job.Created).Seconds())
		r.mu.Lock()
		r.count(0, 1)
		r.mu.Unlock()
	case pipeline.Step:
		// The first step waits for the encoders: its time says nothing about a step.
		if before := w.last[e.Image]; !before.IsZero() {
			m.StepSeconds.WithLabelValues(r.o.Model, e.Stage.String()).Observe(now.Sub(before).Seconds())
		}
		w.last[e.Image] = now
	case pipeline.Preview, pipeline.Withheld:
		w.last[e.Image] = now
	case pipeline.Finished:
		switch nsfw := e.Result.NSFW; {
		case nsfw == nil:
		case *nsfw:
			w.judged(telemetry.SafetyFlagged, e.Image)
		default:
			m.SafetyChecks.WithLabelValues(telemetry.SafetyPassed).Inc()
		}
		w.running--
		w.left--
		seconds := (e.Result.Timings.Total - e.Result.Timings.Queued).Seconds()
		m.PictureSeconds.Observe(seconds)
		r.mu.Lock()
		r.count(-1, -1)
		if r.seconds == 0 {
			r.seconds = seconds
		}
		r.seconds += 0.2 * (seconds - r.seconds)
		r.mu.Unlock()
	}
}

// judged notes what the safety checker said against a picture.
func (w *watch) judged(verdict string, image int) {
	w.runner.o.Metrics.SafetyChecks.WithLabelValues(verdict).Inc()
	w.runner.o.Log.Info("the safety checker found a picture not safe for work", "job", w.job.ID, "image", image, "verdict", verdict)
}
