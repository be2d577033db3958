package job

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/facediffuser/facediffuser/fusion"
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
	live     map[*watch]struct{}
	pictures int // of live jobs
	running  int // of those, in their loop
	draining bool
	idle     chan struct{} // non-nil while draining; closed when live is empty
	each     time.Duration // a picture's, from its start to its end, moving average; 0 before the first
}

// Outcomes of pictures beside the final states of their job.
const (
	outcomeRejected = "rejected" // not admitted
	outcomeRefused  = "refused"  // with a picture that the safety checker refused
)

// NewRunner makes a runner. Its metrics have all their series from the start.
func NewRunner(g Generator, o Options) *Runner {
	for _, outcome := range []string{string(Succeeded), string(Failed), string(Canceled), string(Expired), outcomeRejected, outcomeRefused} {
		o.Metrics.Pictures.WithLabelValues(outcome)
	}
	for _, stage := range []fusion.Stage{fusion.SceneConstruction, fusion.SubjectSceneFusion, fusion.SubjectEnhancement} {
		o.Metrics.StepSeconds.WithLabelValues(o.Model, stage.String())
	}
	return &Runner{generator: g, o: o, live: map[*watch]struct{}{}}
}

// Submit admits a request and starts its job, which ends early when ctx does.
// The error is a *Rejection.
func (r *Runner) Submit(ctx context.Context, request *pipeline.Request) (*Job, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rejection := r.refuse(request.N); rejection != nil {
		r.o.Metrics.Pictures.WithLabelValues(outcomeRejected).Add(float64(request.N))
		return nil, rejection
	}

	j := &Job{
		ID: "job_" + strings.ToLower(rand.Text()), Request: request, Created: time.Now(),
		done: make(chan struct{}), changed: make(chan struct{}),
	}
	ctx, j.cancel = context.WithCancelCause(ctx)
	j.record(j.Created, Queued, nil)
	w := &watch{runner: r, job: j, left: request.N, pictures: make([]progress, request.N)}
	r.live[w] = struct{}{}
	r.count(request.N, 0)
	go r.run(ctx, w)
	return j, nil
}

// Admissible says whether a request for one picture would be admitted now: nil
// or a *Rejection. It reserves nothing.
func (r *Runner) Admissible() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rejection := r.refuse(1); rejection != nil {
		return rejection
	}
	return nil
}

// refuse says why n more pictures cannot be admitted. An idle runner admits
// any request, even one with more pictures than the queue would hold.
func (r *Runner) refuse(n int) *Rejection {
	if r.draining {
		return &Rejection{ErrDraining, r.estimate(r.pictures)}
	}
	if over := r.pictures + n - r.generator.Capacity() - r.o.MaxQueue; over > 0 && r.pictures > 0 {
		return &Rejection{ErrQueueFull, r.estimate(min(over, r.pictures))}
	}
	return nil
}

// RetryAfter is the estimated time until the pictures that are admitted now have left.
func (r *Runner) RetryAfter() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.estimate(r.pictures)
}

// Bounds of an estimate: clients do not heed a retry-after beyond some minutes.
const (
	minEstimate = time.Second
	maxEstimate = 2 * time.Minute
)

// estimate is the time in which the next n of the admitted pictures leave. A
// picture in its loop goes on at the pace of its steps so far, one that waits
// takes what pictures took lately, and starts when a slot is free. r.mu is held.
func (r *Runner) estimate(n int) time.Duration {
	now, each, capacity := time.Now(), r.expected(), r.generator.Capacity()
	var leaves []time.Duration // in what time each picture that has a slot leaves it
	for w := range r.live {
		for _, p := range w.pictures {
			if p.running() {
				leaves = append(leaves, max(cmp.Or(p.projected(), each)-now.Sub(p.started), 0))
			}
		}
	}
	waiting := r.pictures - r.running
	for ; waiting > 0 && len(leaves) < capacity; waiting-- {
		leaves = append(leaves, each) // about to start
	}
	var in time.Duration
	for range min(n, len(leaves)+waiting) {
		slices.Sort(leaves)
		in = leaves[0]
		if waiting == 0 {
			leaves = leaves[1:]
			continue
		}
		leaves[0] += each
		waiting--
	}
	return min(max(in, minEstimate), maxEstimate)
}

// firstGuess stands for a picture's time before any has made a step.
const firstGuess = 5 * time.Second

// expected is the time that a picture will take from its start to its end: the
// average of those that finished; before the first of them, that of those in
// their loop at the pace of their steps so far; before any step, firstGuess.
// r.mu is held.
func (r *Runner) expected() time.Duration {
	if r.each > 0 {
		return r.each
	}
	var sum, n time.Duration
	for w := range r.live {
		for _, p := range w.pictures {
			if d := p.projected(); d > 0 {
				sum += d
				n++
			}
		}
	}
	if n == 0 {
		return firstGuess
	}
	return sum / n
}

// Draining says whether nothing more is admitted.
func (r *Runner) Draining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// Idle says whether no job is there.
func (r *Runner) Idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.live) == 0
}

// StopAdmitting admits nothing more. The channel is closed when the jobs that
// are there have ended.
func (r *Runner) StopAdmitting() (idle <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.idle == nil {
		r.draining, r.idle = true, make(chan struct{})
		if len(r.live) == 0 {
			close(r.idle)
		}
	}
	return r.idle
}

// Drain admits nothing more and waits for the jobs that are there. When ctx
// ends first, it cancels them, waits until they have stopped, and returns
// ctx's error.
func (r *Runner) Drain(ctx context.Context) error {
	idle := r.StopAdmitting()

	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	for w := range r.live {
		w.job.cancel(ErrShutdown)
	}
	r.mu.Unlock()
	<-idle
	return context.Cause(ctx)
}

// run is a job's life, from admission to its end.
func (r *Runner) run(ctx context.Context, w *watch) {
	j := w.job
	defer j.cancel(nil)
	if r.o.Timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, r.o.Timeout, ErrExpired)
		defer stop()
	}
	results, err := r.generate(ctx, j, w)
	state, err := outcome(ctx, err)

	// The places are free before anyone learns that the job has ended, so that
	// a client's next request finds them.
	left := string(state)
	var unsafe *pipeline.UnsafeError
	if state == Failed && errors.As(err, &unsafe) {
		left = outcomeRefused // not a fault that anyone should be woken for
		w.judged(telemetry.SafetyRefused, unsafe.Image)
	}
	r.o.Metrics.Pictures.WithLabelValues(left).Add(float64(j.Request.N))
	r.mu.Lock()
	r.count(-w.left, -w.running)
	clear(w.pictures) // none of them waits or runs
	r.mu.Unlock()

	j.finalise(time.Now(), state, results, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, w)
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
	runner *Runner
	job    *Job

	// Guarded by runner.mu, which estimates read them under.
	left     int // pictures that have not finished
	running  int // of those, pictures that have started
	pictures []progress
}

// progress is how far one picture has come.
type progress struct {
	started     time.Time // left the queue; zero before
	last        time.Time // its last event in the loop; zero before its first step
	stepped     time.Time // the end of its last step
	step, steps int       // done, of the loop
	finished    bool
}

func (p progress) running() bool { return !p.started.IsZero() && !p.finished }

// projected is the time from the picture's start to its end at the pace of its
// steps so far; 0 while there is no pace.
func (p progress) projected() time.Duration {
	if !p.running() || p.step == 0 {
		return 0
	}
	return p.stepped.Sub(p.started) * time.Duration(p.steps) / time.Duration(p.step)
}

func (w *watch) observe(e pipeline.Event) {
	now, m, r := time.Now(), w.runner.o.Metrics, w.runner
	if !w.job.record(now, Running, &e) {
		return // a leftover of a run that panicked
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &w.pictures[e.Image]
	switch e.Kind {
	case pipeline.Started:
		p.started = now
		w.running++
		m.QueueSeconds.Observe(now.Sub(w.job.Created).Seconds())
		r.count(0, 1)
	case pipeline.Step:
		// The first step waits for the encoders: its time is not that of a step.
		if !p.last.IsZero() {
			m.StepSeconds.WithLabelValues(r.o.Model, e.Stage.String()).Observe(now.Sub(p.last).Seconds())
		}
		p.last, p.stepped, p.step, p.steps = now, now, e.Step, e.Steps
	case pipeline.Preview, pipeline.Withheld:
		p.last = now
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
		p.finished = true
		took := now.Sub(p.started)
		m.PictureSeconds.Observe(took.Seconds())
		r.count(-1, -1)
		if r.each == 0 {
			r.each = took
		}
		r.each += (took - r.each) / 5
	}
}

// judged notes what the safety checker said against a picture.
func (w *watch) judged(verdict string, image int) {
	w.runner.o.Metrics.SafetyChecks.WithLabelValues(verdict).Inc()
	w.runner.o.Log.Info("the safety checker found a picture not safe for work", "job", w.job.ID, "image", image, "verdict", verdict)
}
