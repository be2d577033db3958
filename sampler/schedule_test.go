package sampler

import (
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/internal/golden"
)

// sd15 is the schedule of Stable Diffusion 1.5.
func sd15() ScheduleConfig {
	return ScheduleConfig{
		NumTrainTimesteps: 1000, BetaStart: 0.00085, BetaEnd: 0.012, BetaSchedule: BetaScaledLinear,
		StepsOffset: 1, TimestepSpacing: SpacingLeading, PredictionType: PredictionEpsilon,
	}
}

func open(t *testing.T, path string) *golden.File {
	t.Helper()
	f, err := golden.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func float32s(t *testing.T, f *golden.File, name string) []float32 {
	t.Helper()
	v, err := f.Float32s(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func int64s(t *testing.T, f *golden.File, name string) []int64 {
	t.Helper()
	v, err := f.Int64s(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// scheduleOf reads the schedule that a golden file was made with.
func scheduleOf(t *testing.T, f *golden.File) *Schedule {
	t.Helper()
	var header struct {
		Schedule ScheduleConfig `json:"schedule"`
	}
	if err := json.Unmarshal(f.Header, &header); err != nil {
		t.Fatal(err)
	}
	s, err := NewSchedule(header.Schedule)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files %s (%v)", pattern, err)
	}
	return paths
}

func TestScheduleEqualsReference(t *testing.T) {
	for _, path := range glob(t, "testdata/schedule_*.safetensors") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f := open(t, path)
			s := scheduleOf(t, f)
			want := float32s(t, f, "alphas_cumprod")
			if len(s.alphasCumprod) != len(want) {
				t.Fatalf("%d training steps, want %d", len(s.alphasCumprod), len(want))
			}
			for i, got := range s.alphasCumprod {
				// One unit in the last place: PyTorch's linspace may or may not fuse on another machine.
				if math.Abs(float64(got)/float64(want[i])-1) > 1.2e-7 {
					t.Fatalf("alphas_cumprod[%d] = %v, want %v", i, got, want[i])
				}
			}
			if want := float32s(t, f, "final_alpha_cumprod")[0]; s.finalAlpha != want {
				t.Errorf("final_alpha_cumprod = %v, want %v", s.finalAlpha, want)
			}
			compareTimesteps(t, s, f, "timesteps", DDIM)
		})
	}
}

func TestTimestepsEqualReference(t *testing.T) {
	f := open(t, "testdata/timesteps.safetensors")
	for _, scheduler := range []string{PNDM, DPMPP2M} {
		compareTimesteps(t, scheduleOf(t, f), f, scheduler, scheduler)
	}
}

// compareTimesteps compares those of every number of steps N that f holds as a tensor prefix_N.
func compareTimesteps(t *testing.T, s *Schedule, f *golden.File, prefix, scheduler string) {
	t.Helper()
	counts := 0
	for name := range f.Tensors {
		steps, found := strings.CutPrefix(name, prefix+"_")
		if !found {
			continue
		}
		counts++
		solver, want := newSolver(t, s, scheduler, atoi(t, steps), 0), int64s(t, f, name)
		if solver.Iterations() != len(want) {
			t.Fatalf("%s: %d iterations, want %d", name, solver.Iterations(), len(want))
		}
		for i, want := range want {
			if got := solver.Timestep(i); got != float32(want) {
				t.Fatalf("%s: timestep %d = %v, want %d", name, i, got, want)
			}
		}
	}
	if counts == 0 {
		t.Errorf("the file holds no timesteps of %s", scheduler)
	}
}

// Known values: SD 1.5 at 50 steps runs 981, 961 … 1; ᾱ₀ = 1 − 0.00085.
func TestScheduleKnownValues(t *testing.T) {
	s := newSchedule(t, sd15())
	if got, want := s.alphasCumprod[0], float32(1-0.00085); math.Abs(float64(got-want)) > 1e-7 {
		t.Errorf("ᾱ₀ = %v, want %v", got, want)
	}
	solver := newSolver(t, s, DDIM, 50, 0)
	for i := range 50 {
		if got, want := solver.Timestep(i), float32(981-20*i); got != want {
			t.Errorf("timestep %d = %v, want %v", i, got, want)
		}
	}
}

func TestAlphasFallStrictlyWithinUnitInterval(t *testing.T) {
	for _, schedule := range []string{BetaLinear, BetaScaledLinear} {
		config := sd15()
		config.BetaSchedule = schedule
		s, err := NewSchedule(config)
		if err != nil {
			t.Fatal(err)
		}
		previous := float32(1)
		for i, alpha := range s.alphasCumprod {
			if alpha <= 0 || alpha >= previous {
				t.Fatalf("%s: alphas_cumprod[%d] = %v after %v", schedule, i, alpha, previous)
			}
			previous = alpha
		}
	}
}

func TestScheduleConfigFaultsAreAllReported(t *testing.T) {
	_, err := NewSchedule(ScheduleConfig{
		NumTrainTimesteps: 1, BetaStart: math.NaN(), BetaSchedule: "cosine", StepsOffset: 2,
		ClipSample: true, TimestepSpacing: "trailing", PredictionType: "sample",
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{
		"num_train_timesteps", "beta_start", "beta_schedule", "steps_offset", "clip_sample", "timestep_spacing", "prediction_type",
	} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("error does not name %s: %v", field, err)
		}
	}
}
