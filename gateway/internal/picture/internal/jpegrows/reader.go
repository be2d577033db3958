// Copyright 2009 The Go Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package jpegrows

import (
	"errors"
	"image"
	"image/jpeg"
	"io"
)

// errFractionalSampling means that a component has neither all, half, a third
// nor a quarter of the samples of the finest one, in a row or in a column.
// libjpeg refuses that too ("Fractional sampling not implemented yet").
var errFractionalSampling = jpeg.UnsupportedError("fractional sampling")

// Component specification, specified in section B.2.2, and what is known of the
// component so far.
type component struct {
	h  int   // Horizontal sampling factor.
	v  int   // Vertical sampling factor.
	c  uint8 // Component identifier.
	tq uint8 // Quantization table destination selector.

	width, height    int // In samples (section A.1.1).
	blocksX, blocksY int // In blocks, as a scan of this component alone has them (section A.2.2).
	stride           int // In blocks, padded to whole MCUs.

	// quant is the table that was in force when the component's first scan began;
	// a file may define another in its place for the next component.
	quant *block

	// coeffs are kept between the scans of a file that has several; textured says
	// which blocks have more than a DC coefficient.
	coeffs   []coefs
	textured []bool
	// missing is the number of low bits of each coefficient, in zig-zag order,
	// that no scan has brought yet; noBits where none has brought any.
	missing [blockSize]uint8

	// plane holds the samples of one row of MCUs, below the last row of samples of
	// the one before; its rows are 8*stride long.
	plane []byte
	wide  []byte // One row of plane at the width of the image, if that is more.
}

const noBits = 0xff

const (
	dcTable = 0
	acTable = 1
	maxTc   = 1
	maxTh   = 3
	maxTq   = 3

	maxComponents = 4
)

const (
	sof0Marker = 0xc0 // Start Of Frame (Baseline Sequential).
	sof1Marker = 0xc1 // Start Of Frame (Extended Sequential).
	sof2Marker = 0xc2 // Start Of Frame (Progressive).
	dhtMarker  = 0xc4 // Define Huffman Table.
	dacMarker  = 0xcc // Define Arithmetic Conditioning.
	temMarker  = 0x01 // For temporary use in arithmetic coding.
	rst0Marker = 0xd0 // ReSTart (0).
	rst7Marker = 0xd7 // ReSTart (7).
	soiMarker  = 0xd8 // Start Of Image.
	eoiMarker  = 0xd9 // End Of Image.
	sosMarker  = 0xda // Start Of Scan.
	dqtMarker  = 0xdb // Define Quantization Table.
	dnlMarker  = 0xdc // Define Number of Lines.
	driMarker  = 0xdd // Define Restart Interval.
	comMarker  = 0xfe // COMment.
	// "APPlication specific" markers aren't part of the JPEG spec per se,
	// but in practice, their use is described at
	// https://www.sno.phy.queensu.ca/~phil/exiftool/TagNames/JPEG.html
	app0Marker  = 0xe0
	app14Marker = 0xee
	app15Marker = 0xef
)

// See https://www.sno.phy.queensu.ca/~phil/exiftool/TagNames/JPEG.html#Adobe
const adobeTransformUnknown = 0

// unzig maps from the zig-zag ordering to the natural ordering. For example,
// unzig[3] is the column and row of the fourth element in zig-zag order. The
// value is 16, which means first column (16%8 == 0) and third row (16/8 == 2).
var unzig = [blockSize]int{
	0, 1, 8, 16, 9, 2, 3, 10,
	17, 24, 32, 25, 18, 11, 4, 5,
	12, 19, 26, 33, 40, 48, 41, 34,
	27, 20, 13, 6, 7, 14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36,
	29, 22, 15, 23, 30, 37, 44, 51,
	58, 59, 52, 45, 38, 31, 39, 46,
	53, 60, 61, 54, 47, 55, 62, 63,
}

type decoder struct {
	r     io.Reader
	ended bool // r has returned io.EOF
	bits  bits
	// bytes is a byte buffer, similar to a bufio.Reader, except that it
	// has to be able to unread more than 1 byte, due to byte stuffing.
	// Byte stuffing is specified in section F.1.2.3.
	bytes struct {
		// buf[i:j] are the buffered bytes read from the underlying
		// io.Reader that haven't yet been passed further on.
		buf  [4096]byte
		i, j int
		// nUnreadable is the number of bytes to back up i after
		// overshooting. It can be 0, 1 or 2.
		nUnreadable int
	}
	width, height int

	// hMax and vMax are the largest sampling factors. The component that has them
	// has a sample for every pixel.
	hMax, vMax int
	// mxx and myy are the number of MCUs (Minimum Coded Units) in the image.
	mxx, myy int

	emit  func(image.Image) error
	inter []byte // The interleaved form of a row, for RGB and CMYK.
	// lag is how many rows of a row of MCUs need the next one: upsampling
	// interpolates between rows.
	lag int

	// stored is whether coefficients are kept until the last scan.
	stored bool
	scans  int
	visits int // Blocks that the scans so far have visited.

	ri    int // Restart Interval.
	nComp int

	// As per section 4.5, there are four modes of operation (selected by the
	// SOF? markers): sequential DCT, progressive DCT, lossless and
	// hierarchical, although this implementation does not support the latter
	// two non-DCT modes. Sequential DCT is further split into baseline and
	// extended, as per section 4.11, which makes no difference here.
	progressive bool

	jfif                bool
	adobeTransformValid bool
	adobeTransform      uint8

	scan         scan
	eobRun       uint16 // End-of-Band run, specified in section G.1.2.2.
	untilRestart int    // MCUs until the next restart marker, if ri > 0.
	expectedRST  uint8

	comp  [maxComponents]component
	huff  [maxTc + 1][maxTh + 1]huffman
	quant [maxTq + 1]*block // Quantization tables, in zig-zag order.
	tmp   [2 * blockSize]byte
}

// Specified in section B.2.2.
func (d *decoder) processSOF(n int) error {
	if d.nComp != 0 {
		return jpeg.FormatError("multiple SOF markers")
	}
	switch n {
	case 6 + 3*1: // Grayscale image.
		d.nComp = 1
	case 6 + 3*3: // YCbCr or RGB image.
		d.nComp = 3
	case 6 + 3*4: // YCbCrK or CMYK image.
		d.nComp = 4
	default:
		return jpeg.UnsupportedError("number of components")
	}
	if err := d.readFull(d.tmp[:n]); err != nil {
		return err
	}
	// We only support 8-bit precision.
	if d.tmp[0] != 8 {
		return jpeg.UnsupportedError("more than 8 bits a sample")
	}
	d.height = int(d.tmp[1])<<8 + int(d.tmp[2])
	d.width = int(d.tmp[3])<<8 + int(d.tmp[4])
	if int(d.tmp[5]) != d.nComp {
		return jpeg.FormatError("SOF has wrong length")
	}

	for i := range d.nComp {
		// Section B.2.2 states that "the value of C_i shall be different from
		// the values of C_1 through C_(i-1)". There are files where it is not;
		// see component.
		c := &d.comp[i]
		c.c = d.tmp[6+3*i]
		c.tq = d.tmp[8+3*i]
		if c.tq > maxTq {
			return jpeg.FormatError("bad Tq value")
		}
		c.h, c.v = int(d.tmp[7+3*i]>>4), int(d.tmp[7+3*i]&0x0f)
		if c.h < 1 || 4 < c.h || c.v < 1 || 4 < c.v {
			return jpeg.FormatError("luma/chroma subsampling ratio")
		}
		if d.nComp == 1 {
			// If a JPEG image has only one component, section A.2 says "this data
			// is non-interleaved by definition" and section A.2.2 says "[in this
			// case...] the order of data units within a scan shall be left-to-right
			// and top-to-bottom... regardless of the values of H_1 and V_1". Section
			// 4.8.2 also says "[for non-interleaved data], the MCU is defined to be
			// one data unit". Similarly, section A.1.1 explains that it is the ratio
			// of H_i to max_j(H_j) that matters, and similarly for V. For grayscale
			// images, H_1 is the maximum H_j for all components j, so that ratio is
			// always 1. The component's (h, v) is effectively always (1, 1): even if
			// the nominal (h, v) is (2, 1), a 20x5 image is encoded in three 8x8
			// MCUs, not two 16x8 MCUs.
			c.h, c.v = 1, 1
		}
		for z := range c.missing {
			c.missing[z] = noBits
		}
	}
	return d.layOut()
}

// layOut derives the sizes of the components from those of the image, as
// specified in sections A.1.1 and A.2.
func (d *decoder) layOut() error {
	comps := d.comp[:d.nComp]
	for i := range comps {
		d.hMax, d.vMax = max(d.hMax, comps[i].h), max(d.vMax, comps[i].v)
	}
	d.mxx, d.myy = ceilDiv(d.width, 8*d.hMax), ceilDiv(d.height, 8*d.vMax)
	for i := range comps {
		c := &comps[i]
		if d.hMax%c.h != 0 || d.vMax%c.v != 0 {
			return errFractionalSampling
		}
		c.width, c.height = ceilDiv(d.width*c.h, d.hMax), ceilDiv(d.height*c.v, d.vMax)
		c.blocksX, c.blocksY = ceilDiv(c.width, 8), ceilDiv(c.height, 8)
		c.stride = c.h * d.mxx
		if d.interpolatesRows(c) {
			d.lag = 1
		}
	}
	return nil
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// Specified in section B.2.4.1.
func (d *decoder) processDQT(n int) error {
loop:
	for n > 0 {
		n--
		x, err := d.readByte()
		if err != nil {
			return err
		}
		tq := x & 0x0f
		if tq > maxTq {
			return jpeg.FormatError("bad Tq value")
		}
		// A new one: a component whose scans have begun keeps the old one.
		table := new(block)
		if x>>4 == 0 {
			if n < blockSize {
				break loop
			}
			n -= blockSize
			if err := d.readFull(d.tmp[:blockSize]); err != nil {
				return err
			}
			for i := range table {
				table[i] = int32(d.tmp[i])
			}
		} else { // 1; libjpeg takes every other value for it, too
			if n < 2*blockSize {
				break loop
			}
			n -= 2 * blockSize
			if err := d.readFull(d.tmp[:2*blockSize]); err != nil {
				return err
			}
			for i := range table {
				table[i] = int32(d.tmp[2*i])<<8 | int32(d.tmp[2*i+1])
			}
		}
		d.quant[tq] = table
	}
	if n != 0 {
		return jpeg.FormatError("DQT has wrong length")
	}
	return nil
}

// Specified in section B.2.4.4.
func (d *decoder) processDRI(n int) error {
	if n != 2 {
		return jpeg.FormatError("DRI has wrong length")
	}
	if err := d.readFull(d.tmp[:2]); err != nil {
		return err
	}
	d.ri = int(d.tmp[0])<<8 + int(d.tmp[1])
	return nil
}

func (d *decoder) processApp0Marker(n int) error {
	if n < 14 { // The length of JFIF's segment without a thumbnail.
		return d.ignore(n)
	}
	if err := d.readFull(d.tmp[:5]); err != nil {
		return err
	}
	n -= 5

	d.jfif = d.jfif || d.tmp[0] == 'J' && d.tmp[1] == 'F' && d.tmp[2] == 'I' && d.tmp[3] == 'F' && d.tmp[4] == '\x00'

	if n > 0 {
		return d.ignore(n)
	}
	return nil
}

func (d *decoder) processApp14Marker(n int) error {
	if n < 12 {
		return d.ignore(n)
	}
	if err := d.readFull(d.tmp[:12]); err != nil {
		return err
	}
	n -= 12

	if d.tmp[0] == 'A' && d.tmp[1] == 'd' && d.tmp[2] == 'o' && d.tmp[3] == 'b' && d.tmp[4] == 'e' {
		d.adobeTransformValid = true
		d.adobeTransform = d.tmp[11]
	}

	if n > 0 {
		return d.ignore(n)
	}
	return nil
}

// readHeader reads all segments before the first scan.
func (d *decoder) readHeader() error {
	// Check for the Start Of Image marker.
	if err := d.readFull(d.tmp[:2]); err != nil {
		return err
	}
	if d.tmp[0] != 0xff || d.tmp[1] != soiMarker {
		return jpeg.FormatError("missing SOI marker")
	}
	n, err := d.nextScan()
	switch {
	case errors.Is(err, errEndOfImage):
		return jpeg.FormatError("missing SOS marker")
	case errors.Is(err, errEndOfFile):
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	}
	return d.readScanHeader(n)
}

var (
	errEndOfImage = errors.New("jpegrows: end of image")
	errEndOfFile  = errors.New("jpegrows: end of file")
)

// nextScan processes the segments up to the next Start Of Scan and returns the
// length of that one. The error is errEndOfImage at that marker, and errEndOfFile
// where the file ends between segments.
func (d *decoder) nextScan() (n int, err error) {
	// Process the remaining segments until the End Of Image marker.
	for {
		if err := d.readFull(d.tmp[:2]); err != nil {
			return 0, d.betweenSegments(err)
		}
		for d.tmp[0] != 0xff {
			// Strictly speaking, this is a format error. However, libjpeg is
			// liberal in what it accepts. As of version 9, next_marker in
			// jdmarker.c treats this as a warning (JWRN_EXTRANEOUS_DATA) and
			// continues to decode the stream. Even before next_marker sees
			// extraneous data, jpeg_fill_bit_buffer in jdhuff.c reads as many
			// bytes as it can, possibly past the end of a scan's data. It
			// effectively puts back any markers that it overscanned (e.g. an
			// "\xff\xd9" EOI marker), but it does not put back non-marker data,
			// and thus it can silently ignore a small number of extraneous
			// non-marker bytes before next_marker has a chance to see them (and
			// print a warning).
			//
			// We are therefore also liberal in what we accept. Extraneous data
			// is silently ignored.
			//
			// This is similar to, but not exactly the same as, the restart
			// mechanism within a scan (the RST[0-7] markers).
			//
			// Note that extraneous 0xff bytes in e.g. SOS data are escaped as
			// "\xff\x00", and so are detected a little further down below.
			d.tmp[0] = d.tmp[1]
			d.tmp[1], err = d.readByte()
			if err != nil {
				return 0, d.betweenSegments(err)
			}
		}
		marker := d.tmp[1]
		for marker == 0xff {
			// Section B.1.1.2 says, "Any marker may optionally be preceded by any
			// number of fill bytes, which are bytes assigned code X'FF'".
			marker, err = d.readByte()
			if err != nil {
				return 0, d.betweenSegments(err)
			}
		}
		if marker == 0 {
			// Treat "\xff\x00" as extraneous data.
			continue
		}
		if marker == eoiMarker { // End Of Image.
			return 0, errEndOfImage
		}
		if marker == temMarker || rst0Marker <= marker && marker <= rst7Marker {
			// Figures B.2 and B.16 of the specification suggest that restart markers should
			// only occur between Entropy Coded Segments and not after the final ECS.
			// However, some encoders may generate incorrect JPEGs with a final restart
			// marker. That restart marker will be seen here instead of inside the processSOS
			// method, and is ignored as a harmless error. Restart markers have no extra data,
			// so we check for this before we read the 16-bit length of the segment.
			continue
		}

		// Read the 16-bit length of the segment. The value includes the 2 bytes for the
		// length itself, so we subtract 2 to get the number of remaining bytes.
		// A length of less than 2 is taken for 2, as libjpeg does.
		if err = d.readFull(d.tmp[:2]); err != nil {
			return 0, err
		}
		n := max(0, int(d.tmp[0])<<8+int(d.tmp[1])-2)

		switch marker {
		case sof0Marker, sof1Marker, sof2Marker:
			d.progressive = marker == sof2Marker
			err = d.processSOF(n)
		case dhtMarker:
			err = d.processDHT(n)
		case dqtMarker:
			err = d.processDQT(n)
		case sosMarker:
			return n, nil
		case driMarker:
			err = d.processDRI(n)
		case app0Marker:
			err = d.processApp0Marker(n)
		case app14Marker:
			err = d.processApp14Marker(n)
		case dacMarker, dnlMarker: // Of no use to a Huffman decoder that knows the height.
			err = d.ignore(n)
		default:
			if app0Marker <= marker && marker <= app15Marker || marker == comMarker {
				err = d.ignore(n)
			} else if mode := otherMode(marker); mode != "" {
				err = jpeg.UnsupportedError(mode)
			} else if marker < 0xc0 { // See Table B.1 "Marker code assignments".
				err = jpeg.FormatError("unknown marker")
			} else {
				err = jpeg.UnsupportedError("unknown marker")
			}
		}
		if err != nil {
			return 0, err
		}
	}
}

// otherMode names a mode of operation that is not decoded here, by its Start Of
// Frame marker. No camera writes them and no browser shows them.
func otherMode(marker uint8) string {
	switch marker {
	case 0xc3:
		return "lossless"
	case 0xc5, 0xc6, 0xc7, 0xcd, 0xce, 0xcf:
		return "hierarchical"
	case 0xc9, 0xca, 0xcb:
		return "arithmetic coding"
	}
	return ""
}

func (d *decoder) betweenSegments(err error) error {
	if d.ended {
		return errEndOfFile
	}
	return err
}

// isRGB is libjpeg's decision (jdapimin.c: default_decompress_parms).
func (d *decoder) isRGB() bool {
	if d.jfif {
		return false
	}
	if d.adobeTransformValid {
		// https://www.sno.phy.queensu.ca/~phil/exiftool/TagNames/JPEG.html#Adobe
		// says that 0 means Unknown (and in practice RGB) and 1 means YCbCr.
		return d.adobeTransform == adobeTransformUnknown
	}
	return d.comp[0].c == 'R' && d.comp[1].c == 'G' && d.comp[2].c == 'B'
}
