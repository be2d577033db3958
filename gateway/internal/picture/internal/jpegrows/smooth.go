package jpegrows

// A progressive file that ends early has blocks whose low frequencies nobody
// knows. libjpeg-turbo estimates these from the means of the blocks around
// (jdcoefct.c: "block smoothing"; ITU-T T.81, K.8), so that the picture shows
// gradients instead of squares. So does this file, in the same arithmetic.

// estimated is the number of coefficients, in zig-zag order, that are estimated.
const estimated = 10

// kernel weighs the means of 5×5 blocks, from the top left. The sum of a
// coefficient's estimate is in units of 1/256 of the mean's quantization step.
type kernel [25]int32

// blurred is for components of which nothing but means is known. They are
// smoothed too, by the first kernel.
var blurred = [estimated]kernel{
	{
		-2, -6, -8, -6, -2,
		-6, 6, 42, 6, -6,
		-8, 42, 152, 42, -8,
		-6, 6, 42, 6, -6,
		-2, -6, -8, -6, -2,
	},
	{
		-1, -1, 0, 1, 1,
		-3, 13, 0, -13, 3,
		-3, 38, 0, -38, 3,
		-3, 13, 0, -13, 3,
		-1, -1, 0, 1, 1,
	},
	{
		-1, -3, -3, -3, -1,
		-1, 13, 38, 13, -1,
		0, 0, 0, 0, 0,
		1, -13, -38, -13, 1,
		1, 3, 3, 3, 1,
	},
	{2: 1, 6: 2, 7: 7, 8: 2, 11: -5, 12: -14, 13: -5, 16: 2, 17: 7, 18: 2, 22: 1},
	{0: -1, 4: 1, 6: 9, 8: -9, 16: -9, 18: 9, 20: 1, 24: -1},
	{6: 2, 7: -5, 8: 2, 10: 1, 11: 7, 12: -14, 13: 7, 14: 1, 16: 2, 17: -5, 18: 2},
	{6: 1, 8: -1, 11: 2, 13: -2, 16: 1, 18: -1},
	{6: 1, 7: -3, 8: 1, 16: -1, 17: 3, 18: -1},
	{6: 1, 8: -1, 11: -3, 13: 3, 16: 1, 18: -1},
	{6: 1, 7: 2, 8: 1, 16: -1, 17: -2, 18: -1},
}

// refined is for components of which more is known: only the second derivatives
// and below are estimated.
var refined = [estimated]kernel{
	1: {10: -7, 11: 50, 13: -50, 14: 7},
	2: {2: -7, 7: 50, 17: -50, 22: 7},
	3: {2: -1, 7: 13, 12: -24, 17: 13, 22: -1},
	4: {1: -1, 3: 1, 5: -1, 6: 10, 8: -10, 9: 1, 15: 1, 16: -10, 18: 10, 19: -1, 21: 1, 23: -1},
	5: {10: -1, 11: 13, 12: -24, 13: 13, 14: -1},
}

// smooths says whether estimates are called for: where some low frequency is not
// known to its last bit, and every quantization step is a number to divide by.
func (d *decoder) smooths() bool {
	rough := false
	for i := range d.comp[:d.nComp] {
		c := &d.comp[i]
		for z := range estimated {
			if c.quant[z] == 0 {
				return false
			}
			rough = rough || z > 0 && c.missing[z] != 0
		}
	}
	return d.progressive && rough
}

// kernels returns what to estimate the coefficients of c with.
func (c *component) kernels() (k *[estimated]kernel, meansToo bool) {
	for _, bits := range c.missing[1:estimated] {
		if bits != noBits {
			return &refined, false
		}
	}
	return &blurred, true
}

// smoothed returns the coefficients of the block in column bx and row by of the
// component, with estimates in the place of zeros that may be none, and whether
// any but the first is not zero.
func (c *component) smoothed(bx, by int) (b coefs, textured bool) {
	at := by*c.stride + bx
	b = c.coeffs[at]
	kernels, meansToo := c.kernels()
	// Beyond an edge of the picture its outermost blocks repeat. At the lower one
	// libjpeg takes those that only fill an MCU for blocks of the picture, except
	// from within the last row of MCUs.
	bottom := len(c.coeffs)/c.stride - 1
	if by > bottom-c.v {
		bottom = max(by, c.blocksY-1)
	}
	var means [25]int32
	for i := range means {
		y := max(0, min(by+i/5-2, bottom))
		x := max(0, min(bx+i%5-2, c.blocksX-1))
		means[i] = int32(c.coeffs[y*c.stride+x][0])
	}
	textured = c.textured[at]
	for z, k := range kernels {
		u := unzig[z]
		if z == 0 && !meansToo || z > 0 && (c.missing[z] == 0 || b[u] != 0) {
			continue
		}
		sum := int64(0)
		for i, weight := range k {
			sum += int64(weight) * int64(means[i])
		}
		b[u] = c.estimate(z, sum*int64(c.quant[0]))
		textured = textured || z > 0 && b[u] != 0
	}
	return b, textured
}

// estimate divides a sum by the quantization step of coefficient z and by 256,
// rounded. Where a scan has brought the high bits of the coefficient, which are
// zero, the estimate stays below these.
func (c *component) estimate(z int, sum int64) int16 {
	step := int64(c.quant[z])
	v := (max(sum, -sum) + step<<7) / (step << 8)
	if bits := c.missing[z]; z > 0 && bits != 0 && bits != noBits {
		v = min(v, 1<<bits-1)
	}
	if sum < 0 {
		v = -v
	}
	return int16(v)
}
