package sampler

import (
	"fmt"
	"strings"
)

// The schedulers that [Schedule.Solver] plans. The names are those of the HTTP API.
const (
	DDIM    = "ddim"     // Denoising Diffusion Implicit Models, the only one that takes η > 0
	PNDM    = "pndm"     // pseudo linear multistep of order 4 (PLMS), Stable Diffusion 1.5's own
	DPMPP2M = "dpmpp_2m" // DPM-Solver++ (2M): multistep of order 2
)

// Schedulers are the names that [Schedule.Solver] takes.
func Schedulers() []string { return []string{DDIM, PNDM, DPMPP2M} }

// Notation of this file
//
//	latents               x_i, what iteration i begins with
//	noise_pred            network(x_i, t_i): ε, or v
//	pred_original_sample  x₀
//	history               H_j, tensors kept from earlier iterations
//
// Every scheduler here is linear in what it is given, so that all of them are one step with other
// scalars, computed once in float64:
//
//  1. x_{i+1} = a·x_i + b·noise_pred + Σ_j h_j·H_j + c·noise
//  2. H_keep  = u·x_i + v·noise_pred
//  3. x₀      = p·x_i + q·noise_pred, for previews
//
// A file per scheduler says which: ddim.go, pndm.go, dpmsolver.go.

// Solver is the plan of one denoising loop: the timesteps and the coefficients of every iteration.
// It is immutable and may serve any number of pictures at once. The state of a picture between two
// iterations is its latents, its history and, with η > 0, the generator of its noise.
type Solver struct {
	steps   []step
	history int
	noisy   bool
}

type step struct {
	timestep int
	a, b, c  float64
	h        []float64 // of the first slots of history, as far as they count
	keep     int       // the slot that step 2 fills; keepNothing: none
	u, v     float64
	p, q     float64
}

const keepNothing = -1

// Solver plans a loop of the named scheduler, one of [Schedulers]. steps is num_inference_steps,
// eta is η of [DDIM], formula (16): 0 is deterministic, 1 is as noisy as DDPM. The errors name what
// is possible.
func (s *Schedule) Solver(scheduler string, steps int, eta float64) (*Solver, error) {
	if steps < 1 || steps > s.MaxSteps() {
		return nil, fmt.Errorf("sampler: the number of steps must be between 1 and %d, got %d", s.MaxSteps(), steps)
	}
	if !(eta >= 0 && eta <= 1) { // also refuses NaN
		return nil, fmt.Errorf("sampler: eta must be between 0 and 1, got %v", eta)
	}
	if eta > 0 && scheduler != DDIM {
		return nil, fmt.Errorf("sampler: eta must be 0 with %s, which adds no noise, got %v", scheduler, eta)
	}
	switch scheduler {
	case DDIM:
		return &Solver{steps: s.ddim(steps, eta), noisy: eta > 0}, nil
	case PNDM:
		return &Solver{steps: s.pndm(steps), history: 3}, nil
	case DPMPP2M:
		return &Solver{steps: s.dpmpp2m(steps), history: 1}, nil
	}
	return nil, fmt.Errorf("sampler: the scheduler must be one of %s, got %q", strings.Join(Schedulers(), ", "), scheduler)
}

// Iterations is how many times a loop of the named scheduler calls the networks: as often as it has
// steps, and once more for [PNDM], which has its first step twice unless that is the only one.
func Iterations(scheduler string, steps int) int {
	if scheduler == PNDM && steps > 1 {
		return steps + 1
	}
	return steps
}

// Iterations is how many times the loop calls the networks, see [Iterations].
func (s *Solver) Iterations() int { return len(s.steps) }

// History is how many tensors of the latents' size a picture carries from one iteration to the
// next, beside its latents.
func (s *Solver) History() int { return s.history }

// NeedsNoise tells whether [Solver.Step] wants fresh noise in every iteration, the last one included.
func (s *Solver) NeedsNoise() bool { return s.noisy }

// Timestep is the training timestep that the networks are given in iteration i,
// 0 ≤ i < Iterations. Timesteps never rise.
func (s *Solver) Timestep(i int) float32 { return float32(s.at(i).timestep) }

// Step writes the latents after iteration i into dst, which may be latents itself, and brings
// history, [Solver.History] tensors after each other, up to date. Iterations follow each other from
// 0; what history holds before the first does not matter. noisePred is what the networks predicted
// for latents, after guidance and fusion; noise is standard normal, and nil unless
// [Solver.NeedsNoise]. It panics on slices of other lengths.
func (s *Solver) Step(dst, history, latents, noisePred, noise []float32, i int) {
	n := len(dst)
	if len(latents) != n || len(noisePred) != n {
		panic("sampler: Solver.Step: slices of different length")
	}
	if len(history) != s.history*n {
		panic("sampler: Solver.Step: history is not History() tensors of the latents' length")
	}
	if s.noisy && len(noise) != n {
		panic("sampler: Solver.Step: eta > 0 needs noise of the latents' length")
	}
	st := s.at(i)
	if st.keep == keepNothing {
		linear(dst, st.a, latents, st.b, noisePred)
	} else {
		st.stepAndKeep(dst, history[st.keep*n:][:n], latents, noisePred)
	}
	for j, h := range st.h {
		if j != st.keep {
			add(dst, h, history[j*n:][:n])
		}
	}
	if s.noisy {
		add(dst, st.c, noise)
	}
}

// stepAndKeep reads the slot before it fills it: the oldest tensor gives way to the newest.
func (st *step) stepAndKeep(dst, slot, latents, noisePred []float32) {
	h := 0.0
	if st.keep < len(st.h) {
		h = st.h[st.keep]
	} else {
		clear(slot) // it is not filled yet, or does not count any more
	}
	a, b, c := float32(st.a), float32(st.b), float32(h)
	u, v := float32(st.u), float32(st.v)
	for k := range dst {
		x, e := latents[k], noisePred[k]
		dst[k] = a*x + b*e + c*slot[k]
		slot[k] = u*x + v*e
	}
}

// PredictOriginal writes x₀, the clean latents that noisePred implies in iteration i, into dst,
// which may be latents or noisePred. All slices have one length; it panics otherwise.
func (s *Solver) PredictOriginal(dst, latents, noisePred []float32, i int) {
	if len(latents) != len(dst) || len(noisePred) != len(dst) {
		panic("sampler: Solver.PredictOriginal: slices of different length")
	}
	st := s.at(i)
	linear(dst, st.p, latents, st.q, noisePred)
}

// linear writes a·x + b·y into dst, which may be either.
func linear(dst []float32, a float64, x []float32, b float64, y []float32) {
	p, q := float32(a), float32(b)
	for k := range dst {
		dst[k] = p*x[k] + q*y[k]
	}
}

// add adds a·x to dst.
func add(dst []float32, a float64, x []float32) {
	p := float32(a)
	for k := range dst {
		dst[k] += p * x[k]
	}
}

func (s *Solver) at(i int) *step {
	if uint(i) >= uint(len(s.steps)) {
		panic("sampler: Solver: iteration out of range")
	}
	return &s.steps[i]
}
