// Copyright 2012 The Go Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package jpegrows

import (
	"context"
	"errors"
	"image/jpeg"
	"io"
	"slices"
)

// scan is the header of a scan, specified in section B.2.3.
type scan struct {
	nComp int
	comp  [maxComponents]scanComponent

	// zigStart and zigEnd are the spectral selection bounds.
	// ah and al are the successive approximation high and low values.
	// The spec calls these values Ss, Se, Ah and Al.
	//
	// For progressive JPEGs, these are the two more-or-less independent
	// aspects of progression. Spectral selection progression is when not
	// all of a block's 64 DCT coefficients are transmitted in one pass.
	// For example, three passes could transmit coefficient 0 (the DC
	// component), coefficients 1-5, and coefficients 6-63, in zig-zag
	// order. Successive approximation is when not all of the bits of a
	// band of coefficients are transmitted in one pass. For example,
	// three passes could transmit the 6 most significant bits, followed
	// by the second-least significant bit, followed by the least
	// significant bit.
	//
	// For sequential JPEGs, these parameters are hard-coded to 0/63/0/0, as
	// per table B.3.
	zigStart, zigEnd int32
	ah, al           uint32
}

type scanComponent struct {
	*component
	td uint8 // DC table selector.
	ta uint8 // AC table selector.
	dc int32 // DC coefficient of the block before.
}

// readScanHeader reads a Start Of Scan segment of n bytes into d.scan. Specified
// in section B.2.3.
func (d *decoder) readScanHeader(n int) error {
	if d.nComp == 0 {
		return jpeg.FormatError("missing SOF marker")
	}
	if n < 6 || 4+2*d.nComp < n || n%2 != 0 {
		return jpeg.FormatError("SOS has wrong length")
	}
	if err := d.readFull(d.tmp[:n]); err != nil {
		return err
	}
	nComp := int(d.tmp[0])
	if n != 4+2*nComp {
		return jpeg.FormatError("SOS length inconsistent with number of components")
	}
	s := scan{nComp: nComp, zigEnd: blockSize - 1}
	totalHV := 0
	for i := range nComp {
		c := d.selectComponent(d.tmp[1+2*i], s.comp[:i])
		if c == nil {
			return jpeg.FormatError("unknown component selector")
		}
		totalHV += c.h * c.v

		// Table B.3 restricts baseline files to t <= 1; libjpeg does not.
		td, ta := d.tmp[2+2*i]>>4, d.tmp[2+2*i]&0x0f
		if td > maxTh {
			return jpeg.FormatError("bad Td value")
		}
		if ta > maxTh {
			return jpeg.FormatError("bad Ta value")
		}
		s.comp[i] = scanComponent{component: c, td: td, ta: ta}
	}
	// Section B.2.3 states that if there is more than one component then the
	// total H*V values in a scan must be <= 10.
	if nComp > 1 && totalHV > 10 {
		return jpeg.FormatError("total sampling factors too large")
	}

	if d.progressive {
		s.zigStart = int32(d.tmp[1+2*nComp])
		s.zigEnd = int32(d.tmp[2+2*nComp])
		s.ah = uint32(d.tmp[3+2*nComp] >> 4)
		s.al = uint32(d.tmp[3+2*nComp] & 0x0f)
		if (s.zigStart == 0 && s.zigEnd != 0) || s.zigStart > s.zigEnd || blockSize <= s.zigEnd {
			return jpeg.FormatError("bad spectral selection bounds")
		}
		if s.zigStart != 0 && nComp != 1 {
			return jpeg.FormatError("progressive AC coefficients for more than one component")
		}
		if s.ah != 0 && s.ah != s.al+1 {
			return jpeg.FormatError("bad successive approximation values")
		}
	}
	d.scan = s
	d.scans++
	if d.scans == 1 {
		// A sequential scan with all components completes one row of MCUs after
		// the other; everything else has to be kept until the last scan.
		d.stored = d.progressive || nComp != d.nComp
	}
	return nil
}

// selectComponent returns the component with an identifier that no earlier part
// of the scan has taken, or nil. Where components share an identifier, they are
// taken in the order of the frame.
func (d *decoder) selectComponent(id uint8, taken []scanComponent) *component {
next:
	for i := range d.comp[:d.nComp] {
		c := &d.comp[i]
		if c.c != id {
			continue
		}
		for _, t := range taken {
			if t.component == c {
				continue next
			}
		}
		return c
	}
	return nil
}

// decodeScan reads the entropy-coded data of d.scan.
func (d *decoder) decodeScan(ctx context.Context) error {
	if err := d.countVisits(); err != nil {
		return err
	}
	if !d.progressive {
		d.defaultTables()
	}
	for i := range d.scan.nComp {
		if err := d.begin(d.scan.comp[i].component); err != nil {
			return err
		}
	}
	d.bits = bits{}
	d.eobRun = 0
	d.untilRestart, d.expectedRST = d.ri, rst0Marker
	var err error
	if d.scan.nComp == 1 {
		err = d.decodeAlone(ctx, &d.scan.comp[0])
	} else {
		err = d.decodeInterleaved(ctx)
	}
	if d.ended && errors.Is(err, errShortHuffmanData) {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	for i := range d.scan.nComp {
		missing := &d.scan.comp[i].missing
		for z := d.scan.zigStart; z <= d.scan.zigEnd; z++ {
			missing[z] = uint8(d.scan.al)
		}
	}
	return nil
}

// countVisits counts the blocks that d.scan visits and fails if those of all
// scans are too many.
func (d *decoder) countVisits() error {
	all := 0
	for i := range d.comp[:d.nComp] {
		all += d.mxx * d.myy * d.comp[i].h * d.comp[i].v
	}
	if c := d.scan.comp[0]; d.scan.nComp == 1 {
		d.visits += 1 + c.blocksX*c.blocksY
	} else {
		for i := range d.scan.nComp {
			d.visits += d.mxx * d.myy * d.scan.comp[i].h * d.scan.comp[i].v
		}
	}
	if d.visits > max(maxPasses*all, alwaysVisits) {
		return errTooManyScans
	}
	return nil
}

// begin prepares a component for a scan.
func (d *decoder) begin(c *component) error {
	if c.quant == nil {
		if c.quant = d.quant[c.tq]; c.quant == nil {
			return jpeg.FormatError("undefined quantization table")
		}
	}
	if d.stored && c.coeffs == nil {
		blocks := c.stride * d.myy * c.v
		c.coeffs = make([]coefs, blocks)
		c.textured = make([]bool, blocks)
	}
	return nil
}

// decodeInterleaved decodes a scan of more than one component: MCU by MCU. For
// 4:2:0 chroma subsampling, there are four Y 8x8 blocks in every 16x16 MCU.
//
// For a sequential 32x16 pixel image, the Y blocks visiting order is:
//
//	0 1 4 5
//	2 3 6 7
func (d *decoder) decodeInterleaved(ctx context.Context) error {
	for my := range d.myy {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !d.stored {
			d.startBand(my)
		}
		for mx := range d.mxx {
			for i := range d.scan.nComp {
				c := &d.scan.comp[i]
				for y := range c.v {
					for x := range c.h {
						if err := d.decodeBlock(c, c.h*mx+x, c.v*my+y); err != nil {
							return err
						}
					}
				}
			}
			if err := d.advance(1, mx == d.mxx-1 && my == d.myy-1); err != nil {
				return err
			}
		}
		if !d.stored {
			if err := d.emitBand(my); err != nil {
				return err
			}
		}
	}
	return nil
}

// decodeAlone decodes a scan of one component, whose blocks are traversed left
// to right, top to bottom:
//
//	0 1 2 3
//	4 5 6 7
//
// For such scans, there is no data for any blocks that are inside the image at
// the MCU level but outside the component at the sample level. For example, a
// 24x16 pixel 4:2:0 progressive image consists of two 16x16 MCUs. The
// interleaved scans will process 8 Y blocks:
//
//	0 1 4 5
//	2 3 6 7
//
// The non-interleaved scans will process only 6 Y blocks:
//
//	0 1 2
//	3 4 5
func (d *decoder) decodeAlone(ctx context.Context, c *scanComponent) error {
	for by := range c.blocksY {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !d.stored {
			d.startBand(by) // The only component: a row of blocks is a row of MCUs.
		}
		for bx := 0; bx < c.blocksX; {
			n := d.skip(c, bx, by)
			if n == 0 {
				n = 1
				if err := d.decodeBlock(c, bx, by); err != nil {
					return err
				}
			}
			bx += n
			if err := d.advance(n, bx == c.blocksX && by == c.blocksY-1); err != nil {
				return err
			}
		}
		if !d.stored {
			if err := d.emitBand(by); err != nil {
				return err
			}
		}
	}
	return nil
}

// skip takes the blocks from (bx, by) rightwards that an end-of-band run leaves
// as they are off the run and returns their number, so that a scan costs time
// for what is in it and not for what is in the image.
func (d *decoder) skip(c *scanComponent, bx, by int) int {
	if d.eobRun == 0 {
		return 0
	}
	n := min(int(d.eobRun), c.blocksX-bx)
	if d.ri > 0 {
		n = min(n, d.untilRestart)
	}
	if d.scan.ah != 0 {
		// Coefficients that are not zero have a bit each in this scan.
		row := c.textured[by*c.stride+bx:][:n]
		if i := slices.Index(row, true); i >= 0 {
			n = i
		}
	}
	d.eobRun -= uint16(n)
	return n
}

// advance counts n more MCUs and, unless they were the last, reads the restart
// marker where one is due.
func (d *decoder) advance(n int, last bool) error {
	if d.ri == 0 {
		return nil
	}
	if d.untilRestart -= n; d.untilRestart > 0 || last {
		return nil
	}
	d.untilRestart = d.ri
	// For well-formed input, the RST[0-7] restart marker follows
	// immediately. For corrupt input, call findRST to try to
	// resynchronize. Some encoders number their markers in other ways.
	if err := d.readFull(d.tmp[:2]); err != nil {
		return err
	}
	if d.tmp[0] != 0xff || d.tmp[1] < rst0Marker || rst7Marker < d.tmp[1] {
		if err := d.findRST(d.expectedRST); err != nil {
			return err
		}
	}
	d.expectedRST++
	if d.expectedRST == rst7Marker+1 {
		d.expectedRST = rst0Marker
	}
	// Reset the Huffman decoder.
	d.bits = bits{}
	// Reset the DC components, as per section F.2.1.3.1.
	for i := range d.scan.comp {
		d.scan.comp[i].dc = 0
	}
	// Reset the progressive decoder state, as per section G.1.2.2.
	d.eobRun = 0
	return nil
}

// decodeBlock decodes the part of a block that the scan holds, and, unless
// coefficients are stored, its samples. bx and by are the location of the block,
// in units of 8x8 blocks: the third block in the first row has (bx, by) = (2, 0).
func (d *decoder) decodeBlock(c *scanComponent, bx, by int) error {
	if !d.stored {
		var b coefs
		textured, err := d.decodeCoefs(c, &b)
		if err != nil {
			return err
		}
		c.reconstruct(&b, textured, bx, by%c.v)
		return nil
	}
	// Go on from the previous partially decoded coefficients.
	i := by*c.stride + bx
	var textured bool
	var err error
	if d.scan.ah == 0 {
		textured, err = d.decodeCoefs(c, &c.coeffs[i])
	} else {
		textured, err = d.refine(c, &c.coeffs[i])
	}
	if textured {
		c.textured[i] = true
	}
	return err
}

// decodeCoefs decodes the coefficients of a block, in natural (not zig-zag)
// order, or their high bits, and says whether there are any but the DC
// coefficient.
func (d *decoder) decodeCoefs(c *scanComponent, b *coefs) (textured bool, err error) {
	zig, zigEnd, al := d.scan.zigStart, d.scan.zigEnd, d.scan.al
	if zig == 0 {
		zig++
		// Decode the DC coefficient, as specified in section F.2.2.1.
		value, err := d.decodeHuffman(&d.huff[dcTable][c.td])
		if err != nil {
			return false, err
		}
		if value > 16 {
			return false, jpeg.UnsupportedError("excessive DC component")
		}
		dcDelta, err := d.receiveExtend(value)
		if err != nil {
			return false, err
		}
		c.dc += dcDelta
		b[0] = int16(c.dc << al)
	}

	if zig <= zigEnd && d.eobRun > 0 {
		d.eobRun--
		return false, nil
	}
	// Decode the AC coefficients, as specified in section F.2.2.2.
	huff := &d.huff[acTable][c.ta]
	for ; zig <= zigEnd; zig++ {
		value, err := d.decodeHuffman(huff)
		if err != nil {
			return false, err
		}
		val0 := value >> 4
		val1 := value & 0x0f
		if val1 != 0 {
			zig += int32(val0)
			if zig > zigEnd {
				break
			}
			ac, err := d.receiveExtend(val1)
			if err != nil {
				return false, err
			}
			b[unzig[zig]] = int16(ac << al)
			textured = true
		} else if val0 != 0x0f {
			if d.progressive { // There are no runs in sequential files.
				if err := d.readEOBRun(val0); err != nil {
					return false, err
				}
				d.eobRun--
			}
			break
		} else {
			zig += 0x0f
		}
	}
	return textured, nil
}

// readEOBRun reads the length of an end-of-band run of category val0, specified
// in section G.1.2.2.
func (d *decoder) readEOBRun(val0 uint8) error {
	d.eobRun = uint16(1 << val0)
	if val0 != 0 {
		bits, err := d.decodeBits(int32(val0))
		if err != nil {
			return err
		}
		d.eobRun |= uint16(bits)
	}
	return nil
}

// refine decodes a successive approximation refinement block, as specified in
// section G.1.2, and says whether there were coefficients that no scan before
// has had.
func (d *decoder) refine(c *scanComponent, b *coefs) (textured bool, err error) {
	zig, zigEnd := d.scan.zigStart, d.scan.zigEnd
	delta := int32(1) << d.scan.al
	// Refining a DC component is trivial.
	if zig == 0 {
		bit, err := d.decodeBit()
		if err != nil {
			return false, err
		}
		if bit {
			b[0] |= int16(delta)
		}
		return false, nil
	}

	// Refining AC components is more complicated; see sections G.1.2.2 and G.1.2.3.
	if d.eobRun == 0 {
		huff := &d.huff[acTable][c.ta]
	loop:
		for ; zig <= zigEnd; zig++ {
			z := int32(0)
			value, err := d.decodeHuffman(huff)
			if err != nil {
				return false, err
			}
			val0 := value >> 4
			val1 := value & 0x0f

			switch val1 {
			case 0:
				if val0 != 0x0f {
					if err := d.readEOBRun(val0); err != nil {
						return false, err
					}
					break loop
				}
			case 1:
				z = delta
				bit, err := d.decodeBit()
				if err != nil {
					return false, err
				}
				if !bit {
					z = -z
				}
			default:
				return false, jpeg.FormatError("unexpected Huffman code")
			}

			zig, err = d.refineNonZeroes(b, zig, zigEnd, int32(val0), delta)
			if err != nil {
				return false, err
			}
			if zig > zigEnd {
				return false, jpeg.FormatError("too many coefficients")
			}
			if z != 0 {
				b[unzig[zig]] = int16(z)
				textured = true
			}
		}
	}
	if d.eobRun > 0 {
		d.eobRun--
		if _, err := d.refineNonZeroes(b, zig, zigEnd, -1, delta); err != nil {
			return false, err
		}
	}
	return textured, nil
}

// refineNonZeroes refines non-zero entries of b in zig-zag order. If nz >= 0,
// the first nz zero entries are skipped over.
func (d *decoder) refineNonZeroes(b *coefs, zig, zigEnd, nz, delta int32) (int32, error) {
	for ; zig <= zigEnd; zig++ {
		u := unzig[zig]
		if b[u] == 0 {
			if nz == 0 {
				break
			}
			nz--
			continue
		}
		bit, err := d.decodeBit()
		if err != nil {
			return 0, err
		}
		if !bit {
			continue
		}
		if b[u] >= 0 {
			b[u] += int16(delta)
		} else {
			b[u] -= int16(delta)
		}
	}
	return zig, nil
}

// findRST advances past the next RST restart marker that matches expectedRST.
// Other than I/O errors, it is also an error if we encounter an {0xFF, M}
// two-byte marker sequence where M is not 0x00, 0xFF or the expectedRST.
//
// This is similar to libjpeg's jdmarker.c's next_marker function.
// https://github.com/libjpeg-turbo/libjpeg-turbo/blob/2dfe6c0fe9e18671105e94f7cbf044d4a1d157e6/jdmarker.c#L892-L935
//
// Precondition: d.tmp[:2] holds the next two bytes of JPEG-encoded input
// (input in the d.readFull sense).
func (d *decoder) findRST(expectedRST uint8) error {
	for {
		// i is the index such that, at the bottom of the loop, we read 2-i
		// bytes into d.tmp[i:2], maintaining the invariant that d.tmp[:2]
		// holds the next two bytes of JPEG-encoded input. It is either 0 or 1,
		// so that each iteration advances by 1 or 2 bytes (or returns).
		i := 0

		if d.tmp[0] == 0xff {
			if d.tmp[1] == expectedRST {
				return nil
			} else if d.tmp[1] == 0xff {
				i = 1
			} else if d.tmp[1] != 0x00 {
				// libjpeg's jdmarker.c's jpeg_resync_to_restart does something
				// fancy here, treating RST markers within two (modulo 8) of
				// expectedRST differently from RST markers that are 'more
				// distant'. Until we see evidence that recovering from such
				// cases is frequent enough to be worth the complexity, we take
				// a simpler approach for now. Any marker that's not 0x00, 0xff
				// or expectedRST is a fatal FormatError.
				return jpeg.FormatError("bad RST marker")
			}

		} else if d.tmp[1] == 0xff {
			d.tmp[0] = 0xff
			i = 1
		}

		if err := d.readFull(d.tmp[i:2]); err != nil {
			return err
		}
	}
}
