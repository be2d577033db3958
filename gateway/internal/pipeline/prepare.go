package pipeline

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"github.com/facediffuser/facediffuser/fusion"
	"github.com/facediffuser/facediffuser/gateway/internal/parameters"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
	"github.com/facediffuser/facediffuser/sampler"
)

// Params is what a request may say. The zero value of a field (nil, "" or 0)
// takes the family's default.
type Params struct {
	Prompt         string
	NegativePrompt string
	N              int
	Seed           *uint32
	Scheduler      string // of package sampler
	Steps          *int
	GuidanceScale  *float64
	StartMergeStep *int
	FinalStep      *int
	Eta            *float64
	Quality        string // low, medium, high, auto: scheduler and number of steps
	InputFidelity  string // low, high: stage bounds
	Width, Height  int
	// Previews is how many predicted clean pictures to decode on the way.
	Previews int
	// FusionMap asks for the masks of subject-scene fusion.
	FusionMap bool
}

// Request is a checked request with every default filled in. It is immutable.
type Request struct {
	N             int
	Seed          uint32 // of picture 0; picture k uses Seed + k, wrapping
	Scheduler     string
	Steps         int // num_inference_steps; the loop has Plan.Steps iterations
	GuidanceScale float64
	Eta           float64
	Plan          fusion.Plan
	Quality       string
	Previews      int
	FusionMap     bool
	Width, Height int
	Subjects      []*picture.Reference

	// PromptUsed is the prompt with its markers where they were placed.
	PromptUsed     string
	NegativePrompt string
	Warnings       []Warning

	prompt, negative tokenizer.Prompt
	solver           *sampler.Solver
}

// Warning is about a part of a request that is not served as written: cut, or
// not understood.
type Warning struct {
	Param   string `json:"param"`
	Message string `json:"message"`
}

// InputError says which part of a request is wrong, and what would be right.
type InputError struct {
	Param   string // the field, under its name in the HTTP API
	Code    string
	Message string
}

func (e *InputError) Error() string { return e.Message }

func invalid(param, format string, args ...any) *InputError {
	return &InputError{Param: param, Code: "invalid_value", Message: fmt.Sprintf(format, args...)}
}

// Parameters reproduce a picture together with its reference images. They are
// embedded in it.
type Parameters struct {
	Model          string  `json:"model"`
	Weights        string  `json:"weights"` // sha256 of the networks
	Prompt         string  `json:"prompt"`
	NegativePrompt string  `json:"negative_prompt,omitempty"`
	Subjects       int     `json:"subjects"`
	Seed           uint32  `json:"seed"`
	Scheduler      string  `json:"scheduler"`
	Steps          int     `json:"num_inference_steps"`
	GuidanceScale  float64 `json:"guidance_scale"`
	StartMergeStep int     `json:"start_merge_step"`
	FinalStep      int     `json:"final_step"`
	Eta            float64 `json:"eta"`
	Width          int     `json:"width"`
	Height         int     `json:"height"`
	// NSFW marks a picture that the safety checker flagged; it is no setting.
	NSFW     bool   `json:"nsfw,omitempty"`
	Software string `json:"software"`
}

// Prepare checks a request and fills in the family's defaults. The error is
// an *InputError, or says why the networks cannot be reached.
func (p *Pipeline) Prepare(ctx context.Context, params Params, subjects []*picture.Reference) (*Request, error) {
	dims, err := p.Dimensions(ctx)
	if err != nil {
		return nil, err
	}
	r := &Request{
		N: max(params.N, 1), Previews: params.Previews, FusionMap: params.FusionMap,
		Subjects: subjects, NegativePrompt: params.NegativePrompt,
		Width: dims.Width, Height: dims.Height,
	}
	// The checks run in the order in which a user would want to hear of them.
	if err := p.preparePrompt(r, params, dims); err != nil {
		return nil, err
	}
	if err := p.prepareSettings(r, params, dims); err != nil {
		return nil, err
	}
	if err := p.preparePlan(r, params); err != nil {
		return nil, err
	}
	for i, subject := range subjects {
		if w := subject.Warning(); w != "" {
			param := fmt.Sprintf("image[%d]", i)
			r.Warnings = append(r.Warnings, Warning{param, param + ": " + w})
		}
	}
	return r, nil
}

func (p *Pipeline) preparePrompt(r *Request, params Params, dims Dimensions) error {
	if len(r.Subjects) > dims.Subjects {
		return invalid("image", "%d images, but this family takes at most %d subjects", len(r.Subjects), dims.Subjects)
	}
	read, err := p.ReadPrompt(params.Prompt, params.NegativePrompt, len(r.Subjects))
	if err != nil {
		return err
	}
	r.prompt, r.negative = read.Prompt.tokens, read.Negative.tokens
	r.PromptUsed, r.Warnings = read.Prompt.Text, append(r.Warnings, read.Warnings...)
	if len(r.prompt.IDs) != dims.Tokens {
		return fmt.Errorf("pipeline: the tokenizer makes %d tokens, the text encoder takes %d", len(r.prompt.IDs), dims.Tokens)
	}
	return nil
}

func (p *Pipeline) prepareSettings(r *Request, params Params, dims Dimensions) error {
	f := p.family
	if err := params.check(parameters.Of(f)); err != nil {
		return err
	}
	switch other := params.Width != dims.Width || params.Height != dims.Height; {
	case params.Width == 0 && params.Height == 0 || !other:
	case p.nearest: // there is one size, so it is the nearest
		r.Warnings = append(r.Warnings, Warning{"size", fmt.Sprintf(
			"size %dx%d is not served by this family; the pictures are %dx%d", params.Width, params.Height, dims.Width, dims.Height)})
	default:
		return &InputError{Param: "size", Code: "unsupported_value", Message: fmt.Sprintf(
			"size %dx%d is not served; this family serves %dx%d (or auto)", params.Width, params.Height, dims.Width, dims.Height)}
	}
	if params.Seed != nil {
		r.Seed = *params.Seed
	} else {
		var b [4]byte
		if _, err := rand.Read(b[:]); err != nil {
			return err
		}
		r.Seed = binary.LittleEndian.Uint32(b[:])
	}

	r.Quality, r.Scheduler, r.Steps = "auto", f.Defaults.Scheduler, f.Defaults.Steps
	if q := params.Quality; q != "" && q != "auto" {
		r.Quality, r.Scheduler, r.Steps = q, f.Quality[q].Scheduler, f.Quality[q].Steps
	}
	r.Scheduler = cmp.Or(params.Scheduler, r.Scheduler)
	if params.Steps != nil {
		r.Steps = *params.Steps
	}
	r.GuidanceScale = f.Defaults.GuidanceScale
	if params.GuidanceScale != nil {
		r.GuidanceScale = *params.GuidanceScale
	}
	if r.Scheduler == sampler.DDIM {
		r.Eta = f.Defaults.Eta
	}
	if params.Eta != nil {
		r.Eta = *params.Eta
		if r.Eta > 0 && r.Scheduler != sampler.DDIM {
			return invalid("eta", "eta is %v, but the scheduler %s adds no noise; leave eta out or use the scheduler %s", r.Eta, r.Scheduler, sampler.DDIM)
		}
	}
	var err error
	r.solver, err = p.schedule.Solver(r.Scheduler, r.Steps, r.Eta)
	return err
}

// check holds every value to its parameter's type and range.
func (params Params) check(all parameters.Set) error {
	text := func(name, s string) error {
		if p := all.Get(name); s != "" && !p.Takes(s) {
			return invalid(name, "%s must be %s, not %q", name, p.Want(), s)
		}
		return nil
	}
	number := func(name string, given bool, x float64) error {
		if p := all.Get(name); given && !p.Holds(x) {
			return invalid(name, "%s must be %s, not %v", name, p.Want(), x)
		}
		return nil
	}
	integer := func(name string, n *int) error { return number(name, n != nil, float64(value(n))) }
	return cmp.Or(
		number("n", params.N != 0, float64(params.N)),
		number("partial_images", true, float64(params.Previews)),
		text("quality", params.Quality),
		text("scheduler", params.Scheduler),
		integer("num_inference_steps", params.Steps),
		number("guidance_scale", params.GuidanceScale != nil, value(params.GuidanceScale)),
		number("eta", params.Eta != nil, value(params.Eta)),
		text("input_fidelity", params.InputFidelity),
		integer("start_merge_step", params.StartMergeStep),
		integer("final_step", params.FinalStep),
	)
}

// value is what p points to, or zero.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// preparePlan settles which model makes which step.
func (p *Pipeline) preparePlan(r *Request, params Params) error {
	bounds := p.family.Defaults.StageBounds
	if params.InputFidelity != "" {
		bounds = p.family.InputFidelity[params.InputFidelity]
	}
	iterations := r.solver.Iterations()
	if len(r.Subjects) == 0 {
		if params.StartMergeStep != nil || params.FinalStep != nil {
			return invalid(plannedBy(params), "%s divides the steps between the scene and the subjects; this request has no subject", plannedBy(params))
		}
		r.Plan = fusion.Plan{Steps: iterations, StartMergeStep: iterations - 1, FinalStep: iterations - 1}
		return nil
	}

	start, final := bounds.Steps(r.Steps, iterations)
	start = min(start, iterations-2) // of however few steps, one is the subjects'
	// A bound that was given wins; one that was not yields to it.
	switch {
	case params.StartMergeStep != nil && params.FinalStep != nil:
		start, final = *params.StartMergeStep, *params.FinalStep
	case params.StartMergeStep != nil:
		start = *params.StartMergeStep
		final = max(final, start)
	case params.FinalStep != nil:
		final = *params.FinalStep
		start = min(start, final)
	}
	r.Plan = fusion.Plan{Steps: iterations, StartMergeStep: start, FinalStep: final}
	if err := r.Plan.Validate(len(r.Subjects)); err != nil {
		return invalid(plannedBy(params), "%v", err)
	}
	return nil
}

// plannedBy names the field that a fault of the stage plan comes from.
func plannedBy(params Params) string {
	switch {
	case params.StartMergeStep != nil:
		return "start_merge_step"
	case params.FinalStep != nil:
		return "final_step"
	}
	return ""
}

func (r *Request) seed(k int) uint32 { return r.Seed + uint32(k) }

// previewStep is the step after which preview j is decoded: the previews
// divide the loop evenly.
func (r *Request) previewStep(j int) int { return (j + 1) * r.Plan.Steps / (r.Previews + 1) }

func (r *Request) parameters(p *Pipeline, k int) Parameters {
	return Parameters{
		Model: p.family.Name, Weights: p.family.WeightsSHA256,
		Prompt: r.PromptUsed, NegativePrompt: r.NegativePrompt, Subjects: len(r.Subjects),
		Seed: r.seed(k), Scheduler: r.Scheduler, Steps: r.Steps, GuidanceScale: r.GuidanceScale,
		StartMergeStep: r.Plan.StartMergeStep, FinalStep: r.Plan.FinalStep, Eta: r.Eta,
		Width: r.Width, Height: r.Height, Software: "facediffuser " + p.version,
	}
}
