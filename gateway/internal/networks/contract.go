package networks

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// Code names a kind of fault. docs/troubleshooting.md has a row for each.
type Code string

// What the configuration of a model can have against the contract.
const (
	ModelMissing     Code = "model_missing"
	TensorMissing    Code = "tensor_missing"
	TensorUnexpected Code = "tensor_unexpected"
	WrongDatatype    Code = "datatype"
	WrongShape       Code = "shape"
	WrongBatchSize   Code = "batch_size"
	NoBatching       Code = "dynamic_batching"
	Decoupled        Code = "decoupled"
	WrongResolution  Code = "object_resolution"
	WrongWeights     Code = "weights"
)

// Fault is one thing in which a set of models does not fit the contract.
type Fault struct {
	Code    Code   `json:"code"`
	Warning bool   `json:"warning"` // the models can be used, at a price
	Model   string `json:"model"`   // "" if it is not of one model
	What    string `json:"what"`    // the tensor or the setting; "" for the whole model
	Found   string `json:"found"`
	Want    string `json:"want"`
	Remedy  string `json:"remedy"` // what to do
}

func (f Fault) String() string {
	return fmt.Sprintf("%s: found %s, want %s", strings.TrimSpace(f.Model+" "+f.What), f.Found, f.Want)
}

// ContractError lists the faults, warnings left out, of a set of models.
type ContractError struct{ Faults []Fault }

func (e *ContractError) Error() string {
	said := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		said[i] = f.String()
	}
	return "the models in Triton do not fit the contract (`facediffuser doctor` says what to do): " + strings.Join(said, "; ")
}

// contract is what the models in Triton say of their tensors.
type contract struct {
	dims    pipeline.Dimensions
	tensors map[string]map[string]declared // model, tensor
}

type declared struct {
	datatype tritonclient.Datatype
	shape    []int64 // of one row
}

// tensorSpec is a line of the contract. A dimension is a number, a name whose
// value must be the same wherever it stands, or a multiple of such a name that
// stands further up.
type tensorSpec struct {
	model, tensor string
	output        bool
	integer       bool
	shape         []string
}

var specs = []tensorSpec{
	{model: "text_encoder", tensor: "input_ids", integer: true, shape: []string{"L"}},
	{model: "text_encoder", tensor: "hidden_states", output: true, shape: []string{"L", "D"}},
	{model: "image_encoder", tensor: "pixel_values", shape: []string{"3", "E", "E"}},
	{model: "image_encoder", tensor: "image_embeds", output: true, shape: []string{"D"}},
	{model: "subject_fuser", tensor: "hidden_states", shape: []string{"L", "D"}},
	{model: "subject_fuser", tensor: "image_embeds", shape: []string{"S", "D"}},
	{model: "subject_fuser", tensor: "subject_positions", integer: true, shape: []string{"S"}},
	{model: "subject_fuser", tensor: "hidden_states_augmented", output: true, shape: []string{"L", "D"}},
	{model: "unet_tdm", tensor: "sample", shape: []string{"4", "h", "w"}},
	{model: "unet_tdm", tensor: "timestep", shape: []string{"1"}},
	{model: "unet_tdm", tensor: "encoder_hidden_states", shape: []string{"L", "D"}},
	{model: "unet_tdm", tensor: "noise_pred", output: true, shape: []string{"4", "h", "w"}},
	{model: "unet_sdm", tensor: "sample", shape: []string{"4", "h", "w"}},
	{model: "unet_sdm", tensor: "timestep", shape: []string{"1"}},
	{model: "unet_sdm", tensor: "encoder_hidden_states", shape: []string{"L", "D"}},
	{model: "unet_sdm", tensor: "noise_pred", output: true, shape: []string{"4", "h", "w"}},
	{model: "vae_decoder", tensor: "latents", shape: []string{"4", "h", "w"}},
	{model: "vae_decoder", tensor: "image", output: true, shape: []string{"3", "8h", "8w"}},
	{model: SafetyChecker, tensor: "pixel_values", shape: []string{"3", "F", "F"}},
	{model: SafetyChecker, tensor: "nsfw_score", output: true, shape: []string{"1"}},
}

// WeightsParameter is the parameter of a model's configuration in which an
// export may say whose weights it holds: weights_sha256 of pipeline.json.
const WeightsParameter = "weights_sha256"

// Check holds the configurations of a set of models, by name, against the
// contract and against the family that the gateway loads. Models must be served,
// and so must optional ones, which is to say SafetyChecker. It gives every fault,
// model by model.
func Check(configs map[string]*inference.ModelConfig, f *family.Family, optional ...string) []Fault {
	_, faults := check(configs, f, optional...)
	return faults
}

// newContract reads the contract off the configurations. The error is a *ContractError.
func newContract(configs map[string]*inference.ModelConfig, f *family.Family, optional ...string) (*contract, error) {
	c, faults := check(configs, f, optional...)
	if faults = slices.DeleteFunc(faults, func(f Fault) bool { return f.Warning }); len(faults) > 0 {
		return nil, &ContractError{Faults: faults}
	}
	return c, nil
}

// checked are the models that configs are held against the contract for: those that
// must be served, and the one that may be if it is.
func checked(configs map[string]*inference.ModelConfig, optional []string) []string {
	models := slices.Concat(Models, optional)
	if configs[SafetyChecker] != nil && !slices.Contains(models, SafetyChecker) {
		models = append(models, SafetyChecker)
	}
	return models
}

// check does the work of Check; the contract means something when no fault is
// more than a warning.
func check(configs map[string]*inference.ModelConfig, f *family.Family, optional ...string) (*contract, []Fault) {
	c := &checker{
		family: f,
		sizes:  map[string]size{"": {1, ""}, "L": {tokenizer.Length, "the tokenizer"}},
		found:  &contract{tensors: make(map[string]map[string]declared)},
	}
	for _, model := range checked(configs, optional) {
		c.model, c.config = model, configs[model]
		c.checkModel()
	}
	c.model, c.config = "", nil
	c.checkResolution()
	at := func(name string) int { return int(c.sizes[name].value) }
	c.found.dims = pipeline.Dimensions{
		Tokens: at("L"), Embedding: at("D"), Subjects: at("S"), EncoderSize: at("E"), SafetySize: at("F"),
		LatentChannels: 4, LatentHeight: at("h"), LatentWidth: at("w"), Height: 8 * at("h"), Width: 8 * at("w"),
		MaxBatch: int(min(configs[string(pipeline.TDM)].GetMaxBatchSize(), configs[string(pipeline.SDM)].GetMaxBatchSize())),
	}
	return c.found, c.faults
}

// checker walks through the models.
type checker struct {
	family *family.Family
	sizes  map[string]size // of named dimensions
	found  *contract
	faults []Fault

	model  string
	config *inference.ModelConfig
}

// size is the value of a named dimension and who was the first to say it.
type size struct {
	value  int64
	source string
}

func (c *checker) fault(code Code, what, found, want, remedy string) {
	c.faults = append(c.faults, Fault{Code: code, Model: c.model, What: what, Found: found, Want: want, Remedy: remedy})
}

func (c *checker) warn(code Code, what, found, want, remedy string) {
	c.fault(code, what, found, want, remedy)
	c.faults[len(c.faults)-1].Warning = true
}

func (c *checker) checkModel() {
	if c.config == nil {
		c.fault(ModelMissing, "", "no such model", "one that is loaded", "put it into the model repository that Triton loads")
		return
	}
	c.found.tensors[c.model] = make(map[string]declared)
	known := map[string]bool{}
	for _, spec := range specs {
		if spec.model == c.model {
			known[spec.tensor] = true
			c.checkTensor(spec)
		}
	}
	for _, in := range c.config.Input {
		if !known[in.Name] && !in.Optional {
			c.fault(TensorUnexpected, "input "+in.Name, "one that every call must carry", "no such input",
				"export the model without it, or say `optional: true` in config.pbtxt: the gateway does not send it")
		}
	}
	c.checkBatching()
	if c.config.GetModelTransactionPolicy().GetDecoupled() {
		c.fault(Decoupled, "model_transaction_policy", "decoupled: true", "one answer a call", "take it out of config.pbtxt")
	}
	if says := c.config.Parameters[WeightsParameter].GetStringValue(); says != "" && says != c.family.WeightsSHA256 {
		c.fault(WrongWeights, "parameter "+WeightsParameter, says, c.family.WeightsSHA256+", as in pipeline.json",
			"let --family name the folder that belongs to the models that Triton serves")
	}
}

func (c *checker) checkBatching() {
	got, unet := c.config.MaxBatchSize, c.model == string(pipeline.TDM) || c.model == string(pipeline.SDM)
	const remedy = "export the model with a dynamic batch and raise max_batch_size in config.pbtxt"
	switch found := fmt.Sprint(got); {
	case unet && got < 2:
		c.fault(WrongBatchSize, "max_batch_size", found, "2 or more, for the two rows of a step", remedy)
	case got < 1:
		c.fault(WrongBatchSize, "max_batch_size", found, "1 or more: tensors have a batch dimension", remedy)
	case unet && got < 4:
		c.warn(WrongBatchSize, "max_batch_size", found, "4 or more, for the steps of two pictures", remedy+": pictures run one after another")
	}
	if unet && got > 1 && c.config.GetDynamicBatching() == nil {
		c.warn(NoBatching, "dynamic_batching", "none", "dynamic_batching {}",
			"add it to config.pbtxt: without it, steps of different pictures never share an execution")
	}
}

// checkTensor reads one tensor off the model's configuration.
func (c *checker) checkTensor(spec tensorSpec) {
	what, names := "input "+spec.tensor, []string(nil)
	var datatype inference.DataType
	var dims []int64
	read := func(name string, d inference.DataType, of []int64) {
		if names = append(names, name); name == spec.tensor {
			datatype, dims = d, slices.Clone(of)
		}
	}
	if spec.output {
		what = "output " + spec.tensor
		for _, t := range c.config.Output {
			read(t.Name, t.DataType, t.Dims)
		}
	} else {
		for _, t := range c.config.Input {
			read(t.Name, t.DataType, t.Dims)
		}
	}
	if !slices.Contains(names, spec.tensor) {
		c.fault(TensorMissing, what, "only "+strings.Join(names, ", "), "one of that name",
			"give it this name where the model is exported and in config.pbtxt")
		return
	}
	wire, known := tritonclient.DatatypeOf(datatype)
	if !known || (wire == tritonclient.INT64) != spec.integer {
		want := "FP32 or FP16"
		if spec.integer {
			want = "INT64"
		}
		c.fault(WrongDatatype, what, strings.TrimPrefix(datatype.String(), "TYPE_"), want,
			"export the tensor with this datatype and say so in config.pbtxt")
	}
	c.found.tensors[c.model][spec.tensor] = declared{wire, dims}
	c.checkShape(spec, what, dims)
}

// checkShape compares dims with the spec; a name that has no value yet takes the one found.
func (c *checker) checkShape(spec tensorSpec, what string, dims []int64) {
	if slices.ContainsFunc(dims, func(d int64) bool { return d < 1 }) {
		c.fault(WrongShape, what, "dims "+list(dims), "fixed ones: only the batch may vary", "state every dimension in config.pbtxt")
		return
	}
	fits := len(dims) == len(spec.shape)
	want, because := make([]string, len(spec.shape)), ""
	for i, dimension := range spec.shape {
		factor, name := split(dimension)
		if _, seen := c.sizes[name]; !seen && factor == 1 && len(dims) == len(spec.shape) {
			c.sizes[name] = size{dims[i], spec.model + "." + spec.tensor}
		}
		known, seen := c.sizes[name]
		if !seen {
			want[i] = dimension // what would say it has a fault itself
			continue
		}
		want[i] = fmt.Sprint(factor * known.value)
		if len(dims) == len(spec.shape) && dims[i] != factor*known.value {
			fits = false
			if name != "" && !strings.Contains(because, ", "+name+" =") {
				because += fmt.Sprintf(", %s = %d as in %s", name, known.value, known.source)
			}
		}
	}
	if !fits {
		c.fault(WrongShape, what, "dims "+list(dims), "["+strings.Join(want, ", ")+"]"+because,
			"serve models that were exported together, with the dims of their files in config.pbtxt")
	}
}

// split takes a dimension of the specs apart: "8h" is 8 times h, "h" once, and "3" is
// 3 times the name "", whose value is 1.
func split(dimension string) (factor int64, name string) {
	name = strings.TrimLeft(dimension, "0123456789")
	if name == dimension {
		return 1, name
	}
	factor, _ = strconv.ParseInt(strings.TrimSuffix(dimension, name), 10, 64) // digits
	return factor, name
}

// checkResolution holds pipeline.json against the sizes of the models. A reference
// image is resized to object_resolution and from there to the image encoder's size, so
// it lies between what the encoder sees and what a picture has. Another one is the sign
// of another family's folder, of which nothing else would tell.
func (c *checker) checkResolution() {
	encoder, h, w := c.sizes["E"].value, c.sizes["h"].value, c.sizes["w"].value
	if encoder == 0 || h == 0 || w == 0 {
		return // a fault already
	}
	picture := 8 * max(h, w)
	least, most := min(encoder, picture), max(encoder, picture)
	if side := int64(c.family.ObjectResolution); side < least || side > most {
		c.fault(WrongResolution, "object_resolution of pipeline.json", fmt.Sprint(side),
			fmt.Sprintf("%d to %d: the image encoder takes %d pixels, a picture has %d", least, most, encoder, picture),
			"let --family name the folder that belongs to the models that Triton serves")
	}
}

// list writes dims as config.pbtxt does.
func list(dims []int64) string { return strings.ReplaceAll(fmt.Sprint(dims), " ", ", ") }

func (c *contract) float32(model, name string, rows int64, values ...[]float32) tritonclient.Tensor {
	d := c.tensors[model][name]
	return tritonclient.Float32(name, d.datatype, batched(rows, d.shape), values...)
}

func (c *contract) int64(model, name string, rows int64, values ...[]int64) tritonclient.Tensor {
	return tritonclient.Int64(name, batched(rows, c.tensors[model][name].shape), values...)
}

func batched(rows int64, shape []int64) []int64 { return append([]int64{rows}, shape...) }

func elements(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}
