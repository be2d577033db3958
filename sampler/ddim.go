package sampler

import (
	"fmt"
	"math"
)

// Notation of this file, as in Song et al., "Denoising Diffusion Implicit Models" (arXiv 2010.02502);
// its α is the cumulative product ᾱ of schedule.go
//
//	latents                  x_t
//	noise_pred               ε (or v) = network(x_t, t)
//	pred_original_sample     x₀
//	timestep, the one after  t, t' = t − ⌊T/N⌋
//	std_dev_t                σ = η·√((1−ᾱ_t')/(1−ᾱ_t))·√(1 − ᾱ_t/ᾱ_t')     formula (16)
//
//	1. x₀   = (x_t − √(1−ᾱ_t)·ε)/√ᾱ_t                                    part of formula (12)
//	   or, when v is predicted, x₀ = √ᾱ_t·x_t − √(1−ᾱ_t)·v and ε = √ᾱ_t·v + √(1−ᾱ_t)·x_t
//	2. x_t' = √ᾱ_t'·x₀ + √(1−ᾱ_t'−σ²)·ε + σ·noise                        formula (12)
//
// Both are linear, so a step is x_t' = a·x_t + b·noise_pred + c·noise with three scalars per step,
// computed once in float64; c = 0 when η = 0.

// DDIM is the plan of one sampling run: its timesteps and the coefficients of every step. It is
// immutable and may serve any number of images at once.
type DDIM struct {
	eta   float64
	steps []step
}

type step struct {
	timestep int
	a, b, c  float32 // x_t' = a·x_t + b·noise_pred + c·noise
	p, q     float32 // x₀ = p·x_t + q·noise_pred
}

// DDIM plans a run of the given number of steps with leading spacing. eta is η of formula (16):
// 0 is deterministic, 1 is as noisy as DDPM. The errors name the ranges.
func (s *Schedule) DDIM(steps int, eta float64) (*DDIM, error) {
	if steps < 1 || steps > s.MaxSteps() {
		return nil, fmt.Errorf("sampler: the number of steps must be between 1 and %d, got %d", s.MaxSteps(), steps)
	}
	if !(eta >= 0 && eta <= 1) { // also refuses NaN
		return nil, fmt.Errorf("sampler: eta must be between 0 and 1, got %v", eta)
	}
	ratio := s.config.NumTrainTimesteps / steps
	d := &DDIM{eta: eta, steps: make([]step, steps)}
	for i := range d.steps {
		t := (steps-1-i)*ratio + s.config.StepsOffset
		d.steps[i] = s.plan(t, t-ratio, eta)
	}
	return d, nil
}

// plan computes the coefficients of the step from timestep t to timestep next.
func (s *Schedule) plan(t, next int, eta float64) step {
	alpha, alphaNext := float64(s.alphasCumprod[t]), float64(s.finalAlpha)
	if next >= 0 {
		alphaNext = float64(s.alphasCumprod[next])
	}
	signal, noise := math.Sqrt(alpha), math.Sqrt(1-alpha) // √ᾱ_t, √(1−ᾱ_t)

	p, q := 1/signal, -noise/signal // x₀ = p·x_t + q·noise_pred
	r, u := 0.0, 1.0                // ε = r·x_t + u·noise_pred
	if s.config.PredictionType == PredictionV {
		p, q = signal, -noise
		r, u = noise, signal
	}

	sigma := eta * math.Sqrt((1-alphaNext)/(1-alpha)*(1-alpha/alphaNext))
	signalNext := math.Sqrt(alphaNext)
	// Not negative for η ≤ 1; max guards against rounding when the last ᾱ is 1.
	direction := math.Sqrt(max(0, 1-alphaNext-sigma*sigma))
	return step{
		timestep: t,
		a:        float32(signalNext*p + direction*r),
		b:        float32(signalNext*q + direction*u),
		c:        float32(sigma),
		p:        float32(p),
		q:        float32(q),
	}
}

// Steps is the number of steps.
func (d *DDIM) Steps() int { return len(d.steps) }

// Timestep is the training timestep the networks are given at step i, 0 ≤ i < Steps. Timesteps
// fall strictly.
func (d *DDIM) Timestep(i int) float32 { return float32(d.at(i).timestep) }

// NeedsNoise tells whether [DDIM.Step] wants fresh noise in every step, the last one included.
func (d *DDIM) NeedsNoise() bool { return d.eta > 0 }

// Step writes the latents after step i into dst, which may be latents itself. noisePred is what
// the networks predicted for latents, noise is standard normal, and nil unless
// [DDIM.NeedsNoise]. All slices have one length; it panics otherwise.
func (d *DDIM) Step(dst, latents, noisePred, noise []float32, i int) {
	if len(latents) != len(dst) || len(noisePred) != len(dst) {
		panic("sampler: DDIM.Step: slices of different length")
	}
	s := d.at(i)
	a, b, c := s.a, s.b, s.c
	if !d.NeedsNoise() {
		for k := range dst {
			dst[k] = a*latents[k] + b*noisePred[k]
		}
		return
	}
	if len(noise) != len(dst) {
		panic("sampler: DDIM.Step: eta > 0 needs noise of the latents' length")
	}
	for k := range dst {
		dst[k] = a*latents[k] + b*noisePred[k] + c*noise[k]
	}
}

// PredictOriginal writes x₀, the clean latents that noisePred implies at step i, into dst, which
// may be latents or noisePred. All slices have one length; it panics otherwise.
func (d *DDIM) PredictOriginal(dst, latents, noisePred []float32, i int) {
	if len(latents) != len(dst) || len(noisePred) != len(dst) {
		panic("sampler: DDIM.PredictOriginal: slices of different length")
	}
	s := d.at(i)
	p, q := s.p, s.q
	for k := range dst {
		dst[k] = p*latents[k] + q*noisePred[k]
	}
}

func (d *DDIM) at(i int) *step {
	if uint(i) >= uint(len(d.steps)) {
		panic("sampler: DDIM: step index out of range")
	}
	return &d.steps[i]
}
