package tritonclient

import (
	"encoding/binary"
	"math"
	"slices"
)

// AppendFloat16 appends values to dst as IEEE 754 binary16, little-endian, rounded
// to nearest with ties to even; what lies beyond 65504 by half a step or more
// becomes infinite.
func AppendFloat16(dst []byte, values []float32) []byte {
	at := len(dst)
	dst = slices.Grow(dst, 2*len(values))[:at+2*len(values)]
	for i, v := range values {
		binary.LittleEndian.PutUint16(dst[at+2*i:], Float32ToFloat16(v))
	}
	return dst
}

// Float32ToFloat16 rounds to nearest, ties to even. A NaN stays a (quiet) NaN.
func Float32ToFloat16(f float32) uint16 {
	const (
		tooLarge  = 0x477ff000 // 65520, from where on everything rounds to infinity
		minNormal = 0x38800000 // 2⁻¹⁴
		rebias    = (127 - 15) << 23
	)
	bits := math.Float32bits(f)
	sign := uint16(bits>>16) & 0x8000
	bits &^= 1 << 31
	switch {
	case bits > 0x7f800000:
		return sign | 0x7e00 | uint16(bits>>13)&0x1ff
	case bits >= tooLarge:
		return sign | 0x7c00
	case bits < minNormal:
		// The last bit of a number from ½ to 1 is 2⁻²⁴, the step of binary16's
		// subnormals: the addition rounds as wanted.
		return sign | uint16(math.Float32bits(math.Float32frombits(bits)+0.5)-math.Float32bits(0.5))
	}
	bits -= rebias
	bits += 0xfff + bits>>13&1 // half a step less one bit, and that bit if the result would be odd
	return sign | uint16(bits>>13)
}

// Float16ToFloat32 is exact.
func Float16ToFloat32(h uint16) float32 {
	sign, bits := uint32(h&0x8000)<<16, uint32(h&0x7fff)
	switch {
	case bits >= 0x7c00: // infinity, NaN
		bits = 0x7f800000 | bits<<13
	case bits < 0x400: // zero, subnormal
		bits = math.Float32bits(float32(bits) * (1.0 / (1 << 24)))
	default:
		bits = bits<<13 + (127-15)<<23
	}
	return math.Float32frombits(sign | bits)
}

func float32frombytes(b []byte) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(b))
}
