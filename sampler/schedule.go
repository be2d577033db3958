package sampler

import (
	"errors"
	"fmt"
	"math"
)

// Notation of this file
//
//	num_train_timesteps   T
//	beta_start, beta_end  β₀, β_T₋₁
//	betas                 β_t
//	alphas_cumprod        ᾱ_t = Π_{s ≤ t} (1 − β_s)
//
// Source: Ho et al., "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239), section 2;
// the scaled-linear β are those of latent diffusion (arXiv 2112.10752).

// Values of the fields of [ScheduleConfig] that are supported.
const (
	BetaScaledLinear = "scaled_linear" // √β is linear in t
	BetaLinear       = "linear"        // β is linear in t

	SpacingLeading = "leading" // t = k·⌊T/N⌋ + steps_offset, of DDIM and PNDM; DPM-Solver++ spaces evenly up to T−1

	PredictionEpsilon = "epsilon"      // the networks predict the noise ε
	PredictionV       = "v_prediction" // the networks predict v = √ᾱ·ε − √(1−ᾱ)·x₀
)

// ScheduleConfig describes how the networks were trained. The keys are those of diffusers'
// scheduler_config.json.
type ScheduleConfig struct {
	NumTrainTimesteps int     `json:"num_train_timesteps"`
	BetaStart         float64 `json:"beta_start"`
	BetaEnd           float64 `json:"beta_end"`
	BetaSchedule      string  `json:"beta_schedule"`
	StepsOffset       int     `json:"steps_offset"`
	SetAlphaToOne     bool    `json:"set_alpha_to_one"`
	ClipSample        bool    `json:"clip_sample"` // must be false: latents have no natural range
	TimestepSpacing   string  `json:"timestep_spacing"`
	PredictionType    string  `json:"prediction_type"`
}

// Validate reports every fault of c at once.
func (c ScheduleConfig) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.NumTrainTimesteps < 2 || c.NumTrainTimesteps > 1_000_000 {
		fault("num_train_timesteps must be between 2 and 1000000, got %d", c.NumTrainTimesteps)
	}
	// The comparisons are written so that a NaN fails them.
	if !(c.BetaStart > 0 && c.BetaStart <= c.BetaEnd && c.BetaEnd < 1) {
		fault("beta_start and beta_end must satisfy 0 < beta_start <= beta_end < 1, got %v and %v", c.BetaStart, c.BetaEnd)
	}
	if c.BetaSchedule != BetaScaledLinear && c.BetaSchedule != BetaLinear {
		fault("beta_schedule must be %q or %q, got %q", BetaScaledLinear, BetaLinear, c.BetaSchedule)
	}
	if c.StepsOffset != 0 && c.StepsOffset != 1 {
		fault("steps_offset must be 0 or 1, got %d", c.StepsOffset)
	}
	if c.ClipSample {
		fault("clip_sample must be false: latents have no range to clip to")
	}
	if c.TimestepSpacing != SpacingLeading {
		fault("timestep_spacing must be %q, got %q", SpacingLeading, c.TimestepSpacing)
	}
	if c.PredictionType != PredictionEpsilon && c.PredictionType != PredictionV {
		fault("prediction_type must be %q or %q, got %q", PredictionEpsilon, PredictionV, c.PredictionType)
	}
	return errors.Join(faults...)
}

// Schedule is the noise schedule the networks were trained with. It is immutable.
type Schedule struct {
	config        ScheduleConfig
	alphasCumprod []float32 // ᾱ_t, t = 0…T−1
	finalAlpha    float32   // ᾱ of the step after the last one
}

// NewSchedule computes the schedule that config describes. The error lists every fault of config.
func NewSchedule(config ScheduleConfig) (*Schedule, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("sampler: schedule: %w", err)
	}
	s := &Schedule{config: config, alphasCumprod: make([]float32, config.NumTrainTimesteps)}
	scaled := config.BetaSchedule == BetaScaledLinear
	first, last := config.BetaStart, config.BetaEnd
	if scaled {
		first, last = math.Sqrt(first), math.Sqrt(last)
	}
	// torch.cumprod keeps its running product in float64 and rounds each element to float32.
	product := 1.0
	for t := range s.alphasCumprod {
		beta := linspace(float32(first), float32(last), config.NumTrainTimesteps, t)
		if scaled {
			beta = float32(beta * beta) // the conversion keeps it from fusing with what follows
		}
		product *= float64(1 - beta)
		s.alphasCumprod[t] = float32(product)
	}
	s.finalAlpha = s.alphasCumprod[0]
	if config.SetAlphaToOne {
		s.finalAlpha = 1
	}
	return s, nil
}

// linspace is element i of torch.linspace(first, last, n) in float32: counted from the nearer end,
// with one rounding after multiply and add. In float64 the product is exact and the sum is off by
// far less than float32 can show, so rounding it equals the fused operation.
func linspace(first, last float32, n, i int) float32 {
	step := float64((last - first) / float32(n-1))
	if i < n/2 {
		return float32(float64(first) + step*float64(i))
	}
	return float32(float64(last) - step*float64(n-1-i))
}

// MaxSteps is the largest number of sampling steps: one less than there are training steps, so
// that no timestep leaves the schedule with steps_offset 1.
func (s *Schedule) MaxSteps() int { return s.config.NumTrainTimesteps - 1 }

// leading are the timesteps of n sampling steps with leading spacing, in falling order, and the
// distance between two of them.
func (s *Schedule) leading(n int) (timesteps []int, stride int) {
	stride = s.config.NumTrainTimesteps / n
	for k := n - 1; k >= 0; k-- {
		timesteps = append(timesteps, k*stride+s.config.StepsOffset)
	}
	return timesteps, stride
}

// levels are √ᾱ_t and √(1−ᾱ_t): how much signal and how much noise x_t holds.
func (s *Schedule) levels(t int) (signal, noise float64) {
	alpha := float64(s.alphasCumprod[t])
	return math.Sqrt(alpha), math.Sqrt(1 - alpha)
}

// original are the coefficients of x₀ = p·x_t + q·noise_pred.
func (s *Schedule) original(t int) (p, q float64) {
	signal, noise := s.levels(t)
	if s.config.PredictionType == PredictionV {
		return signal, -noise
	}
	return 1 / signal, -noise / signal
}
