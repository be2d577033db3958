package pipeline

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/facediffuser/facediffuser/sampler"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted are networks for the tests of control flow: what they return means
// nothing (golden tests with real networks are in package networks), but every
// call takes its time, and can fail.
type scripted struct {
	step    time.Duration
	decoded atomic.Int64

	mu    sync.Mutex
	calls map[UNet]int
	fail  func(unet UNet, call int) error
}

func newScripted(step time.Duration) *scripted {
	return &scripted{step: step, calls: map[UNet]int{}}
}

func (s *scripted) Dimensions(context.Context) (Dimensions, error) { return miniDimensions, nil }

func (s *scripted) EncodeText(ctx context.Context, ids []int64) ([]float32, error) {
	return make([]float32, miniDimensions.Tokens*miniDimensions.Embedding), ctx.Err()
}

func (s *scripted) EncodeImage(ctx context.Context, pixels []float32) ([]float32, error) {
	return make([]float32, miniDimensions.Embedding), ctx.Err()
}

func (s *scripted) FuseSubjects(ctx context.Context, hidden, embeds []float32, positions []int64) ([]float32, error) {
	return slices.Clone(hidden), ctx.Err()
}

func (s *scripted) PredictNoise(ctx context.Context, dst []float32, unet UNet, latents []float32, timestep float32, base, cond []float32) error {
	s.mu.Lock()
	s.calls[unet]++
	call, fail := s.calls[unet], s.fail
	s.mu.Unlock()
	if fail != nil {
		if err := fail(unet, call); err != nil {
			return err
		}
	}
	copy(dst, latents)
	copy(dst[len(latents):], latents)
	select {
	case <-time.After(s.step):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *scripted) DecodeLatents(ctx context.Context, latents []float32) ([]float32, error) {
	s.decoded.Add(1)
	return make([]float32, 3*miniDimensions.Height*miniDimensions.Width), ctx.Err()
}

func (s *scripted) count(unet UNet) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[unet]
}

func prepare(t *testing.T, p *Pipeline, params Params) *Request {
	t.Helper()
	r, err := p.Prepare(t.Context(), params, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEventsTellTheStoryOfEveryPicture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		networks := newScripted(time.Second)
		p := newPipeline(t, networks, 0)
		r := prepare(t, p, Params{Prompt: "a beach", N: 2, Steps: ptr(8), Seed: ptr(uint32(5)), Previews: 3})
		var inside atomic.Int64
		events := map[int][]Event{}
		results, err := p.Generate(t.Context(), r, func(e Event) {
			if inside.Add(1) != 1 {
				t.Error("two events at once")
			}
			events[e.Image] = append(events[e.Image], e)
			inside.Add(-1)
		})
		if err != nil {
			t.Fatal(err)
		}
		if results[0].Seed != 5 || results[1].Seed != 6 || results[1].Parameters.Seed != 6 {
			t.Errorf("seeds %d and %d, want 5 and 6", results[0].Seed, results[1].Seed)
		}
		for k, all := range events {
			var previews, steps []int
			for _, e := range all {
				switch e.Kind {
				case Preview:
					previews = append(previews, e.Step)
					if e.Picture == nil || e.PreviewIndex != len(previews)-1 {
						t.Errorf("picture %d: preview %+v", k, e)
					}
				case Step:
					steps = append(steps, e.Step)
				}
			}
			if !slices.Equal(previews, []int{3, 5, 7}) || !slices.Equal(steps, []int{1, 2, 3, 4, 5, 6, 7, 8}) {
				t.Errorf("picture %d: previews after steps %v, steps %v", k, previews, steps)
			}
			if all[0].Kind != Started || all[len(all)-1].Kind != Finished || all[len(all)-1].Result == nil {
				t.Errorf("picture %d begins with %v and ends with %v", k, all[0].Kind, all[len(all)-1].Kind)
			}
		}
		if got := networks.decoded.Load(); got != 2*(3+1) {
			t.Errorf("%d pictures decoded, want 8: two pictures and three previews of each", got)
		}
	})
}

// PNDM calls the networks once more than it has steps; events, stages and
// previews count what happens.
func TestEventsCountIterations(t *testing.T) {
	networks := newScripted(0)
	p := newPipeline(t, networks, 0)
	r := prepare(t, p, Params{Prompt: "a beach", Scheduler: sampler.PNDM, Steps: ptr(7), Previews: 3})
	r.Plan.StartMergeStep, r.Plan.FinalStep = 3, 6
	var previews, steps []int
	results, err := p.Generate(t.Context(), r, func(e Event) {
		if e.Steps != 8 {
			t.Errorf("event %+v is of %d steps, want 8", e, e.Steps)
		}
		switch e.Kind {
		case Preview:
			previews = append(previews, e.Step)
		case Step:
			steps = append(steps, e.Step)
		case Finished:
			if e.Step != 8 {
				t.Errorf("finished after step %d, want 8", e.Step)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(previews, []int{3, 5, 7}) || !slices.Equal(steps, []int{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("previews after steps %v, steps %v", previews, steps)
	}
	if tdm, sdm := networks.count(TDM), networks.count(SDM); tdm != 7 || sdm != 4 || len(results[0].Fusion) != 3 {
		t.Errorf("%d calls of the TDM, %d of the SDM, %d steps of fusion, want 7, 4 and 3", tdm, sdm, len(results[0].Fusion))
	}
	if got := results[0].Parameters; got.Scheduler != sampler.PNDM || got.Steps != 7 {
		t.Errorf("parameters %+v, want pndm with 7 steps", got)
	}
}

func TestOnlyMaxRunningPicturesRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		networks := newScripted(time.Second)
		p := newPipeline(t, networks, 2)
		r := prepare(t, p, Params{Prompt: "a beach", N: 5, Steps: ptr(4)})
		running, most := 0, 0
		start := time.Now()
		results, err := p.Generate(t.Context(), r, func(e Event) {
			switch e.Kind {
			case Started:
				running++
				most = max(most, running)
			case Finished:
				running--
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if most != 2 || p.Capacity() != 2 {
			t.Errorf("%d pictures at once, capacity %d, want 2", most, p.Capacity())
		}
		if took := time.Since(start); took != 12*time.Second {
			t.Errorf("5 pictures of 4 s took %v, want three rounds of 4 s", took)
		}
		// A picture waits from the admission of its request, behind the request's other pictures too, and takes 4 s from then on.
		for k, queued := range []time.Duration{0, 0, 4 * time.Second, 4 * time.Second, 8 * time.Second} {
			want := Timings{Total: queued + 4*time.Second, Queued: queued, Networks: 4 * time.Second}
			if got := results[k].Timings; got != want {
				t.Errorf("picture %d: timings %+v, want %+v", k, got, want)
			}
		}
	})
}

// A full execution of a model that takes MaxBatch rows holds half as many
// pictures, as each has two rows; and every server can have one.
func TestCapacityFillsEveryServer(t *testing.T) {
	some := newPipeline(t, newScripted(0), 0)
	for _, servers := range []int{1, 3} {
		p, err := New(Options{Family: some.family, Tokenizer: some.tokenizer, Networks: newScripted(0), Servers: servers})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Generate(t.Context(), prepare(t, p, Params{Prompt: "a beach", Steps: ptr(1)}), nil); err != nil {
			t.Fatal(err)
		}
		if got, want := p.Capacity(), servers*miniDimensions.MaxBatch/2; got != want {
			t.Errorf("capacity %d with %d servers, want %d", got, servers, want)
		}
	}
}

func TestCancelStopsWithinAStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		networks := newScripted(time.Second)
		p := newPipeline(t, networks, 1)
		gone := errors.New("the client left")
		ctx, cancel := context.WithCancelCause(t.Context())
		r := prepare(t, p, Params{Prompt: "a beach", N: 3, Steps: ptr(50)})
		start := time.Now()
		time.AfterFunc(2500*time.Millisecond, func() { cancel(gone) })
		_, err := p.Generate(ctx, r, nil)
		if !errors.Is(err, gone) && !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want the cancellation", err)
		}
		if took := time.Since(start); took > 3500*time.Millisecond {
			t.Errorf("stopped after %v, want at most one step after 2.5 s", took)
		}
		if got := networks.count(TDM); got != 3 {
			t.Errorf("%d steps were begun, want 3", got)
		}
		// The slot is free again.
		if _, err := p.Generate(t.Context(), prepare(t, p, Params{Prompt: "a beach", Steps: ptr(2)}), nil); err != nil {
			t.Error(err)
		}
	})
}

func TestAFailedNetworkFailsTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		networks := newScripted(time.Second)
		down := errors.New("down")
		networks.fail = func(unet UNet, call int) error {
			if call == 3 {
				return down
			}
			return nil
		}
		p := newPipeline(t, networks, 0)
		_, err := p.Generate(t.Context(), prepare(t, p, Params{Prompt: "a beach", N: 2, Steps: ptr(50)}), nil)
		if !errors.Is(err, down) {
			t.Errorf("error %v, want the network's", err)
		}
		networks.fail = nil
		if _, err := p.Generate(t.Context(), prepare(t, p, Params{Prompt: "a beach", Steps: ptr(2)}), nil); err != nil {
			t.Errorf("the next request fails: %v", err)
		}
	})
}

func TestStagesCallTheirModels(t *testing.T) {
	for name, c := range map[string]struct{ start, final, tdm, sdm int }{
		"released bounds":   {15, 30, 31, 34}, // 16 scene, 15 fusion, 19 enhancement
		"enhancement alone": {-1, -1, 0, 50},
		"no fusion":         {20, 20, 21, 29},
		"fusion alone":      {-1, 49, 50, 50},
	} {
		t.Run(name, func(t *testing.T) {
			networks := newScripted(0)
			p := newPipeline(t, networks, 0)
			r := prepare(t, p, Params{Prompt: "a beach", Steps: ptr(50)})
			r.Plan.StartMergeStep, r.Plan.FinalStep = c.start, c.final
			results, err := p.Generate(t.Context(), r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tdm, sdm := networks.count(TDM), networks.count(SDM); tdm != c.tdm || sdm != c.sdm {
				t.Errorf("%d calls of the TDM and %d of the SDM, want %d and %d", tdm, sdm, c.tdm, c.sdm)
			}
			if got, want := len(results[0].Fusion), c.tdm+c.sdm-50; got != want {
				t.Errorf("%d steps of subject-scene fusion, want %d", got, want)
			}
		})
	}
}

func TestAPanicIsTheRequestsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		networks := newScripted(time.Second)
		networks.fail = func(unet UNet, call int) error { panic("a fault in a network's adapter") }
		p := newPipeline(t, networks, 1)
		r := prepare(t, p, Params{Prompt: "a beach", Steps: ptr(4)})
		func() {
			defer func() {
				if value, _ := recover().(string); !strings.Contains(value, "a fault in a network's adapter") {
					t.Errorf("Generate's caller recovers %q, want the panic", value)
				}
			}()
			_, err := p.Generate(t.Context(), r, nil)
			t.Errorf("Generate returned %v", err)
		}()
		networks.fail = nil
		if _, err := p.Generate(t.Context(), r, nil); err != nil {
			t.Errorf("the next request fails: %v", err)
		}
	})
}
