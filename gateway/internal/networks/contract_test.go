package networks

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// configs of Stable Diffusion 1.5's dimensions, served in FP16, with a safety checker
// of another size than its own.
func sd15() map[string]*inference.ModelConfig {
	values := map[string]int64{"L": 77, "D": 768, "S": 4, "E": 224, "F": 336, "C": 4, "h": 64, "w": 64, "H": 512, "W": 512, "1": 1, "3": 3}
	all := make(map[string]*inference.ModelConfig)
	for _, model := range append(slices.Clone(Models), SafetyChecker) {
		all[model] = &inference.ModelConfig{Name: model, MaxBatchSize: 16}
	}
	for _, spec := range specs {
		datatype := inference.DataType_TYPE_FP16
		if spec.integer {
			datatype = inference.DataType_TYPE_INT64
		}
		var dims []int64
		for _, d := range spec.shape {
			dims = append(dims, values[d])
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
	c, err := newContract(configs)
	if err != nil {
		t.Fatal(err)
	}
	d := c.dims
	if d.Tokens != 77 || d.Embedding != 768 || d.Subjects != 4 || d.EncoderSize != 224 || d.Latent() != 4*64*64 || d.Width != 512 || d.Height != 512 {
		t.Errorf("dimensions %+v", d)
	}
	if d.SafetySize != 336 {
		t.Errorf("safety size %d, want 336", d.SafetySize)
	}
	if d.MaxBatch != 6 {
		t.Errorf("batch %d, want the smaller one of the two UNets, 6", d.MaxBatch)
	}
}

func TestASafetyCheckerMayBeMissing(t *testing.T) {
	configs := sd15()
	delete(configs, SafetyChecker)
	if c, err := newContract(configs); err != nil || c.dims.SafetySize != 0 {
		t.Errorf("%+v, %v", c, err)
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
	if _, err := New(configs, 0).Dimensions(t.Context()); err != nil {
		t.Errorf("not wanted: %v", err)
	}
	_, err := New(configs, 0, SafetyChecker).Dimensions(t.Context())
	var missing *tritonclient.Error
	if !errors.As(err, &missing) || missing.Model != SafetyChecker || missing.Kind != tritonclient.NotFound {
		t.Errorf("wanted: %v", err)
	}
}

func TestContractNamesWhatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		change func(map[string]*inference.ModelConfig)
		want   string
	}{
		"missing model":  {func(m map[string]*inference.ModelConfig) { delete(m, "vae_decoder") }, "vae_decoder.latents: missing"},
		"renamed tensor": {func(m map[string]*inference.ModelConfig) { m["unet_tdm"].Input[0].Name = "x" }, "unet_tdm.sample: missing; the model has [x timestep encoder_hidden_states]"},
		"datatype": {func(m map[string]*inference.ModelConfig) {
			m["text_encoder"].Input[0].DataType = inference.DataType_TYPE_INT32
		}, "text_encoder.input_ids: datatype INT32, want INT64"},
		"integers for floats": {func(m map[string]*inference.ModelConfig) {
			m["unet_sdm"].Output[0].DataType = inference.DataType_TYPE_INT64
		}, "unet_sdm.noise_pred: datatype INT64, want FP32 or FP16"},
		"rank":              {func(m map[string]*inference.ModelConfig) { m["unet_sdm"].Input[0].Dims = []int64{4, 64} }, "unet_sdm.sample has dims [4 64], want [C, h, w]"},
		"width":             {func(m map[string]*inference.ModelConfig) { m["unet_sdm"].Input[2].Dims[1] = 1024 }, "unet_sdm.encoder_hidden_states has D = 1024, but text_encoder.hidden_states has 768"},
		"free size":         {func(m map[string]*inference.ModelConfig) { m["vae_decoder"].Input[0].Dims[1] = -1 }, "vae_decoder.latents has dims [4 -1 64], want fixed ones"},
		"colours":           {func(m map[string]*inference.ModelConfig) { m["vae_decoder"].Output[0].Dims[0] = 4 }, "vae_decoder.image has dims [4 512 512], want [3, H, W]"},
		"shared time":       {func(m map[string]*inference.ModelConfig) { m["unet_tdm"].Input[1].Dims = []int64{2} }, "unet_tdm.timestep has dims [2], want [1]"},
		"no pair":           {func(m map[string]*inference.ModelConfig) { m["unet_tdm"].MaxBatchSize = 1 }, "unet_tdm has max_batch_size 1, want at least 2"},
		"two scores":        {func(m map[string]*inference.ModelConfig) { m[SafetyChecker].Output[0].Dims = []int64{2} }, "safety_checker.nsfw_score has dims [2], want [1]"},
		"oblong":            {func(m map[string]*inference.ModelConfig) { m[SafetyChecker].Input[0].Dims[2] = 224 }, "safety_checker.pixel_values has F = 224, but safety_checker.pixel_values has 336"},
		"unbatched checker": {func(m map[string]*inference.ModelConfig) { m[SafetyChecker].MaxBatchSize = 0 }, "safety_checker has max_batch_size 0, want at least 1"},
		"no batching":       {func(m map[string]*inference.ModelConfig) { m["text_encoder"].MaxBatchSize = 0 }, "text_encoder has max_batch_size 0, want at least 1"},
	} {
		t.Run(name, func(t *testing.T) {
			configs := sd15()
			c.change(configs)
			_, err := newContract(configs)
			var broken *ContractError
			if !errors.As(err, &broken) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
