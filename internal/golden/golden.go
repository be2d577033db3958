// Package golden reads the golden files that the reference writes (python -m toolkit goldens), for
// tests only: tensors in safetensors files and cases in gzipped JSON lines.
package golden

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

// Tensor is one tensor of a file. Data is little-endian and row-major.
type Tensor struct {
	Dtype string
	Shape []int
	Data  []byte
}

// File is a safetensors file in memory.
type File struct {
	Tensors map[string]Tensor
	Header  json.RawMessage // what the reference says about the file: command, versions, parameters
}

// Open reads a safetensors file: the length of a JSON header in 8 bytes, the header, the tensors.
func Open(path string) (*File, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func parse(raw []byte) (*File, error) {
	if len(raw) < 8 || binary.LittleEndian.Uint64(raw) > uint64(len(raw)-8) {
		return nil, errors.New("not a safetensors file")
	}
	split := 8 + int(binary.LittleEndian.Uint64(raw))
	body := raw[split:]
	entries := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw[8:split], &entries); err != nil {
		return nil, err
	}
	f := &File{Tensors: map[string]Tensor{}}
	for name, entry := range entries {
		if name == "__metadata__" {
			var metadata map[string]string
			if err := json.Unmarshal(entry, &metadata); err != nil {
				return nil, err
			}
			f.Header = json.RawMessage(metadata["golden"])
			continue
		}
		var e struct {
			Dtype   string `json:"dtype"`
			Shape   []int  `json:"shape"`
			Offsets [2]int `json:"data_offsets"`
		}
		if err := json.Unmarshal(entry, &e); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", name, err)
		}
		if e.Offsets[0] < 0 || e.Offsets[0] > e.Offsets[1] || e.Offsets[1] > len(body) {
			return nil, fmt.Errorf("tensor %s lies outside the file", name)
		}
		f.Tensors[name] = Tensor{Dtype: e.Dtype, Shape: e.Shape, Data: body[e.Offsets[0]:e.Offsets[1]]}
	}
	return f, nil
}

// Float32s is the tensor of that name, which must be F32.
func (f *File) Float32s(name string) ([]float32, error) {
	t, err := f.tensor(name, "F32")
	if err != nil {
		return nil, err
	}
	values := make([]float32, len(t.Data)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))
	}
	return values, nil
}

// Int64s is the tensor of that name, which must be I64.
func (f *File) Int64s(name string) ([]int64, error) {
	t, err := f.tensor(name, "I64")
	if err != nil {
		return nil, err
	}
	values := make([]int64, len(t.Data)/8)
	for i := range values {
		values[i] = int64(binary.LittleEndian.Uint64(t.Data[8*i:]))
	}
	return values, nil
}

// Uint8s is the tensor of that name, which must be U8.
func (f *File) Uint8s(name string) ([]uint8, error) {
	t, err := f.tensor(name, "U8")
	return t.Data, err
}

func (f *File) tensor(name, dtype string) (Tensor, error) {
	t, found := f.Tensors[name]
	if !found || t.Dtype != dtype {
		return Tensor{}, fmt.Errorf("no %s tensor %q", dtype, name)
	}
	return t, nil
}

// ReadLines reads a gzipped file of JSON lines: the first into header, each other one into a T.
func ReadLines[T any](path string, header any) ([]T, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	unzip, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	decoder := json.NewDecoder(bufio.NewReader(unzip))
	if err := decoder.Decode(header); err != nil {
		return nil, fmt.Errorf("%s: header: %w", path, err)
	}
	var cases []T
	for {
		var c T
		switch err := decoder.Decode(&c); {
		case errors.Is(err, io.EOF):
			return cases, nil
		case err != nil:
			return nil, fmt.Errorf("%s: case %d: %w", path, len(cases)+1, err)
		}
		cases = append(cases, c)
	}
}
