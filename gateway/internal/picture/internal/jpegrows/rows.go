// Package jpegrows decodes a JPEG image a band of rows at a time.
//
// It is image/jpeg of Go 1.26 (BSD licence, see LICENSE) with three changes:
//
//   - The rows go to a callback, so that no picture of full size exists. A
//     sequential file with one scan needs one row of MCUs of memory.
//   - The coefficients of a progressive file, of which all must be kept until
//     its last scan, are 16-bit instead of 32-bit: 36 MB instead of 72 MB for
//     12 megapixels at 4:2:0, 72 MB instead of 144 MB at 4:4:4. (8-bit JPEG
//     coefficients have at most 12 bits.)
//   - A file may have at most maxScans scans. Each scan visits every block of
//     the image but need be only a few bytes long, so that a small file could
//     otherwise keep a core busy for minutes.
//
// Everything else, the inverse DCT included, is as in image/jpeg; a test holds
// the two against each other pixel by pixel.
package jpegrows

import (
	"image"
	"image/color"
	"io"
)

// maxScans is many times what encoders write (about 10) and the limit that
// libjpeg-turbo's tools apply to untrusted files.
const maxScans = 100

// coefs are the coefficients of one 8x8 block in natural (not zig-zag) order.
type coefs [blockSize]int16

// Decode reads a JPEG image from r and calls emit with its rows from top to
// bottom, a few at a time. A band is an [image.Gray], [image.YCbCr],
// [image.RGBA] or [image.CMYK] whose bounds say which rows it holds, each of
// full width; its memory is used again after emit returns. The height and the
// width must have been checked with image/jpeg's DecodeConfig before.
//
// Errors are those of image/jpeg, of r and of emit. Rows may have been emitted
// before an error.
func Decode(r io.Reader, emit func(band image.Image) error) error {
	d := &decoder{r: r, emit: emit}
	return d.decode()
}

// allocBand sets the number of MCUs and makes the planes of one row of them.
func (d *decoder) allocBand() {
	h0, v0 := d.comp[0].h, d.comp[0].v // The h and v values from the Y components.
	d.mxx = (d.width + 8*h0 - 1) / (8 * h0)
	d.myy = (d.height + 8*v0 - 1) / (8 * v0)
	for i := range d.nComp {
		d.stride[i] = 8 * d.comp[i].h * d.mxx
		d.plane[i] = make([]byte, d.stride[i]*8*d.comp[i].v)
	}
}

// reconstructStored turns the stored coefficients into rows.
func (d *decoder) reconstructStored() error {
	for my := range d.myy {
		for i := range d.nComp {
			if d.coeffs[i] == nil {
				continue
			}
			h, v := d.comp[i].h, d.comp[i].v
			for y := range v {
				row := d.coeffs[i][(my*v+y)*d.mxx*h:][:d.mxx*h]
				for bx := range row {
					d.reconstructBlock(&row[bx], bx, y, i)
				}
			}
		}
		if err := d.emitBand(my); err != nil {
			return err
		}
	}
	return nil
}

// reconstructBlock dequantizes, performs the inverse DCT and stores the block
// to the band, where it is the bx-th of the by-th row of blocks.
func (d *decoder) reconstructBlock(b *coefs, bx, by, compIndex int) {
	qt := &d.quant[d.comp[compIndex].tq]
	var s block
	for zig, u := range unzig {
		s[u] = int32(b[u]) * qt[zig]
	}
	idct(&s)
	stride := d.stride[compIndex]
	dst := d.plane[compIndex][8*(by*stride+bx):]
	// Level shift by +128, clip to [0, 255], and write to dst.
	for y := range 8 {
		out := dst[y*stride : y*stride+8 : y*stride+8]
		in := s[y*8 : y*8+8 : y*8+8]
		for x := range out {
			out[x] = uint8(max(-128, min(in[x], 127)) + 128)
		}
	}
}

// emitBand hands on the my-th row of MCUs, less what lies outside the image.
func (d *decoder) emitBand(my int) error {
	mcuHeight := 8 * d.comp[0].v
	rect := image.Rect(0, my*mcuHeight, d.width, min((my+1)*mcuHeight, d.height))
	switch {
	case d.nComp == 1:
		return d.emit(&image.Gray{Pix: d.plane[0], Stride: d.stride[0], Rect: rect})
	case d.nComp == 4:
		d.interleave(rect, d.cmykPixels)
		return d.emit(&image.CMYK{Pix: d.inter, Stride: 4 * d.width, Rect: rect})
	case d.isRGB():
		d.interleave(rect, func(row []byte, y int) {
			for c := range 3 {
				d.sampleRow(row[c:], y, c)
			}
			for i := 3; i < len(row); i += 4 {
				row[i] = 255
			}
		})
		return d.emit(&image.RGBA{Pix: d.inter, Stride: 4 * d.width, Rect: rect})
	default:
		ratio, err := d.subsampleRatio()
		if err != nil {
			return err
		}
		return d.emit(&image.YCbCr{
			Y: d.plane[0], Cb: d.plane[1], Cr: d.plane[2],
			YStride: d.stride[0], CStride: d.stride[1],
			SubsampleRatio: ratio, Rect: rect,
		})
	}
}

// interleave fills d.inter, 4 bytes a pixel, row by row; y counts from the top
// of the band.
func (d *decoder) interleave(rect image.Rectangle, fill func(row []byte, y int)) {
	stride := 4 * d.width
	if d.inter == nil {
		d.inter = make([]byte, stride*8*d.comp[0].v)
	}
	for y := range rect.Dy() {
		fill(d.inter[y*stride:][:stride], y)
	}
}

// sampleRow copies row y of a component to every fourth byte of dst, repeating
// the samples of a subsampled component.
func (d *decoder) sampleRow(dst []byte, y, c int) {
	hRatio, vRatio := d.comp[0].h/d.comp[c].h, d.comp[0].v/d.comp[c].v
	src := d.plane[c][y/vRatio*d.stride[c]:]
	for x := range d.width {
		dst[4*x] = src[x/hRatio]
	}
}

// cmykPixels makes one row of an [image.CMYK]. Files in the wild follow Adobe's
// convention, where 255 means no ink, with or without Adobe's marker; so
// v = 255 - v. For YCbCrK the RGB that its first three components stand for is
// the inverse of CMY already, and the two inversions cancel.
func (d *decoder) cmykPixels(row []byte, y int) {
	for c := range 4 {
		d.sampleRow(row[c:], y, c)
	}
	if d.adobeTransformValid && d.adobeTransform != adobeTransformUnknown {
		for i := 0; i < len(row); i += 4 {
			row[i], row[i+1], row[i+2] = color.YCbCrToRGB(row[i], row[i+1], row[i+2])
			row[i+3] = 255 - row[i+3]
		}
		return
	}
	for i := range row {
		row[i] = 255 - row[i]
	}
}

func (d *decoder) subsampleRatio() (image.YCbCrSubsampleRatio, error) {
	switch hRatio, vRatio := d.comp[0].h/d.comp[1].h, d.comp[0].v/d.comp[1].v; hRatio<<4 | vRatio {
	case 0x11:
		return image.YCbCrSubsampleRatio444, nil
	case 0x12:
		return image.YCbCrSubsampleRatio440, nil
	case 0x21:
		return image.YCbCrSubsampleRatio422, nil
	case 0x22:
		return image.YCbCrSubsampleRatio420, nil
	case 0x41:
		return image.YCbCrSubsampleRatio411, nil
	case 0x42:
		return image.YCbCrSubsampleRatio410, nil
	}
	return 0, errUnsupportedSubsamplingRatio
}
