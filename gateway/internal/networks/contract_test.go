package networks

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// sd15Family is what this package asks of a family of Stable Diffusion 1.5's sizes.
var sd15Family = &family.Family{ObjectResolution: 512, WeightsSHA256: strings.Repeat("5", 64)}

// sd15 are configurations of Stable Diffusion 1.5's dimensions, served in FP16.
func sd15() map[string]*inference.ModelConfig {
	values := map[string]int64{"": 1, "L": 77, "D": 768, "S": 4, "E": 224, "F": 336, "h": 64, "w": 64}
	all := make(map[string]*inference.ModelConfig)
	for _, model := range append(slices.Clone(Models), SafetyChecker) {
		all[model] = &inference.ModelConfig{Name: model, MaxBatchSize: 16,
			SchedulingChoice: &inference.ModelConfig_DynamicBatching{DynamicBatching: &inference.ModelDynamicBatching{}}}
	}
	for _, spec := range specs {
		datatype := inference.DataType_TYPE_FP16
		if spec.integer {
			datatype = inference.DataType_TYPE_INT64
		}
		var dims []int64
		for _, d := range spec.shape {
			factor, name := split(d)
			dims = append(dims, factor*values[name])
		}
		config := all[spec.model]
		if spec.output {
			config.Output = append(config.Output, &inference.ModelOutput{Name: spec.tensor, DataType: datatype, Dims: dims})
		} else {
			config.Input = append(config.Input, &inference.ModelInput{Name: spec.tensor, DataType: datatype, Dims: dims})
		}
	}
	return all
}

func TestDimensionsAreRead(t *testing.T) {
	configs := sd15()
	configs["unet_sdm"].MaxBatchSize = 6
	if faults := Check(configs, sd15Family); len(faults) > 0 {
		t.Errorf("faults of what fits: %v", faults)
	}
	c, err := newContract(configs, sd15Family)
	if err != nil {
		t.Fatal(err)
	}
	d := c.dims
	if d.Tokens != 77 || d.Embedding != 768 || d.Subjects != 4 || d.EncoderSize != 224 || d.Latent() != 4*64*64 || d.Width != 512 || d.Height != 512 {
		t.Errorf("dimensions %+v", d)
	}
	if d.MaxBatch != 6 {
		t.Errorf("batch %d, want the smaller one of the two UNets, 6", d.MaxBatch)
	}
}

func TestASafetyCheckerMayBeMissing(t *testing.T) {
	configs := sd15()
	delete(configs, SafetyChecker)
	if c, err := newContract(configs, sd15Family); err != nil || c.dims.SafetySize != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	faults := Check(configs, sd15Family, SafetyChecker)
	if len(faults) != 1 || faults[0].Code != ModelMissing || faults[0].Model != SafetyChecker {
		t.Errorf("where pictures are to be checked: %v", faults)
	}
}

// configured are models that nobody runs.
type configured map[string]*inference.ModelConfig

func (c configured) ModelConfig(_ context.Context, model string) (*inference.ModelConfig, error) {
	if c[model] == nil {
		return nil, &tritonclient.Error{Op: "ModelConfig", Model: model, Kind: tritonclient.NotFound}
	}
	return c[model], nil
}

func (configured) Infer(context.Context, tritonclient.Request) (*tritonclient.Response, error) {
	return nil, errors.New("not meant to be called")
}

// TestASafetyCheckerThatIsWantedMustBeThere: or pictures would go unchecked.
func TestASafetyCheckerThatIsWantedMustBeThere(t *testing.T) {
	configs := configured(sd15())
	delete(configs, SafetyChecker)
	if _, err := New(configs, sd15Family, 0).Dimensions(t.Context()); err != nil {
		t.Errorf("not wanted: %v", err)
	}
	_, err := New(configs, sd15Family, 0, SafetyChecker).Dimensions(t.Context())
	var missing *tritonclient.Error
	if !errors.As(err, &missing) || missing.Model != SafetyChecker || missing.Kind != tritonclient.NotFound {
		t.Errorf("wanted: %v", err)
	}
}

// TestContractNamesWhatDoesNotFit: one change of what fits gives one fault, which says
// where it is; only warnings leave the models in use.
func TestContractNamesWhatDoesNotFit(t *testing.T) {
	type configs = map[string]*inference.ModelConfig
	for name, c := range map[string]struct {
		change  func(configs)
		code    Code
		want    string
		warning bool
	}{
		"missing model": {change: func(m configs) { delete(m, "vae_decoder") }, code: ModelMissing,
			want: "vae_decoder: found no such model, want one that is loaded"},
		"renamed output": {change: func(m configs) { m["unet_tdm"].Output[0].Name = "x" }, code: TensorMissing,
			want: "unet_tdm output noise_pred: found only x, want one of that name"},
		"datatype": {change: func(m configs) { m["text_encoder"].Input[0].DataType = inference.DataType_TYPE_INT32 }, code: WrongDatatype,
			want: "text_encoder input input_ids: found INT32, want INT64"},
		"integers for floats": {change: func(m configs) { m["unet_sdm"].Output[0].DataType = inference.DataType_TYPE_INT64 }, code: WrongDatatype,
			want: "unet_sdm output noise_pred: found INT64, want FP32 or FP16"},
		"another float": {change: func(m configs) { m["unet_sdm"].Input[0].DataType = inference.DataType_TYPE_BF16 }, code: WrongDatatype,
			want: "unet_sdm input sample: found BF16, want FP32 or FP16"},
		"rank": {change: func(m configs) { m["unet_sdm"].Input[0].Dims = []int64{4, 64} }, code: WrongShape,
			want: "unet_sdm input sample: found dims [4, 64], want [4, 64, 64]"},
		"width": {change: func(m configs) { m["unet_sdm"].Input[2].Dims[1] = 1024 }, code: WrongShape,
			want: "unet_sdm input encoder_hidden_states: found dims [77, 1024], want [77, 768], D = 768 as in text_encoder.hidden_states"},
		"tokens": {change: func(m configs) { m["unet_tdm"].Input[2].Dims[0] = 64 }, code: WrongShape,
			want: "unet_tdm input encoder_hidden_states: found dims [64, 768], want [77, 768], L = 77 as in the tokenizer"},
		"latents": {change: func(m configs) { m["vae_decoder"].Input[0].Dims = []int64{4, 32, 48} }, code: WrongShape,
			want: "vae_decoder input latents: found dims [4, 32, 48], want [4, 64, 64], h = 64 as in unet_tdm.sample, w = 64 as in unet_tdm.sample"},
		"latent channels": {change: func(m configs) { m["unet_tdm"].Input[0].Dims[0] = 16 }, code: WrongShape,
			want: "unet_tdm input sample: found dims [16, 64, 64], want [4, 64, 64]"},
		"subject slots": {change: func(m configs) { m["subject_fuser"].Input[2].Dims[0] = 3 }, code: WrongShape,
			want: "subject_fuser input subject_positions: found dims [3], want [4], S = 4 as in subject_fuser.image_embeds"},
		"size of a picture": {change: func(m configs) { m["vae_decoder"].Output[0].Dims = []int64{3, 512, 768} }, code: WrongShape,
			want: "vae_decoder output image: found dims [3, 512, 768], want [3, 512, 512], w = 64 as in unet_tdm.sample"},
		"free size": {change: func(m configs) { m["vae_decoder"].Input[0].Dims[1] = -1 }, code: WrongShape,
			want: "vae_decoder input latents: found dims [4, -1, 64], want fixed ones: only the batch may vary"},
		"colours": {change: func(m configs) { m["vae_decoder"].Output[0].Dims[0] = 4 }, code: WrongShape,
			want: "vae_decoder output image: found dims [4, 512, 512], want [3, 512, 512]"},
		"shared time": {change: func(m configs) { m["unet_tdm"].Input[1].Dims = []int64{2} }, code: WrongShape,
			want: "unet_tdm input timestep: found dims [2], want [1]"},
		"one more input": {change: func(m configs) {
			m["text_encoder"].Input = append(m["text_encoder"].Input, &inference.ModelInput{Name: "attention_mask", DataType: inference.DataType_TYPE_INT64, Dims: []int64{77}})
		}, code: TensorUnexpected, want: "text_encoder input attention_mask: found one that every call must carry, want no such input"},
		"two scores": {change: func(m configs) { m[SafetyChecker].Output[0].Dims = []int64{2} }, code: WrongShape,
			want: "safety_checker output nsfw_score: found dims [2], want [1]"},
		"oblong": {change: func(m configs) { m[SafetyChecker].Input[0].Dims[2] = 224 }, code: WrongShape,
			want: "safety_checker input pixel_values: found dims [3, 336, 224], want [3, 336, 336]"},
		"no batching of the checker": {change: func(m configs) { m[SafetyChecker].MaxBatchSize = 0 }, code: WrongBatchSize,
			want: "safety_checker max_batch_size: found 0, want 1 or more"},
		"no pair": {change: func(m configs) { m["unet_tdm"].MaxBatchSize = 1 }, code: WrongBatchSize,
			want: "unet_tdm max_batch_size: found 1, want 2 or more"},
		"no batching": {change: func(m configs) { m["text_encoder"].MaxBatchSize = 0 }, code: WrongBatchSize,
			want: "text_encoder max_batch_size: found 0, want 1 or more"},
		"no batching of a UNet": {change: func(m configs) { m["unet_sdm"].MaxBatchSize = 0 }, code: WrongBatchSize,
			want: "unet_sdm max_batch_size: found 0, want 2 or more"},
		"one picture at once": {change: func(m configs) { m["unet_sdm"].MaxBatchSize = 3 }, code: WrongBatchSize, warning: true,
			want: "unet_sdm max_batch_size: found 3, want 4 or more"},
		"no dynamic batching": {change: func(m configs) { m["unet_tdm"].SchedulingChoice = nil }, code: NoBatching, warning: true,
			want: "unet_tdm dynamic_batching: found none, want dynamic_batching {}"},
		"stream of answers": {change: func(m configs) {
			m["vae_decoder"].ModelTransactionPolicy = &inference.ModelTransactionPolicy{Decoupled: true}
		}, code: Decoupled, want: "vae_decoder model_transaction_policy: found decoupled: true, want one answer a call"},
		"other weights": {change: func(m configs) {
			m["unet_sdm"].Parameters = map[string]*inference.ModelParameter{"weights_sha256": {StringValue: "6666"}}
		}, code: WrongWeights, want: "unet_sdm parameter weights_sha256: found 6666, want 5555"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := sd15()
			c.change(changed)
			faults := Check(changed, sd15Family)
			if len(faults) != 1 || faults[0].Code != c.code || faults[0].Warning != c.warning ||
				!strings.HasPrefix(faults[0].String(), c.want) || faults[0].Remedy == "" {
				t.Errorf("faults %+v, want one %s with %q", faults, c.code, c.want)
			}
			_, err := newContract(changed, sd15Family)
			var broken *ContractError
			if c.warning {
				if err != nil {
					t.Errorf("a warning keeps the models from being used: %v", err)
				}
			} else if !errors.As(err, &broken) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestResolutionOfTheFamily: 128 is mini's, whose folder is used when none is named.
func TestResolutionOfTheFamily(t *testing.T) {
	for resolution, fits := range map[int]bool{128: false, 223: false, 224: true, 256: true, 512: true, 513: false} {
		faults := Check(sd15(), &family.Family{ObjectResolution: resolution})
		if fits && len(faults) == 0 {
			continue
		}
		if fits || len(faults) != 1 || faults[0].Code != WrongResolution || faults[0].Warning || !strings.Contains(faults[0].Remedy, "--family") ||
			!strings.HasPrefix(faults[0].Want, "224 to 512") {
			t.Errorf("%d: faults %+v", resolution, faults)
		}
	}
}

func TestWeightsOfTheFamily(t *testing.T) {
	configs := sd15()
	for _, c := range configs {
		c.Parameters = map[string]*inference.ModelParameter{"weights_sha256": {StringValue: sd15Family.WeightsSHA256}}
	}
	if faults := Check(configs, sd15Family); len(faults) > 0 {
		t.Errorf("faults %v", faults)
	}
}

// TestEveryFaultIsNamed: one fault hides no other.
func TestEveryFaultIsNamed(t *testing.T) {
	faults := Check(nil, sd15Family)
	if len(faults) != len(Models) {
		t.Errorf("faults %v, want one a model", faults)
	}
	configs := sd15()
	configs["unet_tdm"].Input = configs["unet_tdm"].Input[:1]
	configs["unet_tdm"].Output[0].DataType = inference.DataType_TYPE_FP64
	configs["vae_decoder"].Input[0].Dims[0] = 8
	if faults := Check(configs, sd15Family); len(faults) != 4 {
		t.Errorf("faults %v, want 4", faults)
	}
}
