package job_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stepper makes pictures one at a time, each of as many steps as the request
// says, a second a step. Tests run it in synthetic time.
type stepper struct {
	slot  chan struct{}
	steps chan int // every step as it is done
	fail  func(*pipeline.Request) error
	nsfw  *bool // of every picture
}

func newStepper(slots int) *stepper {
	return &stepper{slot: make(chan struct{}, slots), steps: make(chan int, 10000)}
}

func (g *stepper) Capacity() int { return cap(g.slot) }

func (g *stepper) Generate(ctx context.Context, r *pipeline.Request, observe func(pipeline.Event)) ([]pipeline.Result, error) {
	results := make([]pipeline.Result, r.N)
	for k := range results {
		select {
		case g.slot <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		err := func() error {
			defer func() { <-g.slot }()
			start := time.Now()
			observe(pipeline.Event{Kind: pipeline.Started, Image: k, Steps: r.Steps})
			if g.fail != nil {
				if err := g.fail(r); err != nil {
					return err
				}
			}
			for i := range r.Steps {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				g.steps <- i
				observe(pipeline.Event{Kind: pipeline.Step, Image: k, Step: i + 1, Steps: r.Steps})
			}
			results[k] = pipeline.Result{Seed: r.Seed + uint32(k), NSFW: g.nsfw, Timings: pipeline.Timings{Total: time.Since(start)}}
			observe(pipeline.Event{Kind: pipeline.Finished, Image: k, Step: r.Steps, Steps: r.Steps, Result: &results[k]})
			return nil
		}()
		if err != nil {
			return nil, err
		}
	}
	return results, nil
}

type bench struct {
	*job.Runner
	metrics *telemetry.Metrics
}

func newRunner(g job.Generator, o job.Options) bench {
	o.Metrics = telemetry.NewMetrics(prometheus.NewRegistry(), telemetry.Build{})
	o.Log = slog.New(slog.DiscardHandler)
	o.Model = "mini"
	return bench{job.NewRunner(g, o), o.Metrics}
}

func submit(t *testing.T, r bench, ctx context.Context, n, steps int) *job.Job {
	t.Helper()
	j, err := r.Submit(ctx, &pipeline.Request{N: n, Steps: steps, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func states(events []job.Event) (s []job.State) {
	for _, e := range events {
		if len(s) == 0 || s[len(s)-1] != e.State {
			s = append(s, e.State)
		}
	}
	return s
}

func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(newStepper(1), job.Options{MaxQueue: 4})
		first, second := submit(t, r, t.Context(), 1, 3), submit(t, r, t.Context(), 2, 2)

		synctest.Wait()
		// The two goroutines race for the slot: either job may be first.
		if got := []job.State{first.State(), second.State()}; !slices.Contains(got, job.Running) || !slices.Contains(got, job.Queued) {
			t.Errorf("with one slot the states are %v", got)
		}
		if w, n := testutil.ToFloat64(r.metrics.PicturesWaiting), testutil.ToFloat64(r.metrics.PicturesRunning); w != 2 || n != 1 {
			t.Errorf("%v waiting and %v running, want 2 and 1", w, n)
		}
		if found, ok := r.Job(first.ID); !ok || found != first {
			t.Errorf("Job(%q) = %v, %v", first.ID, found, ok)
		}

		results, err := second.Wait(t.Context())
		if err != nil || len(results) != 2 || results[1].Seed != 8 {
			t.Fatalf("Wait = %+v, %v", results, err)
		}
		<-first.Done()
		synctest.Wait()

		// A subscriber that comes late sees the whole history, and its end.
		var late []job.Event
		for e := range second.Events(t.Context()) {
			late = append(late, e)
		}
		if got := states(late); !slices.Equal(got, []job.State{job.Queued, job.Running, job.Succeeded}) {
			t.Errorf("states %v", got)
		}
		if want := 1 + 2*(1+2+1) + 1; len(late) != want {
			t.Errorf("%d events, want %d", len(late), want)
		}
		if _, ok := r.Job(first.ID); ok {
			t.Error("the runner still holds a job that has ended")
		}
		if w, n := testutil.ToFloat64(r.metrics.PicturesWaiting), testutil.ToFloat64(r.metrics.PicturesRunning); w != 0 || n != 0 {
			t.Errorf("%v waiting and %v running at the end", w, n)
		}
		if n := testutil.ToFloat64(r.metrics.Pictures.WithLabelValues("succeeded")); n != 3 {
			t.Errorf("%v pictures succeeded, want 3", n)
		}
		if n := testutil.CollectAndCount(r.metrics.StepSeconds); n != 1 {
			t.Errorf("%d series of step seconds, want 1 (one stage)", n)
		}
	})
}

func TestSubscriberReadsAsItGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newStepper(1)
		j := submit(t, newRunner(g, job.Options{}), t.Context(), 1, 5)
		seen := 0
		for e := range j.Events(t.Context()) {
			if e.Picture == nil || e.Picture.Kind != pipeline.Step {
				continue
			}
			seen++
			if done := len(g.steps); done != seen {
				t.Errorf("step %d was seen when %d were done", seen, done)
			}
		}
		if seen != 5 {
			t.Errorf("saw %d steps, want 5", seen)
		}

		// One that leaves early holds up nobody.
		j = submit(t, newRunner(g, job.Options{}), t.Context(), 1, 5)
		for range j.Events(t.Context()) {
			break
		}
		if _, err := j.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newStepper(1)
		r := newRunner(g, job.Options{MaxQueue: 4})
		gone, leave := context.WithCancelCause(t.Context())
		running := submit(t, r, gone, 1, 100)
		time.Sleep(2500 * time.Millisecond) // synthetic time
		queued := submit(t, r, t.Context(), 2, 100)
		synctest.Wait()

		queued.Cancel()
		if _, err := queued.Wait(t.Context()); !errors.Is(err, job.ErrCanceled) {
			t.Errorf("a canceled job's error is %v", err)
		}
		if got := states(slices.Collect(queued.Events(t.Context()))); !slices.Equal(got, []job.State{job.Queued, job.Canceled}) {
			t.Errorf("states of a job canceled in the queue: %v", got)
		}

		cause := errors.New("client gone")
		leave(cause)
		if _, err := running.Wait(t.Context()); !errors.Is(err, job.ErrCanceled) || !errors.Is(err, cause) {
			t.Errorf("the error of a job whose client left is %v", err)
		}
		if n := len(g.steps); n != 2 {
			t.Errorf("%d steps were done, want the 2 before the client left", n)
		}
		running.Cancel() // a second time, after the end
		synctest.Wait()
		if running.State() != job.Canceled {
			t.Errorf("state %v", running.State())
		}
		if n := testutil.ToFloat64(r.metrics.PicturesRunning); n != 0 {
			t.Errorf("%v pictures run after the end", n)
		}

		// The waiter's own end is not the job's.
		j := submit(t, r, t.Context(), 1, 3)
		short, stop := context.WithTimeout(t.Context(), time.Second/2)
		defer stop()
		if _, err := j.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait = %v", err)
		}
		if _, err := j.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := submit(t, newRunner(newStepper(1), job.Options{Timeout: 5 * time.Second}), t.Context(), 1, 100)
		if _, err := j.Wait(t.Context()); !errors.Is(err, job.ErrExpired) || j.State() != job.Expired {
			t.Errorf("%v in state %v", err, j.State())
		}
		if d := time.Since(j.Created); d != 5*time.Second {
			t.Errorf("expired after %v", d)
		}
	})
}

func TestFailures(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		fail func(*pipeline.Request) error
		is   func(error) bool
	}{
		"error": {func(*pipeline.Request) error { return broken }, func(err error) bool { return errors.Is(err, broken) }},
		"panic": {func(*pipeline.Request) error { panic("at the disco") }, func(err error) bool {
			p := new(job.PanicError)
			return errors.As(err, &p) && p.Value == "at the disco" && len(p.Stack) > 0
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newStepper(1)
				g.fail = c.fail
				r := newRunner(g, job.Options{})
				j := submit(t, r, t.Context(), 1, 3)
				if _, err := j.Wait(t.Context()); !c.is(err) || j.State() != job.Failed {
					t.Errorf("%v in state %v", err, j.State())
				}
				// The next one works.
				g.fail = nil
				if _, err := submit(t, r, t.Context(), 1, 3).Wait(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestSafetyIsCounted: by verdict, and a refusal is no failure in the numbers that wake someone.
func TestSafetyIsCounted(t *testing.T) {
	yes, no := true, false
	for name, c := range map[string]struct {
		nsfw    *bool
		fail    error
		outcome string
		verdict string
		checked float64
	}{
		"unchecked": {nil, nil, "succeeded", telemetry.SafetyPassed, 0},
		"passed":    {&no, nil, "succeeded", telemetry.SafetyPassed, 2},
		"flagged":   {&yes, nil, "succeeded", telemetry.SafetyFlagged, 2},
		"refused":   {nil, fmt.Errorf("generate: %w", &pipeline.UnsafeError{Image: 0}), "refused", telemetry.SafetyRefused, 1},
		"broken":    {nil, errors.New("broken"), "failed", telemetry.SafetyRefused, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newStepper(1)
				g.nsfw, g.fail = c.nsfw, func(*pipeline.Request) error { return c.fail }
				r := newRunner(g, job.Options{})
				j := submit(t, r, t.Context(), 2, 1)
				if _, err := j.Wait(t.Context()); !errors.Is(err, c.fail) {
					t.Errorf("error %v, want %v", err, c.fail)
				}
				synctest.Wait()
				if n := testutil.ToFloat64(r.metrics.Pictures.WithLabelValues(c.outcome)); n != 2 || testutil.CollectAndCount(r.metrics.Pictures) != 1 {
					t.Errorf("%v pictures %s, want both", n, c.outcome)
				}
				if n := testutil.ToFloat64(r.metrics.SafetyChecks.WithLabelValues(c.verdict)); n != c.checked || testutil.CollectAndCount(r.metrics.SafetyChecks) != 1 {
					t.Errorf("%v pictures %s, want %v", n, c.verdict, c.checked)
				}
			})
		})
	}
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(newStepper(2), job.Options{MaxQueue: 3})
		// Idle, it takes even a request that no queue would hold.
		large := submit(t, r, t.Context(), 10, 2)
		if _, err := r.Submit(t.Context(), &pipeline.Request{N: 1}); !errors.Is(err, job.ErrQueueFull) || !errors.Is(err, job.ErrRejected) {
			t.Fatalf("behind it: %v", err)
		}
		if _, err := large.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}

		var last *job.Job
		for range 5 { // 2 run, 3 wait
			last = submit(t, r, t.Context(), 1, 4)
		}
		_, err := r.Submit(t.Context(), &pipeline.Request{N: 3})
		var rejection *job.Rejection
		if !errors.As(err, &rejection) || !errors.Is(rejection.Reason, job.ErrQueueFull) {
			t.Fatalf("the sixth: %v", err)
		}
		// The large job's pictures took 2 s each; three must leave, two at a time.
		if rejection.RetryAfter != 4*time.Second {
			t.Errorf("retry after %v, want 4s", rejection.RetryAfter)
		}
		if n := testutil.ToFloat64(r.metrics.Pictures.WithLabelValues("rejected")); n != 4 {
			t.Errorf("%v pictures rejected, want 4", n)
		}
		// Whoever sees a job end finds its place free.
		<-last.Done()
		submit(t, r, t.Context(), 1, 1)
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(newStepper(1), job.Options{MaxQueue: 4})
		short, long := submit(t, r, t.Context(), 1, 2), submit(t, r, t.Context(), 1, 50)
		synctest.Wait()
		grace, stop := context.WithTimeout(t.Context(), 3*time.Second)
		defer stop()
		drained := make(chan error)
		go func() { drained <- r.Drain(grace) }()
		synctest.Wait()
		if _, err := r.Submit(t.Context(), &pipeline.Request{N: 1}); !errors.Is(err, job.ErrDraining) || !errors.Is(err, job.ErrRejected) {
			t.Errorf("Submit while draining: %v", err)
		}
		if !r.Draining() {
			t.Error("not draining")
		}
		if err := <-drained; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain = %v", err)
		}
		// When Drain returns, nothing runs any more.
		for _, j := range []*job.Job{short, long} {
			if !j.State().Final() {
				t.Errorf("state %v after the drain", j.State())
			}
		}
		if _, err := long.Wait(t.Context()); !errors.Is(err, job.ErrShutdown) {
			t.Errorf("the long job's error is %v", err)
		}
		if err := r.Drain(t.Context()); err != nil {
			t.Errorf("a second drain: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(newStepper(1), job.Options{})
		j := submit(t, r, t.Context(), 1, 2)
		if err := r.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if j.State() != job.Succeeded {
			t.Errorf("state %v", j.State())
		}
		if err := newRunner(newStepper(1), job.Options{}).Drain(t.Context()); err != nil {
			t.Errorf("drain of an idle runner: %v", err)
		}
	})
}
