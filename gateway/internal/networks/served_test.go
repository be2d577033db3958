package networks_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/localtriton"
	"github.com/facediffuser/facediffuser/gateway/internal/networks"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/tritonclient"
)

// TestConfigurationsOfGPUsInTriton: a real Triton accepts the committed configurations of the GPU back ends, warms
// every model up at real sizes, takes priorities and speaks FP16 with the gateway. What it cannot show without a
// GPU is the back ends themselves: stand-ins run in their place, and only the lines that name them are changed.
func TestConfigurationsOfGPUsInTriton(t *testing.T) {
	for _, backend := range []string{"tensorrt", "onnxruntime"} {
		t.Run(backend, func(t *testing.T) {
			models := t.TempDir()
			standIn(t, backend, models)
			ctx, cancel := context.WithTimeout(t.Context(), startLimit)
			defer cancel()
			server, err := localtriton.Start(ctx, localtriton.Config{Python: os.Getenv(python), ModelsDir: models, RunDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := server.Close(context.Background()); err != nil {
					t.Error(err)
				}
			}()
			if err := server.WaitReady(ctx, nil); err != nil {
				t.Fatal(err)
			}
			pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{server.Address()}})
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()

			n := networks.New(pool, &family.Family{ObjectResolution: 512}, callLimit)
			dims, err := n.Dimensions(ctx)
			if err != nil {
				t.Fatal(err)
			}
			latents, states := make([]float32, dims.Latent()), make([]float32, dims.Tokens*dims.Embedding)
			for i := range latents {
				latents[i] = float32(i%8) / 8
			}
			noise := make([]float32, 2*len(latents))
			if err := n.PredictNoise(ctx, noise, pipeline.TDM, latents, 3, states, states); err != nil {
				t.Fatal(err)
			}
			for i, v := range noise {
				if want := latents[i%len(latents)] + 3; v != want {
					t.Fatalf("noise_pred[%d] = %v, want %v", i, v, want)
				}
			}
			image, err := n.DecodeLatents(ctx, latents)
			if err != nil || len(image) != 3*512*512 {
				t.Errorf("%d values of a picture, %v", len(image), err)
			}
			if _, err := pool.Infer(ctx, tritonclient.Request{
				Model: "text_encoder", Priority: 1, QueueTimeout: time.Second, Timeout: callLimit,
				Inputs: []tritonclient.Tensor{tritonclient.Int64("input_ids", []int64{1, 77}, make([]int64, 77))},
			}); err != nil {
				t.Error(err)
			}
			for model, want := range map[string][]string{
				"unet_tdm": {"2", "16", "2"}, "unet_sdm": {"2", "16"}, "text_encoder": {"1", "4", "1"}, "safety_checker": {"1", "4"},
			} {
				text, err := os.ReadFile(filepath.Join(models, model, "executions.txt"))
				if got := strings.Fields(string(text)); err != nil || !slices.Equal(got, want) {
					t.Errorf("%s ran batches of %v rows (%v), want %v: warm-up, then what was asked", model, got, err, want)
				}
			}
		})
	}
}

// standIn copies sd15's configurations for a back end into models, to run testdata/stand_in.py on the CPU.
func standIn(t *testing.T, backend, models string) {
	t.Helper()
	code, err := os.ReadFile("testdata/stand_in.py")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, folder := range []string{backend, "optional/" + backend} {
		found, err := filepath.Glob(filepath.Join("../../../model_repository/sd15", folder, "*", "config.pbtxt"))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: no configurations (%v)", folder, err)
		}
		paths = append(paths, found...)
	}
	change := strings.NewReplacer(
		`backend: "tensorrt"`, `backend: "python"`, `backend: "onnxruntime"`, `backend: "python"`,
		`"model.plan"`, `"model.py"`, `"model.onnx"`, `"model.py"`, "KIND_GPU", "KIND_CPU",
	)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(models, filepath.Base(filepath.Dir(path)))
		if err := os.MkdirAll(filepath.Join(folder, "1"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{"config.pbtxt": change.Replace(string(text)), "1/model.py": string(code)} {
			if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}
