package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/fusion"
	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/placement"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
	"github.com/facediffuser/facediffuser/sampler"
)

// mini is the family that ships, without its networks.
func mini(t *testing.T) *family.Family {
	t.Helper()
	f, err := family.Load("../../../model_repository/mini")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newPipeline(t *testing.T, networks Networks, maxRunning int) *Pipeline {
	t.Helper()
	return pipelineOf(t, mini(t), networks, maxRunning)
}

func pipelineOf(t *testing.T, f *family.Family, networks Networks, maxRunning int) *Pipeline {
	t.Helper()
	tok, err := tokenizer.Load(f.TokenizerDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Family: f, Tokenizer: tok, Networks: networks, MaxRunning: maxRunning, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// unreachable has dimensions, and fails on every call.
type unreachable struct{ Networks }

func (unreachable) Dimensions(context.Context) (Dimensions, error) { return miniDimensions, nil }

var miniDimensions = Dimensions{
	Tokens: 77, Embedding: 128, Subjects: 4, EncoderSize: 64,
	LatentChannels: 4, LatentHeight: 16, LatentWidth: 16, Height: 128, Width: 128, MaxBatch: 8,
}

func ptr[T any](v T) *T { return &v }

func subjects(n int) []*picture.Reference { return slices.Repeat([]*picture.Reference{{}}, n) }

func TestPrepareRefuses(t *testing.T) {
	p := newPipeline(t, unreachable{}, 0)
	const one = "a woman <|image|> in the snow"
	for name, c := range map[string]struct {
		params   Params
		subjects int
		param    string
		message  string
	}{
		"empty prompt":           {Params{Prompt: " \n"}, 0, "prompt", "prompt is empty"},
		"more images":            {Params{Prompt: one}, 2, "prompt", "2"},
		"more markers":           {Params{Prompt: "a man <|image|> and a woman <|image|>"}, 1, "prompt", "2"},
		"five subjects":          {Params{Prompt: one}, 5, "image", "5 images, but this family takes at most 4 subjects"},
		"marker beyond the cut":  {Params{Prompt: strings.Repeat("snow ", 80) + "and a woman <|image|>"}, 1, "prompt", "marker 1 (<|image|>) lies beyond the 77 tokens"},
		"marker in the negative": {Params{Prompt: one, NegativePrompt: "a man <|image|>"}, 1, "negative_prompt", "subjects belong in prompt"},
		"n":                      {Params{Prompt: one, N: 11}, 1, "n", "n must be an integer from 1 to 10, not 11"},
		"previews":               {Params{Prompt: one, Previews: 4}, 1, "partial_images", "partial_images must be an integer from 0 to 3, not 4"},
		"size":                   {Params{Prompt: one, Width: 512, Height: 512}, 1, "size", "size 512x512 is not served; this family serves 128x128 (or auto)"},
		"quality":                {Params{Prompt: one, Quality: "hd"}, 1, "quality", `quality must be low, medium, high or auto, not "hd"`},
		"no steps":               {Params{Prompt: one, Steps: ptr(0)}, 1, "num_inference_steps", "num_inference_steps must be an integer from 1 to 200, not 0"},
		"many steps":             {Params{Prompt: one, Steps: ptr(201)}, 1, "num_inference_steps", "num_inference_steps must be an integer from 1 to 200, not 201"},
		"guidance":               {Params{Prompt: one, GuidanceScale: ptr(20.5)}, 1, "guidance_scale", "guidance_scale must be a number from 0 to 20, not 20.5"},
		"guidance NaN":           {Params{Prompt: one, GuidanceScale: ptr(math.NaN())}, 1, "guidance_scale", "guidance_scale must be a number from 0 to 20, not NaN"},
		"eta":                    {Params{Prompt: one, Eta: ptr(-0.1)}, 1, "eta", "eta must be a number from 0 to 1, not -0.1"},
		"scheduler":              {Params{Prompt: one, Scheduler: "euler"}, 1, "scheduler", `scheduler must be ddim, pndm or dpmpp_2m, not "euler"`},
		"eta of pndm":            {Params{Prompt: one, Scheduler: "pndm", Eta: ptr(0.5)}, 1, "eta", "the scheduler pndm adds no noise"},
		"fidelity":               {Params{Prompt: one, InputFidelity: "max"}, 1, "input_fidelity", `input_fidelity must be low or high, not "max"`},
		"start after final":      {Params{Prompt: one, StartMergeStep: ptr(30), FinalStep: ptr(20)}, 1, "start_merge_step", "30"},
		"start below -1":         {Params{Prompt: one, StartMergeStep: ptr(-2)}, 1, "start_merge_step", "-2"},
		"final past the end":     {Params{Prompt: one, FinalStep: ptr(50)}, 1, "final_step", "50"},
		"final past pndm's end":  {Params{Prompt: one, Scheduler: "pndm", FinalStep: ptr(51)}, 1, "final_step", "50 (the last of 51 steps), got 51"},
		"no step for the SDM":    {Params{Prompt: one, StartMergeStep: ptr(49)}, 1, "start_merge_step", "step"},
		"bounds, no subject":     {Params{Prompt: "a beach", FinalStep: ptr(3)}, 0, "final_step", "no subject"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.Prepare(t.Context(), c.params, subjects(c.subjects))
			var input *InputError
			if !errors.As(err, &input) || input.Param != c.param || !strings.Contains(input.Message, c.message) {
				t.Errorf("error %#v (%v), want one on %s with %q", err, err, c.param, c.message)
			}
		})
	}
}

func TestPrepareFillsIn(t *testing.T) {
	f := mini(t)
	f.Defaults.StageBounds = family.StageBounds{StartMerge: 0.1, Final: 0.3} // the weights' own may leave nothing to yield
	p := pipelineOf(t, f, unreachable{}, 0)
	d, low := p.Family().Defaults, p.Family().Quality["low"].Steps
	const one = "a woman <|image|> in the snow"
	start, final := d.StageBounds.Steps(d.Steps, d.Steps)
	for name, c := range map[string]struct {
		params   Params
		subjects int
		plan     fusion.Plan
	}{
		"defaults":           {Params{Prompt: one}, 1, fusion.Plan{Steps: d.Steps, StartMergeStep: start, FinalStep: final}},
		"no subject":         {Params{Prompt: "a beach"}, 0, fusion.Plan{Steps: d.Steps, StartMergeStep: d.Steps - 1, FinalStep: d.Steps - 1}},
		"explicit":           {Params{Prompt: one, Steps: ptr(50), StartMergeStep: ptr(-1), FinalStep: ptr(-1)}, 1, fusion.Plan{Steps: 50, StartMergeStep: -1, FinalStep: -1}},
		"final yields":       {Params{Prompt: one, Steps: ptr(50), StartMergeStep: ptr(45)}, 1, fusion.Plan{Steps: 50, StartMergeStep: 45, FinalStep: 45}},
		"start yields":       {Params{Prompt: one, Steps: ptr(50), FinalStep: ptr(0)}, 1, fusion.Plan{Steps: 50, StartMergeStep: 0, FinalStep: 0}},
		"low, one more step": {Params{Prompt: "a beach", Quality: "low"}, 0, fusion.Plan{Steps: low, StartMergeStep: low - 1, FinalStep: low - 1}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := p.Prepare(t.Context(), c.params, subjects(c.subjects))
			if err != nil {
				t.Fatal(err)
			}
			if r.Plan != c.plan {
				t.Errorf("plan %+v, want %+v", r.Plan, c.plan)
			}
			if r.N != 1 || r.GuidanceScale != d.GuidanceScale || r.Width != 128 || len(r.prompt.IDs) != 77 || len(r.negative.IDs) != 77 {
				t.Errorf("request %+v", r)
			}
		})
	}
}

// The request wins over its quality, and that over the family's default.
func TestPrepareChoosesTheScheduler(t *testing.T) {
	f := mini(t)
	f.Defaults.Scheduler, f.Defaults.Eta = sampler.DDIM, 0.25
	f.Quality["low"] = family.Preset{Scheduler: sampler.DPMPP2M, Steps: 12}
	p := pipelineOf(t, f, unreachable{}, 0)
	for name, c := range map[string]struct {
		params     Params
		scheduler  string
		steps      int
		iterations int
		eta        float64
	}{
		"default":            {Params{}, sampler.DDIM, 50, 50, 0.25},
		"quality":            {Params{Quality: "low"}, sampler.DPMPP2M, 12, 12, 0}, // the default eta is the default scheduler's
		"quality auto":       {Params{Quality: "auto"}, sampler.DDIM, 50, 50, 0.25},
		"quality and steps":  {Params{Quality: "low", Steps: ptr(15)}, sampler.DPMPP2M, 15, 15, 0},
		"request":            {Params{Scheduler: sampler.PNDM}, sampler.PNDM, 50, 51, 0},
		"request, quality":   {Params{Scheduler: sampler.PNDM, Quality: "low"}, sampler.PNDM, 12, 13, 0},
		"pndm, eta 0":        {Params{Scheduler: sampler.PNDM, Eta: ptr(0.0)}, sampler.PNDM, 50, 51, 0},
		"pndm of one step":   {Params{Scheduler: sampler.PNDM, Steps: ptr(1)}, sampler.PNDM, 1, 1, 0},
		"ddim with low, eta": {Params{Scheduler: sampler.DDIM, Quality: "low", Eta: ptr(1.0)}, sampler.DDIM, 12, 12, 1},
	} {
		t.Run(name, func(t *testing.T) {
			c.params.Prompt = "a beach"
			r, err := p.Prepare(t.Context(), c.params, nil)
			if err != nil {
				t.Fatal(err)
			}
			parameters := r.parameters(p, 0)
			if parameters.Scheduler != c.scheduler || parameters.Steps != c.steps || parameters.Eta != c.eta || r.Plan.Steps != c.iterations {
				t.Errorf("%+v in %d iterations, want %s, %d steps, eta %v in %d", parameters, r.Plan.Steps, c.scheduler, c.steps, c.eta, c.iterations)
			}
		})
	}
}

// Bounds by default are shares of num_inference_steps: with PNDM, those of the
// released script.
func TestBoundsOfPNDMAreTheReleasedScripts(t *testing.T) {
	f := mini(t)
	f.Defaults.StageBounds = family.StageBounds{StartMerge: 0.3, Final: 0.6}
	p := pipelineOf(t, f, unreachable{}, 0)
	r, err := p.Prepare(t.Context(), Params{Prompt: "a woman <|image|>", Scheduler: sampler.PNDM, Steps: ptr(50)}, subjects(1))
	if err != nil {
		t.Fatal(err)
	}
	if want := (fusion.Plan{Steps: 51, StartMergeStep: 15, FinalStep: 30}); r.Plan != want {
		t.Errorf("plan %+v, want %+v", r.Plan, want)
	}
}

func TestPreparePlacesMarkers(t *testing.T) {
	p := newPipeline(t, unreachable{}, 0)
	long := strings.Repeat("snow ", 80)
	for name, c := range map[string]struct {
		prompt    string
		subjects  int
		used      string
		positions []int // of start of text, words …
	}{
		"nouns":          {"a woman and a man at the beach", 2, "a woman <|image|> and a man <|image|> at the beach", []int{2, 5}},
		"words":          {"put her on the beach", 1, "a woman <|image|> on the beach", []int{2}},
		"an unknown one": {"a teacher in the snow", 1, "a person <|image|> in the snow", []int{2}},
		"nobody":         {"sunset at the beach", 2, "a person <|image|> and a person <|image|>, sunset at the beach", []int{2, 5}},
		"no word":        {"<|image|> in the snow", 1, "a person <|image|> in the snow", []int{2}},
		"beyond the cut": {long + "and a woman", 1, "a person <|image|>, " + long + "and a woman", []int{2}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := p.Prepare(t.Context(), Params{Prompt: c.prompt}, subjects(c.subjects))
			if err != nil {
				t.Fatal(err)
			}
			if r.PromptUsed != c.used || !slices.Equal(r.prompt.Positions, c.positions) {
				t.Errorf("prompt used %q with positions %v, want %q, %v", r.PromptUsed, r.prompt.Positions, c.used, c.positions)
			}
			shown := strings.Trim(strconv.Quote(c.used[:min(len(c.used), 200)]), `"`)
			if len(r.Warnings) == 0 || r.Warnings[0].Param != "prompt" || !strings.Contains(r.Warnings[0].Message, shown) {
				t.Errorf("warnings %+v, want one that shows the prompt that was used", r.Warnings)
			}
		})
	}
}

func TestReadPrompt(t *testing.T) {
	p := newPipeline(t, failing{err: errors.New("down")}, 0) // it calls no network
	const prompt = "Alice's zebra 👩 in the snow"
	r, err := p.ReadPrompt(prompt, "blurry "+strings.Repeat("snow ", 80), 1)
	if err != nil {
		t.Fatal(err)
	}
	if r.Rung != placement.Words || r.Prompt.Text != "A person <|image|>'s zebra 👩 in the snow" || r.Prompt.Truncated() || r.Prompt.Cut != len(r.Prompt.Text) {
		t.Errorf("read as %+v", r)
	}
	// By CLIPTokenizerFast: start of text, nine tokens, two of which are the emoji, end of text.
	if r.Prompt.Tokens != 11 {
		t.Errorf("%d tokens, want 11", r.Prompt.Tokens)
	}
	if want := []Subject{{tokenizer.Word{Text: "person", Start: 2, End: 8}, 9}}; !slices.Equal(r.Subjects, want) {
		t.Errorf("subjects %v, want %v", r.Subjects, want)
	}
	at := strings.Index(r.Prompt.Text, "zebra")
	if want := []tokenizer.Word{{Text: "zebra", Start: at, End: at + 5}}; !slices.Equal(r.Prompt.Unknown, want) {
		t.Errorf("unknown words %v, want %v", r.Prompt.Unknown, want)
	}
	if want := []tokenizer.Word{{Text: "blurry", Start: 0, End: 6}}; !slices.Equal(r.Negative.Unknown, want) || !r.Negative.Truncated() || r.Negative.Tokens != 83 {
		t.Errorf("negative prompt read as %+v", r.Negative)
	}
	// 75 tokens fit between start and end of text
	if want := len("blurry " + strings.Repeat("snow ", 74)); r.Negative.Cut != want-1 && r.Negative.Cut != want {
		t.Errorf("cut at %d, want %d", r.Negative.Cut, want)
	}
}

func TestPrepareWarnsOfACut(t *testing.T) {
	f := mini(t)
	f.Vocabulary = nil
	p := pipelineOf(t, f, unreachable{}, 0)
	// start of text, a, woman, 72 words are 75 tokens; two more fit, one of which is the end of text.
	long := "a woman <|image|> " + strings.Repeat("very happy ", 36) + "tiny WÖRD 15, " + strings.Repeat("zebra ", 2000)
	r, err := p.Prepare(t.Context(), Params{Prompt: long, NegativePrompt: long[len("a woman <|image|> "):]}, subjects(1))
	if err != nil {
		t.Fatal(err)
	}
	// As it was written, and no more than 60 characters of it.
	const cut = `this part was cut: "WÖRD 15, zebra zebra zebra zebra zebra zebra zebra zebra zeb…"`
	if len(r.Warnings) != 2 || r.Warnings[0].Param != "prompt" || !strings.HasSuffix(r.Warnings[0].Message, cut) || r.Warnings[1].Param != "negative_prompt" {
		t.Errorf("warnings %+v, want one on prompt and one on negative_prompt that show what was cut", r.Warnings)
	}
}

func TestPrepareWarnsOfAColourProfile(t *testing.T) {
	decoder := picture.NewDecoder(picture.Limits{}, 64)
	var references []*picture.Reference
	for _, name := range []string{"p3.png", "lut.png"} { // applied, not applied
		file, err := os.Open("../picture/testdata/colour/" + name)
		if err != nil {
			t.Fatal(err)
		}
		reference, err := decoder.Decode(t.Context(), file)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		references = append(references, reference)
	}
	r, err := newPipeline(t, unreachable{}, 0).Prepare(t.Context(), Params{Prompt: "a woman <|image|> and a man <|image|> at the beach"}, references)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Warnings) != 1 || r.Warnings[0].Param != "image[1]" || !strings.Contains(r.Warnings[0].Message, "LUT profile") {
		t.Errorf("warnings %+v, want one on image[1] that names the kind of profile", r.Warnings)
	}
}

func TestPrepareWarnsOfUnknownWords(t *testing.T) {
	f := mini(t)
	f.PersonNouns = []string{"woman", "man"}
	f.Vocabulary = family.Vocabulary{
		{Name: "places", Phrases: []string{"at the beach", "in the snow"}},
		{Name: "clothes", Phrases: []string{"wearing a red T-shirt"}},
		{Name: "other words", Phrases: []string{"and", "with"}},
	}
	p := pipelineOf(t, f, unreachable{}, 0)
	for name, c := range map[string]struct {
		params   Params
		subjects int
		want     map[string]string // the words, by parameter
	}{
		"known":            {Params{Prompt: "A WOMAN <|image|> and a man <|image|>, wearing a red t-shirt, at the beach.", NegativePrompt: "snow"}, 2, nil},
		"no negative":      {Params{Prompt: "the beach"}, 0, nil},
		"unknown":          {Params{Prompt: "a woman <|image|> with a Piano, a zebra and a piano"}, 1, map[string]string{"prompt": `"piano", "zebra".`}},
		"tall":             {Params{Prompt: "a tall woman <|image|> in the snow"}, 1, map[string]string{"prompt": `"tall".`}},
		"img":              {Params{Prompt: "a woman img in the snow"}, 1, nil},
		"a noun of others": {Params{Prompt: "a teacher <|image|> in the snow"}, 1, map[string]string{"prompt": `"teacher".`}},
		"negative prompt":  {Params{Prompt: "the beach", NegativePrompt: "blurry"}, 0, map[string]string{"negative_prompt": `"blurry".`}},
		"both":             {Params{Prompt: "a zoo", NegativePrompt: "blurry"}, 0, map[string]string{"prompt": `"zoo".`, "negative_prompt": `"blurry".`}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := p.Prepare(t.Context(), c.params, subjects(c.subjects))
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Warnings) != len(c.want) {
				t.Errorf("warnings %+v, want %d", r.Warnings, len(c.want))
			}
			for _, w := range r.Warnings {
				words := c.want[w.Param]
				if words == "" || !strings.Contains(w.Message, ": "+words) || !strings.Contains(w.Message, "/v1/models/mini") {
					t.Errorf("warning %+v, want the words %s and where the others stand", w, words)
				}
			}
		})
	}

	t.Run("beyond the cut", func(t *testing.T) {
		r, err := p.Prepare(t.Context(), Params{Prompt: strings.Repeat("snow ", 500) + "zebra"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0].Message, "cut") {
			t.Errorf("warnings %+v, want that of the cut alone", r.Warnings)
		}
	})

	t.Run("many", func(t *testing.T) {
		var prompt strings.Builder
		for i := range 30 {
			fmt.Fprintf(&prompt, "q%c ", 'a'+i%26)
			fmt.Fprintf(&prompt, "z%c ", 'a'+i%26)
		}
		r, err := p.Prepare(t.Context(), Params{Prompt: prompt.String(), NegativePrompt: strings.Repeat("q", 18<<10)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range r.Warnings {
			if len(w.Message) > 500 {
				t.Errorf("a warning of %d bytes, want 500 at most: %.100s…", len(w.Message), w.Message)
			}
		}
		if !slices.ContainsFunc(r.Warnings, func(w Warning) bool { return strings.Contains(w.Message, `"zj", and `) }) {
			t.Errorf("warnings %+v, want one with twenty words and how many more there are", r.Warnings)
		}
	})

	t.Run("no vocabulary", func(t *testing.T) {
		f.Vocabulary = nil
		r, err := pipelineOf(t, f, unreachable{}, 0).Prepare(t.Context(), Params{Prompt: "a zebra"}, nil)
		if err != nil || len(r.Warnings) != 0 {
			t.Errorf("%v, warnings %+v, want none: the family takes any sentence", err, r.Warnings)
		}
	})
}

// TestPrepareTakesEveryNumberOfSteps: bounds that the user has not given leave the subjects a step, however few there are.
func TestPrepareTakesEveryNumberOfSteps(t *testing.T) {
	f := mini(t)
	f.Defaults.StageBounds = family.StageBounds{StartMerge: 0.5, Final: 0.6}
	f.InputFidelity = map[string]family.StageBounds{"low": {StartMerge: 1, Final: 1}, "high": {StartMerge: 0.9, Final: 0.9}}
	p := pipelineOf(t, f, unreachable{}, 0)
	for steps := 1; steps <= f.Limits.MaxSteps; steps++ {
		for _, scheduler := range sampler.Schedulers() {
			for _, fidelity := range []string{"", "low", "high"} {
				r, err := p.Prepare(t.Context(), Params{Prompt: "a man <|image|>", Steps: &steps, Scheduler: scheduler, InputFidelity: fidelity}, subjects(1))
				if err != nil {
					t.Errorf("%d steps of %s, fidelity %q: %v", steps, scheduler, fidelity, err)
				} else if own := r.Plan.Steps - r.Plan.Count(fusion.SceneConstruction); own < 1 {
					t.Errorf("%d steps of %s, fidelity %q: %+v leaves the subjects %d", steps, scheduler, fidelity, r.Plan, own)
				}
			}
		}
	}
}

// By the operator's choice another size is no error.
func TestPrepareServesTheNearestSize(t *testing.T) {
	f := mini(t)
	tok, err := tokenizer.Load(f.TokenizerDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Family: f, Tokenizer: tok, Networks: unreachable{}, NearestSize: true})
	if err != nil {
		t.Fatal(err)
	}
	for size, want := range map[int]string{512: "size 512x512 is not served by this family; the pictures are 128x128", 128: "", 0: ""} {
		r, err := p.Prepare(t.Context(), Params{Prompt: "a man at the beach", Width: size, Height: size}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for _, w := range r.Warnings {
			if w.Param == "size" {
				got += w.Message
			}
		}
		if got != want || r.Width != 128 || r.Height != 128 {
			t.Errorf("%d: %dx%d with the warnings %v, want %q", size, r.Width, r.Height, r.Warnings, want)
		}
	}
}

func TestSeedsWrap(t *testing.T) {
	r := Request{Seed: math.MaxUint32}
	if r.seed(0) != math.MaxUint32 || r.seed(1) != 0 || r.seed(2) != 1 {
		t.Errorf("seeds %d %d %d, want 4294967295 0 1", r.seed(0), r.seed(1), r.seed(2))
	}
}

func TestUnreachableNetworksAreNotTheUsersFault(t *testing.T) {
	down := errors.New("down")
	p := newPipeline(t, failing{err: down}, 0)
	_, err := p.Prepare(t.Context(), Params{Prompt: "a beach"}, nil)
	var input *InputError
	if errors.As(err, &input) || !errors.Is(err, down) {
		t.Errorf("error %v, want the networks' own", err)
	}
}

type failing struct {
	Networks
	err error
}

func (f failing) Dimensions(context.Context) (Dimensions, error) { return Dimensions{}, f.err }
