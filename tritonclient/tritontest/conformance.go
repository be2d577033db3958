package tritontest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// Target is a ready server that holds the models of WriteModels, or Models.
type Target struct {
	Address string
	// Batcher says that the server batches the rows of different callers. A Server
	// of this package does not.
	Batcher bool
}

// Conformance checks, through the client, everything that the client and its users
// rely on in a server. It can run several times on one server.
func Conformance(t *testing.T, target Target) {
	pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{target.Address}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	c := conformance{pool: pool, target: target}
	t.Run("Readiness", c.readiness)
	t.Run("Metadata", c.metadata)
	t.Run("Config", c.config)
	t.Run("RepositoryIndex", c.repositoryIndex)
	t.Run("FP32", c.fp32)
	t.Run("FP16", c.fp16)
	t.Run("Finite", c.finite)
	t.Run("INT64", c.int64)
	t.Run("LargeMessages", c.largeMessages)
	t.Run("RequestedOutputs", c.requestedOutputs)
	t.Run("Reshape", c.reshape)
	t.Run("Statistics", c.statistics)
	t.Run("Concurrency", c.concurrency)
	if target.Batcher {
		t.Run("DynamicBatching", c.dynamicBatching)
	}
	t.Run("Refusals", c.refusals)
	t.Run("ModelFailure", c.modelFailure)
	t.Run("Deadline", c.deadline)
	t.Run("Cancellation", c.cancellation)
}

type conformance struct {
	pool   *tritonclient.Pool
	target Target
}

func (c conformance) readiness(t *testing.T) {
	if err := c.pool.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.pool.ModelReady(t.Context(), "add"); err != nil {
		t.Error(err)
	}
	if err := c.pool.ModelReady(t.Context(), "nobody"); !errors.Is(err, tritonclient.NotFound) {
		t.Errorf("ModelReady of a model that does not exist: %v, want NotFound", err)
	}
	if r := c.pool.Replicas()[0]; !r.Usable() || r.Address != c.target.Address || r.Err != nil {
		t.Errorf("replica: %+v", r)
	}
}

func (c conformance) metadata(t *testing.T) {
	server, err := c.pool.ServerMetadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if server.Name != "triton" || server.Version == "" || !slices.Contains(server.Extensions, "statistics") {
		t.Errorf("server: %v", server)
	}
	model, err := c.pool.ModelMetadata(t.Context(), "echo_int64")
	if err != nil {
		t.Fatal(err)
	}
	if model.Name != "echo_int64" || model.Platform != "python" || !slices.Equal(model.Versions, []string{"1"}) ||
		len(model.Inputs) != 1 || model.Inputs[0].Name != "x" || model.Inputs[0].Datatype != "INT64" ||
		!slices.Equal(model.Inputs[0].Shape, []int64{-1, 3}) ||
		len(model.Outputs) != 1 || model.Outputs[0].Name != "y" {
		t.Errorf("model: %v", model)
	}
	if _, err := c.pool.ModelMetadata(t.Context(), "nobody"); !errors.Is(err, tritonclient.NotFound) {
		t.Errorf("metadata of a model that does not exist: %v, want NotFound", err)
	}
}

func (c conformance) config(t *testing.T) {
	add, err := c.pool.ModelConfig(t.Context(), "add")
	if err != nil {
		t.Fatal(err)
	}
	if add.Name != "add" || add.Backend != "python" || add.MaxBatchSize != 8 || add.GetDynamicBatching() == nil ||
		len(add.InstanceGroup) != 1 || add.InstanceGroup[0].Kind != inference.ModelInstanceGroup_KIND_CPU ||
		add.Parameters["purpose"].GetStringValue() != "conformance" {
		t.Errorf("add: %v", add)
	}
	if len(add.Input) != 2 || add.Input[0].Name != "a" || add.Input[0].DataType != inference.DataType_TYPE_FP32 ||
		!slices.Equal(add.Input[0].Dims, []int64{-1}) {
		t.Errorf("inputs of add: %v", add.Input)
	}
	batch, err := c.pool.ModelConfig(t.Context(), "batch")
	if err != nil {
		t.Fatal(err)
	}
	if d := batch.GetDynamicBatching(); d.GetMaxQueueDelayMicroseconds() != 200000 || !slices.Equal(d.GetPreferredBatchSize(), []int32{8}) {
		t.Errorf("batcher of batch: %v", d)
	}
	scalar, err := c.pool.ModelConfig(t.Context(), "scalar")
	if err != nil {
		t.Fatal(err)
	}
	if in := scalar.Input[0]; !slices.Equal(in.Dims, []int64{1}) || in.Reshape == nil || len(in.Reshape.Shape) != 0 {
		t.Errorf("timestep of scalar: %v", in)
	}
	if slow, err := c.pool.ModelConfig(t.Context(), "slow"); err != nil || slow.GetDynamicBatching() != nil {
		t.Errorf("slow: %v, %v", slow, err)
	}
	if _, err := c.pool.ModelConfig(t.Context(), "nobody"); !errors.Is(err, tritonclient.NotFound) {
		t.Errorf("configuration of a model that does not exist: %v, want NotFound", err)
	}
}

func (c conformance) repositoryIndex(t *testing.T) {
	index, err := c.pool.RepositoryIndex(t.Context())
	if err != nil || len(index) != 7 {
		t.Fatalf("%v, %v, want 7 models", index, err)
	}
	for _, m := range index {
		if m.Name == "" || m.Version != "1" || m.State != "READY" || m.Reason != "" {
			t.Errorf("%v, want version 1, READY", m)
		}
	}
}

// ConformanceUnready checks what is said, by a server that was told to go on without a
// model that does not load (--exit-on-error=false), of that model, broken, whose loader
// said "weights are missing", and of another one, slow.
func ConformanceUnready(t *testing.T, address string) {
	pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{address}, Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pool.Ready(t.Context()); !errors.Is(err, tritonclient.ErrNotReady) {
		t.Errorf("Ready: %v, want ErrNotReady", err)
	}
	index, err := pool.RepositoryIndex(t.Context())
	if err != nil || len(index) != 2 {
		t.Fatalf("index %v, %v, want 2 models", index, err)
	}
	if m := index[0]; m.Name != "broken" || m.Version != "1" || m.State != "UNAVAILABLE" || !strings.Contains(m.Reason, "weights are missing") {
		t.Errorf("index of the broken model: %v", m)
	}
	if m := index[1]; m.Name != "slow" || m.Version != "1" || m.State != "READY" {
		t.Errorf("index of the other model: %v", m)
	}
	if _, err := pool.ModelConfig(t.Context(), "broken"); !errors.Is(err, tritonclient.NotFound) || !strings.Contains(err.Error(), "no available versions") {
		t.Errorf("configuration of the broken model: %v", err)
	}
	if err := pool.ModelReady(t.Context(), "broken"); !errors.Is(err, tritonclient.NotFound) {
		t.Errorf("readiness of the broken model: %v", err)
	}
	if config, err := pool.ModelConfig(t.Context(), "slow"); err != nil || config.Name != "slow" {
		t.Errorf("configuration of the other model: %v, %v", config, err)
	}
	if _, err := pool.Infer(t.Context(), sleepFor(time.Millisecond)); err != nil {
		t.Errorf("a call of the other model: %v", err)
	}
}

// floats are values whose sums and differences with each other are exact or not,
// finite or not.
var floats = []float32{0, float32(math.Copysign(0, -1)), 1, -2.5, 1e-45, math.MaxFloat32, float32(math.Inf(-1)), 0.1}

func (c conformance) fp32(t *testing.T) {
	b := make([]float32, len(floats))
	for i := range b {
		b[i] = floats[len(floats)-1-i]
	}
	shape := []int64{2, int64(len(floats) / 2)}
	for name, inputs := range map[string][]tritonclient.Tensor{
		"in one piece": {tritonclient.Float32("a", tritonclient.FP32, shape, floats), tritonclient.Float32("b", tritonclient.FP32, shape, b)},
		"row by row": {
			tritonclient.Float32("b", tritonclient.FP32, shape, b[:4], b[4:]), // in another order, too
			tritonclient.Float32("a", tritonclient.FP32, shape, floats[:4], floats[4:]),
		},
	} {
		response, err := c.pool.Infer(t.Context(), tritonclient.Request{Model: "add", ID: "7", Inputs: inputs})
		if err != nil {
			t.Fatal(name, err)
		}
		if response.Model != "add" || response.ID != "7" || response.Version != "1" || response.Replica != c.target.Address {
			t.Errorf("%s: %+v", name, response)
		}
		for output, want := range map[string]func(a, b float32) float32{
			"sum":        func(a, b float32) float32 { return a + b },
			"difference": func(a, b float32) float32 { return a - b },
		} {
			tensor, err := response.Output(output)
			if err != nil {
				t.Fatal(name, err)
			}
			if !slices.Equal(tensor.Shape, shape) {
				t.Errorf("%s: %s has shape %v, want %v", name, output, tensor.Shape, shape)
			}
			values, err := tensor.Float32s()
			if err != nil {
				t.Fatal(name, err)
			}
			for i, got := range values {
				if w := want(floats[i], b[i]); math.Float32bits(got) != math.Float32bits(w) && !(got != got && w != w) {
					t.Errorf("%s: %s of %v and %v is %v, want %v", name, output, floats[i], b[i], got, w)
				}
			}
		}
		response.Release()
	}
}

// finite: what the model computes beyond the numbers of its datatype arrives as it is, and is refused where the
// caller wants numbers.
func (c conformance) finite(t *testing.T) {
	large := []float32{math.MaxFloat32, 1}
	inputs := []tritonclient.Tensor{tritonclient.Float32("a", tritonclient.FP32, []int64{1, 2}, large), tritonclient.Float32("b", tritonclient.FP32, []int64{1, 2}, large)}
	for output, want := range map[string]string{"sum": "+Inf among the values of output sum (value 0 of 2)", "difference": ""} {
		_, err := c.pool.Infer(t.Context(), tritonclient.Request{Model: "add", Inputs: inputs, Outputs: []tritonclient.Output{{Name: output, Finite: true}}})
		if want == "" && err != nil || want != "" && (!errors.Is(err, tritonclient.NotFinite) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", output, err, want)
		}
	}
	half := tritonclient.Float32("x", tritonclient.FP16, []int64{1, 4}, []float32{1, 70000, 2, 3})
	_, err := c.pool.Infer(t.Context(), tritonclient.Request{Model: "echo_fp16", Inputs: []tritonclient.Tensor{half}, Outputs: []tritonclient.Output{{Name: "y", Finite: true}}})
	if !errors.Is(err, tritonclient.NotFinite) || !strings.Contains(err.Error(), "+Inf among the values of output y (value 1 of 4)") {
		t.Errorf("70000, which no FP16 holds: %v", err)
	}
	if s := c.pool.Replicas()[0]; !s.Usable() || s.Breaker != "closed" {
		t.Errorf("afterwards the replica is %+v", s)
	}
}

func (c conformance) fp16(t *testing.T) {
	// The middle two have no binary16: they arrive rounded.
	values := []float32{65504, -6e-8, 0.1, 1.0 / 3, 2048, -0.5, float32(math.Inf(1)), 0}
	want := []float32{65504, -0x1p-24, 0x1.998p-4, 0x1.554p-2, 2048, -0.5, float32(math.Inf(1)), 0}
	input := tritonclient.Float32("x", tritonclient.FP16, []int64{2, 4}, values[:4], values[4:])
	tensor := c.infer(t, "echo_fp16", input, tritonclient.Output{Name: "y", Datatype: tritonclient.FP16, Shape: []int64{2, 4}})
	got, err := tensor.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func (c conformance) int64(t *testing.T) {
	values := []int64{math.MinInt64, -1, 0, 1, 1 << 53, math.MaxInt64}
	input := tritonclient.Int64("x", []int64{2, 3}, values)
	tensor := c.infer(t, "echo_int64", input, tritonclient.Output{Name: "y", Datatype: tritonclient.INT64, Shape: []int64{-1, 3}})
	got, err := tensor.Int64s()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, values) {
		t.Errorf("got %v, want %v", got, values)
	}
}

func (c conformance) infer(t *testing.T, model string, input tritonclient.Tensor, output tritonclient.Output) tritonclient.Tensor {
	t.Helper()
	response, err := c.pool.Infer(t.Context(), tritonclient.Request{
		Model: model, Inputs: []tritonclient.Tensor{input}, Outputs: []tritonclient.Output{output}, Timeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(response.Outputs) != 1 {
		t.Fatalf("%d outputs, want 1", len(response.Outputs))
	}
	return response.Outputs[0]
}

// largeMessages passes gRPC's own limit of 4 MiB in both directions.
func (c conformance) largeMessages(t *testing.T) {
	const n = 1 << 20
	a := make([]float32, n)
	for i := range a {
		a[i] = float32(i)
	}
	shape := []int64{1, n}
	response, err := c.pool.Infer(t.Context(), tritonclient.Request{Model: "add", Inputs: []tritonclient.Tensor{
		tritonclient.Float32("a", tritonclient.FP32, shape, a), tritonclient.Float32("b", tritonclient.FP32, shape, a),
	}})
	if err != nil {
		t.Fatal(err)
	}
	sum, err := response.Output("sum")
	if err != nil {
		t.Fatal(err)
	}
	values, err := sum.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range values {
		if v != 2*float32(i) {
			t.Fatalf("element %d is %v", i, v)
		}
	}
}

func (c conformance) requestedOutputs(t *testing.T) {
	x := tritonclient.Float32("", tritonclient.FP32, []int64{1, 2}, []float32{3, 4})
	a, b := x, x
	a.Name, b.Name = "a", "b"
	request := tritonclient.Request{Model: "add", Inputs: []tritonclient.Tensor{a, b}, Outputs: []tritonclient.Output{{Name: "difference"}}}
	response, err := c.pool.Infer(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if len(response.Outputs) != 1 || response.Outputs[0].Name != "difference" {
		t.Errorf("outputs: %v", response.Outputs)
	}
	request.Outputs = []tritonclient.Output{{Name: "sum", Shape: []int64{1, 3}}}
	if _, err := c.pool.Infer(t.Context(), request); !errors.Is(err, tritonclient.BadResponse) {
		t.Errorf("another shape than the caller expects: %v, want BadResponse", err)
	}
}

// reshape is the way of a per-row timestep: [B, 1] on the wire, [B] in the model.
func (c conformance) reshape(t *testing.T) {
	tensor := c.infer(t, "scalar", tritonclient.Float32("timestep", tritonclient.FP32, []int64{2, 1}, []float32{981, 1}),
		tritonclient.Output{Name: "rank", Datatype: tritonclient.INT64, Shape: []int64{2, 1}})
	if ranks, err := tensor.Int64s(); err != nil || !slices.Equal(ranks, []int64{1, 1}) {
		t.Errorf("the model sees %v dimensions (%v), want 1 each", ranks, err)
	}
}

func (c conformance) statistics(t *testing.T) {
	before := c.counts(t, "echo_int64")
	for range 3 {
		c.infer(t, "echo_int64", tritonclient.Int64("x", []int64{2, 3}, make([]int64, 6)), tritonclient.Output{Name: "y"})
	}
	after := c.countsAfter(t, before, 6)
	if rows, runs := after.InferenceCount-before.InferenceCount, after.ExecutionCount-before.ExecutionCount; rows != 6 || runs != 3 {
		t.Errorf("3 calls of 2 rows count as %d rows in %d executions", rows, runs)
	}
	if age := time.Since(time.UnixMilli(int64(after.LastInference))); age < -time.Minute || age > time.Minute {
		t.Errorf("the last inference was %v ago", age)
	}
	all, err := c.pool.Statistics(t.Context(), "")
	if err != nil || len(all) < 7 {
		t.Errorf("statistics of all models: %d, %v", len(all), err)
	}
}

func (c conformance) counts(t *testing.T, model string) *inference.ModelStatistics {
	t.Helper()
	all, err := c.pool.Statistics(t.Context(), model)
	if err != nil || len(all) != 1 || all[0].Name != model {
		t.Fatalf("statistics of %s: %v, %v", model, all, err)
	}
	return all[0]
}

// countsAfter waits until rows more than before are counted: Triton answers a call
// first and counts it then.
func (c conformance) countsAfter(t *testing.T, before *inference.ModelStatistics, rows uint64) *inference.ModelStatistics {
	t.Helper()
	for began := time.Now(); ; {
		after := c.counts(t, before.Name)
		if after.InferenceCount >= before.InferenceCount+rows || time.Since(began) > 5*time.Second {
			return after
		}
	}
}

func (c conformance) concurrency(t *testing.T) {
	var callers sync.WaitGroup
	for caller := range 8 {
		callers.Go(func() {
			for call := range 8 {
				v := []float32{float32(caller), float32(call)}
				response, err := c.pool.Infer(t.Context(), tritonclient.Request{
					Model: "add", ID: fmt.Sprint(caller),
					Inputs: []tritonclient.Tensor{
						tritonclient.Float32("a", tritonclient.FP32, []int64{1, 2}, v), tritonclient.Float32("b", tritonclient.FP32, []int64{1, 2}, v),
					},
					Outputs: []tritonclient.Output{{Name: "sum"}},
				})
				if err != nil {
					t.Error(err)
					return
				}
				sum, err := response.Outputs[0].Float32s()
				if err != nil || sum[0] != 2*v[0] || sum[1] != 2*v[1] || response.ID != fmt.Sprint(caller) {
					t.Errorf("caller %d got the answer %v of %s (%v)", caller, sum, response.ID, err)
				}
				response.Release()
			}
		})
	}
	callers.Wait()
	if n := c.pool.Replicas()[0].Outstanding; n != 0 {
		t.Errorf("%d calls outstanding after the last", n)
	}
}

func (c conformance) dynamicBatching(t *testing.T) {
	before := c.counts(t, "batch")
	most := make(chan int64, 4)
	for range 4 {
		go func() {
			response, err := c.pool.Infer(t.Context(), tritonclient.Request{Model: "batch",
				Inputs: []tritonclient.Tensor{tritonclient.Float32("x", tritonclient.FP32, []int64{2, 1}, []float32{1, 2})}})
			if err != nil {
				t.Error(err)
				most <- 0
				return
			}
			rows, err := response.Outputs[0].Int64s()
			if err != nil {
				t.Error(err)
			}
			most <- slices.Max(append(rows, 0))
		}()
	}
	if largest := max(<-most, <-most, <-most, <-most); largest <= 2 {
		t.Errorf("no execution held the rows of two callers (at most %d)", largest)
	}
	after := c.countsAfter(t, before, 8)
	if rows, runs := after.InferenceCount-before.InferenceCount, after.ExecutionCount-before.ExecutionCount; rows != 8 || runs >= 4 {
		t.Errorf("4 calls of 2 rows count as %d rows in %d executions", rows, runs)
	}
}

// refusals are faults of the caller: InvalidArgument, or NotFound for the model.
func (c conformance) refusals(t *testing.T) {
	good := tritonclient.Float32("x", tritonclient.FP16, []int64{1, 4}, make([]float32, 4))
	with := func(change func(*tritonclient.Tensor)) []tritonclient.Tensor {
		tensor := good
		change(&tensor)
		return []tritonclient.Tensor{tensor}
	}
	for _, test := range []struct {
		name    string
		request tritonclient.Request
		kind    tritonclient.Kind
	}{
		{"unknown model", tritonclient.Request{Model: "nobody", Inputs: []tritonclient.Tensor{good}}, tritonclient.NotFound},
		{"no input", tritonclient.Request{Model: "echo_fp16"}, tritonclient.InvalidArgument},
		{"unknown input", tritonclient.Request{Model: "echo_fp16", Inputs: with(func(x *tritonclient.Tensor) { x.Name = "z" })}, tritonclient.InvalidArgument},
		{"wrong datatype", tritonclient.Request{Model: "echo_fp16", Inputs: []tritonclient.Tensor{
			tritonclient.Float32("x", tritonclient.FP32, []int64{1, 4}, make([]float32, 4))}}, tritonclient.InvalidArgument},
		{"wrong shape", tritonclient.Request{Model: "echo_fp16", Inputs: with(func(x *tritonclient.Tensor) { x.Shape = []int64{2, 2} })}, tritonclient.InvalidArgument},
		{"no batch dimension", tritonclient.Request{Model: "echo_fp16", Inputs: with(func(x *tritonclient.Tensor) { x.Shape = []int64{4} })}, tritonclient.InvalidArgument},
		{"batch too large", tritonclient.Request{Model: "echo_fp16", Inputs: []tritonclient.Tensor{
			tritonclient.Float32("x", tritonclient.FP16, []int64{5, 4}, make([]float32, 20))}}, tritonclient.InvalidArgument},
		{"unknown output", tritonclient.Request{Model: "echo_fp16", Inputs: []tritonclient.Tensor{good},
			Outputs: []tritonclient.Output{{Name: "z"}}}, tritonclient.InvalidArgument},
		{"bytes do not fit the shape", tritonclient.Request{Model: "echo_fp16", Inputs: with(func(x *tritonclient.Tensor) { x.Data = x.Data[1:] })}, tritonclient.InvalidArgument},
	} {
		_, err := c.pool.Infer(t.Context(), test.request)
		var failed *tritonclient.Error
		if !errors.As(err, &failed) || failed.Kind != test.kind || failed.Op != "ModelInfer" || failed.Model != test.request.Model {
			t.Errorf("%s: %v, want kind %q", test.name, err, test.kind)
		}
	}
	if r := c.pool.Replicas()[0]; r.Breaker != "closed" {
		t.Errorf("the callers' faults count against the replica: its breaker is %s", r.Breaker)
	}
}

func (c conformance) modelFailure(t *testing.T) {
	_, err := c.pool.Infer(t.Context(), tritonclient.Request{Model: "broken",
		Inputs: []tritonclient.Tensor{tritonclient.Float32("x", tritonclient.FP32, []int64{1, 1}, []float32{0})}})
	if !errors.Is(err, tritonclient.Internal) || !strings.Contains(err.Error(), "this model always fails") {
		t.Errorf("%v, want Internal with the model's own words", err)
	}
}

func sleepFor(d time.Duration) tritonclient.Request {
	return tritonclient.Request{Model: "slow", Inputs: []tritonclient.Tensor{tritonclient.Int64("milliseconds", []int64{1, 1}, []int64{d.Milliseconds()})}}
}

func (c conformance) deadline(t *testing.T) {
	request := sleepFor(1500 * time.Millisecond)
	request.Timeout = 100 * time.Millisecond
	began := time.Now()
	_, err := c.pool.Infer(t.Context(), request)
	if !errors.Is(err, tritonclient.DeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
	if took := time.Since(began); took > 1200*time.Millisecond {
		t.Errorf("a deadline of 100 ms took %v", took)
	}
	if r := c.pool.Replicas()[0]; r.Breaker != "closed" {
		t.Errorf("a caller's deadline counts against the replica: its breaker is %s", r.Breaker)
	}
}

// cancellation holds for a call that runs and for one that waits behind it; the
// server goes on working.
func (c conformance) cancellation(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ends := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := c.pool.Infer(ctx, sleepFor(1500*time.Millisecond))
			ends <- err
		}()
	}
	for c.pool.Replicas()[0].Outstanding < 2 { // until both are on their way
		select {
		case err := <-ends:
			t.Fatal("ended before it was cancelled: ", err)
		default:
			c.counts(t, "slow")
		}
	}
	cancel()
	began := time.Now()
	for range 2 {
		if err := <-ends; !errors.Is(err, tritonclient.Canceled) || !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want Canceled", err)
		}
	}
	if took := time.Since(began); took > 1200*time.Millisecond {
		t.Errorf("the callers waited %v for their own cancellation", took)
	}
	if _, err := c.pool.Infer(t.Context(), sleepFor(time.Millisecond)); err != nil {
		t.Errorf("after a cancellation: %v", err)
	}
	if r := c.pool.Replicas()[0]; r.Breaker != "closed" {
		t.Errorf("cancellations count against the replica: its breaker is %s", r.Breaker)
	}
}
