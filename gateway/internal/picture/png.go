package picture

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"hash/adler32"
	"hash/crc32"
	"image"
	"image/png"
	"io"
	"runtime/debug"
	"strings"
)

// image/png refuses a file for one wrong bit anywhere. So it is not given the
// file: of the chunks only what makes the picture is kept, the header, the
// palette, transparency and as much pixel data as the header asks for, and these
// go to it as a new PNG, written while it reads. The pixel data must be complete,
// and their own checksum (zlib's) right where it is there; the checksums of their
// chunks, a missing end and whatever else is in the file are no matter.

const (
	pngSignature = "\x89PNG\r\n\x1a\n"
	pngEXIFKey   = "Raw profile type exif" // ImageMagick's
)

// pngFile is what a PNG holds beside its pixels.
type pngFile struct {
	header       [13]byte // IHDR
	palette      []byte   // PLTE, only of a picture with a palette
	transparency []byte   // tRNS
	pixels       int64    // where the first IDAT chunk begins
	missing      error    // why there is none
	exif         []byte
	text         map[string]pngText // by keyword, the last of each
}

// pngText is a chunk of text that can matter here, as it is in the file.
type pngText struct {
	chunk string // its name
	value []byte // what follows the keyword
}

// Colour types of PNG (ISO/IEC 15948, 11.2.2).
const (
	pngGrey      = 0
	pngTrueColor = 2
	pngPaletted  = 3
	pngGreyAlpha = 4
	pngTrueAlpha = 6
)

func (p *pngFile) width() int64     { return int64(binary.BigEndian.Uint32(p.header[:])) }
func (p *pngFile) height() int64    { return int64(binary.BigEndian.Uint32(p.header[4:])) }
func (p *pngFile) depth() int64     { return int64(p.header[8]) }
func (p *pngFile) colorType() int   { return int(p.header[9]) }
func (p *pngFile) interlaced() bool { return p.header[12] != 0 }

// readPNG reads the chunks of a file, all but the pixels. Only a header that cannot
// be read is an error.
func readPNG(r io.ReadSeeker) (*pngFile, error) {
	p, err := readPNGHeader(r)
	if err != nil {
		return nil, err
	}
	for err == nil {
		err = p.readChunk(r)
	}
	if p.pixels == 0 { // else the error is no matter
		p.missing = err
	}
	return p, nil
}

var errPNGEnd = png.FormatError("it ends before its pixel data")

func readPNGHeader(r io.ReadSeeker) (*pngFile, error) {
	if _, err := r.Seek(int64(len(pngSignature)), io.SeekStart); err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	switch string(head[4:]) {
	case "IHDR":
	case "CgBI":
		return nil, png.UnsupportedError("pixel data that Xcode has optimised for the iPhone")
	default:
		return nil, png.FormatError("it does not begin with its header")
	}
	p := &pngFile{text: map[string]pngText{}}
	length := binary.BigEndian.Uint32(head[:])
	if length < uint32(len(p.header)) || length > 1<<10 {
		return nil, png.FormatError("bad IHDR length")
	}
	data := make([]byte, length+4)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	if !checksumFits("IHDR", data) {
		return nil, png.FormatError("wrong checksum of the header")
	}
	copy(p.header[:], data)
	return p, nil
}

func (p *pngFile) readChunk(r io.ReadSeeker) error {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	name, length := string(head[4:]), int64(binary.BigEndian.Uint32(head[:]))
	if length > 1<<31-1 {
		return png.FormatError("bad chunk length")
	}
	limit := int64(maxMetadata)
	switch name {
	case "IEND":
		return errPNGEnd
	case "IDAT":
		if p.pixels == 0 {
			at, err := r.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			p.pixels = at - int64(len(head))
		}
		limit = -1
	case "PLTE":
		if p.pixels != 0 {
			limit = -1
		}
	case "tRNS", "eXIf", "tEXt", "zTXt", "iTXt":
	default:
		limit = -1
	}
	if length > limit {
		_, err := r.Seek(length+4, io.SeekCurrent)
		return err
	}
	data := make([]byte, length+4)
	if n, err := io.ReadFull(r, data); int64(n) < length { // an absent checksum is a wrong one
		return err
	}
	content := data[:length]
	switch name {
	case "PLTE":
		if p.colorType() == pngPaletted && !checksumFits(name, data) {
			return png.FormatError("wrong checksum of the palette")
		}
		p.palette = content
	case "tRNS":
		p.transparency = content
	case "eXIf":
		p.exif = content
	case "tEXt", "zTXt", "iTXt":
		key, value, ok := bytes.Cut(content, []byte{0})
		if ok && (string(key) == pngXMPKey || string(key) == pngEXIFKey) {
			p.text[string(key)] = pngText{name, value}
		}
	}
	return nil
}

// checksumFits takes the content of a chunk and the CRC-32 that follows it.
func checksumFits(name string, data []byte) bool {
	content, sum := data[:len(data)-4], data[len(data)-4:]
	return crc32.Update(crc32.ChecksumIEEE([]byte(name)), crc32.IEEETable, content) == binary.BigEndian.Uint32(sum)
}

// decoded is the text, nil where it cannot be read.
func (t pngText) decoded() []byte {
	value, compressed := t.value, t.chunk == "zTXt"
	if compressed && len(value) > 0 {
		value = value[1:] // the method
	}
	if t.chunk == "iTXt" { // a flag, the method, language, translated keyword
		parts := bytes.SplitN(value[min(2, len(value)):], []byte{0}, 3)
		if len(parts) != 3 {
			return nil
		}
		compressed = value[0] != 0
		value = parts[2]
	}
	if !compressed {
		return value
	}
	z, err := zlib.NewReader(bytes.NewReader(value))
	if err != nil {
		return nil
	}
	value, err = io.ReadAll(io.LimitReader(z, maxMetadata))
	if err != nil {
		return nil
	}
	return value
}

// rawProfile decodes what ImageMagick writes: a line feed, the name of
// the profile, its length, and its bytes in hexadecimal.
func rawProfile(text []byte) []byte {
	lines := strings.SplitN(string(text), "\n", 4)
	if len(lines) != 4 {
		return nil
	}
	profile, err := hex.DecodeString(strings.Join(strings.Fields(lines[3]), ""))
	if err != nil {
		return nil
	}
	return profile
}

// normalise leaves of palette and transparency what image/png takes.
func (p *pngFile) normalise() {
	p.header[10] = 0 // the method of compression: there is only one
	if p.interlaced() {
		p.header[12] = 1
	}
	key := map[int]int{pngGrey: 2, pngTrueColor: 6}[p.colorType()] // bytes of the colour that is transparent
	switch {
	case p.colorType() == pngPaletted:
		// An index beyond the palette is black.
		whole := make([]byte, 3*min(256, 1<<min(p.depth(), 8)))
		copy(whole, p.palette[:len(p.palette)/3*3])
		p.palette = whole
		p.transparency = p.transparency[:min(len(p.transparency), len(whole)/3)]
	case len(p.transparency) >= key:
		p.palette, p.transparency = nil, p.transparency[:key]
		if p.colorType() == pngGrey && p.depth() == 1 && binary.BigEndian.Uint16(p.transparency) > 1 {
			p.transparency = []byte{0, 1} // to Pillow all but 0 is white
		}
	default:
		p.palette, p.transparency = nil, nil
	}
}

// dataBytes is the size of the pixel data before compression: for each pass rows
// of a filter byte and the pixels. False where image/png has to refuse the header.
func (p *pngFile) dataBytes() (int64, bool) {
	channels, known := map[int]int64{pngGrey: 1, pngTrueColor: 3, pngPaletted: 1, pngGreyAlpha: 2, pngTrueAlpha: 4}[p.colorType()]
	w, h := p.width(), p.height()
	if !known || w*h > 1<<40 || w > 1<<31-1 || h > 1<<31-1 || p.depth() > 16 {
		return 0, false
	}
	pass := func(w, h int64) int64 {
		if w <= 0 || h <= 0 {
			return 0
		}
		return h * (1 + (w*channels*p.depth()+7)/8)
	}
	if !p.interlaced() {
		return pass(w, h), true
	}
	total := int64(0)
	for _, a := range [7]struct{ x, y, dx, dy int64 }{ // Adam7: first pixel and distance
		{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2},
	} {
		total += pass((w-a.x+a.dx-1)/a.dx, (h-a.y+a.dy-1)/a.dy)
	}
	return total, true
}

// head is the new file up to the pixel data.
func (p *pngFile) head() []byte {
	p.normalise()
	out := appendChunk([]byte(pngSignature), "IHDR", p.header[:])
	if p.palette != nil {
		out = appendChunk(out, "PLTE", p.palette)
	}
	if len(p.transparency) > 0 {
		out = appendChunk(out, "tRNS", p.transparency)
	}
	return out
}

func appendChunk(out []byte, name string, data []byte) []byte {
	out = binary.BigEndian.AppendUint32(out, uint32(len(data)))
	start := len(out)
	out = append(append(out, name...), data...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[start:]))
}

func pngHeader(r io.ReadSeeker) (header, error) {
	p, err := readPNGHeader(r)
	if err != nil {
		return header{}, err
	}
	c, err := png.DecodeConfig(bytes.NewReader(appendChunk(p.head(), "IDAT", nil)))
	h := headerOf(c, 1)
	if p.interlaced() {
		h.memory += h.memory / 4 * 3 // the last two passes, see storedReader
	}
	return h, err
}

func pngMetadata(r io.ReadSeeker) metadata {
	p, err := readPNG(r)
	if err != nil {
		return metadata{}
	}
	if p.exif == nil {
		p.exif = rawProfile(p.text[pngEXIFKey].decoded())
	}
	return metadata{exif: p.exif, xmp: p.text[pngXMPKey].decoded()}
}

func decodePNG(_ context.Context, r io.ReadSeeker) (image.Image, error) {
	p, err := readPNG(r)
	if err != nil {
		return nil, err
	}
	if p.missing != nil {
		return nil, p.missing
	}
	size, ok := p.dataBytes()
	if !ok {
		return png.Decode(bytes.NewReader(p.head())) // for its error
	}
	pixels := &pixelReader{file: r, start: p.pixels, size: size}
	if pixels.zlib, err = pixels.open(nil); err != nil {
		return nil, err
	}
	stored := &storedReader{pixels: pixels, left: size, sum: adler32.New()}
	if p.interlaced() && size > releaseAbove {
		stored.release = size / 5 * 3
	}
	return png.Decode(io.MultiReader(
		bytes.NewReader(p.head()),
		stored,
		bytes.NewReader(appendChunk(nil, "IEND", nil)),
	))
}

// pixelReader reads the pixel data that are compressed in a file. Of data that end
// within their compressed form, compress/flate leaves out the last codes: it looks
// no code up before it has as many bits as the end of a block is long. So, where
// only that may be missing, bits are added.
type pixelReader struct {
	file       io.ReadSeeker
	start      int64 // of the first IDAT chunk
	size, read int64
	zlib       io.Reader
}

// maxHeldBack is how many bytes may be left out: the longest code has 15 bits, and
// each bit may be the code of a byte. A code of many bytes may be among them, too;
// but so many could just as well come of the added bits.
const maxHeldBack = 15

func (p *pixelReader) Read(b []byte) (int, error) {
	n, err := p.zlib.Read(b)
	p.read += int64(n)
	missing := p.size - p.read
	if !errors.Is(err, io.ErrUnexpectedEOF) || missing <= 0 || missing > maxHeldBack {
		return n, err
	}
	rest, err := p.rest(int(missing))
	if err != nil {
		return n, err
	}
	p.zlib = bytes.NewReader(rest)
	return n, nil
}

// open decompresses from the beginning. padding follows what the file has.
func (p *pixelReader) open(padding []byte) (io.Reader, error) {
	if _, err := p.file.Seek(p.start, io.SeekStart); err != nil {
		return nil, err
	}
	return zlib.NewReader(io.MultiReader(&idatReader{r: p.file}, bytes.NewReader(padding)))
}

// rest returns the last bytes of the pixels, if they do not depend on the bits
// that are added, which would make pixels of their own.
func (p *pixelReader) rest(missing int) ([]byte, error) {
	var rest []byte
	for _, padding := range []string{"\x00\x00", "\xff\xff"} { // the longest code has 15 bits
		z, err := p.open([]byte(padding))
		if err != nil {
			return nil, err
		}
		if _, err := io.CopyN(io.Discard, z, p.read); err != nil {
			return nil, err
		}
		got := make([]byte, missing)
		if _, err := io.ReadFull(z, got); err != nil {
			return nil, io.ErrUnexpectedEOF
		}
		if rest != nil && !bytes.Equal(rest, got) {
			return nil, io.ErrUnexpectedEOF
		}
		rest = got
	}
	return rest, nil
}

// idatReader reads the content of consecutive IDAT chunks.
type idatReader struct {
	r       io.ReadSeeker
	left    int64 // of this chunk
	started bool
}

func (d *idatReader) Read(p []byte) (int, error) {
	for d.left == 0 {
		if d.started {
			if _, err := d.r.Seek(4, io.SeekCurrent); err != nil { // the chunk's checksum
				return 0, err
			}
		}
		d.started = true
		var head [8]byte
		_, err := io.ReadFull(d.r, head[:])
		if errors.Is(err, io.ErrUnexpectedEOF) || err == nil && string(head[4:]) != "IDAT" {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		d.left = int64(binary.BigEndian.Uint32(head[:]))
	}
	n, err := d.r.Read(p[:min(int64(len(p)), d.left)])
	d.left -= int64(n)
	return n, err
}

// storedReader writes exactly left bytes of pixels as IDAT chunks, each of one
// block that is not compressed.
type storedReader struct {
	pixels io.Reader
	left   int64
	sum    hash.Hash32
	begun  bool
	out    []byte // what has not been read of buffer
	buffer []byte
	// release is how many bytes are left when memory goes back to the system.
	// image/png makes a picture of each pass of an interlaced one, half as large
	// as the whole for the last, a quarter for the last but one and so on. Within
	// the last but one those of all before can go, to make room for the last.
	release int64
}

// storedBlock is the size of a block; the most is 65535.
const storedBlock = 32 << 10

func (s *storedReader) Read(p []byte) (int, error) {
	if len(s.out) == 0 {
		if s.left == 0 {
			return 0, io.EOF
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// fill makes the next chunk (zlib: RFC 1950; a stored block: RFC 1951, 3.2.4).
func (s *storedReader) fill() error {
	const header, block, trailer = 8 + 2, 5, 4 + 4
	n := min(s.left, storedBlock)
	if s.left <= s.release {
		s.release = 0
		debug.FreeOSMemory()
	}
	if s.buffer == nil {
		s.buffer = make([]byte, 0, header+block+n+trailer)
	}
	out := append(s.buffer[:0], "\x00\x00\x00\x00IDAT"...)
	if !s.begun {
		s.begun = true
		out = append(out, 0x78, 0x01)
	}
	out = append(out, 0)
	out = binary.LittleEndian.AppendUint16(out, uint16(n))
	out = binary.LittleEndian.AppendUint16(out, ^uint16(n))
	start := len(out)
	out = out[:start+int(n)]
	if _, err := io.ReadFull(s.pixels, out[start:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	_, _ = s.sum.Write(out[start:]) // a hash does not fail
	if s.left -= n; s.left == 0 {
		// More data than the picture needs, or none behind it, do no harm.
		if _, err := s.pixels.Read(make([]byte, 1)); errors.Is(err, zlib.ErrChecksum) {
			return err
		}
		out[start-5] = 1 // the last block
		out = binary.BigEndian.AppendUint32(out, s.sum.Sum32())
	}
	binary.BigEndian.PutUint32(out, uint32(len(out)-8))
	s.out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[4:]))
	return nil
}
