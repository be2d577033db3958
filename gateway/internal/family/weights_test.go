package family

import (
	"os"
	"path/filepath"
	"testing"
)

// TestHashWeights: the hash is the one that the toolkit's export wrote beside the files.
func TestHashWeights(t *testing.T) {
	mini, err := Load("../../../model_repository/mini")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := mini.HashWeights(); err != nil || got != mini.WeightsSHA256 {
		t.Errorf("%s, %v, want what pipeline.json says, %s", got, err, mini.WeightsSHA256)
	}

	// The expected hash is sha256sum's of the files' names and contents, put together by hand:
	// printf 'a/1/model.onnx\0graphb/1/model.onnx\0graphb/1/model.onnx.data\0weights' | sha256sum
	large := &Family{Dir: t.TempDir()}
	for name, content := range map[string]string{
		"a/1/model.onnx": "graph", "b/1/model.onnx": "graph", "b/1/model.onnx.data": "weights", "b/1/model.onnx.bak": "other", "safety_checker/1/model.onnx": "checker",
	} {
		path := filepath.Join(large.ModelsDir(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := large.HashWeights(); err != nil || got != "6d38ad38fca839f7f293366d2b113b2be0e744c805608a3f0e4d600e297deb22" {
		t.Errorf("with weights beside the graph: %s, %v", got, err)
	}

	engines := &Family{Dir: t.TempDir()}
	plan := filepath.Join(engines.ModelsDir(), "unet_tdm/1/model.plan")
	if err := os.MkdirAll(filepath.Dir(plan), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plan, []byte("engine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := engines.HashWeights(); err != nil || got != "" {
		t.Errorf("engines alone give %q, %v, want nothing", got, err)
	}
}
