package picture

import (
	"math"
	"sort"
)

// Resampling with the arithmetic of the two programs whose results are to be met
// (docs/adr/0004 has the reasons):
//
//	fixedKernel  Pillow's Image.resize: weights of 22 fractional bits, rounding
//	             to 8 bits between the passes (python-pillow/Pillow,
//	             src/libImaging/Resample.c: precompute_coeffs,
//	             normalize_coeffs_8bpc, bilinear_filter, bicubic_filter)
//	floatKernel  torch.nn.functional.interpolate(mode="bilinear",
//	             antialias=True, align_corners=False): weights in float32, no
//	             rounding (pytorch, aten/src/ATen/native/cpu/UpSampleKernel.cpp:
//	             _compute_indices_min_size_weights_aa)
//
// Both compute the weights of output sample i of n from source samples of m as
//
//	scale   m/n
//	stretch max(scale, 1): the filter is as wide as the coarser samples need
//	center  (i + 0.5)·scale
//	w_j     filter((j + 0.5 − center) / stretch), normalised to sum 1

// kernel holds, for one axis, which source samples make each output sample and
// their weights: samples first..first+count-1 have weights[offset..].
type kernel[W int32 | float32] struct {
	taps    []taps
	weights []W
}

type taps struct{ first, count, offset int }

// precisionBits is Pillow's PRECISION_BITS: 8-bit samples times weights that
// sum to 1 leave 2 bits of an int32 free.
const precisionBits = 32 - 8 - 2

// filter is what a sample weighs at a distance x ≥ 0; nothing from support on.
type filter struct {
	support float64
	weight  func(x float64) float64
}

// Explicit conversions forbid fused multiply-add, whose last bit differs.
var (
	bilinear = filter{1, func(x float64) float64 { return max(0, 1-x) }}
	// bicubic is Keys' cubic convolution with a = −0.5.
	bicubic = filter{2, func(x float64) float64 {
		const a = -0.5
		switch {
		case x < 1:
			return float64(float64(float64(float64((a+2)*x)-(a+3))*x)*x) + 1
		case x < 2:
			return (float64((float64((x-5)*x)+8)*x) - 4) * a
		}
		return 0
	}}
)

// fixedKernel resamples a padded axis of length in to out samples. Only the
// samples pad..pad+length-1 of it exist; the rest is black and drops out of the
// sums, and indices count from the first one that exists.
func fixedKernel(f filter, in, out, pad, length int) *kernel[int32] {
	k := &kernel[int32]{taps: make([]taps, out)}
	scale := float64(in) / float64(out)
	stretch := math.Max(scale, 1)
	support := f.support * stretch
	row := make([]float64, 0, 2*int(math.Ceil(support))+1)
	for i := range k.taps {
		center := float64((float64(i) + 0.5) * scale)
		lo := max(int(center-support+0.5), 0)
		hi := min(int(center+support+0.5), in)
		row = row[:0]
		sum := 0.0
		for j := lo; j < hi; j++ {
			w := f.weight(math.Abs(float64((float64(j) - center + 0.5) * (1 / stretch))))
			row = append(row, w)
			sum += w
		}
		first := min(max(lo, pad), pad+length)
		last := max(first, min(hi, pad+length))
		k.taps[i] = taps{first: first - pad, count: last - first, offset: len(k.weights)}
		for j := first; j < last; j++ {
			w := float64(row[j-lo] / sum * (1 << precisionBits))
			k.weights = append(k.weights, int32(w+math.Copysign(0.5, w)))
		}
	}
	return k
}

// floatKernel resamples an axis of length in to out samples. Which expressions
// are rounded to float32 is PyTorch's choice; it shows in the fifth digit.
func floatKernel(in, out int) *kernel[float32] {
	k := &kernel[float32]{taps: make([]taps, out)}
	scale := float32(in) / float32(out)
	support := max(scale, 1)
	inverse := float32(1 / float64(support))
	for i := range k.taps {
		center := float32(float64(scale) * (float64(i) + 0.5))
		lo := max(int(float64(center-support)+0.5), 0)
		hi := min(int(float64(center+support)+0.5), in)
		k.taps[i] = taps{first: lo, count: hi - lo, offset: len(k.weights)}
		sum := float32(0)
		for j := lo; j < hi; j++ {
			x := float32(float64((float64(float32(j)-center) + 0.5) * float64(inverse)))
			w := max(0, 1-max(x, -x))
			k.weights = append(k.weights, w)
			sum += w
		}
		for j := range k.weights[k.taps[i].offset:] {
			k.weights[k.taps[i].offset+j] /= sum
		}
	}
	return k
}

// outputs returns the range of output samples that source sample j is part of.
// Both ends of the windows grow with the output index, so it is contiguous.
func (k *kernel[W]) outputs(j int) (from, to int) {
	from = sort.Search(len(k.taps), func(i int) bool { return k.taps[i].first+k.taps[i].count > j })
	to = from
	for to < len(k.taps) && k.taps[to].first <= j {
		to++
	}
	return from, to
}

// weight is the share of source sample j in output sample i.
func (k *kernel[W]) weight(i, j int) W {
	t := k.taps[i]
	return k.weights[t.offset+j-t.first]
}

const half = 1 << (precisionBits - 1)

// resampleRow resamples one row of RGB pixels.
func resampleRow(k *kernel[int32], dst, src []uint8) {
	for i, t := range k.taps {
		r, g, b := int32(half), int32(half), int32(half)
		in := src[3*t.first : 3*(t.first+t.count)]
		for _, w := range k.weights[t.offset : t.offset+t.count] {
			r += w * int32(in[0])
			g += w * int32(in[1])
			b += w * int32(in[2])
			in = in[3:]
		}
		dst[3*i], dst[3*i+1], dst[3*i+2] = level(r), level(g), level(b)
	}
}

// level is the 8-bit value of a sum of weighted samples that began with half.
// Negative weights, which bicubic has, can carry it past black and white.
func level(sum int32) uint8 { return uint8(min(max(sum>>precisionBits, 0), 255)) }

// accumulate adds a weighted row to sums that started at half.
func accumulate(sums []int32, row []uint8, weight int32) {
	_ = sums[len(row)-1]
	for i, v := range row {
		sums[i] += weight * int32(v)
	}
}

func roundSums(dst []uint8, sums []int32) {
	_ = dst[len(sums)-1]
	for i, s := range sums {
		dst[i] = level(s)
	}
}

// squarer makes the object-resolution square of a picture from its rows in
// file order: orientation, centred black padding and resizing in one pass, with
// the result that Pillow has from exif_transpose, paste and resize.
type squarer struct {
	orientation   int
	width, height int // of the file's rows, before orientation
	size          int // of the square to make
	across, down  *kernel[int32]
	pix           []uint8 // the result, RGB

	// Upright pictures: each row is resampled horizontally, rounded, and added
	// to the output rows it is part of (sums: size rows of size pixels).
	row  []uint8
	sums []int32

	// Pictures on their side: a row of the file is a column of the picture, but
	// Pillow resamples rows first. So whole columns are added up for the output
	// column they are part of, rounded when complete, then resampled down. At
	// any time few are open.
	open map[int]*column
	free []*column
}

type column struct {
	sums []int32
	left int // source columns still to come
}

// newSquarer expects rows of width pixels, height of them. size is in pixels.
func newSquarer(width, height, orientation, size int) *squarer {
	s := &squarer{
		orientation: orientation, width: width, height: height, size: size,
		pix: make([]uint8, 3*size*size),
	}
	w, h := width, height
	if s.onItsSide() {
		w, h = h, w
	}
	side := max(w, h)
	s.across = fixedKernel(bilinear, side, size, (side-w)/2, w)
	s.down = fixedKernel(bilinear, side, size, (side-h)/2, h)
	s.row = make([]uint8, 3*max(size, width))
	if s.onItsSide() {
		s.open = map[int]*column{}
	} else {
		s.sums = make([]int32, 3*size*size)
		for i := range s.sums {
			s.sums[i] = half
		}
	}
	return s
}

// The eight values of EXIF's Orientation: 5 to 8 swap rows and columns; then
// the rows or columns may run backwards.
func (s *squarer) onItsSide() bool { return s.orientation >= 5 }

func (s *squarer) rowsBackwards() bool { // along a row of the file
	switch s.orientation {
	case 2, 3, 7, 8:
		return true
	}
	return false
}

func (s *squarer) columnsBackwards() bool { // from row to row of the file
	switch s.orientation {
	case 3, 4, 6, 7:
		return true
	}
	return false
}

// addRow takes row y of the file, 3·width bytes of RGB. Rows may come in any
// order, each at most once; a missing row is black. The row may be changed.
func (s *squarer) addRow(y int, rgb []uint8) {
	if s.rowsBackwards() {
		reverse(rgb)
	}
	if s.columnsBackwards() {
		y = s.height - 1 - y
	}
	if s.onItsSide() {
		s.addColumn(y, rgb)
		return
	}
	row := s.row[:3*s.size]
	resampleRow(s.across, row, rgb)
	from, to := s.down.outputs(y)
	for i := from; i < to; i++ {
		accumulate(s.sums[3*s.size*i:][:3*s.size], row, s.down.weight(i, y))
	}
}

func (s *squarer) addColumn(x int, rgb []uint8) {
	from, to := s.across.outputs(x)
	for i := from; i < to; i++ {
		c := s.open[i]
		if c == nil {
			c = s.newColumn(s.across.taps[i].count)
			s.open[i] = c
		}
		accumulate(c.sums, rgb, s.across.weight(i, x))
		if c.left--; c.left == 0 {
			s.closeColumn(i)
		}
	}
}

func (s *squarer) newColumn(count int) *column {
	var c *column
	if n := len(s.free); n > 0 {
		c, s.free = s.free[n-1], s.free[:n-1]
	} else {
		c = &column{sums: make([]int32, 3*s.width)}
	}
	for i := range c.sums {
		c.sums[i] = half
	}
	c.left = count
	return c
}

// closeColumn rounds an output column and resamples it down into the result.
func (s *squarer) closeColumn(x int) {
	c := s.open[x]
	delete(s.open, x)
	s.free = append(s.free, c)
	column := s.row[:3*s.width]
	roundSums(column, c.sums)
	out := make([]uint8, 3*s.size)
	resampleRow(s.down, out, column)
	for y := range s.size {
		copy(s.pix[3*(s.size*y+x):][:3], out[3*y:][:3])
	}
}

// finish returns the square, RGB, size·size pixels.
func (s *squarer) finish() []uint8 {
	for x := range s.open {
		s.closeColumn(x)
	}
	if s.sums != nil {
		roundSums(s.pix, s.sums)
	}
	return s.pix
}

// reverse turns a row of RGB pixels round.
func reverse(rgb []uint8) {
	for i, j := 0, len(rgb)-3; i < j; i, j = i+3, j-3 {
		rgb[i], rgb[j] = rgb[j], rgb[i]
		rgb[i+1], rgb[j+1] = rgb[j+1], rgb[i+1]
		rgb[i+2], rgb[j+2] = rgb[j+2], rgb[i+2]
	}
}

// interpolate resamples one plane of side·side samples to size·size.
func interpolate(dst, src []float32, side, size int) {
	k := floatKernel(side, size)
	rows := make([]float32, side*size)
	for y := range side {
		in := src[y*side : (y+1)*side]
		for x, t := range k.taps {
			sum := 0.0
			for j, w := range k.weights[t.offset : t.offset+t.count] {
				sum += float64(w * in[t.first+j])
			}
			rows[y*size+x] = float32(sum)
		}
	}
	for y, t := range k.taps {
		for x := range size {
			sum := 0.0
			for j, w := range k.weights[t.offset : t.offset+t.count] {
				sum += float64(w * rows[(t.first+j)*size+x])
			}
			dst[y*size+x] = float32(sum)
		}
	}
}
