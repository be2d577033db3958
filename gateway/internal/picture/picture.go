package picture

import (
	"image"
	"image/color"
	"math"
)

// Picture is 8-bit RGB, rows from the top. It is an [image.Image].
type Picture struct {
	Width, Height int
	Pix           []uint8 // 3·Width·Height
}

// FromTensor makes a picture of a decoder's image [3, h, w] in [−1, 1], values
// beyond it clamped, as diffusers' VaeImageProcessor does in float32:
// (x/2 + 0.5) clamped to [0, 1], times 255, rounded half to even
// (huggingface/diffusers, src/diffusers/image_processor.py: denormalize,
// numpy_to_pil). NaN becomes 0.
func FromTensor(image []float32, h, w int) *Picture {
	plane := h * w
	if len(image) != 3*plane {
		panic("picture: FromTensor needs an image of 3·h·w")
	}
	p := &Picture{Width: w, Height: h, Pix: make([]uint8, 3*plane)}
	for c := range 3 {
		for i, x := range image[c*plane : (c+1)*plane] {
			v := float32(x*0.5) + 0.5 // converted, so that no fused multiply-add changes the last bit
			switch {
			case v > 1:
				v = 1
			case !(v > 0): // NaN too
				v = 0
			}
			p.Pix[3*i+c] = uint8(math.RoundToEven(float64(v * 255)))
		}
	}
	return p
}

// ColorModel implements [image.Image].
func (p *Picture) ColorModel() color.Model { return color.RGBAModel }

// Bounds implements [image.Image].
func (p *Picture) Bounds() image.Rectangle { return image.Rect(0, 0, p.Width, p.Height) }

// At implements [image.Image].
func (p *Picture) At(x, y int) color.Color {
	if !(image.Point{X: x, Y: y}).In(p.Bounds()) {
		return color.RGBA{}
	}
	i := 3 * (y*p.Width + x)
	return color.RGBA{p.Pix[i], p.Pix[i+1], p.Pix[i+2], 255}
}

// nrgba copies the pixels into the type that every encoder has a fast path for.
func (p *Picture) nrgba() *image.NRGBA {
	m := image.NewNRGBA(p.Bounds())
	for i, j := 0, 0; i < len(p.Pix); i, j = i+3, j+4 {
		m.Pix[j], m.Pix[j+1], m.Pix[j+2], m.Pix[j+3] = p.Pix[i], p.Pix[i+1], p.Pix[i+2], 255
	}
	return m
}
