package sampler

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
)

// A latent may differ from diffusers' by stepTolerance after one step, and by a few units in the
// last place where it is so large (latents of random networks grow) that float32 is coarser.
const (
	stepTolerance         = 1e-5
	stepRelativeTolerance = 4.0 / (1 << 24)
)

func TestDDIMEqualsReference(t *testing.T) {
	for _, path := range glob(t, "testdata/ddim_*.safetensors") {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".safetensors"), func(t *testing.T) {
			f := open(t, path)
			var header struct {
				Steps int     `json:"steps"`
				Eta   float64 `json:"eta"`
			}
			if err := json.Unmarshal(f.Header, &header); err != nil {
				t.Fatal(err)
			}
			d, err := scheduleOf(t, f).DDIM(header.Steps, header.Eta)
			if err != nil {
				t.Fatal(err)
			}
			timesteps := int64s(t, f, "timesteps")
			if d.Steps() != len(timesteps) {
				t.Fatalf("%d steps, want %d", d.Steps(), len(timesteps))
			}
			latents, noisePred := float32s(t, f, "latents"), float32s(t, f, "noise_pred")
			noise, originals := float32s(t, f, "variance_noise"), float32s(t, f, "pred_original_sample")
			size := len(noisePred) / d.Steps()
			got := make([]float32, size)
			row := func(rows []float32, i int) []float32 { return rows[i*size : (i+1)*size] }
			for i := range d.Steps() {
				if d.Timestep(i) != float32(timesteps[i]) {
					t.Fatalf("timestep %d = %v, want %d", i, d.Timestep(i), timesteps[i])
				}
				var stepNoise []float32
				if d.NeedsNoise() {
					stepNoise = row(noise, i)
				}
				d.Step(got, row(latents, i), row(noisePred, i), stepNoise, i)
				for k, want := range row(latents, i+1) {
					allowed := max(stepTolerance, stepRelativeTolerance*math.Abs(float64(want)))
					if !(math.Abs(float64(got[k])-float64(want)) <= allowed) {
						t.Fatalf("step %d: latent %d = %v, want %v", i, k, got[k], want)
					}
				}
				d.PredictOriginal(got, row(latents, i), row(noisePred, i), i)
				// x₀ of the first steps is the difference of two numbers some 14 times as large.
				if worst := maxDifference(got, row(originals, i)); worst > 5*stepTolerance {
					t.Errorf("step %d: original samples differ by %g", i, worst)
				}
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

// For a noise that was really added to known clean latents, the prediction of x₀ is exact and a
// deterministic step lands on the same noise at the next level.
func TestStepFollowsTheForwardProcess(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, prediction := range []string{PredictionEpsilon, PredictionV} {
		config := sd15()
		config.PredictionType = prediction
		s, err := NewSchedule(config)
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.DDIM(20, 0)
		if err != nil {
			t.Fatal(err)
		}
		const size = 64
		clean, noise := make([]float64, size), make([]float64, size)
		for k := range clean {
			clean[k], noise[k] = random.NormFloat64(), random.NormFloat64()
		}
		noised := func(alpha float64) (latents, prediction_ []float32) {
			for k := range clean {
				latents = append(latents, float32(math.Sqrt(alpha)*clean[k]+math.Sqrt(1-alpha)*noise[k]))
				out := noise[k]
				if prediction == PredictionV {
					out = math.Sqrt(alpha)*noise[k] - math.Sqrt(1-alpha)*clean[k]
				}
				prediction_ = append(prediction_, float32(out))
			}
			return latents, prediction_
		}
		got := make([]float32, size)
		for i := range d.Steps() {
			latents, out := noised(float64(s.alphasCumprod[int(d.Timestep(i))]))
			d.PredictOriginal(got, latents, out, i)
			for k := range got {
				if math.Abs(float64(got[k])-clean[k]) > 2e-5 {
					t.Fatalf("%s, step %d: x₀ = %v, want %v", prediction, i, got[k], clean[k])
				}
			}
			next := s.finalAlpha
			if i+1 < d.Steps() {
				next = s.alphasCumprod[int(d.Timestep(i+1))]
			}
			want, _ := noised(float64(next))
			d.Step(got, latents, out, nil, i)
			if worst := maxDifference(got, want); worst > stepTolerance {
				t.Fatalf("%s, step %d: off by %g", prediction, i, worst)
			}
		}
	}
}

func TestTimestepsFallStrictlyAndStayInTheSchedule(t *testing.T) {
	s, err := NewSchedule(sd15())
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= s.MaxSteps(); n++ {
		d, err := s.DDIM(n, 1)
		if err != nil {
			t.Fatal(err)
		}
		previous := float32(1000)
		for i, st := range d.steps {
			if got := d.Timestep(i); got >= previous || got < 0 {
				t.Fatalf("%d steps: timestep %d = %v after %v", n, i, got, previous)
			}
			previous = d.Timestep(i)
			for _, v := range []float32{st.a, st.b, st.c, st.p, st.q} {
				if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
					t.Fatalf("%d steps: coefficients of step %d are %+v", n, i, st)
				}
			}
		}
	}
}

func TestDDIMRefusesWithTheRange(t *testing.T) {
	s, err := NewSchedule(sd15())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		steps int
		eta   float64
		want  string
	}{
		{0, 0, "between 1 and 999, got 0"},
		{-3, 0, "between 1 and 999, got -3"},
		{1000, 0, "between 1 and 999, got 1000"},
		{50, -0.1, "eta must be between 0 and 1, got -0.1"},
		{50, 1.5, "eta must be between 0 and 1, got 1.5"},
		{50, math.NaN(), "eta must be between 0 and 1, got NaN"},
	} {
		if _, err := s.DDIM(c.steps, c.eta); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("DDIM(%d, %v): %v, want %q", c.steps, c.eta, err, c.want)
		}
	}
}

func TestStepInPlaceEqualsStepApart(t *testing.T) {
	s, err := NewSchedule(sd15())
	if err != nil {
		t.Fatal(err)
	}
	for _, eta := range []float64{0, 0.7} {
		d, err := s.DDIM(10, eta)
		if err != nil {
			t.Fatal(err)
		}
		g := NewGenerator(7)
		latents, out, noise := make([]float32, 100), make([]float32, 100), make([]float32, 100)
		g.Randn(latents)
		g.Randn(out)
		g.Randn(noise)
		apart := make([]float32, 100)
		d.Step(apart, latents, out, noise, 3)
		d.Step(latents, latents, out, noise, 3)
		if maxDifference(apart, latents) != 0 {
			t.Errorf("eta %v: a step in place differs", eta)
		}
	}
}

func TestMisusePanics(t *testing.T) {
	s, err := NewSchedule(sd15())
	if err != nil {
		t.Fatal(err)
	}
	plain, err := s.DDIM(10, 0)
	if err != nil {
		t.Fatal(err)
	}
	noisy, err := s.DDIM(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	four, five := make([]float32, 4), make([]float32, 5)
	for name, call := range map[string]func(){
		"short latents":    func() { plain.Step(five, four, five, nil, 0) },
		"short prediction": func() { plain.Step(five, five, four, nil, 0) },
		"missing noise":    func() { noisy.Step(five, five, five, nil, 0) },
		"step too large":   func() { plain.Step(five, five, five, nil, 10) },
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
	s, err := NewSchedule(sd15())
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.DDIM(50, 1)
	if err != nil {
		t.Fatal(err)
	}
	g := NewGenerator(1)
	latents, out, noise := make([]float32, 4*64*64), make([]float32, 4*64*64), make([]float32, 4*64*64)
	if n := testing.AllocsPerRun(10, func() {
		g.Randn(noise)
		d.Step(latents, latents, out, noise, 1)
		d.PredictOriginal(out, latents, out, 1)
	}); n != 0 {
		t.Errorf("%v allocations a step, want none", n)
	}
}
