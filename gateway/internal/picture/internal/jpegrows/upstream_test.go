package jpegrows

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// reviewed are the SHA-256 sums of image/jpeg's decoder, its Go files but the
// encoder and tests in the order of their names, that this package was compared
// with, and the first Go version of each.
var reviewed = map[string]string{
	"7c803359a03cdcb81799109083d501bb557e83634db59912ba6688cc394eba61": "go1.26.0",
}

// TestStandardLibraryIsReviewed fails when image/jpeg has changed since this
// package was compared with it.
func TestStandardLibraryIsReviewed(t *testing.T) {
	// The package of the toolchain that runs the tests, wherever that is.
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", "image/jpeg").Output()
	if err != nil {
		t.Fatalf("go list: %v; the test reads the standard library's source and needs the go command", err)
	}
	dir := strings.TrimSpace(string(out))
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	sum, read := sha256.New(), 0
	slices.Sort(files)
	for _, file := range files {
		if name := filepath.Base(file); name == "writer.go" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sum.Write(data)
		read++
	}
	if read < 4 {
		t.Fatalf("only %d files of the decoder in %s", read, dir)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); reviewed[got] == "" {
		t.Errorf(`the standard library's JPEG decoder is not one that this package was compared with.
Compare %s with the same folder of the Go version last reviewed, carry over what README.md says, and add to reviewed:
	%q: the Go version`, dir, got)
	}
}
