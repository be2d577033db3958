package networks

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// ContractError lists what a set of models lacks of the contract.
type ContractError struct{ Faults []error }

func (e *ContractError) Error() string {
	return "the models in Triton do not fit the contract: " + strings.ReplaceAll(errors.Join(e.Faults...).Error(), "\n", "; ")
}

func (e *ContractError) Unwrap() []error { return e.Faults }

// contract is what the models in Triton say of their tensors.
type contract struct {
	dims    pipeline.Dimensions
	tensors map[string]map[string]declared // model, tensor
}

type declared struct {
	datatype tritonclient.Datatype
	shape    []int64 // of one row
}

// tensorSpec is a line of the contract. A dimension is a number, or a name
// whose value must be the same wherever it stands.
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
	{model: "unet_tdm", tensor: "sample", shape: []string{"C", "h", "w"}},
	{model: "unet_tdm", tensor: "timestep", shape: []string{"1"}},
	{model: "unet_tdm", tensor: "encoder_hidden_states", shape: []string{"L", "D"}},
	{model: "unet_tdm", tensor: "noise_pred", output: true, shape: []string{"C", "h", "w"}},
	{model: "unet_sdm", tensor: "sample", shape: []string{"C", "h", "w"}},
	{model: "unet_sdm", tensor: "timestep", shape: []string{"1"}},
	{model: "unet_sdm", tensor: "encoder_hidden_states", shape: []string{"L", "D"}},
	{model: "unet_sdm", tensor: "noise_pred", output: true, shape: []string{"C", "h", "w"}},
	{model: "vae_decoder", tensor: "latents", shape: []string{"C", "h", "w"}},
	{model: "vae_decoder", tensor: "image", output: true, shape: []string{"3", "H", "W"}},
	{model: SafetyChecker, tensor: "pixel_values", shape: []string{"3", "F", "F"}},
	{model: SafetyChecker, tensor: "nsfw_score", output: true, shape: []string{"1"}},
}

// checked are the models that configs are held against the contract for: those that
// must be served, and the one that may be if it is.
func checked(configs map[string]*inference.ModelConfig) []string {
	if configs[SafetyChecker] == nil {
		return Models
	}
	return append(slices.Clone(Models), SafetyChecker)
}

// newContract holds configurations against the specs and reads the
// dimensions off them. The error is a *ContractError with every fault.
func newContract(configs map[string]*inference.ModelConfig) (*contract, error) {
	c := &contract{tensors: make(map[string]map[string]declared)}
	var faults []error
	values := make(map[string]int64)   // of named dimensions
	sources := make(map[string]string) // where they were first seen
	models := checked(configs)
	for _, spec := range specs {
		if !slices.Contains(models, spec.model) {
			continue
		}
		name := spec.model + "." + spec.tensor
		d, err := find(configs[spec.model], spec)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
			continue
		}
		if c.tensors[spec.model] == nil {
			c.tensors[spec.model] = make(map[string]declared)
		}
		c.tensors[spec.model][spec.tensor] = d
		if len(d.shape) != len(spec.shape) {
			faults = append(faults, fmt.Errorf("%s has dims %v, want [%s]", name, d.shape, strings.Join(spec.shape, ", ")))
			continue
		}
		for i, dimension := range spec.shape {
			got := d.shape[i]
			known, seen := values[dimension]
			switch {
			case got < 1:
				faults = append(faults, fmt.Errorf("%s has dims %v, want fixed ones", name, d.shape))
			case dimension == "1" || dimension == "3":
				if fmt.Sprint(got) != dimension {
					faults = append(faults, fmt.Errorf("%s has dims %v, want [%s]", name, d.shape, strings.Join(spec.shape, ", ")))
				}
			case !seen:
				values[dimension], sources[dimension] = got, name
			case known != got:
				faults = append(faults, fmt.Errorf("%s has %s = %d, but %s has %d", name, dimension, got, sources[dimension], known))
			}
		}
	}
	batch := configs[string(pipeline.TDM)].GetMaxBatchSize()
	for _, model := range models {
		got, want := configs[model].GetMaxBatchSize(), int32(1)
		if model == string(pipeline.TDM) || model == string(pipeline.SDM) {
			want = 2 // the pair of rows of one step
			batch = min(batch, got)
		}
		if got < want {
			faults = append(faults, fmt.Errorf("%s has max_batch_size %d, want at least %d", model, got, want))
		}
	}
	if len(faults) > 0 {
		return nil, &ContractError{Faults: faults}
	}
	at := func(name string) int { return int(values[name]) }
	c.dims = pipeline.Dimensions{
		Tokens: at("L"), Embedding: at("D"), Subjects: at("S"), EncoderSize: at("E"), SafetySize: at("F"),
		LatentChannels: at("C"), LatentHeight: at("h"), LatentWidth: at("w"),
		Height: at("H"), Width: at("W"), MaxBatch: int(batch),
	}
	return c, nil
}

// find reads one tensor off a model's configuration.
func find(config *inference.ModelConfig, spec tensorSpec) (declared, error) {
	var names []string
	pick := func(name string, datatype inference.DataType, dims []int64) (declared, bool, error) {
		names = append(names, name)
		if name != spec.tensor {
			return declared{}, false, nil
		}
		d, known := tritonclient.DatatypeOf(datatype)
		if !known || (d == tritonclient.INT64) != spec.integer {
			want := "FP32 or FP16"
			if spec.integer {
				want = "INT64"
			}
			return declared{}, false, fmt.Errorf("datatype %s, want %s", strings.TrimPrefix(datatype.String(), "TYPE_"), want)
		}
		return declared{d, slices.Clone(dims)}, true, nil
	}
	if spec.output {
		for _, t := range config.GetOutput() {
			if d, ok, err := pick(t.Name, t.DataType, t.Dims); ok || err != nil {
				return d, err
			}
		}
	} else {
		for _, t := range config.GetInput() {
			if d, ok, err := pick(t.Name, t.DataType, t.Dims); ok || err != nil {
				return d, err
			}
		}
	}
	return declared{}, fmt.Errorf("missing; the model has %v", names)
}

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
