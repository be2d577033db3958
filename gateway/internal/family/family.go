// Package family reads a model family from disk: what the gateway must know
// about a set of networks that Triton's model configuration cannot say. A
// family folder holds pipeline.json, tokenizer/ and models/; this package
// reads the first, package tokenizer the second, Triton the third.
package family

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/facediffuser/facediffuser/sampler"
)

// Family is the content of pipeline.json. It is immutable after Load.
type Family struct {
	// Dir is the folder that the family was read from.
	Dir string `json:"-"`

	Name        string   `json:"name"`
	Aliases     []string `json:"aliases"`
	Description string   `json:"description"`
	License     string   `json:"license"`
	// Created is the Unix time at which the weights were made.
	Created int64 `json:"created"`

	// Schedule has the keys of diffusers' scheduler_config.json.
	Schedule sampler.ScheduleConfig `json:"schedule"`
	// ScalingFactor makes VAE latents unit variance: latents = factor · VAE latents.
	ScalingFactor float64 `json:"scaling_factor"`
	// ObjectResolution is the side, in pixels, to which a reference image is
	// resized (with rounding to 8 bits) before the image encoder's own resize.
	ObjectResolution int `json:"object_resolution"`

	Defaults      Defaults               `json:"defaults"`
	Limits        Limits                 `json:"limits"`
	Quality       map[string]Preset      `json:"quality"`
	InputFidelity map[string]StageBounds `json:"input_fidelity"`

	// PreviewMatrix and PreviewBias map the 4 channels of a predicted clean
	// latent to RGB in [-1, 1], fitted by least squares for this VAE.
	PreviewMatrix [][]float64 `json:"preview_matrix"`
	PreviewBias   []float64   `json:"preview_bias"`

	// PersonNouns are the nouns after which a missing subject marker may be placed.
	PersonNouns []string `json:"person_nouns"`
	// Vocabulary is what the networks know; nil for a family that takes any sentence.
	Vocabulary Vocabulary `json:"vocabulary"`
	// SafetyChecker says that the models include a safety_checker, so that
	// pictures are checked unless the operator has it otherwise.
	SafetyChecker bool `json:"safety_checker"`
	// WeightsSHA256 identifies the networks; golden files and pictures name it.
	WeightsSHA256 string `json:"weights_sha256"`
}

// Defaults are the settings of a request that says nothing.
type Defaults struct {
	Scheduler     string  `json:"scheduler"` // of package sampler
	Steps         int     `json:"num_inference_steps"`
	GuidanceScale float64 `json:"guidance_scale"`
	Eta           float64 `json:"eta"`
	StageBounds
}

// Preset is what a quality stands for.
type Preset struct {
	Scheduler string `json:"scheduler"` // pipeline.json may leave out the default one
	Steps     int    `json:"num_inference_steps"`
}

// StageBounds are the inclusive ends of scene construction and of
// subject-scene fusion as fractions of the number of steps.
type StageBounds struct {
	StartMerge float64 `json:"start_merge_fraction"`
	Final      float64 `json:"final_fraction"`
}

// Steps gives the bounds as indices of a loop's iterations, which may be more
// than num_inference_steps = n. Rounding is half to even, as Python's round in
// the released script; the last stage bound never passes the last iteration.
func (b StageBounds) Steps(n, iterations int) (startMerge, final int) {
	final = min(int(math.RoundToEven(b.Final*float64(n))), iterations-1)
	startMerge = min(int(math.RoundToEven(b.StartMerge*float64(n))), final)
	return startMerge, final
}

// Limits bound what a request may ask for.
type Limits struct {
	MaxSteps         int     `json:"max_inference_steps"`
	MinGuidanceScale float64 `json:"min_guidance_scale"`
	MaxGuidanceScale float64 `json:"max_guidance_scale"`
}

// Load reads dir/pipeline.json. The error names every fault found in it.
func Load(dir string) (*Family, error) {
	path := filepath.Join(dir, "pipeline.json")
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("family: %w (a family folder holds pipeline.json, tokenizer/ and models/)", err)
	}
	defer file.Close()
	f, err := read(file)
	if err != nil {
		return nil, fmt.Errorf("family: %s: %w", path, err)
	}
	f.Dir = dir
	return f, nil
}

func read(r io.Reader) (*Family, error) {
	f := new(Family)
	decoder := json.NewDecoder(r)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(f); err != nil {
		return nil, err
	}
	for name, preset := range f.Quality {
		preset.Scheduler = cmp.Or(preset.Scheduler, f.Defaults.Scheduler)
		f.Quality[name] = preset
	}
	if err := f.validate(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *Family) validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(f.Name != "", "name is missing")
	schedule, err := sampler.NewSchedule(f.Schedule)
	if err != nil {
		faults = append(faults, fmt.Errorf("schedule: %w", err))
	}
	check(f.ScalingFactor > 0, "scaling_factor is %v, want a positive number", f.ScalingFactor)
	check(f.ObjectResolution >= 16 && f.ObjectResolution <= 4096, "object_resolution is %d, want 16 to 4096", f.ObjectResolution)
	check(len(f.PersonNouns) > 0, "person_nouns is empty")
	check(len(f.WeightsSHA256) == 64, "weights_sha256 is %q, want 64 hexadecimal digits", f.WeightsSHA256)
	check(len(f.PreviewMatrix) == 4 && !slices.ContainsFunc(f.PreviewMatrix, func(row []float64) bool { return len(row) != 3 }),
		"preview_matrix is not 4 rows (latent channels) of 3 (red, green, blue)")
	check(len(f.PreviewBias) == 3, "preview_bias has %d values, want 3", len(f.PreviewBias))

	l := f.Limits
	check(l.MaxSteps >= 1, "limits.max_inference_steps is %d, want at least 1", l.MaxSteps)
	if schedule != nil && l.MaxSteps >= 1 {
		_, err := schedule.Solver(sampler.DDIM, l.MaxSteps, 0)
		check(err == nil, "limits.max_inference_steps: %v", err)
	}
	check(l.MinGuidanceScale <= l.MaxGuidanceScale, "limits: min_guidance_scale %v is above max_guidance_scale %v", l.MinGuidanceScale, l.MaxGuidanceScale)
	d := f.Defaults
	scheduler := func(name, scheduler string) {
		check(slices.Contains(sampler.Schedulers(), scheduler), "%s is %q, want one of %s", name, scheduler, strings.Join(sampler.Schedulers(), ", "))
	}
	scheduler("defaults.scheduler", d.Scheduler)
	check(d.Steps >= 1 && d.Steps <= l.MaxSteps, "defaults.num_inference_steps is %d, want 1 to %d", d.Steps, l.MaxSteps)
	check(d.GuidanceScale >= l.MinGuidanceScale && d.GuidanceScale <= l.MaxGuidanceScale,
		"defaults.guidance_scale is %v, want %v to %v", d.GuidanceScale, l.MinGuidanceScale, l.MaxGuidanceScale)
	check(d.Eta >= 0 && d.Eta <= 1, "defaults.eta is %v, want 0 to 1", d.Eta)
	check(d.Eta == 0 || d.Scheduler == sampler.DDIM, "defaults.eta is %v, want 0: only the scheduler %s adds noise", d.Eta, sampler.DDIM)
	bounds := func(name string, b StageBounds) {
		check(b.StartMerge >= 0 && b.StartMerge <= b.Final && b.Final <= 1,
			"%s: want 0 ≤ start_merge_fraction ≤ final_fraction ≤ 1, got %v and %v", name, b.StartMerge, b.Final)
	}
	bounds("defaults", d.StageBounds)
	for _, name := range []string{"low", "medium", "high"} {
		preset, ok := f.Quality[name]
		check(ok, "quality.%s is missing", name)
		if ok {
			check(preset.Steps >= 1 && preset.Steps <= l.MaxSteps, "quality.%s.num_inference_steps is %d, want 1 to %d", name, preset.Steps, l.MaxSteps)
			scheduler("quality."+name+".scheduler", preset.Scheduler)
		}
	}
	for _, name := range []string{"low", "high"} {
		b, ok := f.InputFidelity[name]
		check(ok, "input_fidelity.%s is missing", name)
		bounds("input_fidelity."+name, b)
	}
	faults = append(faults, f.Vocabulary.faults()...)
	return errors.Join(faults...)
}

// Answers says whether model names this family.
func (f *Family) Answers(model string) bool {
	return model == f.Name || slices.Contains(f.Aliases, model)
}

// TokenizerDir is the folder with vocab.json and merges.txt.
func (f *Family) TokenizerDir() string { return filepath.Join(f.Dir, "tokenizer") }

// ModelsDir is the folder that Triton loads.
func (f *Family) ModelsDir() string { return filepath.Join(f.Dir, "models") }
