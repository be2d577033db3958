package icc

import (
	"fmt"
	"math"
	"sync"
)

// Transform converts pixels to sRGB. It is immutable.
//
// Per channel and value it holds what that adds to linear red, green and blue,
// all three packed into one word, so that a pixel costs three loads, two
// additions and three more loads for sRGB's own curve.
type Transform struct {
	linear [3][256]uint64
	curve  *[1<<curveBits + 1]uint8
}

const (
	fieldBits = 21 // of linear light in a word
	fieldMask = 1<<fieldBits - 1
	unitBits  = 15 // linear 1.0 is 1<<unitBits
	bias      = 1 << (fieldBits - 1)
	maxShare  = 8 // |share| of one channel: three of them and the bias fit a field
	curveBits = 14
)

// sRGB's primaries as the columns of its profile, and the inverse.
var fromXYZ = inverse([3][3]float64{
	{0.43606567, 0.38514709, 0.14306641},
	{0.22248840, 0.71687317, 0.06060791},
	{0.01391602, 0.09707642, 0.71409607},
})

// d50 is the white of the profile connection space.
var d50 = [3]float64{0.9642, 1, 0.8249}

// DisplayP3 converts from Display P3 (primaries of SMPTE RP 431-2, white D65,
// curve of sRGB), which a file may also name without embedding a profile.
var DisplayP3 = sync.OnceValue(func() *Transform {
	return newTransform(
		[3]curve{decodeSRGB, decodeSRGB, decodeSRGB},
		[3][3]float64{{0.51512, 0.29198, 0.15710}, {0.24120, 0.69225, 0.06657}, {-0.00105, 0.04189, 0.78407}},
	)
})

// New makes the transform of an embedded profile, nil where that is sRGB as far
// as 8 bits can tell. space is what the picture stores. The error, an [ErrLUT],
// [ErrMismatch] or [ErrBroken], says why there is none.
func New(data []byte, space Space) (*Transform, error) {
	p, err := parse(data)
	if err != nil {
		return nil, err
	}
	// Grey pixels have equal channels by now: a profile for RGB fits them too.
	if p.space() != space && (p.space() != RGB || space != Gray) {
		return nil, fmt.Errorf("%w; it converts from %q, the picture is %q", ErrMismatch, p.space(), space)
	}
	if p.usesTables() || space == CMYK {
		return nil, ErrLUT
	}
	var t *Transform
	if p.space() == Gray {
		t, err = newGray(p)
	} else {
		t, err = newRGB(p)
	}
	if err != nil || t.isIdentity() {
		return nil, err
	}
	return t, nil
}

func newRGB(p profile) (*Transform, error) {
	var curves [3]curve
	var toXYZ [3][3]float64
	for c, prefix := range []string{"r", "g", "b"} {
		column, err := p.xyz(prefix + "XYZ")
		if err != nil {
			return nil, err
		}
		for i := range column {
			toXYZ[i][c] = column[i]
		}
		if curves[c], err = p.curve(prefix + "TRC"); err != nil {
			return nil, err
		}
	}
	return newTransform(curves, toXYZ), nil
}

// newGray puts the whole of a grey pixel, whose channels are equal, into red's
// share.
func newGray(p profile) (*Transform, error) {
	gray, err := p.curve("kTRC")
	if err != nil {
		return nil, err
	}
	if p.pcs() == "Lab " { // the curve gives L*/100
		lightness := gray
		gray = func(x float64) float64 { return luminance(lightness(x)) }
	}
	none := func(float64) float64 { return 0 }
	return newTransform([3]curve{throughGrid(gray), none, none}, [3][3]float64{{d50[0]}, {d50[1]}, {d50[2]}}), nil
}

// throughGrid is what Little CMS makes of a grey curve: sRGB at gridPoints
// values of a pixel, white at the last of them, and straight lines between. In
// dark greys that differs from the curve by up to 12/255.
func throughGrid(gray curve) curve {
	const gridPoints = 33
	var nodes [gridPoints]float64
	black := blackLuminance([3]curve{gray, gray, gray}, [3][3]float64{1: {1}})
	for i := range nodes {
		y := (gray(float64(i)/(gridPoints-1)) - black) / (1 - black)
		nodes[i] = sRGB(max(0, min(y, 1)))
	}
	nodes[gridPoints-1] = 1
	return func(x float64) float64 { return decodeSRGB(interpolate(nodes[:], x)) }
}

// newTransform makes the transform from pixels whose curves lead to linear
// light and whose primaries, the columns of toXYZ, lead to XYZ under D50.
func newTransform(curves [3]curve, toXYZ [3][3]float64) *Transform {
	t := &Transform{curve: encodeSRGB()}
	black := blackLuminance(curves, toXYZ)
	for c := range 3 {
		for v := range 256 {
			light := curves[c](float64(v) / 255)
			var word uint64
			for i := range 3 {
				share := 0.0
				for j := range 3 {
					share += fromXYZ[i][j] * toXYZ[j][c] * light
				}
				share /= 1 - black
				if c == 0 {
					share -= black / (1 - black)
				}
				word = word<<fieldBits + field(share, c == 0) // a negative share borrows; the bias pays it back
			}
			t.linear[c][v] = word
		}
	}
	return t
}

// field rounds a channel's share. The first channel brings the bias.
func field(share float64, first bool) uint64 {
	if !(-maxShare <= share) { // NaN too
		share = -maxShare
	}
	v := int64(math.Round(min(share, maxShare) * (1 << unitBits)))
	if first {
		v += bias
	}
	return uint64(v)
}

// blackLuminance is how light black comes out, in [0, 1). Little CMS subtracts
// it (black point compensation, which it always does into sRGB of version 4).
func blackLuminance(curves [3]curve, toXYZ [3][3]float64) float64 {
	y := 0.0
	for c := range 3 {
		y += toXYZ[1][c] * curves[c](0)
	}
	const darkest = 50 // L*; what is lighter is no black
	if !(y > 0) {
		return 0
	}
	return min(y, luminance(darkest/100.0))
}

// Convert converts RGB pixels in place.
func (t *Transform) Convert(rgb []uint8) {
	red, green, blue, curve := &t.linear[0], &t.linear[1], &t.linear[2], t.curve
	for ; len(rgb) >= 3; rgb = rgb[3:] {
		sum := red[rgb[0]] + green[rgb[1]] + blue[rgb[2]]
		rgb[0] = curve[lightIn(sum>>(2*fieldBits))]
		rgb[1] = curve[lightIn(sum>>fieldBits)]
		rgb[2] = curve[lightIn(sum)]
	}
}

// lightIn is the index into the curve of a field's linear light.
func lightIn(field uint64) int {
	return max(0, min(int(field&fieldMask)-bias, 1<<unitBits)) >> (unitBits - curveBits)
}

// isIdentity says whether no pixel of a grid changes by more than one.
func (t *Transform) isIdentity() bool {
	const step = 15
	for r := 0; r < 256; r += step {
		for g := 0; g < 256; g += step {
			for b := 0; b < 256; b += step {
				was := [3]uint8{uint8(r), uint8(g), uint8(b)}
				is := was
				t.Convert(is[:])
				for i := range 3 {
					if d := int(is[i]) - int(was[i]); d < -1 || d > 1 {
						return false
					}
				}
			}
		}
	}
	return true
}

// encodeSRGB is sRGB's curve from linear light to 8 bits.
var encodeSRGB = sync.OnceValue(func() *[1<<curveBits + 1]uint8 {
	var table [1<<curveBits + 1]uint8
	for i := range table {
		x := (float64(i) + 0.25) / (1 << curveBits) // the mean of the two values that lead here
		table[i] = uint8(math.Round(255 * sRGB(min(x, 1))))
	}
	return &table
})

// sRGB is the curve of IEC 61966-2-1.
func sRGB(x float64) float64 {
	if x <= 0.0031308 {
		return 12.92 * x
	}
	return 1.055*math.Pow(x, 1/2.4) - 0.055
}

func decodeSRGB(x float64) float64 {
	if x <= 0.04045 {
		return x / 12.92
	}
	return math.Pow((x+0.055)/1.055, 2.4)
}

// luminance is CIE's Y of L*/100.
func luminance(lightness float64) float64 {
	if f := (100*lightness + 16) / 116; f > 24.0/116 {
		return f * f * f
	}
	return 100 * lightness * 27 / 24389
}

func inverse(m [3][3]float64) (inv [3][3]float64) {
	cofactor := func(i, j int) float64 {
		a, b, c, d := (i+1)%3, (i+2)%3, (j+1)%3, (j+2)%3
		return m[a][c]*m[b][d] - m[a][d]*m[b][c]
	}
	det := 0.0
	for j := range 3 {
		det += m[0][j] * cofactor(0, j)
	}
	for i := range 3 {
		for j := range 3 {
			inv[j][i] = cofactor(i, j) / det
		}
	}
	return inv
}
