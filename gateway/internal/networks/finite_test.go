package networks

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
	"github.com/facediffuser/facediffuser/tritonclient/tritontest"
)

// serving is a server whose models, of Stable Diffusion 1.5's dimensions, answer with zeros.
func serving(t *testing.T, datatype inference.DataType) (*tritontest.Server, *Networks) {
	t.Helper()
	var models []tritontest.Model
	for _, config := range sd15() {
		for _, in := range config.Input {
			if in.DataType != inference.DataType_TYPE_INT64 {
				in.DataType = datatype
			}
		}
		out := config.Output[0]
		out.DataType = datatype
		models = append(models, tritontest.Model{Config: config, Run: func(_ context.Context, inputs []tritonclient.Tensor) ([]tritonclient.Tensor, error) {
			wire, _ := tritonclient.DatatypeOf(datatype)
			tensor := tritonclient.Tensor{Name: out.Name, Datatype: wire, Shape: append([]int64{inputs[0].Shape[0]}, out.Dims...)}
			tensor.Data = make([]byte, tensor.Elements()*wire.Size())
			return []tritonclient.Tensor{tensor}, nil
		}})
	}
	server := tritontest.Start(t, models...)
	pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{server.Address()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pool.Close() })
	return server, New(pool, sd15Family, 0, SafetyChecker)
}

// spoil makes the last value of the answer one that is not finite, by its bits in IEEE 754.
func spoil(half uint16, single uint32) tritontest.Fault {
	return tritontest.Fault{Alter: func(r *inference.ModelInferResponse) {
		raw := r.RawOutputContents[0]
		if r.Outputs[0].Datatype == "FP16" {
			binary.LittleEndian.PutUint16(raw[len(raw)-2:], half)
			return
		}
		binary.LittleEndian.PutUint32(raw[len(raw)-4:], single)
	}}
}

// TestNoNetworkPassesOnWhatIsNotFinite: every network, both datatypes, NaN and both infinities.
func TestNoNetworkPassesOnWhatIsNotFinite(t *testing.T) {
	const tokens, width, latent = 77, 768, 4 * 64 * 64
	state := make([]float32, tokens*width)
	calls := map[string]func(context.Context, *Networks) ([]float32, error){
		"text_encoder": func(ctx context.Context, n *Networks) ([]float32, error) {
			return n.EncodeText(ctx, make([]int64, tokens))
		},
		"image_encoder": func(ctx context.Context, n *Networks) ([]float32, error) {
			return n.EncodeImage(ctx, make([]float32, 3*224*224))
		},
		"subject_fuser": func(ctx context.Context, n *Networks) ([]float32, error) {
			return n.FuseSubjects(ctx, state, make([]float32, 4*width), make([]int64, 4))
		},
		"vae_decoder": func(ctx context.Context, n *Networks) ([]float32, error) {
			return n.DecodeLatents(ctx, make([]float32, latent))
		},
		SafetyChecker: func(ctx context.Context, n *Networks) ([]float32, error) {
			score, err := n.ScoreSafety(ctx, make([]float32, 3*336*336))
			return []float32{score}, err
		},
	}
	for _, unet := range []pipeline.UNet{pipeline.TDM, pipeline.SDM} {
		calls[string(unet)] = func(ctx context.Context, n *Networks) ([]float32, error) {
			dst := make([]float32, 2*latent)
			return dst, n.PredictNoise(ctx, dst, unet, make([]float32, latent), 1, state, state)
		}
	}
	if len(calls) != len(Models)+1 {
		t.Fatalf("%d networks are called, want %d", len(calls), len(Models)+1)
	}
	for _, datatype := range []inference.DataType{inference.DataType_TYPE_FP32, inference.DataType_TYPE_FP16} {
		server, n := serving(t, datatype)
		for model, call := range calls {
			if _, err := call(t.Context(), n); err != nil {
				t.Fatalf("%s %s, finite: %v", datatype, model, err)
			}
			for value, fault := range map[string]tritontest.Fault{
				"NaN": spoil(0x7e00, 0x7fc00000), "+Inf": spoil(0x7c00, 0x7f800000), "-Inf": spoil(0xfc00, 0xff800000),
			} {
				server.Fault(model, fault, fault)
				_, err := call(t.Context(), n)
				if !errors.Is(err, tritonclient.NotFinite) || !strings.Contains(err.Error(), value+" among the values of output ") {
					t.Errorf("%s %s, %s: %v", datatype, model, value, err)
				}
				server.Fault(model, fault)
				values, err := call(t.Context(), n) // which asks again
				if err != nil || math.IsNaN(float64(values[len(values)-1])) {
					t.Errorf("%s %s, %s once: %v", datatype, model, value, err)
				}
			}
		}
	}
}
