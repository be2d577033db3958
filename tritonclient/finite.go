package tritonclient

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A number is NaN or infinite when all bits of its exponent are set (IEEE 754, 3.4). Adding
// the exponent's lowest bit to the exponent alone then carries into the place of the sign, and
// in no other case. So several numbers are looked at in one word, without a branch.
const (
	exponents32, lowest32, signs32 = 0x7f800000_7f800000, 0x00800000_00800000, 0x80000000_80000000
	exponents16, lowest16, signs16 = 0x7c007c00_7c007c00, 0x04000400_04000400, 0x80008000_80008000
)

// allFinite says whether no value of an FP32 or FP16 tensor, without Parts, is NaN or infinite.
// Other datatypes have no such values.
func (t Tensor) allFinite() bool {
	switch t.Datatype {
	case FP32:
		return carries(t.Data, exponents32, lowest32)&signs32 == 0
	case FP16:
		return carries(t.Data, exponents16, lowest16)&signs16 == 0
	}
	return true
}

// carries adds lowest to the exponents of every word of data and joins the sums. A last word that is
// not whole is filled with zeros, which are finite.
func carries(data []byte, exponents, lowest uint64) uint64 {
	var a, b, c, d uint64 // four chains, so that the additions do not wait for one another
	for len(data) >= 32 {
		a |= binary.LittleEndian.Uint64(data)&exponents + lowest
		b |= binary.LittleEndian.Uint64(data[8:])&exponents + lowest
		c |= binary.LittleEndian.Uint64(data[16:])&exponents + lowest
		d |= binary.LittleEndian.Uint64(data[24:])&exponents + lowest
		data = data[32:]
	}
	for len(data) > 0 {
		var word [8]byte
		n := copy(word[:], data)
		a |= binary.LittleEndian.Uint64(word[:])&exponents + lowest
		data = data[n:]
	}
	return a | b | c | d
}

// notFinite is the error of an output that is not all finite.
func notFinite(t Tensor) error {
	values, err := t.Float32s()
	if err != nil {
		return err
	}
	for i, v := range values {
		if v := float64(v); math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%v among the values of output %s (value %d of %d)", v, t.Name, i, len(values))
		}
	}
	return fmt.Errorf("output %s is finite", t.Name)
}
