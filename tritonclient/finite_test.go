package tritonclient

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"
)

// TestEveryFloat16IsClassified goes through all 65,536 halves. Which of them are finite is said by IEEE 754:
// an exponent below 31.
func TestEveryFloat16IsClassified(t *testing.T) {
	for bits := range 1 << 16 {
		data := binary.LittleEndian.AppendUint16(nil, uint16(bits))
		want := bits>>10&31 != 31
		if got := (Tensor{Datatype: FP16, Data: data}).allFinite(); got != want {
			t.Fatalf("%#04x: finite is %v, want %v", bits, got, want)
		}
	}
}

// TestFloat32IsClassified holds the check against package math, for every exponent, both signs and the ends of
// the fraction.
func TestFloat32IsClassified(t *testing.T) {
	for exponent := range uint32(256) {
		for _, fraction := range []uint32{0, 1, 1 << 22, 1<<23 - 1} {
			for _, sign := range []uint32{0, 1} {
				bits := sign<<31 | exponent<<23 | fraction
				v := float64(math.Float32frombits(bits))
				want := !math.IsNaN(v) && !math.IsInf(v, 0)
				if got := (Tensor{Datatype: FP32, Data: binary.LittleEndian.AppendUint32(nil, bits)}).allFinite(); got != want {
					t.Fatalf("%#08x: finite is %v, want %v", bits, got, want)
				}
			}
		}
	}
}

// TestOddValueIsFoundAnywhere: at every place of tensors of every length, and beside the largest finite values.
func TestOddValueIsFoundAnywhere(t *testing.T) {
	odd := []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))}
	for n := 1; n <= 40; n++ {
		for _, datatype := range []Datatype{FP32, FP16} {
			values := make([]float32, n)
			for i := range values {
				values[i] = 65504 * float32(1-2*(i%2)) // the largest FP16
			}
			fine := Float32("x", datatype, []int64{int64(n)}, values)
			if !fine.allFinite() {
				t.Fatalf("%d values of %s, all finite, are not", n, datatype)
			}
			for i := range values {
				kept := values[i]
				values[i] = odd[i%3]
				spoilt := Float32("x", datatype, []int64{int64(n)}, values)
				if spoilt.allFinite() {
					t.Fatalf("%v as value %d of %d (%s) is not found", values[i], i, n, datatype)
				}
				if err := notFinite(spoilt); !strings.Contains(err.Error(), []string{"NaN", "+Inf", "-Inf"}[i%3]+" among the values of output x") {
					t.Fatal(err)
				}
				values[i] = kept
			}
		}
	}
	if !Int64("ids", []int64{1}, []int64{-1}).allFinite() {
		t.Error("an INT64, all of whose bits are set, counts as NaN")
	}
}

func BenchmarkAllFinite(b *testing.B) {
	for _, datatype := range []Datatype{FP32, FP16} {
		b.Run(string(datatype), func(b *testing.B) {
			t := Tensor{Datatype: datatype, Data: make([]byte, 64<<10)} // one UNet's answer of two rows
			b.SetBytes(int64(len(t.Data)))
			for b.Loop() {
				if !t.allFinite() {
					b.Fatal("zeros are finite")
				}
			}
		})
	}
}
