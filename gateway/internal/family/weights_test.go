package family

import (
	"os"
	"path/filepath"
	"strings"
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

// TestCheckWeights damages files as disks and copies do; the sums are sha256sum's of "one" and "two".
func TestCheckWeights(t *testing.T) {
	const list = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed  text_encoder/1/model.onnx\n" +
		"3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3  vae_decoder/1/model.onnx\n"
	for name, test := range map[string]struct {
		list, one, two string // "" is no such file
		want           []string
	}{
		"whole":          {list, "one", "two", nil},
		"a flipped bit":  {list, "one", "twn", []string{"vae_decoder/1/model.onnx are damaged", "copy the file again"}},
		"cut":            {list, "on", "two", []string{"text_encoder/1/model.onnx are damaged"}},
		"missing":        {list, "", "two", []string{"text_encoder/1/model.onnx are missing", "copy the file again"}},
		"two at once":    {list, "eno", "owt", []string{"text_encoder/1/model.onnx are damaged", "vae_decoder/1/model.onnx are damaged"}},
		"one not listed": {list[:strings.Index(list, "\n")+1], "one", "twn", []string{"vae_decoder/1/model.onnx are not in SHA256SUMS", "copy SHA256SUMS again"}},
		"not a list":     {"hello\n", "one", "two", []string{"SHA256SUMS", `"hello\n"`, "sha256sum"}},
		"a way out":      {"7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed  ../one\n", "one", "two", []string{"sha256sum"}},
		"no list":        {"", "one", "two", []string{"pipeline.json says 1234", "export it anew"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &Family{Dir: t.TempDir(), WeightsSHA256: "1234"}
			for path, content := range map[string]string{sums: test.list, "text_encoder/1/model.onnx": test.one, "vae_decoder/1/model.onnx": test.two} {
				if content == "" {
					continue
				}
				path = filepath.Join(f.ModelsDir(), path)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := f.CheckWeights()
			if (err != nil) != (test.want != nil) {
				t.Fatalf("%v, want %q", err, test.want)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\ndoes not say %q", err, want)
				}
			}
		})
	}
}

// TestEmptyListOfWeights: a list that was cut to nothing says nothing of the files.
func TestEmptyListOfWeights(t *testing.T) {
	f := &Family{Dir: t.TempDir()}
	if err := os.MkdirAll(filepath.Join(f.ModelsDir(), "unet_tdm/1"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{sums: "", "unet_tdm/1/model.onnx": "graph", "unet_tdm/1/model.onnx.data": "weights"} {
		if err := os.WriteFile(filepath.Join(f.ModelsDir(), name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := f.CheckWeights()
	for _, name := range []string{"unet_tdm/1/model.onnx are", "unet_tdm/1/model.onnx.data are"} {
		if err == nil || !strings.Contains(err.Error(), name+" not in SHA256SUMS") {
			t.Errorf("%v does not say that %s not listed", err, name)
		}
	}
}

// TestWeightsOfMini: the family that comes with the program is whole, by either way to say so.
func TestWeightsOfMini(t *testing.T) {
	mini, err := Load("../../../model_repository/mini")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(mini.ModelsDir(), sums)); err != nil {
		t.Error(err)
	}
	if err := mini.CheckWeights(); err != nil {
		t.Error(err)
	}
}

func BenchmarkCheckWeights(b *testing.B) {
	mini, err := Load("../../../model_repository/mini")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := mini.CheckWeights(); err != nil {
			b.Fatal(err)
		}
	}
}
