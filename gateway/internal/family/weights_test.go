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
