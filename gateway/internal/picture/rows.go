package picture

import (
	"image"
	"image/color"
)

// addImage hands the rows of m to s. m may be one band of the picture or, as in
// a GIF, a part of its canvas; what it does not cover stays black, the colour
// that transparency is composited over.
func (s *squarer) addImage(m image.Image, rgb []uint8) {
	bounds := m.Bounds().Intersect(image.Rect(0, 0, s.width, s.height))
	if bounds.Empty() {
		return
	}
	row := rowReader(m)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		clear(rgb)
		row(rgb[3*bounds.Min.X:3*bounds.Max.X], bounds.Min.X, y)
		s.addRow(y, rgb)
	}
}

// rowReader returns a function that writes the pixels of m from (x, y)
// rightwards as RGB over black: 16-bit samples lose their low byte, alpha
// composites as Pillow's paste does, CMYK converts as Pillow's does.
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
	case *vp8:
		return func(dst []uint8, x, y int) {
			luma, chroma := m.Y[m.YOffset(0, y):], m.COffset(0, y)
			cb, cr := m.Cb[chroma:], m.Cr[chroma:]
			for ; len(dst) > 0; dst, x = dst[3:], x+1 {
				dst[0], dst[1], dst[2] = vp8RGB(luma[x], cb[x/2], cr[x/2])
				if m.A != nil {
					a := m.A[m.AOffset(x, y)]
					dst[0], dst[1], dst[2] = scale255(dst[0], a), scale255(dst[1], a), scale255(dst[2], a)
				}
			}
		}
	case *image.RGBA: // premultiplied, which is composited over black
		return func(dst []uint8, x, y int) {
			for src := m.Pix[m.PixOffset(x, y):]; len(dst) > 0; dst, src = dst[3:], src[4:] {
				dst[0], dst[1], dst[2] = src[0], src[1], src[2]
			}
		}
	case *image.NRGBA:
		return func(dst []uint8, x, y int) {
			for src := m.Pix[m.PixOffset(x, y):]; len(dst) > 0; dst, src = dst[3:], src[4:] {
				a := src[3]
				dst[0], dst[1], dst[2] = scale255(src[0], a), scale255(src[1], a), scale255(src[2], a)
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
				a := src[6]
				dst[0], dst[1], dst[2] = scale255(src[0], a), scale255(src[2], a), scale255(src[4], a)
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
		return palettedRows(m)
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

func palettedRows(m *image.Paletted) func(dst []uint8, x, y int) {
	var palette [256][3]uint8 // an index beyond the file's palette is black
	for i, entry := range m.Palette[:min(len(m.Palette), 256)] {
		c, ok := entry.(color.NRGBA) // image/png's
		if !ok {                     // image/gif's: opaque or black
			r, g, b, _ := entry.RGBA()
			c = color.NRGBA{R: uint8(r >> 8), G: uint8(g >> 8), B: uint8(b >> 8), A: 255}
		}
		palette[i] = [3]uint8{scale255(c.R, c.A), scale255(c.G, c.A), scale255(c.B, c.A)}
	}
	return func(dst []uint8, x, y int) {
		for src := m.Pix[m.PixOffset(x, y):]; len(dst) > 0; dst, src = dst[3:], src[1:] {
			copy(dst[:3], palette[src[0]][:])
		}
	}
}

// vp8 is a lossy WebP. Its samples have BT.601's video range (black 16, white
// 235), which golang.org/x/image/webp passes off as JPEG's full range.
type vp8 struct{ image.NYCbCrA } // A is nil where there is no transparency

// asVP8 marks what golang.org/x/image/webp made of a lossy file.
func asVP8(m image.Image) image.Image {
	switch m := m.(type) {
	case *image.YCbCr:
		return &vp8{image.NYCbCrA{YCbCr: *m}}
	case *image.NYCbCrA:
		return &vp8{*m}
	}
	return m
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
