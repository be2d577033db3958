package job_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

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

// history is what has happened to a job.
func history(j *job.Job) []job.Event {
	events, _ := j.Since(0)
	return events
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

		results, err := second.Wait(t.Context())
		if err != nil || len(results) != 2 || results[1].Seed != 8 {
			t.Fatalf("Wait = %+v, %v", results, err)
		}
		_, _ = first.Wait(t.Context())
		synctest.Wait()

		// A subscriber that comes late sees the whole history, and its end.
		late := history(second)
		if got := states(late); !slices.Equal(got, []job.State{job.Queued, job.Running, job.Succeeded}) {
			t.Errorf("states %v", got)
		}
		if want := 1 + 2*(1+2+1) + 1; len(late) != want {
			t.Errorf("%d events, want %d", len(late), want)
		}
		if w, n := testutil.ToFloat64(r.metrics.PicturesWaiting), testutil.ToFloat64(r.metrics.PicturesRunning); w != 0 || n != 0 {
			t.Errorf("%v waiting and %v running at the end", w, n)
		}
		if n := testutil.ToFloat64(r.metrics.Pictures.WithLabelValues("succeeded")); n != 3 {
			t.Errorf("%v pictures succeeded, want 3", n)
		}
		if n := testutil.CollectAndCount(r.metrics.StepSeconds); n != 3 {
			t.Errorf("%d series of step seconds, want 3, one a stage", n)
		}
	})
}

func TestSubscriberReadsAsItGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newStepper(1)
		j := submit(t, newRunner(g, job.Options{}), t.Context(), 1, 5)
		seen := 0
		for n, ended := 0, false; !ended; {
			events, more := j.Since(n)
			n += len(events)
			for _, e := range events {
				ended = e.State.Final()
				if e.Picture == nil || e.Picture.Kind != pipeline.Step {
					continue
				}
				seen++
				if done := len(g.steps); done != seen {
					t.Errorf("step %d was seen when %d were done", seen, done)
				}
			}
			if !ended {
				<-more
			}
		}
		if seen != 5 {
			t.Errorf("saw %d steps, want 5", seen)
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
		if got := states(history(queued)); !slices.Equal(got, []job.State{job.Queued, job.Canceled}) {
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
				if n := testutil.ToFloat64(r.metrics.Pictures.WithLabelValues(c.outcome)); n != 2 || total(t, r.metrics.Pictures) != 2 {
					t.Errorf("%v pictures %s, want both", n, c.outcome)
				}
				if n := testutil.ToFloat64(r.metrics.SafetyChecks.WithLabelValues(c.verdict)); n != c.checked || total(t, r.metrics.SafetyChecks) != c.checked {
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
		_, _ = last.Wait(t.Context())
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

// total is the sum of a counter over its labels.
func total(t *testing.T, c prometheus.Collector) (sum float64) {
	t.Helper()
	for _, m := range gather(t, c) {
		sum += m.GetCounter().GetValue()
	}
	return sum
}

func gather(t *testing.T, c prometheus.Collector) []*dto.Metric {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) != 1 {
		t.Fatalf("%d metrics, want 1", len(families))
	}
	return families[0].GetMetric()
}

// TestFivePicturesInTwoSlots: one request of five pictures of four seconds each. They start after 0, 0, 4, 4 and 8 s, so that they queue
// for 16 s together and take 4 s each, whatever they waited.
func TestFivePicturesInTwoSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(parallel{newStepper(2)}, job.Options{MaxQueue: 3})
		j := submit(t, r, t.Context(), 5, 4)
		synctest.Wait()
		// What waits and runs is known; how long a picture takes is not yet.
		for _, c := range []struct {
			after time.Duration
			want  time.Duration
		}{
			{0, 15 * time.Second},                              // three rounds of the first guess, 5 s
			{2500 * time.Millisecond, 9500 * time.Millisecond}, // the pace of two steps says 4 s a picture
			{4500 * time.Millisecond, 7500 * time.Millisecond}, // measured
			{9500 * time.Millisecond, 2500 * time.Millisecond},
			{11500 * time.Millisecond, time.Second}, // never less
		} {
			time.Sleep(time.Until(j.Created.Add(c.after)))
			synctest.Wait()
			if got := r.RetryAfter(); got != c.want {
				t.Errorf("after %v: %v until all have left, want %v", c.after, got, c.want)
			}
		}
		if _, err := j.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(j.Created); took != 12*time.Second {
			t.Fatalf("five pictures took %v", took)
		}
		if h := gather(t, r.metrics.QueueSeconds)[0].GetHistogram(); h.GetSampleCount() != 5 || h.GetSampleSum() != 0+0+4+4+8 {
			t.Errorf("queue: %d pictures, %v s together", h.GetSampleCount(), h.GetSampleSum())
		}
		if h := gather(t, r.metrics.PictureSeconds)[0].GetHistogram(); h.GetSampleCount() != 5 || h.GetSampleSum() != 5*4 {
			t.Errorf("pictures: %d, %v s together", h.GetSampleCount(), h.GetSampleSum())
		}
	})
}

// TestRetryAfterCountsPlaces: a request that needs two places waits until two pictures have left, not until the queue is empty.
func TestRetryAfterCountsPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(parallel{newStepper(2)}, job.Options{MaxQueue: 3})
		j := submit(t, r, t.Context(), 5, 10)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		for n, want := range map[int]time.Duration{1: 7 * time.Second, 2: 7 * time.Second, 3: 17 * time.Second, 5: 27 * time.Second, 9: 27 * time.Second} {
			var rejection *job.Rejection
			if _, err := r.Submit(t.Context(), &pipeline.Request{N: n}); !errors.As(err, &rejection) || rejection.RetryAfter != want {
				t.Errorf("%d more: %v, retry after %v, want %v", n, err, rejection.RetryAfter, want)
			}
		}
		j.Cancel()
		_, _ = j.Wait(t.Context())
	})
}

// TestRetryAfterGoesOnAtThePaceOfTheSteps: a picture of twenty steps of a second each leaves when its steps say, whatever the one before
// it, of two, took.
func TestRetryAfterGoesOnAtThePaceOfTheSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(newStepper(1), job.Options{MaxQueue: 3})
		if _, err := submit(t, r, t.Context(), 1, 2).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		j := submit(t, r, t.Context(), 1, 20)
		time.Sleep(5*time.Second + time.Millisecond)
		synctest.Wait()
		if got, want := r.RetryAfter(), 15*time.Second-time.Millisecond; got != want {
			t.Errorf("after 5 of 20 seconds: %v until it has left, want %v", got, want)
		}
		j.Cancel()
		_, _ = j.Wait(t.Context())
	})
}

// parallel makes all pictures of a request at once, as far as there are slots.
type parallel struct{ *stepper }

func (g parallel) Generate(ctx context.Context, r *pipeline.Request, observe func(pipeline.Event)) ([]pipeline.Result, error) {
	results := make([]pipeline.Result, r.N)
	var observing sync.Mutex
	pictures, ctx := errgroup.WithContext(ctx)
	for k := range results {
		pictures.Go(func() error {
			one := *r
			one.N = 1
			made, err := g.stepper.Generate(ctx, &one, func(e pipeline.Event) {
				observing.Lock()
				defer observing.Unlock()
				e.Image = k
				observe(e)
			})
			if err == nil {
				results[k] = made[0]
			}
			return err
		})
	}
	return results, pictures.Wait()
}
