package tritontest

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// Model is a model of a Server.
type Model struct {
	Config *inference.ModelConfig
	// Version is the one that is served; "" is 1.
	Version string
	// Failed, if set, is why no version could be loaded. Such a server is not ready.
	Failed string
	// Run gets the inputs in the order of Config.Input, already checked against it,
	// and returns the outputs in any order. Its error becomes the call's status
	// (Internal, if it carries none). nil is a model that is only described.
	Run func(ctx context.Context, inputs []tritonclient.Tensor) ([]tritonclient.Tensor, error)
}

//go:embed models
var models embed.FS

// WriteModels writes the models of the conformance suite to dir, as a model
// repository for a real Triton with the Python backend and numpy. Their tensors cross
// as DLPack: the backend's as_numpy and Tensor(name, array) are compiled against
// NumPy 1, and with NumPy 2 they give empty or wrong contents without an error.
func WriteModels(dir string) error {
	tree, err := fs.Sub(models, "models")
	if err != nil {
		return err
	}
	return os.CopyFS(dir, tree)
}

// Models are the models of the conformance suite: the configurations that a real
// Triton reads, and the Python code in Go.
func Models() ([]Model, error) {
	run := map[string]func(context.Context, []tritonclient.Tensor) ([]tritonclient.Tensor, error){
		"add":        add,
		"echo_fp16":  echo,
		"echo_int64": echo,
		"slow":       slow,
		"batch":      batch,
		"scalar":     scalar,
		"broken":     broken,
	}
	var all []Model
	for name, f := range run {
		text, err := models.ReadFile(path.Join("models", name, "config.pbtxt"))
		if err != nil {
			return nil, err
		}
		config := new(inference.ModelConfig)
		if err := prototext.Unmarshal(text, config); err != nil {
			return nil, fmt.Errorf("model %s: %w", name, err)
		}
		all = append(all, Model{Config: config, Run: f})
	}
	return all, nil
}

func add(_ context.Context, inputs []tritonclient.Tensor) ([]tritonclient.Tensor, error) {
	a, err := inputs[0].Float32s()
	if err != nil {
		return nil, err
	}
	b, err := inputs[1].Float32s()
	if err != nil {
		return nil, err
	}
	if len(a) != len(b) {
		return nil, status.Error(codes.Internal, "operands could not be broadcast together")
	}
	sum, difference := make([]float32, len(a)), make([]float32, len(a))
	for i := range a {
		sum[i], difference[i] = a[i]+b[i], a[i]-b[i]
	}
	return []tritonclient.Tensor{
		tritonclient.Float32("sum", tritonclient.FP32, inputs[0].Shape, sum),
		tritonclient.Float32("difference", tritonclient.FP32, inputs[0].Shape, difference),
	}, nil
}

func echo(_ context.Context, inputs []tritonclient.Tensor) ([]tritonclient.Tensor, error) {
	y := inputs[0]
	y.Name = "y"
	return []tritonclient.Tensor{y}, nil
}

func slow(ctx context.Context, inputs []tritonclient.Tensor) ([]tritonclient.Tensor, error) {
	milliseconds, err := inputs[0].Int64s()
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, time.Duration(slices.Max(milliseconds))*time.Millisecond); err != nil {
		return nil, err
	}
	return []tritonclient.Tensor{tritonclient.Int64("slept", inputs[0].Shape, milliseconds)}, nil
}

// batch has no batcher behind it: every call is an execution of its own.
func batch(_ context.Context, inputs []tritonclient.Tensor) ([]tritonclient.Tensor, error) {
	rows := inputs[0].Shape[0]
	return []tritonclient.Tensor{tritonclient.Int64("rows", []int64{rows, 1}, slices.Repeat([]int64{rows}, int(rows)))}, nil
}

func scalar(_ context.Context, inputs []tritonclient.Tensor) ([]tritonclient.Tensor, error) {
	rows := inputs[0].Shape[0]
	rank := int64(len(inputs[0].Shape))
	return []tritonclient.Tensor{tritonclient.Int64("rank", []int64{rows, 1}, slices.Repeat([]int64{rank}, int(rows)))}, nil
}

func broken(context.Context, []tritonclient.Tensor) ([]tritonclient.Tensor, error) {
	return nil, status.Error(codes.Internal, "Failed to process the request(s) for model instance 'broken_0_0', message: this model always fails")
}

// wait returns when d has passed, or ctx's status.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}
