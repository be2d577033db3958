package sampler

import "math"

// Notation of this file, as in Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of
// Diffusion Probabilistic Models" (arXiv 2211.01095); s is the timestep now, t the one after
//
//	α_t, σ_t    √ᾱ_t, √(1−ᾱ_t)
//	λ_t         ln(α_t/σ_t)
//	h           λ_t − λ_s
//	r           (λ_s − λ of the timestep before)/h
//	x_θ, x_θ'   x₀ as predicted now and in the iteration before
//
//	D   = (1 + 1/(2r))·x_θ − 1/(2r)·x_θ'            algorithm 2 (2M, midpoint)
//	x_t = (σ_t/σ_s)·x_s − α_t·(e^{−h} − 1)·D
//
// D = x_θ in the first iteration, which has no x_θ', and in the last. That one goes to σ = 0, where
// its result is x_θ itself.

// dpmpp2m plans N = steps iterations at t_i = ⌊(N−i)·(T−1)/N⌉: evenly spaced from T − 1 to 0, which
// takes no iteration, as diffusers does where a scheduler_config.json names no spacing.
func (s *Schedule) dpmpp2m(steps int) []step {
	plan := make([]step, steps)
	spacing := float64(s.config.NumTrainTimesteps-1) / float64(steps)
	timestep := func(i int) int { return int(math.RoundToEven(float64(steps-i) * spacing)) }
	for i := range plan {
		t := timestep(i)
		signal, noise := s.levels(t)
		signalNext, noiseNext := 1.0, 0.0
		if i < steps-1 {
			signalNext, noiseNext = s.levels(timestep(i + 1))
		}
		shrink := noiseNext / noise
		gain := signalNext - signal*shrink // −α_t·(e^{−h} − 1)
		previous := 0.0                    // share of x_θ'
		st := step{timestep: t, keep: 0}
		st.p, st.q = s.original(t)
		st.u, st.v = st.p, st.q
		if i > 0 && i < steps-1 {
			signalBefore, noiseBefore := s.levels(timestep(i - 1))
			now := math.Log(signal / noise)
			r := (now - math.Log(signalBefore/noiseBefore)) / (math.Log(signalNext/noiseNext) - now)
			previous = -gain / (2 * r)
			st.h = []float64{previous}
		}
		st.a = shrink + (gain-previous)*st.p
		st.b = (gain - previous) * st.q
		plan[i] = st
	}
	return plan
}
