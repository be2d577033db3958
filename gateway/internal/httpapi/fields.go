package httpapi

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/sampler"
)

// endpoint is one of the two ways to ask for pictures.
type endpoint int

const (
	edits       endpoint = 1 << iota // with subjects
	generations                      // without
	both        = edits | generations
)

func (e endpoint) path() string {
	if e == edits {
		return "/v1/images/edits"
	}
	return "/v1/images/generations"
}

// event is the name of a stream's event, such as image_edit.completed.
func (e endpoint) event(what string) string {
	if e == edits {
		return "image_edit." + what
	}
	return "image_generation." + what
}

// input is a request for pictures as its fields say it.
type input struct {
	params      pipeline.Params
	model       string
	format      string // png, jpeg, webp
	compression int    // 0 … 100
	stream      bool
	progress    bool
	user        string // safety_identifier, else plainUser
	safetyID    string
	plainUser   string

	said  map[string]string // every field as it was said
	sizes []string          // that are served; nil while that is not known
}

func newInput() *input {
	return &input{format: picture.PNG, compression: 100, said: map[string]string{}}
}

// value is what a request says for one field: text from a form, where
// everything is text, or a JSON value.
type value struct {
	text string
	json any // nil for text; numbers are json.Number
}

// String is the value as JSON would have it.
func (v value) String() string {
	said := v.json
	if said == nil {
		said = v.text
	}
	data, err := json.Marshal(said)
	if err != nil {
		panic(err) // it came from JSON
	}
	return string(data)
}

// short is the value as an error message shows it.
func (v value) short() string {
	if r := []rune(v.String()); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return v.String()
}

// field is one field of a request.
type field struct {
	name string
	on   endpoint
	want string // completes "must be …"
	// read puts a value into the input; false when it is not what is wanted.
	read func(in *input, v value) bool
	// refuse says why a value that OpenAI's API knows is not served here; nil
	// where there is none.
	refuse func(v value) string
}

// fields are all the fields that a request may have, beside the images.
// openapi.json describes the same ones.
var fields = []field{
	text("prompt", func(in *input) *string { return &in.params.Prompt }),
	text("model", func(in *input) *string { return &in.model }),
	integer("n", both, 1, pipeline.MaxPictures, func(in *input, n int) { in.params.N = n }),
	{name: "size", on: both, want: "auto or WIDTHxHEIGHT", read: readSize},
	oneOf("output_format", both, func(in *input) *string { return &in.format }, picture.PNG, picture.JPEG, picture.WebP).
		refusing("is not supported; this gateway makes png, jpeg and webp", "gif", "svg"),
	integer("output_compression", both, 0, 100, func(in *input, n int) { in.compression = n }),
	boolean("stream", both, func(in *input) *bool { return &in.stream }),
	integer("partial_images", both, 0, pipeline.MaxPreviews, func(in *input, n int) { in.params.Previews = n }),
	oneOf("response_format", both, nil, "b64_json").
		refusing("is not supported: this gateway keeps no pictures to link to; use b64_json", "url"),
	oneOf("quality", both, func(in *input) *string { return &in.params.Quality }, "low", "medium", "high", "auto"),
	oneOf("input_fidelity", edits, func(in *input) *string { return &in.params.InputFidelity }, "low", "high"),
	oneOf("background", both, nil, "auto", "opaque").
		refusing("is not supported: these pictures have no transparency", "transparent"),
	oneOf("moderation", both, nil, "auto", "low"),
	text("user", func(in *input) *string { return &in.plainUser }),
	text("safety_identifier", func(in *input) *string { return &in.safetyID }),

	// This gateway's own.
	text("negative_prompt", func(in *input) *string { return &in.params.NegativePrompt }),
	integer("seed", both, 0, math.MaxUint32, func(in *input, n int) { seed := uint32(n); in.params.Seed = &seed }),
	oneOf("scheduler", both, func(in *input) *string { return &in.params.Scheduler }, sampler.Schedulers()...),
	integer("num_inference_steps", both, math.MinInt32, math.MaxInt32, func(in *input, n int) { in.params.Steps = &n }),
	number("guidance_scale", both, func(in *input, x float64) { in.params.GuidanceScale = &x }),
	number("eta", both, func(in *input, x float64) { in.params.Eta = &x }),
	integer("start_merge_step", edits, math.MinInt32, math.MaxInt32, func(in *input, n int) { in.params.StartMergeStep = &n }),
	integer("final_step", edits, math.MinInt32, math.MaxInt32, func(in *input, n int) { in.params.FinalStep = &n }),
	boolean("return_fusion_map", edits, func(in *input) *bool { return &in.params.FusionMap }),
	boolean("progress", both, func(in *input) *bool { return &in.progress }),
}

// unsupported are fields of OpenAI's API that mean nothing here, and why.
// They are refused rather than ignored.
var unsupported = map[string]string{
	"mask":              "there is no region to edit: the images are subjects, the prompt describes the scene",
	"markup":            "there is no region to edit: the images are subjects, the prompt describes the scene",
	"style":             "describe the style in the prompt",
	"complexity":        "use quality or num_inference_steps",
	"svg":               "this gateway makes png, jpeg and webp",
	"frame_count":       "this gateway makes single pictures",
	"frame_duration_ms": "this gateway makes single pictures",
}

func text(name string, to func(*input) *string) field {
	return field{name: name, on: both, want: "a string", read: func(in *input, v value) bool {
		s, ok := v.str()
		*to(in) = s
		return ok
	}}
}

// oneOf takes one of a few words; to is nil where they make no difference.
func oneOf(name string, on endpoint, to func(*input) *string, words ...string) field {
	return field{name: name, on: on, want: list(words), read: func(in *input, v value) bool {
		s, ok := v.str()
		if to != nil {
			*to(in) = s
		}
		return ok && slices.Contains(words, s)
	}}
}

func (f field) refusing(why string, words ...string) field {
	f.refuse = func(v value) string {
		if s, ok := v.str(); ok && slices.Contains(words, s) {
			return f.name + " " + s + " " + why
		}
		return ""
	}
	return f
}

// integer takes low … high. Bounds of 32 bits stand for a range that the
// family has and the pipeline checks.
func integer(name string, on endpoint, low, high int, to func(*input, int)) field {
	want := "an integer"
	if low != math.MinInt32 {
		want = fmt.Sprintf("an integer from %d to %d", low, high)
	}
	return field{name: name, on: on, want: want, read: func(in *input, v value) bool {
		s, ok := v.num()
		n, err := strconv.Atoi(s)
		if !ok || err != nil || n < low || n > high {
			return false
		}
		to(in, n)
		return true
	}}
}

func number(name string, on endpoint, to func(*input, float64)) field {
	return field{name: name, on: on, want: "a number", read: func(in *input, v value) bool {
		s, ok := v.num()
		x, err := strconv.ParseFloat(s, 64)
		if !ok || err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			return false
		}
		to(in, x)
		return true
	}}
}

func boolean(name string, on endpoint, to func(*input) *bool) field {
	return field{name: name, on: on, want: "true or false", read: func(in *input, v value) bool {
		b, ok := v.json.(bool)
		if v.json == nil {
			ok = v.text == "true" || v.text == "false"
			b = v.text == "true"
		}
		*to(in) = b
		return ok
	}}
}

var sizePattern = regexp.MustCompile(`^([1-9][0-9]{0,4})x([1-9][0-9]{0,4})$`)

func readSize(in *input, v value) bool {
	s, ok := v.str()
	if ok && s == "auto" {
		return true
	}
	m := sizePattern.FindStringSubmatch(s)
	if !ok || m == nil {
		return false
	}
	in.params.Width, _ = strconv.Atoi(m[1]) // digits, as matched
	in.params.Height, _ = strconv.Atoi(m[2])
	return true
}

func (v value) str() (string, bool) {
	if v.json == nil {
		return v.text, true
	}
	s, ok := v.json.(string)
	return s, ok
}

func (v value) num() (string, bool) {
	if v.json == nil {
		return strings.TrimSpace(v.text), true
	}
	n, ok := v.json.(json.Number)
	return n.String(), ok
}

// set puts one field of a request into the input.
func (in *input) set(on endpoint, name string, v value) error {
	i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
	if i < 0 {
		return unknownField(on, name)
	}
	f := fields[i]
	if f.on&on == 0 {
		return invalid(name, "%s is a field of %s, not of %s", name, f.on.path(), on.path())
	}
	if f.refuse != nil {
		if why := f.refuse(v); why != "" {
			return &fault{kind: invalidValue, code: "unsupported_value", param: name, message: why}
		}
	}
	if !f.read(in, v) {
		fault := invalid(name, "%s must be %s, not %s", name, f.want, v.short())
		if name == "size" && in.sizes != nil {
			fault.message += "; this family serves " + list(in.sizes)
		}
		return fault
	}
	in.said[name] = v.String()
	return nil
}

// check looks at fields together, once all are set.
func (in *input) check() error {
	switch {
	case in.params.Previews > 0 && !in.stream:
		return invalid("partial_images", "partial_images needs stream=true")
	case in.progress && !in.stream:
		return invalid("progress", "progress needs stream=true")
	case in.compression < 100 && in.format != picture.JPEG:
		return invalid("output_compression", "output_compression works on jpeg; %s is written without loss", in.format)
	}
	return nil
}

// unknownField refuses a field that is not one, so that a typo is not ignored.
func unknownField(on endpoint, name string) *fault {
	f := &fault{kind: invalidValue, code: "unknown_parameter", param: name}
	base, _, _ := strings.Cut(name, "[") // objects and lists arrive as svg[model], subjects[]
	if why, ok := unsupported[base]; ok {
		f.code, f.param = "unsupported_parameter", base
		f.message = fmt.Sprintf("%s is not supported: %s", base, why)
		return f
	}
	f.message = fmt.Sprintf("unknown field %s", value{text: name}.short())
	if near := nearest(on, base); near != "" {
		f.message += fmt.Sprintf("; did you mean %s?", near)
	}
	return f
}

// nearest is the field whose name is at most a third of its letters away.
func nearest(on endpoint, name string) string {
	names := []string{}
	for _, f := range fields {
		if f.on&on != 0 {
			names = append(names, f.name)
		}
	}
	if on == edits {
		names = append(names, "image", "images")
	}
	best, least := "", len(name)/3+1
	for _, n := range names {
		if d := distance(n, name); d < least {
			best, least = n, d
		}
	}
	return best
}

// distance is the Levenshtein distance in bytes, of names up to 64 long.
func distance(a, b string) int {
	if len(b) > 64 {
		return len(b)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// list joins words: "a", "a or b", "a, b or c".
func list(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
