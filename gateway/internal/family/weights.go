package family

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
)

// HashWeights identifies the networks in models/ as the export does that writes
// weights_sha256: SHA-256 over name, a zero byte and content of each
// <model>/1/model.onnx, in order of names (toolkit/export/description.py). It is
// "" if there is none, as where Triton loads engines.
func (f *Family) HashWeights() (string, error) {
	paths, err := filepath.Glob(filepath.Join(f.ModelsDir(), "*", "1", "model.onnx")) // sorted
	if err != nil || len(paths) == 0 {
		return "", err
	}
	digest := sha256.New()
	for _, path := range paths {
		name, err := filepath.Rel(f.ModelsDir(), path)
		if err != nil {
			return "", err
		}
		digest.Write([]byte(filepath.ToSlash(name) + "\x00"))
		if err := hashFile(digest, path); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}

func hashFile(digest io.Writer, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(digest, file)
	return err
}
