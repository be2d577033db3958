package localtriton

import (
	"context"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/facediffuser/facediffuser/tritonclient/tritontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestConformance runs the client's suite on the server of the nvidia-pytriton wheel.
func TestConformance(t *testing.T) {
	tritontest.Conformance(t, tritontest.Target{Address: startTriton(t), Batcher: true})
}

func startTriton(t *testing.T) string {
	t.Helper()
	python := os.Getenv("FACEDIFFUSER_PYTHON")
	if python == "" {
		t.Fatal("FACEDIFFUSER_PYTHON names no Python with nvidia-pytriton: run `make test`, or `make venv` and set it to .venv/bin/python")
	}
	models := t.TempDir()
	if err := tritontest.WriteModels(models); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	triton, err := Start(ctx, Config{Python: python, ModelsDir: models, RunDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := triton.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := triton.WaitReady(ctx, nil); err != nil {
		t.Fatal(err)
	}
	return triton.Address()
}
