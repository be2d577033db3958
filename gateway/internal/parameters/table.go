package parameters

import (
	"math"
	"regexp"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/sampler"
)

var infinite = math.Inf(1)

// table is every parameter, in the order of the documentation: first OpenAI's,
// then this gateway's own.
var table = Set{
	{
		Name: "prompt", On: Both, Type: Text, MaxLength: maxPrompt, Required: true, Recorded: true,
		Help: "the scene. `<|image|>` follows the noun of each subject, in the order of the images",
	},
	{
		Name: "model", On: Both, Type: Text, MaxLength: maxName, Absent: "the family that is served", Recorded: true,
		Help: "name or alias of a family, as in /v1/models",
	},
	{
		Name: "n", Flag: "count", Placeholder: "number", On: Both, Type: Integer, Low: 1, High: MaxPictures, Default: 1,
		Help: "how many pictures; picture k has the seed `seed` + k",
	},
	{
		Name: "size", Flag: "size", Placeholder: "WIDTHxHEIGHT", On: Both, Type: Text, Default: "auto", Recorded: true,
		Pattern: regexp.MustCompile(`^(auto|[1-9][0-9]{0,8}x[1-9][0-9]{0,8})$`), Shape: "auto or WIDTHxHEIGHT",
		Help: "`auto` or a size that the family serves, as in /v1/capabilities",
	},
	{
		Name: "output_format", Flag: "format", Placeholder: "name", On: Both, Type: Text, Words: []string{"png", "jpeg", "webp"}, Default: "png",
		Help: "file format of the pictures; png and webp are lossless", Unserved: []string{"gif", "svg"},
	},
	{
		Name: "output_compression", Flag: "output-compression", Placeholder: "percent", On: Both, Type: Integer, Low: 0, High: 100, Default: 100,
		Help: "quality of a jpeg; lossless formats take only 100",
	},
	{
		Name: "stream", On: Both, Type: Boolean, Default: false,
		Help: "answer with server-sent events",
	},
	{
		Name: "partial_images", Flag: "previews", Placeholder: "number", On: Both, Type: Integer, Low: 0, High: MaxPreviews, Default: 0,
		Help: "with `stream`: how many predicted clean pictures to send of each picture on its way",
	},
	{
		Name: "response_format", On: Both, Type: Text, Words: []string{"b64_json"}, Default: "b64_json",
		Help:     "pictures always come in the answer",
		Unserved: []string{"url"}, Why: "this gateway keeps no pictures to link to; use b64_json",
	},
	{
		Name: "quality", Flag: "quality", Placeholder: "name", On: Both, Type: Text, Words: []string{"low", "medium", "high", "auto"}, Default: "auto",
		Help: "scheduler and number of steps by one name; /v1/capabilities says which", Unserved: []string{"standard", "hd", "xhigh", "max"},
	},
	{
		Name: "input_fidelity", Flag: "input-fidelity", Placeholder: "name", On: Edits, Type: Text, Words: []string{"low", "high"}, Absent: "the family's stage bounds",
		Help: "stage bounds by name, as shares of the steps: `high` gives the subjects more of them",
	},
	{
		Name: "background", On: Both, Type: Text, Words: []string{"auto", "opaque"}, Default: "auto",
		Help:     "pictures are always opaque",
		Unserved: []string{"transparent"}, Why: "these pictures have no transparency",
	},
	{
		Name: "moderation", On: Both, Type: Text, Words: []string{"auto", "low"}, Default: "auto",
		Help: "changes nothing: whether pictures are checked is the operator's choice, as in /v1/capabilities",
	},
	{
		Name: "user", On: Both, Type: Text, MaxLength: maxName, Absent: "nobody",
		Help: "echoed as `safety_identifier`",
	},
	{
		Name: "safety_identifier", On: Both, Type: Text, MaxLength: maxName, Absent: "`user`",
		Help: "echoed",
	},

	{
		Name: "negative_prompt", Flag: "negative-prompt", Placeholder: "text", On: Both, Type: Text, MaxLength: maxPrompt, Absent: "empty", Recorded: true,
		Help: "what the scene should not show: takes the place of the empty prompt in the scene model's guidance, during scene construction and fusion",
	},
	{
		Name: "seed", Flag: "seed", Placeholder: "number", On: Both, Type: Integer, Low: 0, High: math.MaxUint32, Absent: "random, and returned", Recorded: true,
		Help: "seed of the first picture; picture k has `seed` + k",
	},
	{
		Name: "scheduler", Flag: "scheduler", Placeholder: "name", On: Both, Type: Text, Words: sampler.Schedulers(), Absent: "the family's", Recorded: true,
		Help:     "how the next step follows from a prediction: DDIM, PNDM (which calls the networks one time more than there are steps) or DPM-Solver++ 2M; wins over `quality`",
		ofFamily: func(p *Parameter, f *family.Family) { p.Default = f.Defaults.Scheduler },
	},
	{
		Name: "num_inference_steps", Flag: "steps", Placeholder: "number", On: Both, Type: Integer, Low: 1, High: infinite, Absent: "the family's", Recorded: true,
		Help:     "denoising steps, up to the family's limit; wins over `quality`",
		ofFamily: func(p *Parameter, f *family.Family) { p.High, p.Default = float64(f.Limits.MaxSteps), f.Defaults.Steps },
	},
	{
		Name: "guidance_scale", Flag: "guidance-scale", Placeholder: "number", On: Both, Type: Number, Low: -infinite, High: infinite, Absent: "the family's", Recorded: true,
		Help: "how strongly the prompt leads, within the family's limits",
		ofFamily: func(p *Parameter, f *family.Family) {
			p.Low, p.High, p.Default = f.Limits.MinGuidanceScale, f.Limits.MaxGuidanceScale, f.Defaults.GuidanceScale
		},
	},
	{
		Name: "eta", Flag: "eta", Placeholder: "number", On: Both, Type: Number, Low: 0, High: 1, Absent: "the family's with ddim, else 0", Recorded: true,
		Help: "noise that DDIM adds: 0 is deterministic, 1 adds as much as DDPM; the other schedulers take only 0",
		ofFamily: func(p *Parameter, f *family.Family) {
			p.Default = 0.0
			if f.Defaults.Scheduler == sampler.DDIM {
				p.Default = f.Defaults.Eta
			}
		},
	},
	{
		Name: "start_merge_step", Flag: "start-merge-step", Placeholder: "step", On: Edits, Type: Integer, Low: -1, High: infinite, Absent: "the family's share of the steps", Recorded: true,
		Help: "last step of scene construction, counted from 0; -1 skips it; wins over `input_fidelity`",
	},
	{
		Name: "final_step", Flag: "final-step", Placeholder: "step", On: Edits, Type: Integer, Low: -1, High: infinite, Absent: "the family's share of the steps", Recorded: true,
		Help: "last step of subject-scene fusion, counted from 0; not below `start_merge_step`; wins over `input_fidelity`",
	},
	{
		Name: "return_fusion_map", Flag: "fusion-map", On: Edits, Type: Boolean, Default: false,
		Help: "also return of each picture a grey PNG: white where the subject model won every step of the fusion, black where the scene model did",
	},
	{
		Name: "progress", On: Both, Type: Boolean, Default: false,
		Help: "with `stream`: send an event after every step",
	},
}

// Unsupported are fields of OpenAI's API that mean nothing here, and why. They
// are refused rather than ignored.
var Unsupported = map[string]string{
	"mask":              "there is no region to edit: the images are subjects, the prompt describes the scene",
	"markup":            "there is no region to edit: the images are subjects, the prompt describes the scene",
	"style":             "describe the style in the prompt",
	"complexity":        "use quality or num_inference_steps",
	"svg":               "this gateway makes png, jpeg and webp",
	"frame_count":       "this gateway makes single pictures",
	"frame_duration_ms": "this gateway makes single pictures",
}
