package tritonclient

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestTensorParts(t *testing.T) {
	whole := Float32("x", FP32, []int64{2, 2}, []float32{1, 2, 3, 4})
	rows := Float32("x", FP32, []int64{2, 2}, []float32{1, 2}, []float32{3, 4})
	if !bytes.Equal(whole.Bytes(), rows.Bytes()) {
		t.Errorf("% x and % x", whole.Bytes(), rows.Bytes())
	}
	if want := []byte{0, 0, 0x80, 0x3f}; !bytes.Equal(whole.Data[:4], want) {
		t.Errorf("1 is % x, want little-endian % x", whole.Data[:4], want)
	}
	for _, tensor := range []Tensor{whole, rows, Float32("x", FP16, []int64{2, 2}, []float32{1, 2}, []float32{3, 4})} {
		values, err := tensor.Float32s()
		if err != nil || !slices.Equal(values, []float32{1, 2, 3, 4}) {
			t.Errorf("%v: %v, %v", tensor, values, err)
		}
		dst := make([]float32, 4)
		if err := tensor.CopyFloat32s(dst); err != nil || !slices.Equal(dst, values) {
			t.Errorf("%v: copy %v, %v", tensor, dst, err)
		}
		if _, err := tensor.Int64s(); err == nil {
			t.Errorf("%v reads as INT64", tensor)
		}
	}
	numbers := Int64("i", []int64{3}, []int64{-1}, []int64{2, 1 << 40})
	if got, err := numbers.Int64s(); err != nil || !slices.Equal(got, []int64{-1, 2, 1 << 40}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := numbers.Float32s(); err == nil {
		t.Error("INT64 reads as float")
	}
}

// TestTensorUnaligned reads numbers that do not begin at a multiple of their size.
func TestTensorUnaligned(t *testing.T) {
	for offset := range 8 {
		buffer := make([]byte, offset+16)
		data := buffer[offset:]
		copy(data, bytesOf([]int64{-7, 1 << 50}))
		if got, err := (Tensor{Datatype: INT64, Shape: []int64{2}, Data: data}).Int64s(); err != nil || got[0] != -7 || got[1] != 1<<50 {
			t.Errorf("offset %d: %v, %v", offset, got, err)
		}
		copy(data, bytesOf([]float32{0.5, -3, 8, 9}))
		if got, err := (Tensor{Datatype: FP32, Shape: []int64{4}, Data: data}).Float32s(); err != nil || !slices.Equal(got, []float32{0.5, -3, 8, 9}) {
			t.Errorf("offset %d: %v, %v", offset, got, err)
		}
	}
}

func TestTensorMisuse(t *testing.T) {
	for want, tensor := range map[string]Tensor{
		"does not fit 3 bytes":         {Datatype: FP32, Shape: []int64{1}, Data: make([]byte, 3)},
		"does not fit 4 bytes":         {Datatype: FP32, Shape: []int64{-1}, Data: make([]byte, 4)},
		"does not fit 0 bytes":         {Datatype: INT64, Shape: []int64{1 << 40, 1 << 40}},
		`"BYTES" is not supported`:     {Datatype: "BYTES", Shape: []int64{1}},
		"does not fit 8 bytes":         {Datatype: INT64, Shape: []int64{2}, Parts: [][]byte{make([]byte, 3), make([]byte, 5)}},
		"shape [2] does not fit 0 byt": {Datatype: FP16, Shape: []int64{2}},
	} {
		if _, err := tensor.Float32s(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want … %s …", tensor, err, want)
		}
	}
	if err := Float32("x", FP32, []int64{2}, []float32{1, 2}).CopyFloat32s(make([]float32, 3)); err == nil {
		t.Error("copied 2 elements to 3")
	}
}
