package httpapi

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/facediffuser/facediffuser/gateway/internal/parameters"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
)

// endpoint is one of the two ways to ask for pictures.
type endpoint parameters.On

const (
	edits       = endpoint(parameters.Edits)
	generations = endpoint(parameters.Generations)
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

func (e endpoint) has(p parameters.Parameter) bool { return p.On&parameters.On(e) != 0 }

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

	fields parameters.Set    // what it may say
	said   map[string]string // every field as it was said
	sizes  []string          // that are served; nil while that is not known
}

func newInput(fields parameters.Set) *input {
	return &input{format: picture.PNG, compression: 100, fields: fields, said: map[string]string{}}
}

// reading is the value of one field. Which part is set follows from the
// parameter's type.
type reading struct {
	text    string
	integer int
	number  float64
	boolean bool
}

// into says where the value of each parameter goes; nil for those that make no
// difference.
var into = map[string]func(*input, reading){
	"prompt":             func(in *input, r reading) { in.params.Prompt = r.text },
	"model":              func(in *input, r reading) { in.model = r.text },
	"n":                  func(in *input, r reading) { in.params.N = r.integer },
	"size":               setSize,
	"output_format":      func(in *input, r reading) { in.format = r.text },
	"output_compression": func(in *input, r reading) { in.compression = r.integer },
	"stream":             func(in *input, r reading) { in.stream = r.boolean },
	"partial_images":     func(in *input, r reading) { in.params.Previews = r.integer },
	"response_format":    nil,
	"quality":            func(in *input, r reading) { in.params.Quality = r.text },
	"input_fidelity":     func(in *input, r reading) { in.params.InputFidelity = r.text },
	"background":         nil,
	"moderation":         nil,
	"user":               func(in *input, r reading) { in.plainUser = r.text },
	"safety_identifier":  func(in *input, r reading) { in.safetyID = r.text },

	"negative_prompt":     func(in *input, r reading) { in.params.NegativePrompt = r.text },
	"seed":                func(in *input, r reading) { seed := uint32(r.integer); in.params.Seed = &seed },
	"scheduler":           func(in *input, r reading) { in.params.Scheduler = r.text },
	"num_inference_steps": func(in *input, r reading) { in.params.Steps = &r.integer },
	"guidance_scale":      func(in *input, r reading) { in.params.GuidanceScale = &r.number },
	"eta":                 func(in *input, r reading) { in.params.Eta = &r.number },
	"start_merge_step":    func(in *input, r reading) { in.params.StartMergeStep = &r.integer },
	"final_step":          func(in *input, r reading) { in.params.FinalStep = &r.integer },
	"return_fusion_map":   func(in *input, r reading) { in.params.FusionMap = r.boolean },
	"progress":            func(in *input, r reading) { in.progress = r.boolean },
}

// setSize takes what the parameter's pattern matches.
func setSize(in *input, r reading) {
	if width, height, ok := strings.Cut(r.text, "x"); ok {
		in.params.Width, _ = strconv.Atoi(width) // digits, as matched
		in.params.Height, _ = strconv.Atoi(height)
	}
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

// read makes a reading of a value; false when it is not what the parameter wants.
func (v value) read(p parameters.Parameter) (r reading, ok bool) {
	switch p.Type {
	case parameters.Text:
		r.text, ok = v.str()
		return r, ok && p.Takes(r.text)
	case parameters.Boolean:
		if v.json == nil {
			r.boolean = strings.EqualFold(v.text, "true") // Python writes True
			return r, r.boolean || strings.EqualFold(v.text, "false")
		}
		r.boolean, ok = v.json.(bool)
		return r, ok
	case parameters.Integer:
		r.integer, ok = v.integer()
		return r, ok && p.Holds(float64(r.integer))
	case parameters.Number:
		r.number, ok = v.number()
		return r, ok && p.Holds(r.number)
	}
	return r, false
}

func (v value) str() (string, bool) {
	if v.json == nil {
		return v.text, true
	}
	s, ok := v.json.(string)
	return s, ok
}

func (v value) number() (float64, bool) {
	s, ok := v.numeral()
	if !ok {
		return 0, false
	}
	x, err := strconv.ParseFloat(s, 64)
	return x, err == nil
}

// numeral is the value as JSON writes a number, in forms too: what else Go reads
// as a number, such as 1_0 or 0x1p2, no client means.
func (v value) numeral() (string, bool) {
	if v.json == nil {
		s := strings.TrimSpace(v.text)
		return s, parameters.Numeral(s)
	}
	n, ok := v.json.(json.Number)
	return n.String(), ok
}

// integer takes 7.0 and 7e0 for 7, as JSON Schema does: some languages write
// every number so.
func (v value) integer() (int, bool) {
	s, ok := v.numeral()
	if !ok {
		return 0, false
	}
	return parameters.Whole(s)
}

// set puts one field of a request into the input.
func (in *input) set(on endpoint, name string, v value, where place) error {
	p, ok := in.fields.Find(name)
	if !ok {
		return in.unknownField(on, name, where)
	}
	if !on.has(p) {
		return invalid(name, "%s is a field of %s, not of %s", name, (endpoint(parameters.Both) &^ on).path(), on.path())
	}
	if s, ok := v.str(); ok {
		if why := p.Refusal(s); why != "" {
			return &fault{kind: invalidValue, code: "unsupported_value", param: name, message: why}
		}
	}
	r, ok := v.read(p)
	if !ok {
		fault := invalid(name, "%s must be %s, not %s", name, p.Want(), v.short())
		if name == "size" && in.sizes != nil {
			fault.message += "; this family serves " + parameters.List(in.sizes)
		}
		return fault
	}
	if put := into[name]; put != nil {
		put(in, r)
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

// known says whether a field means something, here or at OpenAI, so that a
// request may say it without a value.
func (in *input) known(name string) bool {
	_, served := in.fields.Find(name)
	_, unserved := parameters.Unsupported[base(name)]
	return served || unserved || base(name) == "image" || base(name) == "images"
}

// place is where a request says a field.
type place int

const (
	inForm place = iota
	inJSON
)

// misplaced says where pictures belong; empty for a field that is none of theirs.
func misplaced(on endpoint, name string, where place) string {
	switch {
	case name != "image" && name != "images" && name != "image_url":
		return ""
	case on == generations:
		return "the images of subjects go to " + edits.path() + "; this endpoint takes none"
	case where == inJSON:
		return `in JSON, pictures are images: [{"image_url": "data:image/png;base64,…"}]`
	}
	return "in a form, pictures are files in image, repeated or as image[] where there are several"
}

// base is the name of the field that svg[model] and subjects[] are parts of.
func base(name string) string {
	name, _, _ = strings.Cut(name, "[")
	return name
}

// unknownField refuses a field that is not one, so that a typo is not ignored.
func (in *input) unknownField(on endpoint, name string, where place) *fault {
	f := &fault{kind: invalidValue, code: "unknown_parameter", param: name}
	base := base(name)
	if why, ok := parameters.Unsupported[base]; ok {
		f.code, f.param = "unsupported_parameter", base
		f.message = fmt.Sprintf("%s is not supported: %s", base, why)
		return f
	}
	f.message = fmt.Sprintf("unknown field %s", value{text: name}.short())
	if right := misplaced(on, base, where); right != "" {
		f.message += ": " + right
		return f
	}
	if near := in.nearest(on, base); near != "" {
		f.message += fmt.Sprintf("; did you mean %s?", near)
	}
	return f
}

// nearest is the field whose name was probably meant.
func (in *input) nearest(on endpoint, name string) string {
	var names []string
	for _, p := range in.fields {
		if on.has(p) {
			names = append(names, p.Name)
		}
	}
	if on == edits {
		names = append(names, "image", "images")
	}
	return nearest(name, name, names)
}
