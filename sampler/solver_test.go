package sampler

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A latent may differ from diffusers' by latentTolerance, and after one step of the goldens ddim_*
// by a few units in the last place: there, latents of random predictions grow so large that float32
// is coarser.
const (
	latentTolerance         = 1e-5
	latentRelativeTolerance = 4.0 / (1 << 24)
)

// trajectory is a walk of one of diffusers' schedulers.
type trajectory struct {
	solver                                   *Solver
	size                                     int // of one tensor
	latents, noisePred, originals, stepNoise []float32
}

func openTrajectory(t *testing.T, path string) trajectory {
	t.Helper()
	f := open(t, path)
	header := struct {
		Scheduler string  `json:"scheduler"`
		Steps     int     `json:"steps"`
		Eta       float64 `json:"eta"`
	}{Scheduler: DDIM}
	if err := json.Unmarshal(f.Header, &header); err != nil {
		t.Fatal(err)
	}
	w := trajectory{
		latents: float32s(t, f, "latents"), noisePred: float32s(t, f, "noise_pred"), originals: float32s(t, f, "pred_original_sample"),
	}
	var err error
	if w.solver, err = scheduleOf(t, f).Solver(header.Scheduler, header.Steps, header.Eta); err != nil {
		t.Fatal(err)
	}
	timesteps := int64s(t, f, "timesteps")
	if w.solver.Iterations() != len(timesteps) {
		t.Fatalf("%d iterations, want %d", w.solver.Iterations(), len(timesteps))
	}
	for i, want := range timesteps {
		if got := w.solver.Timestep(i); got != float32(want) {
			t.Fatalf("timestep %d = %v, want %d", i, got, want)
		}
	}
	if w.solver.NeedsNoise() {
		w.stepNoise = float32s(t, f, "variance_noise")
	}
	w.size = len(w.noisePred) / len(timesteps)
	return w
}

func (w trajectory) row(rows []float32, i int) []float32 {
	if rows == nil {
		return nil
	}
	return rows[i*w.size : (i+1)*w.size]
}

// compare wants the latents after iteration i.
func (w trajectory) compare(t *testing.T, got []float32, i int, relative float64) {
	t.Helper()
	for k, want := range w.row(w.latents, i+1) {
		allowed := max(latentTolerance, relative*math.Abs(float64(want)))
		if !(math.Abs(float64(got[k])-float64(want)) <= allowed) {
			t.Fatalf("iteration %d: latent %d = %v, want %v", i, k, got[k], want)
		}
	}
}

func eachTrajectory(t *testing.T, pattern string, test func(*testing.T, trajectory)) {
	t.Helper()
	for _, path := range glob(t, "testdata/"+pattern+".safetensors") {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".safetensors"), func(t *testing.T) { test(t, openTrajectory(t, path)) })
	}
}

// Every iteration from the reference's own latents, so that an error shows where it is made.
func TestEveryStepEqualsReference(t *testing.T) {
	test := func(t *testing.T, w trajectory) {
		got, history := make([]float32, w.size), make([]float32, w.solver.History()*w.size)
		for i := range w.solver.Iterations() {
			latents, noisePred := w.row(w.latents, i), w.row(w.noisePred, i)
			w.solver.Step(got, history, latents, noisePred, w.row(w.stepNoise, i), i)
			w.compare(t, got, i, latentRelativeTolerance)
			w.solver.PredictOriginal(got, latents, noisePred, i)
			// x₀ of the first steps is the difference of two numbers some 14 times as large.
			if worst := maxDifference(got, w.row(w.originals, i)); worst > 5*latentTolerance {
				t.Errorf("iteration %d: original samples differ by %g", i, worst)
			}
		}
	}
	eachTrajectory(t, "ddim_*", test)
	eachTrajectory(t, "walk_*", test)
}

// The whole walk from the initial noise on our own latents and history, in place.
func TestWholeTrajectoriesEqualReference(t *testing.T) {
	for _, scheduler := range Schedulers() {
		eachTrajectory(t, "walk_"+scheduler+"_*", func(t *testing.T, w trajectory) {
			latents, history := slices.Clone(w.row(w.latents, 0)), make([]float32, w.solver.History()*w.size)
			for k := range history {
				history[k] = float32(math.NaN()) // what it holds before does not matter
			}
			for i := range w.solver.Iterations() {
				w.solver.Step(latents, history, latents, w.row(w.noisePred, i), nil, i)
				w.compare(t, latents, i, 0)
			}
		})
	}
}

func maxDifference(a, b []float32) float64 {
	worst := 0.0
	for i := range a {
		worst = max(worst, math.Abs(float64(a[i])-float64(b[i]))) // max keeps a NaN
	}
	return worst
}

func newSchedule(t *testing.T, config ScheduleConfig) *Schedule {
	t.Helper()
	s, err := NewSchedule(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newSolver(t *testing.T, s *Schedule, scheduler string, steps int, eta float64) *Solver {
	t.Helper()
	solver, err := s.Solver(scheduler, steps, eta)
	if err != nil {
		t.Fatal(err)
	}
	return solver
}

// levelAfter is ᾱ of the latents after iteration i.
func levelAfter(s *Schedule, solver *Solver, scheduler string, i int) float64 {
	switch {
	case i+1 < solver.Iterations():
		return float64(s.alphasCumprod[int(solver.Timestep(i+1))])
	case scheduler == DPMPP2M:
		return 1
	}
	return float64(s.finalAlpha)
}

// For a noise that was really added to known clean latents, the prediction of x₀ is exact and every
// step lands on the same noise at the next level, whatever its order.
func TestStepFollowsTheForwardProcess(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct{ scheduler, prediction string }{
		{DDIM, PredictionEpsilon}, {PNDM, PredictionEpsilon}, {DPMPP2M, PredictionEpsilon},
		{DDIM, PredictionV}, {DPMPP2M, PredictionV}, // PNDM mixes v of several levels, which differ
	} {
		config := sd15()
		config.PredictionType = c.prediction
		s := newSchedule(t, config)
		solver := newSolver(t, s, c.scheduler, 20, 0)
		const size = 64
		clean, noise := make([]float64, size), make([]float64, size)
		for k := range clean {
			clean[k], noise[k] = random.NormFloat64(), random.NormFloat64()
		}
		noised := func(alpha float64) (latents, prediction []float32) {
			for k := range clean {
				latents = append(latents, float32(math.Sqrt(alpha)*clean[k]+math.Sqrt(1-alpha)*noise[k]))
				out := noise[k]
				if c.prediction == PredictionV {
					out = math.Sqrt(alpha)*noise[k] - math.Sqrt(1-alpha)*clean[k]
				}
				prediction = append(prediction, float32(out))
			}
			return latents, prediction
		}
		got, history := make([]float32, size), make([]float32, solver.History()*size)
		for i := range solver.Iterations() {
			latents, out := noised(float64(s.alphasCumprod[int(solver.Timestep(i))]))
			solver.PredictOriginal(got, latents, out, i)
			for k := range got {
				if math.Abs(float64(got[k])-clean[k]) > 2e-5 {
					t.Fatalf("%v, iteration %d: x₀ = %v, want %v", c, i, got[k], clean[k])
				}
			}
			want, _ := noised(levelAfter(s, solver, c.scheduler, i))
			solver.Step(got, history, latents, out, nil, i)
			if worst := maxDifference(got, want); worst > latentTolerance {
				t.Fatalf("%v, iteration %d: off by %g", c, i, worst)
			}
		}
	}
}

// Where clean latents are normal with variance v, the best network and the path of its differential
// equation are known: x(ᾱ) = √(ᾱ·v + 1 − ᾱ)·z. Methods of higher order stay closer to it.
func TestHigherOrdersAreMoreAccurate(t *testing.T) {
	const variance, z = 0.25, 1.0
	s := newSchedule(t, sd15())
	path := func(alpha float64) float64 { return math.Sqrt(alpha*variance+1-alpha) * z }
	errorOf := func(scheduler string, steps int) float64 {
		solver := newSolver(t, s, scheduler, steps, 0)
		x, history := make([]float32, 1), make([]float32, solver.History())
		x[0] = float32(path(float64(s.alphasCumprod[int(solver.Timestep(0))])))
		worst := 0.0
		for i := range solver.Iterations() {
			alpha := float64(s.alphasCumprod[int(solver.Timestep(i))])
			noisePred := []float32{x[0] * float32(math.Sqrt(1-alpha)/(alpha*variance+1-alpha))}
			solver.Step(x, history, x, noisePred, nil, i)
			if level := levelAfter(s, solver, scheduler, i); level < 0.5 { // later steps are large in ln(SNR), and the last ones of order 1
				worst = max(worst, math.Abs(float64(x[0])-path(level)))
			}
		}
		return worst
	}
	for _, scheduler := range []string{PNDM, DPMPP2M} {
		if got, first := errorOf(scheduler, 50), errorOf(DDIM, 50); got > first/4 {
			t.Errorf("%s strays by %g in 50 steps, ddim by %g", scheduler, got, first)
		}
		if got, twice := errorOf(scheduler, 40), errorOf(scheduler, 80); twice > got/2.8 {
			t.Errorf("%s strays by %g in 40 steps and by %g in 80", scheduler, got, twice)
		}
	}
}

func TestTimestepsFallAndStayInTheSchedule(t *testing.T) {
	s := newSchedule(t, sd15())
	for _, scheduler := range Schedulers() {
		for n := 1; n <= s.MaxSteps(); n++ {
			eta := 0.0
			if scheduler == DDIM {
				eta = 1
			}
			solver, want := newSolver(t, s, scheduler, n, eta), n
			if scheduler == PNDM && n > 1 {
				want++
			}
			if solver.Iterations() != want || Iterations(scheduler, n) != want {
				t.Fatalf("%s: %d steps take %d iterations (%d), want %d", scheduler, n, solver.Iterations(), Iterations(scheduler, n), want)
			}
			previous := float32(1000)
			for i, st := range solver.steps {
				if got := solver.Timestep(i); got < 0 || got > previous || got == previous && (scheduler != PNDM || i != 2) {
					t.Fatalf("%s, %d steps: timestep %d = %v after %v", scheduler, n, i, got, previous)
				}
				previous = solver.Timestep(i)
				for _, v := range append([]float64{st.a, st.b, st.c, st.u, st.v, st.p, st.q}, st.h...) {
					if math.IsNaN(v) || math.IsInf(v, 0) {
						t.Fatalf("%s, %d steps: coefficients of step %d are %+v", scheduler, n, i, st)
					}
				}
			}
		}
	}
}

// The authors' script takes 50 steps of PNDM: 51 calls, two of them at the second timestep.
func TestPNDMOfTheReleasedScript(t *testing.T) {
	solver := newSolver(t, newSchedule(t, sd15()), PNDM, 50, 0)
	got := []float32{}
	for i := range solver.Iterations() {
		got = append(got, solver.Timestep(i))
	}
	if len(got) != 51 || !slices.Equal(got[:4], []float32{981, 961, 961, 941}) || got[50] != 1 {
		t.Errorf("timesteps %v, want 981, 961, 961, 941 … 1", got)
	}
}

func TestSolverRefusesWithTheRange(t *testing.T) {
	s := newSchedule(t, sd15())
	for _, c := range []struct {
		scheduler string
		steps     int
		eta       float64
		want      string
	}{
		{DDIM, 0, 0, "between 1 and 999, got 0"},
		{PNDM, -3, 0, "between 1 and 999, got -3"},
		{DPMPP2M, 1000, 0, "between 1 and 999, got 1000"},
		{DDIM, 50, -0.1, "eta must be between 0 and 1, got -0.1"},
		{DDIM, 50, 1.5, "eta must be between 0 and 1, got 1.5"},
		{DDIM, 50, math.NaN(), "eta must be between 0 and 1, got NaN"},
		{PNDM, 50, 0.5, "eta must be 0 with pndm, which adds no noise, got 0.5"},
		{DPMPP2M, 50, 1, "eta must be 0 with dpmpp_2m, which adds no noise, got 1"},
		{"euler", 50, 0, `must be one of ddim, pndm, dpmpp_2m, got "euler"`},
		{"", 50, 0, `must be one of ddim, pndm, dpmpp_2m, got ""`},
	} {
		if _, err := s.Solver(c.scheduler, c.steps, c.eta); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Solver(%q, %d, %v): %v, want %q", c.scheduler, c.steps, c.eta, err, c.want)
		}
	}
}

func TestStepInPlaceEqualsStepApart(t *testing.T) {
	s := newSchedule(t, sd15())
	for _, c := range []struct {
		scheduler string
		eta       float64
	}{{DDIM, 0}, {DDIM, 0.7}, {PNDM, 0}, {DPMPP2M, 0}} {
		solver := newSolver(t, s, c.scheduler, 10, c.eta)
		g := NewGenerator(7)
		random := func(n int) []float32 {
			v := make([]float32, n)
			g.Randn(v)
			return v
		}
		latents, out, noise, history := random(100), random(100), random(100), random(100*solver.History())
		if !solver.NeedsNoise() {
			noise = nil
		}
		apart, historyApart := make([]float32, 100), slices.Clone(history)
		for i := range solver.Iterations() {
			solver.Step(apart, historyApart, latents, out, noise, i)
			solver.Step(latents, history, latents, out, noise, i)
			if !slices.Equal(apart, latents) || !slices.Equal(historyApart, history) {
				t.Errorf("%v: iteration %d in place differs", c, i)
			}
		}
	}
}

func TestMisusePanics(t *testing.T) {
	s := newSchedule(t, sd15())
	plain, noisy, multistep := newSolver(t, s, DDIM, 10, 0), newSolver(t, s, DDIM, 10, 1), newSolver(t, s, PNDM, 10, 0)
	four, five := make([]float32, 4), make([]float32, 5)
	for name, call := range map[string]func(){
		"short latents":    func() { plain.Step(five, nil, four, five, nil, 0) },
		"short prediction": func() { plain.Step(five, nil, five, four, nil, 0) },
		"missing noise":    func() { noisy.Step(five, nil, five, five, nil, 0) },
		"missing history":  func() { multistep.Step(five, nil, five, five, nil, 0) },
		"short history":    func() { multistep.Step(five, five, five, five, nil, 0) },
		"needless history": func() { plain.Step(five, five, five, five, nil, 0) },
		"step too large":   func() { plain.Step(five, nil, five, five, nil, 10) },
		"negative step":    func() { plain.Timestep(-1) },
		"short original":   func() { plain.PredictOriginal(four, five, five, 0) },
	} {
		func() {
			defer func() {
				if message, ok := recover().(string); !ok || !strings.HasPrefix(message, "sampler: ") {
					t.Errorf("%s: recovered %q", name, message)
				}
			}()
			call()
			t.Errorf("%s: no panic", name)
		}()
	}
}

func TestStepAllocatesNothing(t *testing.T) {
	s := newSchedule(t, sd15())
	for _, scheduler := range Schedulers() {
		eta := 0.0
		if scheduler == DDIM {
			eta = 1
		}
		solver := newSolver(t, s, scheduler, 50, eta)
		const size = 4 * 64 * 64
		latents, out, noise := make([]float32, size), make([]float32, size), make([]float32, size)
		history := make([]float32, solver.History()*size)
		g, i := NewGenerator(1), 0
		if n := testing.AllocsPerRun(10, func() {
			g.Randn(noise)
			solver.Step(latents, history, latents, out, noise, i)
			solver.PredictOriginal(out, latents, out, i)
			i++
		}); n != 0 {
			t.Errorf("%s: %v allocations a step, want none", scheduler, n)
		}
	}
}

func BenchmarkStep4x64x64(b *testing.B) {
	s, err := NewSchedule(sd15())
	if err != nil {
		b.Fatal(err)
	}
	for _, scheduler := range Schedulers() {
		b.Run(scheduler, func(b *testing.B) {
			solver, err := s.Solver(scheduler, 50, 0)
			if err != nil {
				b.Fatal(err)
			}
			const size = 4 * 64 * 64
			latents, out, history := make([]float32, size), make([]float32, size), make([]float32, solver.History()*size)
			b.ReportAllocs()
			for b.Loop() {
				solver.Step(latents, history, latents, out, nil, 20)
			}
		})
	}
}
