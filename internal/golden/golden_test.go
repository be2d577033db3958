package golden

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// file writes a safetensors file with the given JSON header and body.
func file(t *testing.T, header string, body []byte) string {
	t.Helper()
	raw := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, append(append(raw, header...), body...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpen(t *testing.T) {
	f, err := Open(file(t, `{"__metadata__": {"golden": "{\"steps\": 3}"},
		"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
		"b": {"dtype": "I64", "shape": [1], "data_offsets": [4, 12]},
		"c": {"dtype": "U8", "shape": [2], "data_offsets": [12, 14]}}`,
		[]byte{0, 0, 0xc0, 0x3f, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 7, 8}))
	if err != nil {
		t.Fatal(err)
	}
	if string(f.Header) != `{"steps": 3}` {
		t.Errorf("header %s", f.Header)
	}
	if a, err := f.Float32s("a"); err != nil || !slices.Equal(a, []float32{1.5}) {
		t.Errorf("a = %v, %v", a, err)
	}
	if b, err := f.Int64s("b"); err != nil || !slices.Equal(b, []int64{-2}) {
		t.Errorf("b = %v, %v", b, err)
	}
	if c, err := f.Uint8s("c"); err != nil || !slices.Equal(c, []uint8{7, 8}) {
		t.Errorf("c = %v, %v", c, err)
	}
	if _, err := f.Float32s("b"); err == nil {
		t.Error("an I64 tensor was read as F32")
	}
	if _, err := f.Float32s("d"); err == nil {
		t.Error("a tensor was read that does not exist")
	}
}

func TestOpenRefuses(t *testing.T) {
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte{200, 0, 0, 0, 0, 0, 0, 0, '{'}, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"absent":      filepath.Join(t.TempDir(), "absent"),
		"header":      short,
		"not JSON":    file(t, "{", nil),
		"body short":  file(t, `{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}`, nil),
		"bad offsets": file(t, `{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}`, nil),
	} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadLines(t *testing.T) {
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	for _, line := range []string{`{"command": "x"}`, `{"n": 1}`, `{"n": 2}`} {
		if _, err := zip.Write([]byte(line + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.jsonl.gz")
	if err := os.WriteFile(path, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var header json.RawMessage
	cases, err := ReadLines[struct{ N int }](path, &header)
	if err != nil {
		t.Fatal(err)
	}
	if string(header) != `{"command": "x"}` || len(cases) != 2 || cases[0].N != 1 || cases[1].N != 2 {
		t.Errorf("header %s, cases %v", header, cases)
	}
	if _, err := ReadLines[struct{ N string }](path, &header); err == nil {
		t.Error("a number was read as a string")
	}
}
