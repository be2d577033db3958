package sampler

import "math"

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

// ddim plans N = steps iterations with leading spacing.
func (s *Schedule) ddim(steps int, eta float64) []step {
	timesteps, stride := s.leading(steps)
	plan := make([]step, steps)
	for i, t := range timesteps {
		plan[i] = s.ddimStep(t, t-stride, eta)
	}
	return plan
}

// ddimStep computes the coefficients of the step from timestep t to timestep next.
func (s *Schedule) ddimStep(t, next int, eta float64) step {
	alpha, alphaNext := float64(s.alphasCumprod[t]), float64(s.finalAlpha)
	if next >= 0 {
		alphaNext = float64(s.alphasCumprod[next])
	}
	p, q := s.original(t)
	r, u := 0.0, 1.0 // ε = r·x_t + u·noise_pred
	if s.config.PredictionType == PredictionV {
		u, r = s.levels(t)
	}

	sigma := eta * math.Sqrt((1-alphaNext)/(1-alpha)*(1-alpha/alphaNext))
	signalNext := math.Sqrt(alphaNext)
	// Not negative for η ≤ 1; max guards against rounding when the last ᾱ is 1.
	direction := math.Sqrt(max(0, 1-alphaNext-sigma*sigma))
	return step{
		timestep: t,
		a:        signalNext*p + direction*r,
		b:        signalNext*q + direction*u,
		c:        sigma,
		keep:     keepNothing,
		p:        p,
		q:        q,
	}
}
