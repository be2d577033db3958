package networks

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

const modelRepository = "../../../model_repository"

// parse reads a config.pbtxt as Triton does: what the protobuf definition lacks is refused. Our definition is a
// part of Triton's (wire_test.go of package inference), so what passes here passes there.
func parse(text []byte) (*inference.ModelConfig, error) {
	config := new(inference.ModelConfig)
	return config, prototext.Unmarshal(text, config)
}

// committed reads the configurations in a folder of a family, and those of the models that it may do without.
func committed(t *testing.T, family, folder string) map[string]*inference.ModelConfig {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(modelRepository, family, folder, "*", "config.pbtxt"))
	if err != nil || len(paths) != len(Models) {
		t.Fatalf("%s of %s has %d models (%v), want %d", folder, family, len(paths), err, len(Models))
	}
	optional, err := filepath.Glob(filepath.Join(modelRepository, family, "optional", folder, "*", "config.pbtxt"))
	if err != nil || len(optional) == 0 && family != "mini" {
		t.Fatalf("%s has no optional models for %s (%v)", family, folder, err)
	}
	paths = append(paths, optional...)
	configs := make(map[string]*inference.ModelConfig)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		model := filepath.Base(filepath.Dir(path))
		if configs[model], err = parse(text); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if name := configs[model].Name; name != model {
			t.Errorf("%s names the model %q", path, name)
		}
	}
	return configs
}

func TestParsingIsStrict(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(modelRepository, "sd15/tensorrt/unet_tdm/config.pbtxt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{"graphs: true", "graph: true"},
		{"timeout_action: REJECT", "timeout_action: REFUSE"},
		{"TYPE_FP16", "FP16"},
		{"max_queue_size: 64", "max_queue_size: \"64\""},
		{"max_batch_size: 16", "max_batch_size: 16 max_batch_size: 8"},
	} {
		broken := strings.Replace(string(text), change[0], change[1], 1)
		if broken == string(text) {
			t.Fatalf("the file has no %q", change[0])
		}
		if _, err := parse([]byte(broken)); err == nil {
			t.Errorf("%q was accepted", change[1])
		}
	}
}

func TestCommittedConfigurationsFitTheContract(t *testing.T) {
	for _, family := range []struct {
		name, folder, backend string
		float                 inference.DataType
		dims                  pipeline.Dimensions
	}{
		{"mini", "models", "python", inference.DataType_TYPE_FP32, pipeline.Dimensions{
			Tokens: 77, Embedding: 128, Subjects: 4, EncoderSize: 64, LatentChannels: 4, LatentHeight: 16, LatentWidth: 16, Height: 128, Width: 128, MaxBatch: 8}},
		{"sd15", "models", "python", inference.DataType_TYPE_FP32, stableDiffusion15(2)},
		{"sd15", "onnxruntime", "onnxruntime", inference.DataType_TYPE_FP16, stableDiffusion15(16)},
		{"sd15", "tensorrt", "tensorrt", inference.DataType_TYPE_FP16, stableDiffusion15(16)},
	} {
		t.Run(family.name+"/"+family.folder, func(t *testing.T) {
			configs := committed(t, family.name, family.folder)
			described := *sd15Family
			described.ObjectResolution = family.dims.Height
			c, err := newContract(configs, &described)
			if err != nil {
				t.Fatal(err)
			}
			if c.dims != family.dims {
				t.Errorf("dimensions %+v, want %+v", c.dims, family.dims)
			}
			for name, config := range configs {
				if !slices.Contains(Models, name) && name != SafetyChecker {
					t.Errorf("%s: not in the contract", name)
				}
				if config.Backend != family.backend {
					t.Errorf("%s: backend %q, want %q", name, config.Backend, family.backend)
				}
				if config.MaxBatchSize < 1 || config.GetDynamicBatching() == nil {
					t.Errorf("%s: rows of different pictures cannot share a batch", name)
				}
				checkTensors(t, config, family.float, c.dims)
				if family.float == inference.DataType_TYPE_FP16 {
					checkQueue(t, config)
					checkWarmup(t, config)
				}
				wantKind := inference.ModelInstanceGroup_KIND_CPU
				if family.float == inference.DataType_TYPE_FP16 {
					wantKind = inference.ModelInstanceGroup_KIND_GPU
				}
				if g := config.InstanceGroup; len(g) != 1 || g[0].Kind != wantKind || g[0].Count != 1 {
					t.Errorf("%s: instances %v, want one of %v", name, g, wantKind)
				}
			}
		})
	}
}

func stableDiffusion15(maxBatch int) pipeline.Dimensions {
	return pipeline.Dimensions{
		Tokens: 77, Embedding: 768, Subjects: 4, EncoderSize: 224, SafetySize: 224,
		LatentChannels: 4, LatentHeight: 64, LatentWidth: 64, Height: 512, Width: 512, MaxBatch: maxBatch,
	}
}

// checkTensors: exactly the contract's tensors, floats in the back end's precision. Timesteps and scores stay FP32.
func checkTensors(t *testing.T, config *inference.ModelConfig, float inference.DataType, dims pipeline.Dimensions) {
	t.Helper()
	wanted := 0
	for _, spec := range specs {
		if spec.model != config.Name {
			continue
		}
		wanted++
		datatype, shape := tensorOf(config, spec)
		want := float
		if spec.integer {
			want = inference.DataType_TYPE_INT64
		} else if spec.tensor == "timestep" || spec.tensor == "nsfw_score" {
			want = inference.DataType_TYPE_FP32
		}
		if datatype != want {
			t.Errorf("%s.%s is %v, want %v", spec.model, spec.tensor, datatype, want)
		}
		// newContract sees to the shapes of the models that every family has.
		side := int64(dims.EncoderSize)
		if fixed := map[string][]int64{"pixel_values": {3, side, side}, "nsfw_score": {1}}[spec.tensor]; fixed != nil && !slices.Equal(shape, fixed) {
			t.Errorf("%s.%s has dims %v, want %v", spec.model, spec.tensor, shape, fixed)
		}
	}
	if got := len(config.Input) + len(config.Output); wanted == 0 || got != wanted {
		t.Errorf("%s has %d tensors, want %d", config.Name, got, wanted)
	}
	for _, input := range config.Input {
		// The network wants one number a row, without an axis of its own.
		scalar := input.Reshape != nil && len(input.Reshape.Shape) == 0
		if scalar != (input.Name == "timestep") {
			t.Errorf("%s.%s: reshape %v", config.Name, input.Name, input.Reshape)
		}
	}
}

// tensorOf is what a configuration says of a tensor, TYPE_INVALID where it has none of that name.
func tensorOf(config *inference.ModelConfig, spec tensorSpec) (inference.DataType, []int64) {
	if spec.output {
		for _, output := range config.Output {
			if output.Name == spec.tensor {
				return output.DataType, output.Dims
			}
		}
		return inference.DataType_TYPE_INVALID, nil
	}
	for _, input := range config.Input {
		if input.Name == spec.tensor {
			return input.DataType, input.Dims
		}
	}
	return inference.DataType_TYPE_INVALID, nil
}

func checkQueue(t *testing.T, model *inference.ModelConfig) {
	t.Helper()
	batching := model.GetDynamicBatching()
	policy := batching.GetDefaultQueuePolicy()
	wait := time.Duration(policy.GetDefaultTimeoutMicroseconds()) * time.Microsecond
	if policy.GetTimeoutAction() != inference.ModelQueuePolicy_REJECT || wait <= 0 || wait >= config.Default().StepTimeout {
		t.Errorf("%s: %v after %v: who has given up (after %v) must not be served", model.Name, policy.GetTimeoutAction(), wait, config.Default().StepTimeout)
	}
	if !policy.GetAllowTimeoutOverride() || policy.GetMaxQueueSize() == 0 {
		t.Errorf("%s: queue policy %v", model.Name, policy)
	}
	if level := batching.DefaultPriorityLevel; batching.PriorityLevels < 2 || level < 2 || level > batching.PriorityLevels {
		t.Errorf("%s: requests without a priority are at level %d of %d: nobody could go before them", model.Name, level, batching.PriorityLevels)
	}
	// With preferred sizes, Triton closes a batch as soon as it has one, although more rows could still join.
	if batching.PreferredBatchSize != nil || batching.MaxQueueDelayMicroseconds != 0 {
		t.Errorf("%s: a step waits for %v rows or %d µs", model.Name, batching.PreferredBatchSize, batching.MaxQueueDelayMicroseconds)
	}
}

// checkWarmup: real sizes, up to the largest batch.
func checkWarmup(t *testing.T, config *inference.ModelConfig) {
	t.Helper()
	var largest uint32
	for _, warmup := range config.ModelWarmup {
		largest = max(largest, warmup.BatchSize)
		if len(warmup.Inputs) != len(config.Input) {
			t.Errorf("%s: warm-up %q has %d inputs, want %d", config.Name, warmup.Name, len(warmup.Inputs), len(config.Input))
		}
		for _, input := range config.Input {
			sample := warmup.Inputs[input.Name]
			if sample.GetDataType() != input.DataType || !slices.Equal(sample.GetDims(), input.Dims) || !sample.GetZeroData() {
				t.Errorf("%s: warm-up %q has %s = %v", config.Name, warmup.Name, input.Name, sample)
			}
		}
	}
	if int32(largest) != config.MaxBatchSize {
		t.Errorf("%s: the largest warm-up has %d rows, want max_batch_size, %d", config.Name, largest, config.MaxBatchSize)
	}
}

// TestConfigurationsOfOtherWeights: the line in which a conversion says whose weights a configuration is for.
func TestConfigurationsOfOtherWeights(t *testing.T) {
	for _, folder := range []string{"tensorrt", "onnxruntime"} {
		text, err := os.ReadFile(filepath.Join(modelRepository, "sd15", folder, "unet_sdm/config.pbtxt"))
		if err != nil {
			t.Fatal(err)
		}
		text = fmt.Appendf(text, "parameters { key: \"weights_sha256\", value: { string_value: %q } }\n", strings.Repeat("ab", 32))
		configs := committed(t, "sd15", folder)
		if configs["unet_sdm"], err = parse(text); err != nil {
			t.Fatal(err)
		}
		if faults := Check(configs, sd15Family); len(faults) != 1 || faults[0].Code != WrongWeights || faults[0].Model != "unet_sdm" {
			t.Errorf("%s: faults %v", folder, faults)
		}
	}
}

func TestGraphsOfEngines(t *testing.T) {
	for name, config := range committed(t, "sd15", "tensorrt") {
		cuda := config.GetOptimization().GetCuda()
		if !cuda.GetGraphs() || len(cuda.GetGraphSpec()) == 0 {
			t.Errorf("%s: no CUDA graphs: %v", name, cuda)
		}
		pair := name == string(pipeline.TDM) || name == string(pipeline.SDM)
		for _, graph := range cuda.GetGraphSpec() {
			if graph.BatchSize < 1 || graph.BatchSize > config.MaxBatchSize || pair && graph.BatchSize%2 != 0 {
				t.Errorf("%s: graph of %d rows", name, graph.BatchSize)
			}
			if len(graph.Input) != len(config.Input) {
				t.Errorf("%s: graph of %d rows has %d inputs, want %d", name, graph.BatchSize, len(graph.Input), len(config.Input))
			}
			for _, input := range config.Input {
				shape, ok := graph.Input[input.Name]
				if !ok || !slices.Equal(shape.Dim, seen(input)) {
					t.Errorf("%s: graph of %d rows has %s = %v, want %v", name, graph.BatchSize, input.Name, shape, seen(input))
				}
			}
		}
	}
}

// seen is the shape of an input's row in the network.
func seen(input *inference.ModelInput) []int64 {
	if input.Reshape != nil {
		return input.Reshape.Shape
	}
	return input.Dims
}

// TestProfiles: engines take what the configurations promise, however they are built.
func TestProfiles(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(modelRepository, "sd15/profiles.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Models map[string]struct{ ONNX, Plan, Min, Opt, Max string }
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	engines, graphs := committed(t, "sd15", "tensorrt"), committed(t, "sd15", "onnxruntime")
	caches := make(map[string]string)
	for name, config := range engines {
		profile := file.Models[name]
		if profile.ONNX != "onnxruntime/"+name+"/1/"+graphs[name].GetDefaultModelFilename() || profile.Plan != "tensorrt/"+name+"/1/"+config.DefaultModelFilename {
			t.Errorf("%s: %s becomes %s, which Triton does not load", name, profile.ONNX, profile.Plan)
		}
		if least, most := shapes(config, 1), shapes(config, config.MaxBatchSize); profile.Min != least || profile.Max != most {
			t.Errorf("%s: engines from %s to %s, want %s to %s", name, profile.Min, profile.Max, least, most)
		}
		accelerators := graphs[name].GetOptimization().GetExecutionAccelerators().GetGpuExecutionAccelerator()
		if len(accelerators) != 1 || accelerators[0].Name != "tensorrt" {
			t.Fatalf("%s: accelerators %v", name, accelerators)
		}
		options := accelerators[0].Parameters
		for kind, want := range map[string]string{"min": profile.Min, "opt": profile.Opt, "max": profile.Max} {
			if got := options["trt_profile_"+kind+"_shapes"]; got != want {
				t.Errorf("%s: the provider's %s shapes are %s, want %s", name, kind, got, want)
			}
		}
		if _, given := options["precision_mode"]; given {
			t.Errorf("%s: precision is in the graph", name)
		}
		cache := options["trt_engine_cache_path"]
		if other, taken := caches[cache]; taken || options["trt_engine_cache_enable"] != "1" || cache == "" {
			t.Errorf("%s: engine cache %q, also of %q: cached engines are not told apart by their weights", name, cache, other)
		}
		caches[cache] = name
	}
	if len(file.Models) != len(engines) {
		t.Errorf("profiles of %d models, configurations of %d", len(file.Models), len(engines))
	}
}

// shapes of the inputs of a batch, as TensorRT's tools write them.
func shapes(config *inference.ModelConfig, rows int32) string {
	var all []string
	for _, input := range config.Input {
		text := fmt.Sprintf("%s:%d", input.Name, rows)
		for _, d := range seen(input) {
			text += fmt.Sprintf("x%d", d)
		}
		all = append(all, text)
	}
	return strings.Join(all, ",")
}
