package sampler

import "slices"

// Notation of this file, as in Liu et al., "Pseudo Numerical Methods for Diffusion Models on
// Manifolds" (arXiv 2202.09778)
//
//	noise_pred  e_n, the n-th that is kept, n = 0, 1, …
//	φ(x, e)     transfer part, formula (9): the step of DDIM with η = 0 and e in place of ε
//	e'          gradient part, formula (12): Adams–Bashforth over up to four e
//
// Stable Diffusion 1.5 runs PNDM without its Runge–Kutta steps (skip_prk_steps), so that the first
// iterations have to make do with fewer e:
//
//	i = 0  x_1 = φ(x_0, e_0)                  from t_0 to t_1
//	i = 1  x_2 = φ(x_0, (e_0 + e)/2)          the same step again, e predicted for x_1 at t_1
//	i ≥ 2  x_{i+1} = φ(x_i, e')               with n = i − 1
//
// The network is therefore called N + 1 times, twice at t_1. φ is linear in e, so that iteration 1
// needs no x_0: x_2 = x_1 + b_0·(e − e_0)/2.

// adamsBashforth are the weights of e_n, e_{n−1}, … when 1, 2, 3 and 4 of them are there.
var adamsBashforth = [4][]float64{
	{1},
	{3. / 2, -1. / 2},
	{23. / 12, -16. / 12, 5. / 12},
	{55. / 24, -59. / 24, 37. / 24, -9. / 24},
}

// pndm plans N = steps iterations with leading spacing, and the one for t_1's second prediction.
// The slot of e_n is n mod 3.
func (s *Schedule) pndm(steps int) []step {
	timesteps, stride := s.leading(steps)
	if Iterations(PNDM, steps) > steps {
		timesteps = slices.Insert(timesteps, 1, timesteps[1])
	}
	plan := make([]step, len(timesteps))
	for i, t := range timesteps {
		st := s.ddimStep(t, t-stride, 0)
		if i == 1 {
			half := plan[0].b / 2
			st.a, st.b, st.h = 1, half, []float64{-half}
			plan[i] = st
			continue
		}
		n := max(0, i-1)
		weights := adamsBashforth[min(n, 3)]
		st.h = make([]float64, min(n, 3))
		for d, w := range weights[1:] {
			st.h[(n-1-d)%3] = st.b * w
		}
		st.b *= weights[0]
		st.keep, st.v = n%3, 1
		plan[i] = st
	}
	return plan
}
