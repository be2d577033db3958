package picture

// PixelValues writes what a safety checker takes: the picture resized to size
// pixels on its shorter side, cut to the square in its middle, less CLIP's mean
// and divided by its standard deviation. dst is planar, [3, size, size].
//
// That is transformers' CLIPImageProcessor as Stable Diffusion configures it,
// on Pillow (huggingface/transformers, models/clip/image_processing_pil_clip.py
// and image_transforms.py): 8-bit pixels in, bicubic, 8-bit pixels between the
// steps. A reference image takes another way to its encoder, see
// [Reference.PixelValues].
func (p *Picture) PixelValues(dst []float32, size int) {
	if size <= 0 || len(dst) != 3*size*size {
		panic("picture: PixelValues needs a destination of 3·size·size")
	}
	short := min(p.Width, p.Height)
	across := middle(p.Width, size*p.Width/short, size)
	down := middle(p.Height, size*p.Height/short, size)
	// Rows first, as Pillow.
	rows := make([]uint8, 3*size*p.Height)
	for y := range p.Height {
		resampleRow(across, rows[3*size*y:][:3*size], p.Pix[3*p.Width*y:][:3*p.Width])
	}
	row, sums := make([]uint8, 3*size), make([]int32, 3*size)
	for y, t := range down.taps {
		for i := range sums {
			sums[i] = half
		}
		for j, w := range down.weights[t.offset : t.offset+t.count] {
			accumulate(sums, rows[3*size*(t.first+j):][:3*size], w)
		}
		roundSums(row, sums)
		for i, v := range row {
			c := i % 3
			unit := float32(float64(v) * (1.0 / 255)) // in float64, as NumPy
			dst[size*(size*c+y)+i/3] = (unit - clipMean[c]) / clipStd[c]
		}
	}
}

// middle resamples an axis of length in to out samples, of which it keeps keep in the middle.
func middle(in, out, keep int) *kernel[int32] {
	k := fixedKernel(bicubic, in, out, 0, in)
	k.taps = k.taps[(out-keep)/2:][:keep]
	return k
}
