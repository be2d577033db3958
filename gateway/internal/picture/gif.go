package picture

import (
	"bufio"
	"bytes"
	"compress/lzw"
	"context"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"io"

	"github.com/facediffuser/facediffuser/gateway/internal/picture/internal/icc"
)

// The first picture of a GIF, as Pillow opens it (src/PIL/GifImagePlugin.py) and
// image/gif does not: it may reach beyond the screen, which grows, may have no
// palette, which makes it grey, may use colours beyond its palette, which are
// black, and may have more data than pixels. Nothing behind it is read.

// gifFile is a GIF up to the data of its first picture.
type gifFile struct {
	screen     image.Point
	frame      image.Rectangle
	palette    color.Palette
	fill       uint8 // index of the screen's pixels outside the frame
	interlaced bool
	litWidth   int // LZW's, in bits
}

var errGIFNoFrame = errors.New("there is no picture in it")

const (
	gifColorTable     = 1 << 7
	gifColorTableSize = 7 // 2^(1+n) colours
	gifInterlaced     = 1 << 6
	gifTransparent    = 1
	gifGraphicControl = 0xf9
)

// readGIF leaves r at the data of the first picture.
func readGIF(r *bufio.Reader) (*gifFile, error) {
	var head [13]byte // signature, screen, flags, background, aspect
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	g := &gifFile{screen: point16(head[6:])}
	table, err := readColorTable(r, head[10])
	if err != nil {
		return nil, err
	}
	transparent := -1
	for {
		block, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		switch block {
		case '!':
			if err := readExtension(r, &transparent); err != nil {
				return nil, err
			}
		case ',':
			return g, g.readFrame(r, table, transparent)
		case ';':
			return nil, errGIFNoFrame
		} // anything else is rubbish between blocks
	}
}

func point16(b []byte) image.Point {
	return image.Pt(int(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint16(b[2:])))
}

// readColorTable returns RGB, nothing where the flags say that there is no table.
func readColorTable(r io.Reader, flags byte) ([]byte, error) {
	if flags&gifColorTable == 0 {
		return nil, nil
	}
	table := make([]byte, 3<<(1+flags&gifColorTableSize))
	_, err := io.ReadFull(r, table)
	return table, err
}

// readExtension skips an extension, but for the transparent colour.
func readExtension(r *bufio.Reader, transparent *int) error {
	label, err := r.ReadByte()
	if err != nil {
		return err
	}
	blocks := &gifBlocks{r: r}
	if label == gifGraphicControl {
		var control [4]byte // flags, delay, index
		n, err := io.ReadFull(blocks, control[:])
		if n == len(control) && control[0]&gifTransparent != 0 {
			*transparent = int(control[3])
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return blocks.skip()
}

func (g *gifFile) readFrame(r io.Reader, table []byte, transparent int) error {
	var head [9]byte // position, size, flags
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	at, size := point16(head[:]), point16(head[4:])
	if size.X == 0 || size.Y == 0 {
		return errGIFNoFrame
	}
	g.frame = image.Rectangle{Min: at, Max: at.Add(size)}
	g.screen.X, g.screen.Y = max(g.screen.X, g.frame.Max.X), max(g.screen.Y, g.frame.Max.Y)
	g.interlaced = head[8]&gifInterlaced != 0
	local, err := readColorTable(r, head[8])
	if err != nil {
		return err
	}
	if local != nil {
		table = local
	}
	g.palette = gifPalette(table)
	if transparent >= 0 {
		g.fill = uint8(transparent)
		g.palette[transparent] = color.NRGBA{}
	}
	var width [1]byte
	if _, err := io.ReadFull(r, width[:]); err != nil {
		return err
	}
	if g.litWidth = int(width[0]); g.litWidth < 2 || g.litWidth > 8 {
		return errors.New("the size of its codes is out of range")
	}
	return nil
}

// gifPalette makes 256 colours of a table. To Pillow a table of greys in order is
// as good as none, and goes on so to its end.
func gifPalette(table []byte) color.Palette {
	greys := true
	for i, v := range table {
		greys = greys && int(v) == i/3
	}
	p := make(color.Palette, 256)
	for i := range p {
		c := color.NRGBA{A: 255}
		switch {
		case greys:
			c.R, c.G, c.B = uint8(i), uint8(i), uint8(i)
		case 3*i < len(table):
			c.R, c.G, c.B = table[3*i], table[3*i+1], table[3*i+2]
		}
		p[i] = c
	}
	return p
}

// gifBlocks reads the content of data blocks up to the empty one; of pixels, up to
// an empty one behind which something else begins: to Pillow the others mean nothing.
type gifBlocks struct {
	r      *bufio.Reader
	pixels bool
	left   int
	done   bool
}

// ReadByte makes compress/lzw read no further than it needs.
func (b *gifBlocks) ReadByte() (byte, error) {
	for b.left == 0 {
		if b.done {
			return 0, io.EOF
		}
		n, err := b.r.ReadByte()
		if err != nil {
			return 0, err
		}
		b.left, b.done = int(n), n == 0 && !b.goOn()
	}
	b.left--
	return b.r.ReadByte()
}

// goOn says whether pixels go on behind an empty block: not where a frame, an
// extension or the end of the file begins.
func (b *gifBlocks) goOn() bool {
	next, err := b.r.Peek(1)
	return b.pixels && err == nil && !bytes.ContainsAny(next, ",!;")
}

func (b *gifBlocks) Read(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		p[n], err = b.ReadByte()
		if err == nil {
			n++
		}
	}
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil // comes again
	}
	return n, err
}

// skip reads to the empty block.
func (b *gifBlocks) skip() error {
	for !b.done {
		if _, err := b.r.Discard(b.left); err != nil {
			return err
		}
		n, err := b.r.ReadByte()
		if err != nil {
			return err
		}
		b.left, b.done = int(n), n == 0
	}
	return nil
}

func gifHeader(r io.ReadSeeker) (header, error) {
	g, err := readGIF(bufio.NewReader(r))
	if err != nil {
		return header{}, err
	}
	const tables = 64 << 10 // of LZW, buffers
	return header{g.screen.X, g.screen.Y, tables + int64(g.screen.X), 1, icc.RGB}, nil
}

// gifRows emits the screen row by row.
func gifRows(_ context.Context, r io.ReadSeeker, emit func(image.Image) error) error {
	buffered := bufio.NewReader(r)
	g, err := readGIF(buffered)
	if err != nil {
		return err
	}
	row := &image.Paletted{Pix: make([]uint8, g.screen.X), Stride: g.screen.X, Palette: g.palette}
	for x := range row.Pix {
		row.Pix[x] = g.fill
	}
	emitRow := func(y int) error {
		row.Rect = image.Rect(0, y, g.screen.X, y+1)
		return emit(row)
	}
	for y := range g.screen.Y {
		if y < g.frame.Min.Y || y >= g.frame.Max.Y {
			if err := emitRow(y); err != nil {
				return err
			}
		}
	}
	pixels := lzw.NewReader(&gifBlocks{r: buffered, pixels: true}, lzw.LSB, g.litWidth)
	defer pixels.Close()
	for _, pass := range g.passes() {
		for y := g.frame.Min.Y + pass.first; y < g.frame.Max.Y; y += pass.distance {
			if _, err := io.ReadFull(pixels, row.Pix[g.frame.Min.X:g.frame.Max.X]); err != nil {
				return err
			}
			if err := emitRow(y); err != nil {
				return err
			}
		}
	}
	return nil
}

type gifPass struct{ first, distance int }

func (g *gifFile) passes() []gifPass {
	if g.interlaced { // GIF89a, Appendix E
		return []gifPass{{0, 8}, {4, 8}, {2, 4}, {1, 2}}
	}
	return []gifPass{{0, 1}}
}
