package fusion

import "math"

// Notation of this file
//
//	w                   guidance_scale
//	base_k, cond_k      noise_pred of model k for its two conditionings, k ∈ {TDM, SDM}
//	ε_k                 base_k + w·(cond_k − base_k), the guided noise
//	R_k                 |w·(cond_k − base_k)|
//	m_k                 saliency: R_k smoothed, resized and averaged over the C channels
//	Ω_k                 softmax of m_k over all pixels
//	lse_k               ln Σ exp(m_k), so that ln Ω_k = m_k − lse_k
//
// Saliency-adaptive Noise Fusion (paper, section 4.3; smoothing and resizing as in the released
// code):
//
//  1. R_k → average pool 4×4, stride 1, zero padding 1 that counts (h → h−1) → bilinear resize
//     back to h×w with half-pixel centres → mean over the channels = m_k
//  2. a pixel follows the model whose Ω_k is larger there, ties go to the TDM
//  3. the fused noise takes all channels of ε_k from that model
//
// Steps 1 and 2 are computed as follows. Everything after the absolute value is linear, so that
// the channels are summed first and |w|/(16·C) is applied once. Pool and resize are separable.
// Along one axis, with x zero outside, pooled element j is the sum x[j−1] + … + x[j+2], and output
// element i lies between pooled elements i−1 and i, the fraction t[i] of the way, hence
//
//	out[i] = x[i−2] + x[i−1] + x[i] + x[i+1] + t[i]·(x[i+2] − x[i−2])
//
// The softmaxes are never formed: Ω_SDM > Ω_TDM if and only if m_SDM − m_TDM > lse_SDM − lse_TDM.
//
// Speed comes from two habits: channels outside and pixels inside, and every slice of a loop cut
// to one length, which removes the bounds checks.

// reach is how many neighbours on either side the filter sees.
const reach = 2

// Fuser fuses the predictions of one picture's steps. It owns the work space, so that a step
// allocates nothing; it must not be used concurrently.
type Fuser struct {
	channels, height, width int

	rowFractions, columnFractions []float32 // t of the vertical and of the horizontal filter

	sums     []float32    // Σ_c |cond − base| of one row, between margins of zeros
	filtered []float32    // the same after the horizontal filter, all rows, between margins of zeros
	saliency [2][]float32 // m of TDM and SDM

	difference float32 // lse_SDM − lse_TDM of the last fusion
}

// NewFuser makes a Fuser for predictions of shape [channels, height, width], at least [1, 2, 2]:
// pooling leaves nothing of a smaller picture. It panics otherwise.
func NewFuser(channels, height, width int) *Fuser {
	if channels < 1 || height < 2 || width < 2 {
		panic("fusion: NewFuser: predictions must be at least [1, 2, 2]")
	}
	return &Fuser{
		channels: channels, height: height, width: width,
		rowFractions: resizeFractions(height), columnFractions: resizeFractions(width),
		sums:     make([]float32, width+2*reach),
		filtered: make([]float32, (height+2*reach)*width),
		saliency: [2][]float32{make([]float32, height*width), make([]float32, height*width)},
	}
}

// resizeFractions is where a bilinear resize from n−1 to n elements looks: output i lies at
// (n−1)/n·(i+½) − ½, the fraction t[i] of the way from element i−1 to element i, computed in
// float32 as PyTorch does. At both ends the position is clamped to the outermost element.
func resizeFractions(n int) []float32 {
	t := make([]float32, n)
	scale := float32(n-1) / float32(n)
	for i := range t {
		position := float32(scale*(float32(i)+0.5)) - 0.5
		t[i] = position - float32(i-1)
	}
	t[0], t[n-1] = 1, 0
	return t
}

// Fuse writes the fused noise of one step into dst, which may be one of the predictions, and the
// choices into mask: mask[p] = 1 where pixel p follows the SDM, else 0. It returns the number of
// those pixels. Predictions have the shape given to [NewFuser] and mask has height·width elements;
// it panics otherwise.
func (f *Fuser) Fuse(dst []float32, mask []uint8, tdmBase, tdmCond, sdmBase, sdmCond []float32, w float32) (sdmPixels int) {
	size := f.channels * f.height * f.width
	if len(dst) != size || len(tdmBase) != size || len(tdmCond) != size || len(sdmBase) != size || len(sdmCond) != size {
		panic("fusion: Fuse: predictions are not of the Fuser's shape")
	}
	if len(mask) != f.height*f.width {
		panic("fusion: Fuse: mask is not of the Fuser's shape")
	}
	tdm, sdm := f.saliency[0], f.saliency[1]
	tdmTop := f.computeSaliency(tdm, tdmBase, tdmCond, w)
	sdmTop := f.computeSaliency(sdm, sdmBase, sdmCond, w)
	f.difference = float32(logSumExp(sdm, sdmTop) - logSumExp(tdm, tdmTop))
	sdmPixels = choose(mask, tdm, sdm, f.difference)
	for i, n := 0, len(mask); i < size; i += n {
		blend(dst[i:i+n], mask, tdmBase[i:i+n], tdmCond[i:i+n], sdmBase[i:i+n], sdmCond[i:i+n], w)
	}
	return sdmPixels
}

// LogSaliencyDifference writes ln Ω_SDM − ln Ω_TDM of the last [Fuser.Fuse] into dst, one value a
// pixel. Its sign made the choice; where it is nearly zero, other arithmetic may choose otherwise.
func (f *Fuser) LogSaliencyDifference(dst []float32) {
	if len(dst) != f.height*f.width {
		panic("fusion: LogSaliencyDifference: dst is not of the Fuser's shape")
	}
	for p, tdm := range f.saliency[0] {
		dst[p] = f.saliency[1][p] - tdm - f.difference
	}
}

// computeSaliency writes m of one model into dst and returns its largest value.
func (f *Fuser) computeSaliency(dst, base, cond []float32, w float32) float32 {
	height, width := f.height, f.width
	for y := range height {
		row := f.sums[reach : reach+width]
		clear(row)
		at := func(predictions []float32, c int) []float32 {
			from := (c*height + y) * width
			return predictions[from : from+width]
		}
		c := 0
		for ; c+1 < f.channels; c += 2 { // in pairs, which spares loads and stores of row
			addDifferences(row, at(base, c), at(cond, c), at(base, c+1), at(cond, c+1))
		}
		if c < f.channels {
			addDifference(row, at(base, c), at(cond, c))
		}
		filterRow(f.filtered[(reach+y)*width:(reach+y+1)*width], f.sums, f.columnFractions)
	}

	scale := float32(math.Abs(float64(w))) / float32(16*f.channels)
	var top int32
	for y := range height {
		at := func(neighbour int) []float32 { return f.filtered[(y+neighbour)*width : (y+neighbour+1)*width] }
		top = max(top, filterColumns(dst[y*width:(y+1)*width], at(0), at(1), at(2), at(3), at(4), scale, scale*f.rowFractions[y]))
	}
	return math.Float32frombits(uint32(top))
}

// addDifference adds |cond − base| to dst.
func addDifference(dst, base, cond []float32) {
	base, cond = base[:len(dst)], cond[:len(dst)]
	for x := range dst {
		dst[x] += abs(cond[x] - base[x])
	}
}

// addDifferences adds |cond − base| of two channels to dst.
func addDifferences(dst, base0, cond0, base1, cond1 []float32) {
	base0, cond0, base1, cond1 = base0[:len(dst)], cond0[:len(dst)], base1[:len(dst)], cond1[:len(dst)]
	for x := range dst {
		dst[x] += abs(cond0[x]-base0[x]) + abs(cond1[x]-base1[x])
	}
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// filterRow filters one row horizontally. sums has reach more elements than dst on either side.
func filterRow(dst, sums, fractions []float32) {
	fractions = fractions[:len(dst)]
	x0, x2, x3, x4 := sums[:len(dst)], sums[2:][:len(dst)], sums[3:][:len(dst)], sums[4:][:len(dst)]
	// Sums of two neighbours serve twice: two steps after the first use, for the next pair.
	left, middle := sums[0]+sums[1], sums[1]+sums[2]
	for i := range dst {
		right := x2[i] + x3[i]
		dst[i] = left + right + fractions[i]*(x4[i]-x0[i])
		left, middle = middle, right
	}
}

// filterColumns filters one row vertically from itself and its neighbours, r0 the uppermost, and
// applies scale; fraction is scale·t. It returns the bits of the row's largest value: bits of
// positive numbers are ordered as the numbers are, and comparing integers needs no branch.
func filterColumns(dst, r0, r1, r2, r3, r4 []float32, scale, fraction float32) (top int32) {
	r0, r1, r2, r3, r4 = r0[:len(dst)], r1[:len(dst)], r2[:len(dst)], r3[:len(dst)], r4[:len(dst)]
	for x := range dst {
		m := scale*((r0[x]+r1[x])+(r2[x]+r3[x])) + fraction*(r4[x]-r0[x])
		dst[x] = m
		top = max(top, int32(math.Float32bits(m)))
	}
	return top
}

// logSumExp is ln Σ exp(m) over a map whose largest value is top.
func logSumExp(saliency []float32, top float32) float64 {
	var sum float32
	for _, m := range saliency {
		sum += exp(m - top)
	}
	return float64(top) + math.Log(float64(sum))
}

// exp is eˣ for x ≤ 0: the relative error is some 2e-7 near 0, below 1e-6 for x > −16, where terms
// of the sum count, and the result 0 below −86. x·log₂e = n + r with n an integer and |r| ≤ ½; 2ʳ
// is a minimax polynomial, and n is added to its exponent.
func exp(x float32) float32 {
	if x < -86 {
		return 0
	}
	// A float32 of this size has no fraction: adding it rounds to an integer, which then stands in
	// the lowest bits.
	const shift = 3 << 22
	y := float32(x * math.Log2E)
	n := float32(y + shift)
	r := y - float32(n-shift)
	p := ((((1.32647272e-3*r+9.67151264e-3)*r+5.55073374e-2)*r+2.40222421e-1)*r+6.93146978e-1)*r + 1
	return math.Float32frombits(math.Float32bits(p) + math.Float32bits(n)<<23)
}

// choose sets mask where the SDM's saliency is the larger one and counts those pixels.
func choose(mask []uint8, tdm, sdm []float32, difference float32) (count int) {
	tdm, sdm = tdm[:len(mask)], sdm[:len(mask)]
	for p := range mask {
		var won uint8
		if sdm[p]-tdm[p] > difference {
			won = 1
		}
		mask[p] = won
		count += int(won)
	}
	return count
}

// blend writes one channel of the fused noise.
func blend(dst []float32, mask []uint8, tdmBase, tdmCond, sdmBase, sdmCond []float32, w float32) {
	mask, tdmBase, tdmCond, sdmBase, sdmCond = mask[:len(dst)], tdmBase[:len(dst)], tdmCond[:len(dst)], sdmBase[:len(dst)], sdmCond[:len(dst)]
	for p := range dst {
		base, cond := tdmBase[p], tdmCond[p]
		if mask[p] != 0 {
			base, cond = sdmBase[p], sdmCond[p]
		}
		dst[p] = base + w*(cond-base)
	}
}
