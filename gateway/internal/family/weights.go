package family

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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
	return readFile(digest, filepath.ToSlash(name)+"\x00", path)
}

// readFile writes head and then the file's content to digest, or nothing if it cannot be opened.
func readFile(digest io.Writer, head, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.WriteString(digest, head); err != nil {
		return err
	}
	_, err = io.Copy(digest, file)
	return err
}

// sums is the file in models/ that says the SHA-256 of every weight file, as sha256sum
// writes it (toolkit/export/sums.py).
const sums = "SHA256SUMS"

// CheckWeights reads every weight file and says which of them are not what the export
// wrote: damaged on a disk or on the way, missing, of another export, or not listed. Of a family
// without SHA256SUMS it can only say that one of them is not.
func (f *Family) CheckWeights() error {
	list, err := os.ReadFile(filepath.Join(f.ModelsDir(), sums))
	if errors.Is(err, fs.ErrNotExist) {
		hash, err := f.HashWeights()
		if err != nil {
			return fmt.Errorf("weights: %w", err)
		}
		if hash != "" && hash != f.WeightsSHA256 {
			return fmt.Errorf("the weights in %s have the SHA-256 %s, but pipeline.json says %s: a file is damaged, or of another export; "+
				"copy the family's folder again, or export it anew", f.ModelsDir(), hash, f.WeightsSHA256)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("weights: %w", err)
	}
	var faults []error
	listed := make(map[string]bool)
	for line := range strings.Lines(string(list)) {
		want, name, ok := strings.Cut(strings.TrimRight(line, "\n"), "  ")
		if !ok || len(want) != 2*sha256.Size || !filepath.IsLocal(name) {
			return fmt.Errorf("%s: the line %q is not one of sha256sum's", filepath.Join(f.ModelsDir(), sums), line)
		}
		path := filepath.Join(f.ModelsDir(), name)
		listed[path] = true
		digest := sha256.New()
		switch err := readFile(digest, "", path); {
		case errors.Is(err, fs.ErrNotExist):
			faults = append(faults, fmt.Errorf("the weights %s are missing: copy the file again from where the family came from", path))
		case err != nil:
			faults = append(faults, fmt.Errorf("weights: %w", err))
		case hex.EncodeToString(digest.Sum(nil)) != want:
			faults = append(faults, fmt.Errorf("the weights %s are damaged, or of another export: their SHA-256 is %x, and %s says %s; "+
				"copy the file again from where the family came from, or export the family anew", path, digest.Sum(nil), sums, want))
		}
	}
	files, err := filepath.Glob(filepath.Join(f.ModelsDir(), "*", "1", "model.onnx*")) // as the export lists them
	if err != nil {
		return fmt.Errorf("weights: %w", err)
	}
	for _, path := range files {
		if !listed[path] {
			faults = append(faults, fmt.Errorf("the weights %s are not in %s, so nobody can say whether they are damaged: "+
				"copy %s again from where the family came from, or remove the file if it is not of the family", path, sums, sums))
		}
	}
	return errors.Join(faults...)
}
