package tritonclient

import (
	"encoding/binary"
	"math"
	"testing"
)

// TestFloat16IsExactlyRounded goes through all finite binary16 numbers: each is
// itself, and between it and its neighbour everything goes to the nearer one, the
// middle to the even one.
func TestFloat16IsExactlyRounded(t *testing.T) {
	round := func(f float32, want uint16) {
		t.Helper()
		if got := Float32ToFloat16(f); got != want {
			t.Errorf("%v (%x) rounds to %#04x, want %#04x", f, f, got, want)
		}
		if got := Float32ToFloat16(-f); got != want|0x8000 {
			t.Errorf("%v rounds to %#04x, want %#04x", -f, got, want|0x8000)
		}
	}
	for h := range uint16(0x7c00) {
		low := value(h)
		if got := Float16ToFloat32(h); float64(got) != low {
			t.Errorf("%#04x is %v, want %v", h, got, low)
		}
		high := 65536.0 // where the next one would be, if binary16 went on
		if h+1 < 0x7c00 {
			high = value(h + 1)
		}
		middle := float32((low + high) / 2) // exact in binary32
		even := h + h&1
		round(float32(low), h)
		round(math.Nextafter32(middle, 0), h)
		round(middle, even)
		round(math.Nextafter32(middle, math.MaxFloat32), h+1)
	}
	round(float32(math.Inf(1)), 0x7c00)
	round(math.MaxFloat32, 0x7c00)
	round(math.SmallestNonzeroFloat32, 0)
	if got := Float16ToFloat32(Float32ToFloat16(float32(math.NaN()))); got == got {
		t.Errorf("NaN becomes %v", got)
	}
	if got := Float16ToFloat32(0xfc00); !math.IsInf(float64(got), -1) {
		t.Errorf("0xfc00 is %v, want -Inf", got)
	}
}

// value is the definition of binary16 (IEEE 754, 3.4).
func value(h uint16) float64 {
	exponent, fraction := int(h>>10), float64(h&0x3ff)
	if exponent == 0 {
		return math.Ldexp(fraction, -24)
	}
	return math.Ldexp(1024+fraction, exponent-25)
}

func TestAppendFloat16(t *testing.T) {
	data := AppendFloat16(nil, []float32{1, -2})
	if len(data) != 4 || binary.LittleEndian.Uint16(data) != 0x3c00 || binary.LittleEndian.Uint16(data[2:]) != 0xc000 {
		t.Errorf("% x", data)
	}
}

func BenchmarkAppendFloat16(b *testing.B) {
	values := make([]float32, 2*77*768)
	for i := range values {
		values[i] = float32(i) / 1000
	}
	data := make([]byte, 0, 2*len(values))
	b.SetBytes(int64(4 * len(values)))
	for b.Loop() {
		AppendFloat16(data, values)
	}
}
