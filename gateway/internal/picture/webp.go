package picture

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"io"

	"golang.org/x/image/vp8"
	"golang.org/x/image/vp8l"
	"golang.org/x/image/webp"
)

// golang.org/x/image/webp reads neither animations nor files whose header and
// chunks disagree. So the chunks are found here, those of the first frame alone,
// and it is given them as a new file. Sizes that the container claims beyond the
// file's end do no harm, nor does what follows the picture.

// webpFile says where the parts of a WebP are.
type webpFile struct {
	extended   bool            // has a VP8X chunk, which tells canvas and flags
	flags      byte            // of it
	canvas     image.Point     // size of the picture, if extended
	frame      image.Rectangle // place of an animation's first frame on the canvas
	animated   bool
	lossless   bool
	pixels     section // content of VP8 or VP8L
	alpha      section // content of ALPH; empty if there is none
	exif, xmp  section
	icc        section
	foundFrame bool
	end        int64 // of the file
}

const (
	webpXMP   = 1 << 2
	webpEXIF  = 1 << 3
	webpAlpha = 1 << 4
	webpICC   = 1 << 5
)

// section is a part of a file.
type section struct{ start, size int64 }

var errWebPNoFrame = errors.New("there is no picture in it")

// readWebP finds the chunks (RFC 9649).
func readWebP(r io.ReadSeeker) (*webpFile, error) {
	end, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	var head [12]byte
	if err := readAt(r, 0, head[:]); err != nil {
		return nil, err
	}
	w := &webpFile{end: end}
	riff := int64(binary.LittleEndian.Uint32(head[4:])) + 8
	for at := int64(len(head)); at+8 <= end; {
		if w.foundFrame && at >= riff {
			break // not the file's
		}
		next, err := w.readChunk(r, at, end)
		if err != nil {
			return nil, err
		}
		at = next
	}
	if !w.foundFrame && !w.extended {
		return nil, io.ErrUnexpectedEOF
	}
	return w, nil
}

// readChunk looks at the chunk that begins at a position and returns where the next does.
func (w *webpFile) readChunk(r io.ReadSeeker, at, end int64) (next int64, err error) {
	var head [8 + 16]byte
	if err := readAt(r, at, head[:8]); err != nil {
		return 0, err
	}
	content := section{at + 8, int64(binary.LittleEndian.Uint32(head[4:]))}
	next = content.start + content.size + content.size%2
	switch name := string(head[:4]); name {
	case "VP8X":
		if w.extended || w.foundFrame {
			break
		}
		if err := readAt(r, content.start, head[8:18]); err != nil {
			return 0, err
		}
		w.extended = true
		w.flags = head[8]
		w.canvas = image.Pt(uint24(head[12:])+1, uint24(head[15:])+1)
	case "ANMF":
		if w.foundFrame || !w.extended || w.animated { // nor one within another
			break
		}
		if err := readAt(r, content.start, head[8:24]); err != nil {
			return 0, err
		}
		w.animated = true
		place := image.Pt(2*uint24(head[8:]), 2*uint24(head[11:]))
		w.frame = image.Rectangle{Min: place, Max: place.Add(image.Pt(uint24(head[14:])+1, uint24(head[17:])+1))}
		// The frame's chunks are in this one.
		for inner := content.start + 16; inner+8 <= min(next, end) && !w.foundFrame; {
			if inner, err = w.readChunk(r, inner, end); err != nil {
				return 0, err
			}
		}
		if !w.foundFrame {
			return 0, errWebPNoFrame
		}
	case "ALPH":
		if w.flags&webpAlpha != 0 && !w.foundFrame && w.alpha.size == 0 {
			w.alpha = content
		}
	case "VP8 ", "VP8L":
		if !w.foundFrame {
			w.foundFrame, w.lossless, w.pixels = true, name == "VP8L", content
		}
	case "EXIF":
		if w.flags&webpEXIF != 0 && w.exif.size == 0 {
			w.exif = content
		}
	case "ICCP":
		if w.flags&webpICC != 0 && w.icc.size == 0 {
			w.icc = content
		}
	case "XMP ":
		if w.flags&webpXMP != 0 && w.xmp.size == 0 {
			w.xmp = content
		}
	}
	return next, nil
}

func uint24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

func readAt(r io.ReadSeeker, at int64, p []byte) error {
	if _, err := r.Seek(at, io.SeekStart); err != nil {
		return err
	}
	_, err := io.ReadFull(r, p)
	return err
}

// reader reads a section, or as much of it as there is.
func (s section) reader(r io.ReadSeeker) io.Reader {
	return &sectionReader{r: r, at: s.start, end: s.start + s.size}
}

type sectionReader struct {
	r       io.ReadSeeker
	at, end int64
}

func (s *sectionReader) Read(p []byte) (int, error) {
	if s.at >= s.end {
		return 0, io.EOF
	}
	if _, err := s.r.Seek(s.at, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.end-s.at)])
	s.at += int64(n)
	return n, err
}

// bitReader is what golang.org/x/image/vp8l asks for another byte for each symbol,
// also behind the end of a file whose symbols take no bits. A bufio.Reader would
// ask its own reader each time.
type bitReader struct {
	ctx   context.Context //nolint:containedctx // a reader has no other way to be cancelled
	r     *bufio.Reader
	ended int // how often the end has come
}

func (b *bitReader) ReadByte() (byte, error) {
	if b.ended == 0 {
		c, err := b.r.ReadByte()
		if !errors.Is(err, io.EOF) {
			return c, err
		}
	}
	if b.ended++; b.ended%(1<<16) == 0 && b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	return 0, io.EOF
}

// Read makes it a reader; vp8l reads bytes.
func (b *bitReader) Read(p []byte) (int, error) { return b.r.Read(p) }

// size reads the picture's own header.
func (w *webpFile) size(r io.ReadSeeker) (image.Point, error) {
	if w.lossless {
		c, err := vp8l.DecodeConfig(w.pixels.reader(r))
		return image.Pt(c.Width, c.Height), err
	}
	d := vp8.NewDecoder()
	d.Init(w.pixels.reader(r), int(min(w.pixels.size, 1<<31-1)))
	h, err := d.DecodeFrameHeader()
	return image.Pt(h.Width, h.Height), err
}

func webpHeader(r io.ReadSeeker) (header, error) {
	w, err := readWebP(r)
	if err != nil {
		return header{}, err
	}
	c := image.Config{ColorModel: color.YCbCrModel, Width: w.canvas.X, Height: w.canvas.Y}
	if !w.extended {
		size, err := w.size(r)
		if err != nil {
			return header{}, err
		}
		c.Width, c.Height = size.X, size.Y
	}
	switch {
	case w.lossless:
		c.ColorModel = color.NRGBAModel
	case w.alpha.size > 0 || !w.foundFrame && w.flags&webpAlpha != 0:
		c.ColorModel = color.NYCbCrAModel
	}
	h := headerOf(c, 3)
	if w.lossless {
		h.memory += h.memory/16*3 + treeMemory(c, w.inFile(w.pixels)) // a pixel for each 4×4 in three maps
	} else {
		h.memory += w.inFile(w.pixels) // vp8 reads it whole
	}
	if w.alpha.size > 0 {
		h.memory += treeMemory(c, w.inFile(w.alpha))
	}
	return h, nil
}

// inFile is the size of a section, or of as much of it as there is.
func (w *webpFile) inFile(s section) int64 { return max(0, min(s.size, w.end-s.start)) }

// treeMemory bounds the Huffman trees that golang.org/x/image/vp8l makes of size
// bytes: up to 2600 sets of five, one for each 4×4 pixels at most. A set takes
// small for its tables, and up to large for its nodes and what they are made
// from, of which a byte of the file describes no more than dense.
func treeMemory(c image.Config, size int64) int64 {
	const maxSets, small, large, dense = 2600, 2800, 56 << 10, 256
	sets := min(maxSets, int64((c.Width+3)/4)*int64((c.Height+3)/4))
	return sets*small + min(sets*large, dense*size)
}

func webpMetadata(r io.ReadSeeker) (m metadata) {
	w, err := readWebP(r)
	if err != nil {
		return m
	}
	read := func(s section) []byte {
		if s.size > maxMetadata {
			return nil
		}
		content, err := io.ReadAll(s.reader(r))
		if err != nil || int64(len(content)) < s.size { // cut off is as good as damaged
			return nil
		}
		return content
	}
	return metadata{exif: read(w.exif), xmp: read(w.xmp)}
}

// decodeWebP decodes the first frame, its bounds its place on the canvas.
func decodeWebP(ctx context.Context, r io.ReadSeeker) (image.Image, error) {
	w, err := readWebP(r)
	if err != nil {
		return nil, err
	}
	if !w.foundFrame {
		return nil, io.ErrUnexpectedEOF
	}
	size, err := w.size(r)
	if err != nil {
		return nil, err
	}
	if !w.animated {
		w.frame.Max = size
	}
	// What was compared with the limits is the canvas; no picture is larger.
	if w.frame.Size() != size || w.extended && !w.frame.In(image.Rectangle{Max: w.canvas}) || w.extended && !w.animated && size != w.canvas {
		return nil, errors.New("its picture does not have the size that its header says")
	}
	if w.lossless {
		return w.decodeLossless(ctx, r)
	}
	m, err := webp.Decode(w.lossy(r, size))
	if err != nil {
		return nil, err
	}
	out := &lossyWebP{}
	switch m := m.(type) {
	case *image.YCbCr:
		out.YCbCr = *m
	case *image.NYCbCrA:
		out.NYCbCrA = *m
	default:
		return nil, errors.New("the decoder has made another kind of picture than it says")
	}
	out.Rect = w.frame
	return out, nil
}

// lossy is the frame as a file of its own.
func (w *webpFile) lossy(r io.ReadSeeker, size image.Point) io.Reader {
	var head, middle []byte
	parts := []io.Reader{nil, nil, nil, w.pixels.reader(r)}
	total := 4 + 8 + w.pixels.size + w.pixels.size%2
	if w.alpha.size > 0 {
		x := []byte{webpAlpha, 0, 0, 0}
		for _, n := range [2]int{size.X - 1, size.Y - 1} {
			x = append(x, byte(n), byte(n>>8), byte(n>>16))
		}
		head = appendRIFF(head, "VP8X", x)
		head = appendRIFFHead(head, "ALPH", w.alpha.size)
		parts[1] = w.alpha.reader(r)
		if w.alpha.size%2 == 1 {
			middle = append(middle, 0)
		}
		total += int64(len(head)+len(middle)) + w.alpha.size
	}
	file := append(appendRIFFHead(nil, "RIFF", min(total, 1<<32-1)), "WEBP"...)
	parts[0] = bytes.NewReader(append(file, head...))
	parts[2] = bytes.NewReader(appendRIFFHead(middle, "VP8 ", w.pixels.size))
	if parts[1] == nil {
		parts[1] = bytes.NewReader(nil)
	}
	return io.MultiReader(parts...)
}

func (w *webpFile) decodeLossless(ctx context.Context, r io.ReadSeeker) (image.Image, error) {
	// The decoder ignores the header's bit that says whether alpha is meant, and
	// libwebp ignores it in an animation.
	const vp8lAlpha = 1 << 4
	var header [5]byte
	if err := readAt(r, w.pixels.start, header[:]); err != nil {
		return nil, err
	}
	m, err := vp8l.Decode(&bitReader{ctx: ctx, r: bufio.NewReader(w.pixels.reader(r))})
	if err != nil {
		return nil, err
	}
	n, ok := m.(*image.NRGBA)
	if !ok {
		return nil, errors.New("the decoder has made another kind of picture than it says")
	}
	n.Rect = w.frame
	meant := header[4]&vp8lAlpha != 0
	if w.animated {
		meant = w.flags&webpAlpha != 0
	}
	if !meant {
		for i := 3; i < len(n.Pix); i += 4 {
			n.Pix[i] = 255
		}
	}
	return n, nil
}
