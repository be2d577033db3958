package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/networks"
	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
	"github.com/facediffuser/facediffuser/tritonclient/tritontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mini = "../../../model_repository/mini"

// repository is what one Triton serves, by name. Its configurations are those of mini;
// its networks are small functions of their inputs.
type repository map[string]*tritontest.Model

func newRepository(t *testing.T) repository {
	t.Helper()
	r := repository{}
	for _, name := range networks.Models {
		text, err := os.ReadFile(filepath.Join(mini, "models", name, "config.pbtxt"))
		if err != nil {
			t.Fatal(err)
		}
		config := new(inference.ModelConfig)
		if err := prototext.Unmarshal(text, config); err != nil {
			t.Fatal(err)
		}
		r[name] = &tritontest.Model{Config: config}
		r.runs(name, sum)
	}
	return r
}

// runs makes a model answer, row by row, each element of its output by the sums of the row's inputs.
func (r repository) runs(name string, element func(sums []float64, index int) float64) {
	config := r[name].Config
	r[name].Run = func(_ context.Context, inputs []tritonclient.Tensor) ([]tritonclient.Tensor, error) {
		rows := inputs[0].Shape[0]
		out := config.Output[0]
		size := 1
		for _, d := range out.Dims {
			size *= int(d)
		}
		values := make([]float32, 0, int(rows)*size)
		for row := range int(rows) {
			var sums []float64
			for _, in := range inputs {
				each := int(in.Elements() / rows)
				total := 0.0
				if in.Datatype == tritonclient.INT64 {
					ids, err := in.Int64s()
					if err != nil {
						return nil, err
					}
					for _, v := range ids[row*each : (row+1)*each] {
						total += float64(v)
					}
				} else {
					floats, err := in.Float32s()
					if err != nil {
						return nil, err
					}
					for _, v := range floats[row*each : (row+1)*each] {
						total += float64(v)
					}
				}
				sums = append(sums, total)
			}
			for i := range size {
				values = append(values, float32(element(sums, i)))
			}
		}
		datatype, _ := tritonclient.DatatypeOf(out.DataType)
		return []tritonclient.Tensor{tritonclient.Float32(out.Name, datatype, append([]int64{rows}, out.Dims...), values)}, nil
	}
}

func sum(sums []float64, index int) float64 {
	total := 0.0
	for i, s := range sums {
		total += float64(i+1) * s
	}
	return math.Sin(total + float64(index))
}

func (r repository) start(t *testing.T) *tritontest.Server {
	t.Helper()
	var all []tritontest.Model
	for _, m := range r {
		all = append(all, *m)
	}
	return tritontest.Start(t, all...)
}

func examine(t *testing.T, o Options) *Report {
	t.Helper()
	if o.Family == "" {
		o.Family = mini
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	r, err := Examine(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if fits := r.Faults() == 0; r.Fits != fits {
		t.Errorf("fits is %v with %d faults", r.Fits, r.Faults())
	}
	return r
}

// wants compares findings with lines that begin as given, the address of the replica
// left out, and say a remedy.
func wants(t *testing.T, r *Report, want ...string) {
	t.Helper()
	for i, f := range r.Findings {
		line := f.String()
		if strings.Contains(line, "\n") || f.Remedy == "" || f.Found == "" || f.Want == "" {
			t.Errorf("not one line of what, found, want and remedy: %q", line)
		}
		f.Replica = ""
		if i >= len(want) || !strings.HasPrefix(f.String(), want[i]) {
			t.Errorf("finding %d is %q", i, line)
		}
	}
	if len(r.Findings) != len(want) {
		t.Errorf("%d findings, want %q", len(r.Findings), want)
	}
}

func TestFits(t *testing.T) {
	repository := newRepository(t)
	server := repository.start(t)
	var said []string
	r := examine(t, Options{Replicas: []string{server.Address()}, Measure: true, Progress: func(s string) { said = append(said, s) }})
	wants(t, r)
	if !r.Fits || r.Family.Name != "mini" || r.Family.Directory != mini || len(r.Family.Weights) != 64 {
		t.Errorf("report %+v of family %+v", r, r.Family)
	}
	replica := r.Replicas[0]
	if !replica.Ready || replica.Triton != "tritontest" || replica.RoundTrip <= 0 || len(replica.Models) != 6 {
		t.Errorf("replica %+v", replica)
	}
	unet := Model{Name: "unet_tdm", Versions: []string{"1"}, Backend: "python", MaxBatchSize: 8, DynamicBatching: true, Floats: "FP32", Instances: "1 on CPU",
		Inputs:  []string{"sample FP32 [4, 16, 16]", "timestep FP32 [1]", "encoder_hidden_states FP32 [77, 128]"},
		Outputs: []string{"noise_pred FP32 [4, 16, 16]"}}
	if diff := cmp.Diff(unet, replica.Models[3]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&Sizes{Tokens: 77, Width: 128, Subjects: 4, Reference: 64, Latents: [3]int{4, 16, 16}, Picture: [2]int{128, 128}}, replica.Sizes); diff != "" {
		t.Error(diff)
	}
	m := replica.Measured
	if m == nil || m.TextEncoder <= 0 || m.ImageEncoder <= 0 || m.SubjectFuser <= 0 || m.VAEDecoder <= 0 || m.Both <= 0 {
		t.Fatalf("measured %+v", m)
	}
	for _, batches := range [][]Batch{m.TDM, m.SDM} {
		for i, rows := range []int{1, 2, 8} {
			if len(batches) != 3 || batches[i].Rows != rows || batches[i].Seconds <= 0 {
				t.Fatalf("batches %+v", batches)
			}
		}
	}
	if len(replica.Predicted) != 4 || r.Fleet == nil || r.Fleet.MaxRunning != 4 {
		t.Errorf("predicted %+v, fleet %+v", replica.Predicted, r.Fleet)
	}
	if len(said) < 10 || !slices.Contains(said, server.Address()+": measuring unet_sdm, 8 rows") {
		t.Errorf("progress %q", said)
	}
}

// TestSafetyChecker: it is looked at and measured where the gateway would check pictures, and nowhere else.
func TestSafetyChecker(t *testing.T) {
	text, err := os.ReadFile("../app/testdata/safety_checker/config.pbtxt")
	if err != nil {
		t.Fatal(err)
	}
	checked := func(*family.Family) bool { return true }
	for name, c := range map[string]struct {
		change  func(repository)
		checked func(*family.Family) bool
		want    []string
	}{
		"fits":        {checked: checked},
		"not checked": {change: func(r repository) { r.runs(networks.SafetyChecker, func([]float64, int) float64 { return math.NaN() }) }},
		"missing": {change: func(r repository) { delete(r, networks.SafetyChecker) }, checked: checked,
			want: []string{"FAULT [model_missing] safety_checker: found no such model, want one that is loaded. Put it"}},
		"two scores": {change: func(r repository) { r[networks.SafetyChecker].Config.Output[0].Dims = []int64{2} }, checked: checked,
			want: []string{"FAULT [shape] safety_checker output nsfw_score: found dims [2], want [1]. Serve"}},
		"no number": {change: func(r repository) { r.runs(networks.SafetyChecker, func([]float64, int) float64 { return math.NaN() }) }, checked: checked,
			want: []string{"FAULT [not_finite] safety_checker: found NaN among the values of output nsfw_score (value 0 of 1)"}},
	} {
		t.Run(name, func(t *testing.T) {
			repository := newRepository(t)
			config := new(inference.ModelConfig)
			if err := prototext.Unmarshal(text, config); err != nil {
				t.Fatal(err)
			}
			repository[networks.SafetyChecker] = &tritontest.Model{Config: config}
			repository.runs(networks.SafetyChecker, sum)
			if c.change != nil {
				c.change(repository)
			}
			r := examine(t, Options{Replicas: []string{repository.start(t).Address()}, Measure: true, Checked: c.checked})
			wants(t, r, c.want...)
			models, measured := 6, false
			if name == "fits" {
				models, measured = 7, true
			}
			if m := r.Replicas[0].Measured; r.Fits && (len(r.Replicas[0].Models) != models || m.SafetyChecker > 0 != measured) {
				t.Errorf("models %+v, measured %+v", r.Replicas[0].Models, m)
			}
		})
	}
}

// TestFaultsOfOneReplica: each kind of fault, one at a time, gives its finding and no other.
func TestFaultsOfOneReplica(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(repository)
		serve   func(*tritontest.Server)
		timeout time.Duration // of a call; 0 is more than any takes
		want    []string
	}{
		"missing model": {change: func(r repository) { delete(r, "vae_decoder") },
			want: []string{"FAULT [model_missing] vae_decoder: found no such model, want one that is loaded. Put it into the model repository"}},
		"model that did not load": {change: func(r repository) { r["unet_sdm"].Failed = "Internal: engine is of TensorRT 10\n\nAt:\n model.py" },
			want: []string{"FAULT [not_ready] : found a server that says it is not ready",
				"FAULT [load_failed] unet_sdm: found not loaded: Internal: engine is of TensorRT 10, want one that is loaded. Mend"}},
		"the same, and a closed repository": {change: func(r repository) { r["unet_sdm"].Failed = "Internal: engine is of TensorRT 10" },
			serve: func(s *tritontest.Server) { s.Restrict("RepositoryIndex") },
			want: []string{"FAULT [not_ready] : found",
				"FAULT [load_failed] unet_sdm: found a model of which no version is loaded, want one that is loaded. See Triton's log; a version is a folder with a number, unet_sdm/1"}},
		"datatype": {change: func(r repository) { r["text_encoder"].Config.Input[0].DataType = inference.DataType_TYPE_INT32 },
			want: []string{"FAULT [datatype] text_encoder input input_ids: found INT32, want INT64. Export"}},
		"shape": {change: func(r repository) { r["vae_decoder"].Config.Input[0].Dims = []int64{4, 32, 32} },
			want: []string{"FAULT [shape] vae_decoder input latents: found dims [4, 32, 32], want [4, 16, 16], h = 16 as in unet_tdm.sample, w = 16 as in unet_tdm.sample. Serve"}},
		"tokens": {change: func(r repository) {
			r["text_encoder"].Config.Input[0].Dims[0] = 64
			r["text_encoder"].Config.Output[0].Dims[0] = 64
		}, want: []string{"FAULT [shape] text_encoder input input_ids: found dims [64], want [77], L = 77 as in the tokenizer",
			"FAULT [shape] text_encoder output hidden_states: found dims [64, 128], want [77, 128], L = 77 as in the tokenizer"}},
		"no batch": {change: func(r repository) { r["unet_tdm"].Config.MaxBatchSize, r["unet_tdm"].Run = 0, nil },
			want: []string{"FAULT [batch_size] unet_tdm max_batch_size: found 0, want 2 or more"}},
		"no dynamic batching": {change: func(r repository) { r["unet_tdm"].Config.SchedulingChoice = nil },
			want: []string{"warning [dynamic_batching] unet_tdm dynamic_batching: found none, want dynamic_batching {}. Add it"}},
		"not ready": {serve: func(s *tritontest.Server) { s.SetReady(false) }, want: []string{"FAULT [not_ready] : found"}},
		"closed to everyone": {serve: func(s *tritontest.Server) { s.Restrict("ServerReady") },
			want: []string{"FAULT [restricted] : found This protocol is restricted, expecting header 'triton-grpc-protocol-secret', want health"}},
		"closed configurations": {serve: func(s *tritontest.Server) { s.Restrict("ModelConfig") },
			want: []string{"FAULT [restricted] : found This protocol"}},
		"closed statistics": {serve: func(s *tritontest.Server) { s.Restrict("ModelStatistics") }},
		"failing network": {serve: func(s *tritontest.Server) {
			s.Fault("vae_decoder", tritontest.Fault{Code: codes.Internal, Message: "CUDA error: out of memory\nat x.cc:1"})
		}, want: []string{"FAULT [call_failed] vae_decoder: found the answer: CUDA error: out of memory, want an answer. See"}},
		"output that is described wrongly": {serve: func(s *tritontest.Server) { s.Fault("subject_fuser", tritontest.WrongShape()) },
			want: []string{"FAULT [call_failed] subject_fuser: found the answer: tensor hidden_states_augmented"}},
		"hanging network": {serve: func(s *tritontest.Server) { s.Fault("unet_tdm", tritontest.Fault{Hang: true}) }, timeout: 3 * time.Second,
			want: []string{"FAULT [step_timeout] unet_tdm: found no answer in 3s, want one within --step-timeout. Raise"}},
		"overflow": {change: func(r repository) {
			r.runs("unet_sdm", func(_ []float64, i int) float64 { return math.Inf(i - 1) })
		}, want: []string{"FAULT [not_finite] unet_sdm: found -Inf among the values of output noise_pred (value"}},
		"one timestep for the batch": {change: func(r repository) {
			run := r["unet_tdm"].Run
			r["unet_tdm"].Run = func(ctx context.Context, in []tritonclient.Tensor) ([]tritonclient.Tensor, error) {
				times, err := in[1].Float32s()
				if err != nil {
					return nil, err
				}
				in[1] = tritonclient.Float32("timestep", tritonclient.FP32, in[1].Shape, slices.Repeat(times[:1], len(times)))
				return run(ctx, in)
			}
		}, want: []string{"FAULT [rows_mixed] unet_tdm output noise_pred: found row 1 of a batch differs by "}},
		"smaller vocabulary": {change: func(r repository) {
			run := r["text_encoder"].Run
			r["text_encoder"].Run = func(ctx context.Context, in []tritonclient.Tensor) ([]tritonclient.Tensor, error) {
				if ids, err := in[0].Int64s(); err != nil || slices.Max(ids) > 49000 {
					return nil, errors.Join(errors.New("indices element out of data bounds"), err)
				}
				return run(ctx, in)
			}
		}, want: []string{"FAULT [token_ids] text_encoder input input_ids: found the answer: indices element out of data bounds, want ids up to 49407"}},
	} {
		t.Run(name, func(t *testing.T) {
			repository := newRepository(t)
			if c.change != nil {
				c.change(repository)
			}
			server := repository.start(t)
			if c.serve != nil {
				c.serve(server)
			}
			r := examine(t, Options{Replicas: []string{server.Address()}, Measure: true, Timeout: c.timeout})
			wants(t, r, c.want...)
			if measured := r.Replicas[0].Measured != nil; measured != r.Fits {
				t.Errorf("measured: %v, fits: %v", measured, r.Fits)
			}
		})
	}
}

// TestHalfPrecision: FP16 fits, and without batching a UNet is measured at the rows of a step.
func TestHalfPrecision(t *testing.T) {
	repository := newRepository(t)
	for _, m := range repository {
		for _, in := range m.Config.Input {
			if in.DataType == inference.DataType_TYPE_FP32 {
				in.DataType = inference.DataType_TYPE_FP16
			}
		}
		m.Config.Output[0].DataType = inference.DataType_TYPE_FP16
	}
	sdm := repository["unet_sdm"].Config
	sdm.SchedulingChoice = nil
	sdm.InstanceGroup = []*inference.ModelInstanceGroup{{Count: 2, Kind: inference.ModelInstanceGroup_KIND_GPU, Gpus: []int32{0, 1}}}
	r := examine(t, Options{Replicas: []string{repository.start(t).Address()}, Measure: true})
	wants(t, r, "warning [dynamic_batching] unet_sdm")
	replica := r.Replicas[0]
	if m := replica.Models[4]; m.Floats != "FP16" || m.Instances != "2 on GPU 0, 1" {
		t.Errorf("model %+v", m)
	}
	if b := replica.Measured.SDM; len(b) != 3 || b[2].Rows != 2 || b[2].AtOnce != 4 || b[2].String() != "4 × 2 rows" {
		t.Errorf("batches of a UNet without dynamic batching and with 4 instances: %+v", b)
	}
}

func TestNoMeasure(t *testing.T) {
	server := newRepository(t).start(t)
	r := examine(t, Options{Replicas: []string{server.Address()}})
	wants(t, r)
	if r.Replicas[0].Measured != nil || r.Fleet != nil {
		t.Errorf("measured %+v, fleet %+v", r.Replicas[0].Measured, r.Fleet)
	}
	for _, model := range networks.Models {
		if n := server.Calls(model); n != 0 {
			t.Errorf("%s was run %d times", model, n)
		}
	}
}

func TestBusyReplica(t *testing.T) {
	repository := newRepository(t)
	var others sync.Once
	var server *tritontest.Server
	run := repository["image_encoder"].Run
	repository["image_encoder"].Run = func(ctx context.Context, in []tritonclient.Tensor) ([]tritonclient.Tensor, error) {
		others.Do(func() { // while the replica is measured
			pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{server.Address()}})
			if err != nil {
				t.Error(err)
				return
			}
			defer pool.Close()
			zeros := make([]float32, 3*77*128)
			_, err = pool.Infer(ctx, tritonclient.Request{Model: "unet_sdm", Inputs: []tritonclient.Tensor{
				tritonclient.Float32("sample", tritonclient.FP32, []int64{3, 4, 16, 16}, zeros[:3*4*16*16]),
				tritonclient.Float32("timestep", tritonclient.FP32, []int64{3, 1}, zeros[:3]),
				tritonclient.Float32("encoder_hidden_states", tritonclient.FP32, []int64{3, 77, 128}, zeros),
			}})
			if err != nil {
				t.Error(err)
			}
		})
		return run(ctx, in)
	}
	server = repository.start(t)
	r := examine(t, Options{Replicas: []string{server.Address()}, Measure: true})
	wants(t, r, "warning [busy] unet_sdm: found 3 rows of other callers during the measurement, want an idle replica. Measure")
	if r.Replicas[0].Measured == nil {
		t.Error("not measured")
	}
}

// down is an address on which nothing listens.
func down(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestReplicaDown(t *testing.T) {
	gone, up := down(t), newRepository(t).start(t).Address()
	r := examine(t, Options{Replicas: []string{gone, up}, Measure: true})
	wants(t, r, "FAULT [unreachable] : found dial tcp "+gone+": connect: connection refused, want a Triton server. Start it, or correct --triton")
	if r.Findings[0].Replica != gone || r.Replicas[0].Address != gone || r.Replicas[0].Ready || r.Replicas[0].Measured != nil {
		t.Errorf("replica %+v, finding %+v", r.Replicas[0], r.Findings[0])
	}
	if r.Replicas[1].Measured == nil || r.Fleet.MaxRunning != 4 {
		t.Errorf("the other one is not measured: %+v", r.Replicas[1])
	}
}

// TestReplicasDiffer: what is alike on two replicas, but for one thing, on the second.
func TestReplicasDiffer(t *testing.T) {
	description, err := family.Load(mini)
	if err != nil {
		t.Fatal(err)
	}
	miniWeights := description.WeightsSHA256
	for name, c := range map[string]struct {
		change func(repository)
		serve  func(*tritontest.Server)
		want   []string // of the second; FIRST is the first one's address
	}{
		"not at all":       {},
		"another batch":    {change: func(r repository) { r["unet_sdm"].Config.MaxBatchSize = 4 }, want: []string{"FAULT [replicas_differ] unet_sdm max_batch_size: found 4, want 8, as on FIRST. Let"}},
		"another version":  {change: func(r repository) { r["vae_decoder"].Version = "2" }, want: []string{"FAULT [replicas_differ] vae_decoder version: found 2, want 1, as on FIRST"}},
		"another back end": {change: func(r repository) { r["vae_decoder"].Config.Backend = "tensorrt" }, want: []string{"FAULT [replicas_differ] vae_decoder backend: found tensorrt, want python, as on FIRST"}},
		"no batching": {change: func(r repository) { r["unet_tdm"].Config.SchedulingChoice = nil },
			want: []string{"warning [dynamic_batching] unet_tdm", "FAULT [replicas_differ] unet_tdm dynamic_batching: found false, want true, as on FIRST"}},
		"another precision": {change: func(r repository) { r["unet_tdm"].Config.Output[0].DataType = inference.DataType_TYPE_FP16 },
			want: []string{"FAULT [replicas_differ] unet_tdm outputs: found noise_pred FP16 [4, 16, 16], want noise_pred FP32 [4, 16, 16], as on FIRST"}},
		"inputs in another order": {change: func(r repository) { slices.Reverse(r["unet_tdm"].Config.Input); r["unet_tdm"].Run = nil }},
		"more instances":          {change: func(r repository) { r["unet_tdm"].Config.InstanceGroup[0].Count = 2 }},
		"an older release":        {serve: func(s *tritontest.Server) { s.SetVersion("2.51.0") }, want: []string{"warning [releases_differ] release of Triton: found 2.51.0, want tritontest, as on FIRST"}},
		"stated weights of nowhere": {change: func(r repository) {
			r["unet_tdm"].Config.Parameters["weights_sha256"] = &inference.ModelParameter{StringValue: "x"}
		}, want: []string{"FAULT [weights] unet_tdm parameter weights_sha256: found x"}},
		"weights stated by one": {change: func(r repository) {
			r["unet_tdm"].Config.Parameters["weights_sha256"] = &inference.ModelParameter{StringValue: miniWeights}
		}, want: []string{"FAULT [replicas_differ] unet_tdm weights_sha256: found " + miniWeights + ", want none stated, as on FIRST"}},
	} {
		t.Run(name, func(t *testing.T) {
			repository := newRepository(t)
			first := repository.start(t).Address()
			other := newRepository(t)
			if c.change != nil {
				c.change(other)
			}
			server := other.start(t)
			if c.serve != nil {
				c.serve(server)
			}
			r := examine(t, Options{Replicas: []string{first, server.Address()}})
			for i := range c.want {
				c.want[i] = strings.ReplaceAll(c.want[i], "FIRST", first)
			}
			wants(t, r, c.want...)
			for _, f := range r.Findings {
				if f.Replica != server.Address() {
					t.Errorf("said of %s: %v", f.Replica, f)
				}
			}
		})
	}
}

// TestOddOneFirst: a faulty replica is not what the others are held against.
func TestOddOneFirst(t *testing.T) {
	odd := newRepository(t)
	odd["unet_tdm"].Config.MaxBatchSize = 1
	addresses := []string{odd.start(t).Address(), newRepository(t).start(t).Address(), newRepository(t).start(t).Address()}
	r := examine(t, Options{Replicas: addresses})
	wants(t, r, "FAULT [batch_size] unet_tdm max_batch_size: found 1")
	for _, f := range r.Findings {
		if f.Replica != addresses[0] {
			t.Errorf("said of %s: %v", f.Replica, f)
		}
	}
}

func TestOtherWeights(t *testing.T) {
	other := newRepository(t)
	other.runs("unet_sdm", func(sums []float64, i int) float64 { return 1.2 * sum(sums, i) })
	other.runs("vae_decoder", func(sums []float64, i int) float64 { return 1.01 * sum(sums, i) }) // kernels differ so
	first, second := newRepository(t).start(t).Address(), other.start(t).Address()
	r := examine(t, Options{Replicas: []string{first, second}, Measure: true})
	wants(t, r, "FAULT [answers_differ] unet_sdm: found an answer that differs by 20 %, want the answer of "+first)
	if r.Fleet == nil || r.Fleet.MaxRunning != 8 {
		t.Errorf("fleet %+v", r.Fleet)
	}
}

func TestFamilyFaults(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "tokenizer"), os.DirFS(filepath.Join(mini, "tokenizer"))); err != nil {
		t.Fatal(err)
	}
	write := func(change func(map[string]any)) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(mini, "pipeline.json"))
		if err != nil {
			t.Fatal(err)
		}
		var description map[string]any
		if err := json.Unmarshal(text, &description); err != nil {
			t.Fatal(err)
		}
		change(description)
		if text, err = json.Marshal(description); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "pipeline.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := newRepository(t).start(t).Address()

	write(func(d map[string]any) { d["scaling_factor"], d["person_nouns"] = -1, []string{} })
	r := examine(t, Options{Family: dir, Replicas: []string{address}})
	wants(t, r, "FAULT [family] --family "+dir+": found family: "+dir+"/pipeline.json: scaling_factor is -1", "FAULT [family] --family "+dir+": found person_nouns is empty")

	write(func(d map[string]any) { d["object_resolution"] = 512 })
	wants(t, examine(t, Options{Family: dir, Replicas: []string{address}}),
		"FAULT [object_resolution] object_resolution of pipeline.json: found 512, want 64 to 128: the image encoder takes 64 pixels, a picture has 128. Let --family")

	write(func(d map[string]any) { d["weights_sha256"] = strings.Repeat("0", 64) })
	if err := os.CopyFS(filepath.Join(dir, "models"), os.DirFS(filepath.Join(mini, "models"))); err != nil {
		t.Fatal(err)
	}
	wants(t, examine(t, Options{Family: dir, Replicas: []string{address}}))
	r = examine(t, Options{Family: dir, Replicas: []string{address}, Local: true})
	wants(t, r, "FAULT [weights] models/: found ")
	if !strings.Contains(r.Findings[0].Want, strings.Repeat("0", 64)) {
		t.Errorf("finding %+v", r.Findings[0])
	}

	if err := os.Remove(filepath.Join(dir, "tokenizer/merges.txt")); err != nil {
		t.Fatal(err)
	}
	r = examine(t, Options{Family: dir, Replicas: []string{address}})
	wants(t, r, "FAULT [family] --family "+dir+": found tokenizer: open "+dir+"/tokenizer/merges.txt: no such file or directory")
}

func TestInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	repository := newRepository(t)
	run := repository["vae_decoder"].Run
	repository["vae_decoder"].Run = func(ctx context.Context, in []tritonclient.Tensor) ([]tritonclient.Tensor, error) {
		interrupt()
		return run(ctx, in)
	}
	server := repository.start(t)
	r, err := Examine(ctx, Options{Family: mini, Replicas: []string{server.Address()}, Measure: true, Timeout: time.Minute})
	if !errors.Is(err, context.Canceled) || r != nil {
		t.Errorf("%v, %v", r, err)
	}
	if n := server.Calls("unet_tdm"); n != 0 {
		t.Errorf("%d calls after the interruption", n)
	}
}

// TestJSON: what a script reads keeps its names.
func TestJSON(t *testing.T) {
	repository := newRepository(t)
	repository["unet_tdm"].Config.SchedulingChoice = nil
	r := examine(t, Options{Replicas: []string{repository.start(t).Address(), down(t)}, Measure: true})
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var keys func(prefix string, v any) []string
	keys = func(prefix string, v any) (all []string) {
		switch v := v.(type) {
		case map[string]any:
			for k, value := range v {
				all = append(all, keys(prefix+"."+k, value)...)
			}
		case []any:
			if len(v) > 0 {
				return keys(prefix+"[]", v[0])
			}
			return []string{prefix + "[]"}
		default:
			return []string{prefix}
		}
		return all
	}
	var any any
	if err := json.Unmarshal(text, &any); err != nil {
		t.Fatal(err)
	}
	got := keys("", any)
	slices.Sort(got)
	want := strings.Fields(`
.family.directory .family.name .family.weights_sha256
.findings[].code .findings[].found .findings[].model .findings[].remedy .findings[].replica .findings[].want .findings[].warning .findings[].what
.fits
.fleet.max_running
.fleet.predicted[].num_inference_steps .fleet.predicted[].pictures_per_hour .fleet.predicted[].quality .fleet.predicted[].scene_construction .fleet.predicted[].scheduler
.fleet.predicted[].seconds_per_picture .fleet.predicted[].subject_enhancement .fleet.predicted[].subject_scene_fusion
.replicas[].address
.replicas[].measured.both_unets_seconds .replicas[].measured.image_encoder_seconds .replicas[].measured.subject_fuser_seconds
.replicas[].measured.text_encoder_seconds
.replicas[].measured.unet_sdm[].at_once .replicas[].measured.unet_sdm[].rows .replicas[].measured.unet_sdm[].seconds
.replicas[].measured.unet_tdm[].at_once .replicas[].measured.unet_tdm[].rows .replicas[].measured.unet_tdm[].seconds
.replicas[].measured.vae_decoder_seconds
.replicas[].models[].backend .replicas[].models[].dynamic_batching .replicas[].models[].floats .replicas[].models[].inputs[]
.replicas[].models[].instances .replicas[].models[].max_batch_size .replicas[].models[].name .replicas[].models[].outputs[]
.replicas[].models[].versions[]
.replicas[].predicted[].num_inference_steps .replicas[].predicted[].pictures_per_hour .replicas[].predicted[].quality
.replicas[].predicted[].scene_construction .replicas[].predicted[].scheduler .replicas[].predicted[].seconds_per_picture .replicas[].predicted[].subject_enhancement
.replicas[].predicted[].subject_scene_fusion
.replicas[].ready .replicas[].round_trip_seconds
.replicas[].sizes.latents[] .replicas[].sizes.picture[] .replicas[].sizes.reference .replicas[].sizes.subjects .replicas[].sizes.tokens .replicas[].sizes.width
.replicas[].triton`)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if r.Replicas[1].Measured != nil || !strings.Contains(string(text), `"measured":null,"predicted":[]`) {
		t.Errorf("a replica that was not measured: %s", text)
	}
}

// TestDocumentation: docs/troubleshooting.md has a row for every kind of fault that the code can name, and for no other.
func TestDocumentation(t *testing.T) {
	var codes []string
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, "../networks/contract.go") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^(?:const|\t)\s*[A-Z]\w+ +(?:networks\.)?Code += "(\w+)"`).FindAllSubmatch(text, -1) {
			codes = append(codes, string(m[1]))
		}
	}
	text, err := os.ReadFile("../../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "## Faults by their kind")
	section, _, _ = strings.Cut(section, "\n## ")
	var rows []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| .+ \\| .+ \\|$").FindAllStringSubmatch(section, -1) {
		rows = append(rows, m[1])
	}
	slices.Sort(codes)
	slices.Sort(rows)
	if diff := cmp.Diff(codes, rows); diff != "" || len(codes) < 20 {
		t.Errorf("kinds in the code -, in the documentation +:\n%s", diff)
	}
}

// TestNoTriton: something listens there and is none: it says nothing, or speaks HTTP as Triton's port 8000 does.
func TestNoTriton(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	const want = "FAULT [unreachable] : found something that does not speak gRPC, want a Triton server. Start it, or correct --triton"
	wants(t, examine(t, Options{Replicas: []string{silent.Addr().String(), web.Listener.Addr().String()}}), want, want)
}
