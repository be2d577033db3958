package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
)

// State of a job.
type State string

const (
	Queued    State = "queued"
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Canceled  State = "canceled"
	Expired   State = "expired"
)

// Final says whether a job in this state has ended.
func (s State) Final() bool { return s == Succeeded || s == Failed || s == Canceled || s == Expired }

// Why a job did not succeed, beside what the pipeline says.
var (
	ErrCanceled = errors.New("job: canceled")
	ErrExpired  = errors.New("job: not done within its time")
	// ErrShutdown is the cancellation of jobs that outlast a drain.
	ErrShutdown = fmt.Errorf("%w: the gateway is shutting down", ErrCanceled)
)

// PanicError is the failure of a job whose run panicked.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("job: panic: %v", e.Value) }

// Event is an entry of a job's history: a change of state, or what the
// pipeline reported about one picture.
type Event struct {
	At      time.Time
	State   State           // of the job from this event on
	Picture *pipeline.Event // nil for a change of state
}

// Job is one admitted request. It is safe for concurrent use.
type Job struct {
	ID      string
	Request *pipeline.Request
	Created time.Time

	cancel context.CancelCauseFunc
	done   chan struct{} // closed when finalised

	mu      sync.Mutex
	state   State // "" until Submit has queued the job
	history []Event
	changed chan struct{} // closed at the next event
	results []pipeline.Result
	err     error
}

// State the job is in now.
func (j *Job) State() State {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state
}

// Cancel ends the job: at once while it is queued, else within one step. It
// does nothing to a job that has ended.
func (j *Job) Cancel() { j.cancel(ErrCanceled) }

// Wait returns the job's pictures, or why there are none, or ctx's error if
// that ends before the job does (which goes on).
func (j *Job) Wait(ctx context.Context) ([]pipeline.Result, error) {
	select {
	case <-j.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.results, j.err
}

// Since returns the history from entry n on and a channel that is closed when
// more comes. Nothing comes after an entry whose state is final.
func (j *Job) Since(n int) (events []Event, more <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.history[n:len(j.history):len(j.history)], j.changed
}

// record appends to the history, which a final state closes.
func (j *Job) record(at time.Time, state State, picture *pipeline.Event) (open bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state.Final() {
		return false
	}
	j.state = state
	j.history = append(j.history, Event{At: at, State: state, Picture: picture})
	close(j.changed)
	j.changed = make(chan struct{})
	return true
}

// finalise ends the job. A second call is a fault of this package.
func (j *Job) finalise(at time.Time, state State, results []pipeline.Result, err error) {
	j.mu.Lock()
	j.results, j.err = results, err
	j.mu.Unlock()
	if !j.record(at, state, nil) {
		panic("job: finalised twice")
	}
	close(j.done)
}
