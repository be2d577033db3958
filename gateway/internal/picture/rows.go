package picture

import (
	"context"
	"image"
	"image/color"

	"github.com/facediffuser/facediffuser/gateway/internal/picture/internal/icc"
)

// addImage hands the rows of m to s, with colours converted unless that is nil.
// m may be one band of the picture or, as in a GIF, a part of its canvas; what
// it does not cover stays black, the colour that transparency is composited
// over. The error is the cause of ctx.
func (s *squarer) addImage(ctx context.Context, m image.Image, rgb []uint8, colours *icc.Transform) error {
	bounds := m.Bounds().Intersect(image.Rect(0, 0, s.width, s.height))
	if bounds.Empty() {
		return nil
	}
	row, composite := rowReader(m), compositor(m)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		clear(rgb)
		pixels := rgb[3*bounds.Min.X : 3*bounds.Max.X]
		row(pixels, bounds.Min.X, y)
		if colours != nil {
			colours.Convert(pixels)
		}
		if composite != nil {
			composite(pixels, bounds.Min.X, y)
		}
		s.addRow(y, rgb)
	}
	return nil
}

// compositor returns a function that composites pixels, read from (x, y)
// rightwards, over black as Pillow's paste does; nil where m has no alpha, or
// none that rowReader leaves. Profiles apply to colours before that.
func compositor(m image.Image) func(dst []uint8, x, y int) {
	var (
		alpha   []uint8
		offset  func(x, y int) int
		step    int
		palette *[256]color.NRGBA
	)
	switch m := m.(type) {
	case *lossyWebP:
		alpha, offset, step = m.A, m.AOffset, 1
	case *image.NRGBA:
		alpha, offset, step = m.Pix[3:], m.PixOffset, 4
	case *image.NRGBA64:
		alpha, offset, step = m.Pix[6:], m.PixOffset, 8
	case *image.Paletted:
		alpha, offset, step, palette = m.Pix, m.PixOffset, 1, paletteOf(m)
	}
	if alpha == nil {
		return nil
	}
	return func(dst []uint8, x, y int) {
		for i := offset(x, y); len(dst) > 0; dst, i = dst[3:], i+step {
			a := alpha[i]
			if palette != nil {
				a = palette[a].A
			}
			if a != 255 {
				dst[0], dst[1], dst[2] = scale255(dst[0], a), scale255(dst[1], a), scale255(dst[2], a)
			}
		}
	}
}

// rowReader returns a function that writes the pixels of m from (x, y)
// rightwards as RGB: 16-bit samples lose their low byte, CMYK converts as
// Pillow's does, alpha waits for compositor.
func rowReader(m image.Image) func(dst []uint8, x, y int) {
	switch m := m.(type) {
	case *image.YCbCr:
		shift := chromaShift(m.SubsampleRatio)
		return func(dst []uint8, x, y int) {
			luma, chroma := m.Y[m.YOffset(0, y):], m.COffset(0, y)
			cb, cr := m.Cb[chroma:], m.Cr[chroma:]
			for ; len(dst) > 0; dst, x = dst[3:], x+1 {
				dst[0], dst[1], dst[2] = color.YCbCrToRGB(luma[x], cb[x>>shift], cr[x>>shift])
			}
		}
	case *lossyWebP:
		return m.row
	case *image.RGBA: // premultiplied, which is composited over black
		return func(dst []uint8, x, y int) {
			for src := m.Pix[m.PixOffset(x, y):]; len(dst) > 0; dst, src = dst[3:], src[4:] {
				dst[0], dst[1], dst[2] = src[0], src[1], src[2]
			}
		}
	case *image.NRGBA:
		return func(dst []uint8, x, y int) {
			for src := m.Pix[m.PixOffset(x, y):]; len(dst) > 0; dst, src = dst[3:], src[4:] {
				dst[0], dst[1], dst[2] = src[0], src[1], src[2]
			}
		}
	case *image.RGBA64: // big endian; made of opaque 16-bit RGB only
		return func(dst []uint8, x, y int) {
			for src := m.Pix[m.PixOffset(x, y):]; len(dst) > 0; dst, src = dst[3:], src[8:] {
				dst[0], dst[1], dst[2] = src[0], src[2], src[4]
			}
		}
	case *image.NRGBA64:
		return func(dst []uint8, x, y int) {
			for src := m.Pix[m.PixOffset(x, y):]; len(dst) > 0; dst, src = dst[3:], src[8:] {
				dst[0], dst[1], dst[2] = src[0], src[2], src[4]
			}
		}
	case *image.Gray:
		return func(dst []uint8, x, y int) {
			for src := m.Pix[m.PixOffset(x, y):]; len(dst) > 0; dst, src = dst[3:], src[1:] {
				dst[0], dst[1], dst[2] = src[0], src[0], src[0]
			}
		}
	case *image.Gray16:
		return func(dst []uint8, x, y int) {
			for src := m.Pix[m.PixOffset(x, y):]; len(dst) > 0; dst, src = dst[3:], src[2:] {
				dst[0], dst[1], dst[2] = src[0], src[0], src[0]
			}
		}
	case *image.Paletted:
		palette := paletteOf(m)
		return func(dst []uint8, x, y int) {
			for src := m.Pix[m.PixOffset(x, y):]; len(dst) > 0; dst, src = dst[3:], src[1:] {
				c := &palette[src[0]]
				dst[0], dst[1], dst[2] = c.R, c.G, c.B
			}
		}
	case *image.CMYK:
		return func(dst []uint8, x, y int) {
			for src := m.Pix[m.PixOffset(x, y):]; len(dst) > 0; dst, src = dst[3:], src[4:] {
				for i := range 3 {
					rest := 255 - src[3]
					dst[i] = rest - scale255(src[i], rest)
				}
			}
		}
	default: // no decoder in use makes another type
		return func(dst []uint8, x, y int) {
			for ; len(dst) > 0; dst, x = dst[3:], x+1 {
				r, g, b, _ := m.At(x, y).RGBA()
				dst[0], dst[1], dst[2] = uint8(r>>8), uint8(g>>8), uint8(b>>8)
			}
		}
	}
}

// chromaShift is the binary logarithm of the pixels that share a chroma sample
// in a row. Pictures of the decoders in use begin at x = 0.
func chromaShift(ratio image.YCbCrSubsampleRatio) int {
	switch ratio {
	case image.YCbCrSubsampleRatio422, image.YCbCrSubsampleRatio420:
		return 1
	case image.YCbCrSubsampleRatio411, image.YCbCrSubsampleRatio410:
		return 2
	}
	return 0
}

// paletteOf is m's palette; an index beyond it is transparent, so black.
func paletteOf(m *image.Paletted) *[256]color.NRGBA {
	var palette [256]color.NRGBA
	for i, entry := range m.Palette[:min(len(m.Palette), 256)] {
		c, ok := entry.(color.NRGBA) // image/png's
		if !ok {                     // image/gif's: opaque or black
			r, g, b, _ := entry.RGBA()
			c = color.NRGBA{R: uint8(r >> 8), G: uint8(g >> 8), B: uint8(b >> 8), A: 255}
		}
		palette[i] = c
	}
	return &palette
}

// lossyWebP is a picture of VP8. Its samples have BT.601's video range (black 16,
// white 235), which golang.org/x/image/webp passes off as JPEG's full range. A is
// nil where there is no transparency.
type lossyWebP struct{ image.NYCbCrA }

// row is what rowReader returns.
func (m *lossyWebP) row(dst []uint8, x, y int) {
	width, height := m.Rect.Dx(), m.Rect.Dy()
	x, y = x-m.Rect.Min.X, y-m.Rect.Min.Y
	near := y / 2
	far := min(max(near-1+y%2*2, 0), (height-1)/2) // the next nearest row of chroma
	cb := chromaRows{m.Cb[near*m.CStride:], m.Cb[far*m.CStride:]}
	cr := chromaRows{m.Cr[near*m.CStride:], m.Cr[far*m.CStride:]}
	luma := m.Y[y*m.YStride:]
	for ; len(dst) > 0; dst, x = dst[3:], x+1 {
		dst[0], dst[1], dst[2] = vp8RGB(luma[x], cb.at(x, width), cr.at(x, width))
	}
}

// chromaRows are the two rows of 4:2:0 chroma that a row of pixels lies between.
type chromaRows struct{ near, far []uint8 }

// at is the chroma of pixel x of width: of the four samples about it 9, 3, 3 and 1
// sixteenths, rounded as libwebp does (src/dsp/upsampling.c).
func (c chromaRows) at(x, width int) uint8 {
	left, right := (x-1)/2, (x+1)/2
	switch {
	case x == 0:
		left = 0
		fallthrough
	case x == width-1 && x%2 == 1:
		return uint8((3*int(c.near[left]) + int(c.far[left]) + 2) / 4)
	}
	nearLeft, nearRight, farLeft, farRight := int(c.near[left]), int(c.near[right]), int(c.far[left]), int(c.far[right])
	sum := nearLeft + nearRight + farLeft + farRight + 8
	if x%2 == 1 {
		return uint8(((sum+2*(nearRight+farLeft))/8 + nearLeft) / 2)
	}
	return uint8(((sum+2*(nearLeft+farRight))/8 + nearRight) / 2)
}

// vp8RGB converts as libwebp does (src/dsp/yuv.h: VP8YUVToR, …G, …B).
func vp8RGB(y, cb, cr uint8) (r, g, b uint8) {
	scale := func(v uint8, factor int) int { return int(v) * factor >> 8 }
	clip := func(v int) uint8 { return uint8(max(0, min(v>>6, 255))) }
	luma := scale(y, 19077)
	return clip(luma + scale(cr, 26149) - 14234),
		clip(luma - scale(cb, 6419) - scale(cr, 13320) + 8708),
		clip(luma + scale(cb, 33050) - 17685)
}

// scale255 is v·a/255 rounded: Pillow's MULDIV255.
func scale255(v, a uint8) uint8 {
	t := uint32(v)*uint32(a) + 128
	return uint8((t + t>>8) >> 8)
}
