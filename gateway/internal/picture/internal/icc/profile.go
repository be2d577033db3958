// Package icc converts 8-bit pixels to sRGB by an ICC profile of the kind that
// cameras, phones and editors embed: three primaries and three tone curves
// (matrix/TRC), or one tone curve for grey.
//
// Names and numbers are those of ICC.1:2022; results are those of Little CMS
// with perceptual intent, which is what Pillow's ImageCms.profileToProfile does
// by default. Profiles are untrusted: reading one takes time and memory in
// proportion to its size.
package icc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Errors of [New], sentences about a profile.
var (
	ErrLUT      = errors.New("it converts by a table (a LUT profile)")
	ErrMismatch = errors.New("it is for another kind of picture")
	ErrBroken   = errors.New("it is damaged")
)

const (
	headerSize = 128
	tagSize    = 12
	maxTags    = 100   // Little CMS refuses more
	maxPoints  = 32767 // of a curve; Little CMS refuses more
)

// Space is a colour space's signature.
type Space string

// Spaces of pictures.
const (
	RGB  Space = "RGB "
	Gray Space = "GRAY"
	CMYK Space = "CMYK"
)

// profile is a profile's bytes.
type profile []byte

func parse(data []byte) (profile, error) {
	if len(data) < headerSize+4 || string(data[36:40]) != "acsp" {
		return nil, fmt.Errorf("%w; it has no header", ErrBroken)
	}
	if n := binary.BigEndian.Uint32(data[headerSize:]); n > maxTags || int(n)*tagSize > len(data)-headerSize-4 {
		return nil, fmt.Errorf("%w; it says that it has %d tags", ErrBroken, n)
	}
	switch p := profile(data); p.class() {
	case "scnr", "mntr", "prtr", "spac":
		return p, nil
	default:
		return nil, fmt.Errorf("%w; its class is %q", ErrMismatch, p.class())
	}
}

func (p profile) class() string { return string(p[12:16]) }
func (p profile) space() Space  { return Space(p[16:20]) }  // converts from
func (p profile) pcs() string   { return string(p[20:24]) } // converts to

// tag returns the content of a tag, nil where it is missing or lies outside.
func (p profile) tag(signature string) []byte {
	n := int(binary.BigEndian.Uint32(p[headerSize:]))
	for entry := range slices.Chunk(p[headerSize+4:][:n*tagSize], tagSize) {
		if string(entry[:4]) != signature {
			continue
		}
		from, size := uint64(binary.BigEndian.Uint32(entry[4:])), uint64(binary.BigEndian.Uint32(entry[8:]))
		if from+size <= uint64(len(p)) && size >= 8 {
			return p[from : from+size]
		}
	}
	return nil
}

// usesTables says whether Little CMS would take a table for perceptual intent,
// which comes before primaries and curves.
func (p profile) usesTables() bool { return p.tag("A2B0") != nil || p.tag("D2B0") != nil }

// xyz reads an XYZType.
func (p profile) xyz(signature string) ([3]float64, error) {
	data := p.tag(signature)
	if len(data) < 20 || string(data[:4]) != "XYZ " {
		return [3]float64{}, fmt.Errorf("%w; its %s is missing or unreadable", ErrBroken, signature)
	}
	return [3]float64{fixed(data[8:]), fixed(data[12:]), fixed(data[16:])}, nil
}

// curve is a tone curve, from [0, 1] to linear light.
type curve func(x float64) float64

// curve reads a curveType or parametricCurveType.
func (p profile) curve(signature string) (curve, error) {
	data := p.tag(signature)
	if len(data) >= 12 {
		var c curve
		switch string(data[:4]) {
		case "curv":
			c = points(data)
		case "para":
			c = parametric(data)
		}
		if c != nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%w; its %s is missing or unreadable", ErrBroken, signature)
}

func points(data []byte) curve {
	n, data := binary.BigEndian.Uint32(data[8:]), data[12:]
	if n > maxPoints || int(n)*2 > len(data) {
		return nil
	}
	switch n {
	case 0:
		return func(x float64) float64 { return x }
	case 1: // u8Fixed8
		gamma := float64(binary.BigEndian.Uint16(data)) / 256
		return func(x float64) float64 { return math.Pow(x, gamma) }
	}
	table := make([]float64, n)
	for i := range table {
		table[i] = float64(binary.BigEndian.Uint16(data[2*i:])) / math.MaxUint16
	}
	return func(x float64) float64 { return interpolate(table, x) }
}

// interpolate draws straight lines through a table for x in [0, 1].
func interpolate(table []float64, x float64) float64 {
	last := len(table) - 1
	x *= float64(last)
	i := min(int(x), last-1)
	return table[i] + (x-float64(i))*(table[i+1]-table[i])
}

// parametric reads function types 0 to 4: (a·x + b)^g + e from d on, c·x + f
// below. The fewer parameters a type has, the more of them are fixed.
func parametric(data []byte) curve {
	counts := []int{1, 3, 4, 5, 7}
	kind := int(binary.BigEndian.Uint16(data[8:]))
	if kind >= len(counts) || len(data) < 12+4*counts[kind] {
		return nil
	}
	var v [7]float64
	for i := range counts[kind] {
		v[i] = fixed(data[12+4*i:])
	}
	g, a, b, c, d, e, f := v[0], v[1], v[2], v[3], v[4], v[5], v[6]
	switch kind {
	case 0:
		a, d = 1, 0
	case 1, 2:
		// c is what is added everywhere; Little CMS knows no curve without slope.
		e, f, c = c, c, 0
		if a == 0 {
			return func(float64) float64 { return 0 }
		}
		d = max(-b/a, 0)
	}
	return func(x float64) float64 {
		if x < d {
			return c*x + f
		}
		if base := a*x + b; base > 0 {
			return math.Pow(base, g) + e
		}
		return e
	}
}

// fixed reads an s15Fixed16Number.
func fixed(data []byte) float64 { return float64(int32(binary.BigEndian.Uint32(data))) / (1 << 16) }
