package networks_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/facediffuser/facediffuser/fusion"
	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/localtriton"
	"github.com/facediffuser/facediffuser/gateway/internal/networks"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
	"github.com/facediffuser/facediffuser/internal/golden"
	"github.com/facediffuser/facediffuser/sampler"
	"github.com/facediffuser/facediffuser/tritonclient"
)

// Parity, step by step: every quantity is computed from the reference's own
// values before it, so that an error shows where it is made.
const (
	noiseTolerance        = 1e-4 // noise_pred, conditionings
	latentTolerance       = 1e-5 // next latent
	nearTie               = 1e-5 // log-saliency difference below which either model may win
	imageTolerance        = 1e-3 // decoded picture in [-1, 1]; an 8-bit level is 8e-3
	miniFamily            = "../../../model_repository/mini"
	goldens               = "../pipeline/testdata"
	fewestFusionCases     = 3
	python                = "FACEDIFFUSER_PYTHON"
	startLimit, callLimit = 2 * time.Minute, 30 * time.Second
)

var (
	mini *family.Family
	real *networks.Networks // on a real Triton that serves the mini family
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if mini, err = family.Load(miniFamily); err != nil {
		return 1, err
	}
	interpreter := os.Getenv(python)
	if interpreter == "" {
		return 1, fmt.Errorf("these tests need a real Triton: run `make test`, or `make venv` and set %s to .venv/bin/python", python)
	}
	dir, err := os.MkdirTemp("", "networks")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	server, err := localtriton.Start(ctx, localtriton.Config{Python: interpreter, ModelsDir: mini.ModelsDir(), RunDir: dir})
	if err != nil {
		return 1, err
	}
	defer server.Close(context.Background())
	if err := server.WaitReady(ctx, nil); err != nil {
		return 1, err
	}
	pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{server.Address()}})
	if err != nil {
		return 1, err
	}
	real = networks.New(pool, mini, callLimit)
	code = m.Run()
	if err := pool.Close(); err != nil {
		return 1, err
	}
	if err := server.Close(context.Background()); err != nil {
		return 1, err
	}
	if err := goleak.Find(); err != nil {
		return 1, err
	}
	return code, nil
}

// goldenCase is one loop that the reference pipeline has recorded.
type goldenCase struct {
	*golden.File
	t      *testing.T
	Header struct {
		WeightsSHA256 string `json:"weights_sha256"`
		Request       struct {
			Prompt         string   `json:"prompt"`
			NegativePrompt string   `json:"negative_prompt"`
			Seed           uint32   `json:"seed"`
			Scheduler      string   `json:"scheduler"`
			Steps          int      `json:"num_inference_steps"`
			GuidanceScale  *float64 `json:"guidance_scale"`
			StartMergeStep *int     `json:"start_merge_step"`
			FinalStep      *int     `json:"final_step"`
			Eta            *float64 `json:"eta"`
		} `json:"request"`
		Subjects []string `json:"subjects"`
		Stages   []string `json:"stages"`
	}
}

func open(t *testing.T, path string) *goldenCase {
	t.Helper()
	file, err := golden.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	c := &goldenCase{File: file, t: t}
	if err := json.Unmarshal(file.Header, &c.Header); err != nil {
		t.Fatal(err)
	}
	if c.Header.WeightsSHA256 != mini.WeightsSHA256 {
		t.Fatalf("%s was written for the weights %s, but the family has %s: run `make goldens`", path, c.Header.WeightsSHA256, mini.WeightsSHA256)
	}
	return c
}

func (c *goldenCase) floats(name string) []float32 {
	c.t.Helper()
	values, err := c.Float32s(name)
	if err != nil {
		c.t.Fatal(err)
	}
	return values
}

// row is row i of a tensor whose rows have n values.
func (c *goldenCase) row(name string, i, n int) []float32 {
	c.t.Helper()
	return c.floats(name)[i*n : (i+1)*n]
}

func (c *goldenCase) subjects() []*picture.Reference {
	c.t.Helper()
	decoder := picture.NewDecoder(picture.Limits{MaxPixels: 1 << 20}, mini.ObjectResolution)
	var all []*picture.Reference
	for _, name := range c.Header.Subjects {
		encoded, err := os.ReadFile(filepath.Join(goldens, name))
		if err != nil {
			c.t.Fatal(err)
		}
		reference, err := decoder.Decode(c.t.Context(), bytes.NewReader(encoded))
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, reference)
	}
	return all
}

func (c *goldenCase) params() pipeline.Params {
	r := c.Header.Request
	return pipeline.Params{
		Prompt: r.Prompt, NegativePrompt: r.NegativePrompt, Seed: &r.Seed, Scheduler: r.Scheduler, Steps: &r.Steps, GuidanceScale: r.GuidanceScale,
		StartMergeStep: r.StartMergeStep, FinalStep: r.FinalStep, Eta: r.Eta, FusionMap: true,
	}
}

func within(t *testing.T, what string, got, want []float32, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	worst, at := 0.0, 0
	for i := range got {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= worst) {
			worst, at = d, i
		}
	}
	if !(worst <= tolerance) {
		t.Errorf("%s: value %d is %v, the reference's is %v: off by %.2g, at most %.0g is allowed", what, at, got[at], want[at], worst, tolerance)
	}
}

func eachCase(t *testing.T, test func(t *testing.T, c *goldenCase)) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(goldens, "*.safetensors"))
	if err != nil || len(paths) < fewestFusionCases {
		t.Fatalf("%d golden files in %s (%v)", len(paths), goldens, err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) { test(t, open(t, path)) })
	}
}

func TestDimensionsOfTheMiniFamily(t *testing.T) {
	dims, err := real.Dimensions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if dims.Latent() != 4*16*16 || dims.Width != 128 || dims.Height != 128 || dims.Tokens != 77 || dims.Subjects != 4 {
		t.Errorf("dimensions %+v", dims)
	}
}

// TestConditionings: tokenizer, reference pixels, encoders and fuser.
func TestConditionings(t *testing.T) {
	words, err := tokenizer.Load(mini.TokenizerDir())
	if err != nil {
		t.Fatal(err)
	}
	eachCase(t, func(t *testing.T, c *goldenCase) {
		ctx := t.Context()
		dims, err := real.Dimensions(ctx)
		if err != nil {
			t.Fatal(err)
		}
		prompt, err := words.Encode(c.Header.Request.Prompt)
		if err != nil {
			t.Fatal(err)
		}
		if ids, err := c.Int64s("input_ids"); err != nil || !slices.Equal(prompt.IDs, ids) {
			t.Errorf("token ids %v, want %v (%v)", prompt.IDs, ids, err)
		}
		negative, err := words.Encode(c.Header.Request.NegativePrompt)
		if err != nil {
			t.Fatal(err)
		}
		text, err := real.EncodeText(ctx, prompt.IDs)
		if err != nil {
			t.Fatal(err)
		}
		null, err := real.EncodeText(ctx, negative.IDs)
		if err != nil {
			t.Fatal(err)
		}
		within(t, "c_text", text, c.floats("c_text"), noiseTolerance)
		within(t, "c_null", null, c.floats("c_null"), noiseTolerance)
		subjects := c.subjects()
		if len(subjects) == 0 {
			return
		}
		embeds := make([]float32, dims.Subjects*dims.Embedding)
		positions := []int64{-1, -1, -1, -1}
		pixels := make([]float32, 3*dims.EncoderSize*dims.EncoderSize)
		for s, subject := range subjects {
			subject.PixelValues(pixels, dims.EncoderSize)
			embed, err := real.EncodeImage(ctx, pixels)
			if err != nil {
				t.Fatal(err)
			}
			copy(embeds[s*dims.Embedding:], embed)
			positions[s] = int64(prompt.Positions[s])
		}
		augmented, err := real.FuseSubjects(ctx, c.floats("c_text"), embeds, positions)
		if err != nil {
			t.Fatal(err)
		}
		within(t, "c_aug", augmented, c.floats("c_aug"), noiseTolerance)
	})
}

// TestSteps: noise_pred of both models, the fused noise and the next latent of
// every step, each from the reference's own latent.
func TestSteps(t *testing.T) {
	schedule, err := sampler.NewSchedule(mini.Schedule)
	if err != nil {
		t.Fatal(err)
	}
	fusions, nearTies := map[int]int{}, 0 // steps of fusion, by how many tensors the scheduler remembers
	eachCase(t, func(t *testing.T, c *goldenCase) {
		dims, err := real.Dimensions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n, eta := dims.Latent(), 0.0
		if c.Header.Request.Eta != nil {
			eta = *c.Header.Request.Eta
		}
		w := float32(mini.Defaults.GuidanceScale)
		if g := c.Header.Request.GuidanceScale; g != nil {
			w = float32(*g)
		}
		solver, err := schedule.Solver(cmp.Or(c.Header.Request.Scheduler, mini.Defaults.Scheduler), c.Header.Request.Steps, eta)
		if err != nil {
			t.Fatal(err)
		}
		timesteps, err := c.Int64s("timesteps")
		if err != nil {
			t.Fatal(err)
		}
		generator := sampler.NewGenerator(c.Header.Request.Seed)
		latents, stepNoise := make([]float32, n), []float32(nil)
		generator.Randn(latents)
		within(t, "initial noise", latents, c.row("latents", 0, n), 1e-6)
		if solver.NeedsNoise() {
			stepNoise = make([]float32, n)
		}
		history, next := make([]float32, solver.History()*n), make([]float32, n)
		fuser := fusion.NewFuser(dims.LatentChannels, dims.LatentHeight, dims.LatentWidth)
		maskGolden, err := c.Uint8s("mask")
		if err != nil {
			t.Fatal(err)
		}
		for i, stage := range c.Header.Stages {
			if got := solver.Timestep(i); got != float32(timesteps[i]) {
				t.Fatalf("step %d has timestep %v, want %d", i, got, timesteps[i])
			}
			z := c.row("latents", i, n)
			predict := func(unet pipeline.UNet, base, cond, goldenBase, goldenCond string) {
				t.Helper()
				rows := make([]float32, 2*n)
				if err := real.PredictNoise(t.Context(), rows, unet, z, solver.Timestep(i), c.floats(base), c.floats(cond)); err != nil {
					t.Fatal(err)
				}
				within(t, fmt.Sprintf("step %d %s", i, goldenBase), rows[:n], c.row(goldenBase, i, n), noiseTolerance)
				within(t, fmt.Sprintf("step %d %s", i, goldenCond), rows[n:], c.row(goldenCond, i, n), noiseTolerance)
			}
			noise := make([]float32, n)
			switch stage {
			case fusion.SceneConstruction.String():
				predict(pipeline.TDM, "c_null", "c_text", "tdm_base", "tdm_cond")
				fusion.Guide(noise, c.row("tdm_base", i, n), c.row("tdm_cond", i, n), w)
			case fusion.SubjectEnhancement.String():
				predict(pipeline.SDM, "c_text", "c_aug", "sdm_base", "sdm_cond")
				fusion.Guide(noise, c.row("sdm_base", i, n), c.row("sdm_cond", i, n), w)
			case fusion.SubjectSceneFusion.String():
				fusions[solver.History()]++
				predict(pipeline.TDM, "c_null", "c_text", "tdm_base", "tdm_cond")
				predict(pipeline.SDM, "c_text", "c_aug", "sdm_base", "sdm_cond")
				pixels := dims.LatentHeight * dims.LatentWidth
				mask := make([]uint8, pixels)
				fuser.Fuse(noise, mask, c.row("tdm_base", i, n), c.row("tdm_cond", i, n), c.row("sdm_base", i, n), c.row("sdm_cond", i, n), w)
				difference := c.row("log_saliency_difference", i, pixels)
				want := maskGolden[i*pixels : (i+1)*pixels]
				for p := range mask {
					if mask[p] == want[p] {
						continue
					}
					if d := math.Abs(float64(difference[p])); d > nearTie {
						t.Errorf("step %d pixel %d: model %d won, the reference's %d, by a log-saliency difference of %.2g", i, p, mask[p], want[p], d)
					}
					nearTies++
					for channel := range dims.LatentChannels { // a near tie may go either way
						noise[channel*pixels+p] = c.row("noise_pred", i, n)[channel*pixels+p]
					}
				}
			default:
				t.Fatalf("unknown stage %q", stage)
			}
			within(t, fmt.Sprintf("step %d noise_pred", i), noise, c.row("noise_pred", i, n), latentTolerance)
			if stepNoise != nil {
				generator.Randn(stepNoise)
			}
			solver.Step(next, history, z, c.row("noise_pred", i, n), stepNoise, i)
			within(t, fmt.Sprintf("latents after step %d", i), next, c.row("latents", i+1, n), latentTolerance)
		}
	})
	if fusions[0] == 0 || fusions[1] == 0 || fusions[3] == 0 {
		t.Errorf("steps of subject-scene fusion by the tensors that DDIM, DPM-Solver++ and PNDM remember: %v", fusions)
	}
	t.Logf("%v steps of subject-scene fusion, %d near ties went the other way", fusions, nearTies)
}

// TestDecodeAndWholeLoops: the last latent decodes to the reference's image,
// and Generate, left to itself, reaches the reference's picture.
func TestDecodeAndWholeLoops(t *testing.T) {
	words, err := tokenizer.Load(mini.TokenizerDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.New(pipeline.Options{Family: mini, Tokenizer: words, Networks: real, MaxRunning: 1, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	eachCase(t, func(t *testing.T, c *goldenCase) {
		dims, err := real.Dimensions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := dims.Latent()
		last := slices.Clone(c.row("latents", len(c.Header.Stages), n))
		for i := range last {
			last[i] /= float32(mini.ScalingFactor)
		}
		image, err := real.DecodeLatents(t.Context(), last)
		if err != nil {
			t.Fatal(err)
		}
		within(t, "image", image, c.floats("image"), imageTolerance)

		request, err := p.Prepare(t.Context(), c.params(), c.subjects())
		if err != nil {
			t.Fatal(err)
		}
		results, err := p.Generate(t.Context(), request, nil)
		if err != nil {
			t.Fatal(err)
		}
		want, err := c.Uint8s("pixels")
		if err != nil {
			t.Fatal(err)
		}
		worst := 0
		for i, v := range results[0].Picture.Pix {
			worst = max(worst, int(max(v, want[i])-min(v, want[i])))
		}
		if worst > 2 {
			t.Errorf("a pixel is off by %d/255, at most 2 is allowed", worst)
		}
		for _, step := range results[0].Fusion {
			if step.SDMShare < 0 || step.SDMShare > 1 || len(step.Mask) != dims.LatentHeight*dims.LatentWidth {
				t.Errorf("fusion step %+v", step)
			}
		}
	})
}
