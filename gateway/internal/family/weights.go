package family

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// HashWeights identifies the networks in models/ that make pictures as the export
// does that writes weights_sha256: SHA-256 over name, a zero byte and content of
// each <model>/1/model.onnx and of the weights beside it, in order of names
// (toolkit/export/description.py). The safety checker, which changes no pixel, is
// left out. It is "" if there is none, as where Triton loads engines.
func (f *Family) HashWeights() (string, error) {
	graphs, err := filepath.Glob(filepath.Join(f.ModelsDir(), "*", "1", "model.onnx")) // sorted
	if err != nil || len(graphs) == 0 {
		return "", err
	}
	digest := sha256.New()
	for _, graph := range graphs {
		if filepath.Base(filepath.Dir(filepath.Dir(graph))) == "safety_checker" {
			continue
		}
		if err := f.hashFile(digest, graph); err != nil {
			return "", err
		}
		// Of weights that would not fit into the graph's own file.
		if err := f.hashFile(digest, graph+".data"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}

// hashFile adds a file's name below models/ and its content.
func (f *Family) hashFile(digest io.Writer, path string) error {
	name, err := filepath.Rel(f.ModelsDir(), path)
	if err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.WriteString(digest, filepath.ToSlash(name)+"\x00"); err != nil {
		return err
	}
	_, err = io.Copy(digest, file)
	return err
}
