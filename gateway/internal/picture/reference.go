package picture

// CLIP's image statistics, of values in [0, 1]
// (openai/CLIP, clip/clip.py; transformers' OPENAI_CLIP_MEAN and _STD).
var (
	clipMean = [3]float32{0.48145466, 0.4578275, 0.40821073}
	clipStd  = [3]float32{0.26862954, 0.26130258, 0.27577711}
)

// Reference is a subject's picture at object resolution: a square of 8-bit RGB,
// padded with black. It is immutable.
type Reference struct {
	size    int
	pix     []uint8 // RGB, rows from the top
	warning string
}

// Warning says what its sender should know of how the picture was read, in
// words that can follow "image[0]: "; "" for nothing.
func (r *Reference) Warning() string { return r.warning }

// Size is the object resolution, in pixels a side.
func (r *Reference) Size() int { return r.size }

// PixelValues writes what the image encoder takes: the picture as floats in
// [0, 1], resized to size·size without rounding, less CLIP's mean and divided
// by its standard deviation. dst is planar, [3, size, size].
func (r *Reference) PixelValues(dst []float32, size int) {
	if size <= 0 || len(dst) != 3*size*size {
		panic("picture: PixelValues needs a destination of 3·size·size")
	}
	plane := make([]float32, r.size*r.size)
	for c := range 3 {
		for i := range plane {
			plane[i] = float32(r.pix[3*i+c]) / 255
		}
		out := dst[c*size*size:][:size*size]
		interpolate(out, plane, r.size, size)
		for i, v := range out {
			out[i] = (v - clipMean[c]) / clipStd[c]
		}
	}
}
