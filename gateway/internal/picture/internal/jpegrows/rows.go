// Package jpegrows decodes a JPEG image row by row, and opens the files that
// libjpeg-turbo opens.
//
// It is image/jpeg of Go 1.26 (BSD licence, see LICENSE) with these changes:
//
//   - The rows go to a callback, so that no picture of full size exists. A
//     sequential file with one scan needs one row of MCUs of memory.
//   - The coefficients of a file of several scans, of which all must be kept
//     until the last, are 16-bit instead of 32-bit: 3 bytes a pixel instead of 6
//     at 4:2:0, 6 instead of 12 at 4:4:4. (8-bit JPEG coefficients have at most
//     12 bits.)
//   - A scan takes time for the bits that it has, not for the blocks that it
//     passes, and the blocks that all scans of a file visit are limited. Decoding
//     ends with its context.
//   - Sampling factors may be any that libjpeg opens, and chroma is interpolated
//     as libjpeg does ("fancy upsampling").
//   - Damage that leaves the picture whole is no error: see Decode.
//   - The low frequencies that a progressive file lacks are estimated.
//
// README.md says how the package follows image/jpeg.
package jpegrows

import (
	"context"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"io"
)

// The blocks that the scans of a file may visit, so that a small file cannot keep
// a core busy: maxPasses times all blocks of the image, but always alwaysVisits.
//
// A pass is a visit of every block. libjpeg's own progressive scripts, which most
// encoders use, come to 4.7 passes in 10 scans at 4:4:4, to 5.3 at 4:2:0 and to 6
// in 6 scans for greyscale. A script of jpegtran's that sends each coefficient in
// a scan of its own comes to 64 in 190 scans; it is accepted up to about a
// megapixel.
const (
	maxPasses    = 16
	alwaysVisits = 1 << 21
)

var errTooManyScans = jpeg.UnsupportedError("more scans than encoders write")

// coefs are the coefficients of one 8x8 block in natural (not zig-zag) order.
type coefs [blockSize]int16

// Header is what a file says before the data of its first scan.
type Header struct {
	Width, Height int
	Components    int  // 1 for grey, 3 for YCbCr or RGB, 4 for CMYK or YCCK
	Stored        bool // all coefficients are held until the last of several scans
	// Memory is about how many bytes Decode holds.
	Memory int64
}

// ReadHeader reads a file up to its first scan. Errors are those of image/jpeg
// and of r.
func ReadHeader(r io.Reader) (Header, error) {
	d := &decoder{r: r}
	if err := d.readHeader(); err != nil {
		return Header{}, err
	}
	h := Header{Width: d.width, Height: d.height, Components: d.nComp, Stored: d.stored}
	for i := range d.comp[:d.nComp] {
		c := &d.comp[i]
		row := int64(8 * c.stride)
		h.Memory += row*int64(1+8*c.v) + int64(d.width)
		if d.stored {
			const block = 2*blockSize + 1 // coefficients and whether it is textured
			h.Memory += block * int64(c.stride*d.myy*c.v)
		}
	}
	return h, nil
}

// Decode reads a JPEG image from r and calls emit with its rows from top to
// bottom, one or more at a time. They are an [image.Gray], an [image.YCbCr] with
// a chroma sample for every pixel, an [image.RGBA] or an [image.CMYK] whose
// bounds say which rows it holds, each of full width; its memory is used again
// after emit returns. The size and the memory must have been checked with
// [ReadHeader] before.
//
// A file has ended when all of its coefficients are there; what follows is not
// read. One that ends between its scans, with or without its End Of Image marker,
// is decoded from those that are there, if at least the means of all blocks are
// among them; what low frequencies lack is estimated (see smooth.go). A file
// without these means, or that ends within a scan or a segment, is cut off:
// [io.ErrUnexpectedEOF].
//
// Errors are those of image/jpeg, of r, of emit and the cause of ctx. Rows may
// have been emitted before an error.
func Decode(ctx context.Context, r io.Reader, emit func(rows image.Image) error) error {
	d := &decoder{r: r, emit: emit}
	return d.decode(ctx)
}

func (d *decoder) decode(ctx context.Context) error {
	if err := d.readHeader(); err != nil {
		return err
	}
	if d.width == 0 || d.height == 0 {
		return jpeg.FormatError("no pixels")
	}
	for {
		if err := d.decodeScan(ctx); err != nil {
			return err
		}
		if !d.stored {
			return nil // All rows have been emitted.
		}
		if d.complete() {
			break
		}
		n, err := d.nextScan()
		ended := errors.Is(err, errEndOfImage) || errors.Is(err, errEndOfFile)
		if ended && d.hasMeans() {
			break
		}
		if ended {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if err := d.readScanHeader(n); err != nil {
			return err
		}
	}
	return d.reconstructStored(ctx)
}

// complete says whether no scan can add anything.
func (d *decoder) complete() bool {
	for i := range d.comp[:d.nComp] {
		for _, bits := range d.comp[i].missing {
			if bits != 0 {
				return false
			}
		}
	}
	return true
}

// hasMeans says whether the DC coefficients of all components, which are the
// means of the blocks, have come, if only their high bits.
func (d *decoder) hasMeans() bool {
	for i := range d.comp[:d.nComp] {
		if d.comp[i].missing[0] == noBits {
			return false
		}
	}
	return true
}

// startBand makes room for the my-th row of MCUs.
func (d *decoder) startBand(my int) {
	for i := range d.comp[:d.nComp] {
		c := &d.comp[i]
		row := 8 * c.stride
		if my == 0 {
			c.plane = make([]byte, row*(1+8*c.v))
			continue
		}
		copy(c.plane[:row], c.plane[row*8*c.v:])
	}
}

// reconstructStored turns the stored coefficients into rows.
func (d *decoder) reconstructStored(ctx context.Context) error {
	smooth := d.smooths()
	for my := range d.myy {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d.startBand(my)
		for i := range d.comp[:d.nComp] {
			c := &d.comp[i]
			for y := range c.v {
				first := (my*c.v + y) * c.stride
				for x := range c.stride {
					if smooth {
						b, textured := c.smoothed(x, my*c.v+y)
						c.reconstruct(&b, textured, x, y)
						continue
					}
					c.reconstruct(&c.coeffs[first+x], c.textured[first+x], x, y)
				}
			}
		}
		if err := d.emitBand(my); err != nil {
			return err
		}
	}
	return nil
}

// reconstruct dequantizes, performs the inverse DCT and stores the block to the
// plane, where it is the bx-th of the by-th row of blocks.
func (c *component) reconstruct(b *coefs, textured bool, bx, by int) {
	stride := 8 * c.stride
	dst := c.plane[(1+8*by)*stride+8*bx:]
	if !textured {
		// The inverse DCT of a DC coefficient alone is an eighth of it.
		mean := sample((int32(b[0])*c.quant[0] + 4) >> 3)
		for y := range 8 {
			out := dst[y*stride : y*stride+8 : y*stride+8]
			for x := range out {
				out[x] = mean
			}
		}
		return
	}
	var s block
	for zig, u := range unzig {
		s[u] = int32(b[u]) * c.quant[zig]
	}
	idct(&s)
	for y := range 8 {
		out := dst[y*stride : y*stride+8 : y*stride+8]
		in := s[y*8 : y*8+8 : y*8+8]
		for x := range out {
			out[x] = sample(in[x])
		}
	}
}

// sample shifts by +128 and clips to [0, 255].
func sample(v int32) uint8 { return uint8(max(-128, min(v, 127)) + 128) }

// emitBand hands on the rows of the image that the my-th row of MCUs completes.
func (d *decoder) emitBand(my int) error {
	mcuHeight := 8 * d.vMax
	first, end := max(0, my*mcuHeight-d.lag), (my+1)*mcuHeight-d.lag
	if my == d.myy-1 {
		end = d.height
	}
	for y := first; y < end; y++ {
		if err := d.emit(d.image(my, y)); err != nil {
			return err
		}
	}
	return nil
}

// image returns row y of the image, which the my-th row of MCUs completes.
func (d *decoder) image(my, y int) image.Image {
	var rows [maxComponents][]byte
	for i := range d.comp[:d.nComp] {
		rows[i] = d.row(&d.comp[i], my, y)
	}
	rect := image.Rect(0, y, d.width, y+1)
	switch {
	case d.nComp == 1:
		return &image.Gray{Pix: rows[0], Stride: d.width, Rect: rect}
	case d.nComp == 4:
		d.interleave(rows[:])
		d.invertCMYK()
		return &image.CMYK{Pix: d.inter, Stride: 4 * d.width, Rect: rect}
	case d.isRGB():
		d.interleave(rows[:3])
		for i := 3; i < len(d.inter); i += 4 {
			d.inter[i] = 255
		}
		return &image.RGBA{Pix: d.inter, Stride: 4 * d.width, Rect: rect}
	default:
		return &image.YCbCr{
			Y: rows[0], Cb: rows[1], Cr: rows[2],
			YStride: d.width, CStride: d.width,
			SubsampleRatio: image.YCbCrSubsampleRatio444, Rect: rect,
		}
	}
}

// interleave fills d.inter, 4 bytes a pixel.
func (d *decoder) interleave(rows [][]byte) {
	if d.inter == nil {
		d.inter = make([]byte, 4*d.width)
	}
	for c, row := range rows {
		for x, v := range row {
			d.inter[4*x+c] = v
		}
	}
}

// invertCMYK makes one row of an [image.CMYK] of d.inter. Files in the wild
// follow Adobe's convention, where 255 means no ink, with or without Adobe's
// marker; so v = 255 - v. For YCbCrK the RGB that its first three components
// stand for is the inverse of CMY already, and the two inversions cancel.
func (d *decoder) invertCMYK() {
	row := d.inter
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
