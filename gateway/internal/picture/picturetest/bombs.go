package picturetest

import (
	"bytes"
	"compress/lzw"
	"compress/zlib"
	"encoding/binary"
	"hash/crc32"
	"io"
	"slices"
	"strings"
)

// Bomb is a small file that is made to cost much.
type Bomb struct {
	Name string
	File func() []byte
}

// What is accepted by default.
const (
	maxFile = 32 << 20
	wide    = 8192 // by high, 50.3 megapixels
	high    = 6144
)

// Bombs are files that come to a limit of the decoder, or try to pass it.
func Bombs() []Bomb {
	return slices.Concat(jpegBombs(), pngBombs(), gifBombs(), webpBombs())
}

// Photograph is a baseline 4:2:0 JPEG of 12 megapixels with texture in every
// block: what bombs are compared with.
func Photograph() []byte {
	return jpegFile{width: 4000, height: 3000, factors: []byte{0x22, 0x11, 0x11}, ac: 0x31}.baseline()
}

const (
	full    = "\x11\x11\x11"
	quarter = "\x22\x11\x11"
	grey    = "\x11"
	cmyk    = "\x11\x11\x11\x11"
)

// jpegFile makes a JPEG whose entropy-coded data are all zero bits. The symbol of
// its AC table 0 is ac: 0x31 puts a coefficient of -1 in every fourth place, 0x00
// puts none. That of AC table 1 is a run of 16384 blocks without new coefficients.
type jpegFile struct {
	width, height int
	factors       []byte
	ac            byte
	restart       int    // MCUs, 0 for none
	extra         []byte // segments behind the start of the image
}

func (f jpegFile) head(marker byte) []byte {
	out := append([]byte("\xff\xd8"), f.extra...)
	out = append(out, "\xff\xdb\x00\x43\x00"+strings.Repeat("\x01", 64)...)
	n := len(f.factors)
	out = append(out, 0xff, marker, 0, byte(8+3*n), 8, byte(f.height>>8), byte(f.height), byte(f.width>>8), byte(f.width), byte(n))
	for i, factors := range f.factors {
		out = append(out, byte(i+1), factors, 0)
	}
	one := "\x01" + strings.Repeat("\x00", 15) // code, of one bit
	for _, table := range []string{"\x00" + one + "\x00", "\x10" + one + string([]byte{f.ac}), "\x11" + one + "\xe0"} {
		out = append(append(out, 0xff, 0xc4, 0, 0x14), table...)
	}
	if f.restart > 0 {
		out = append(out, 0xff, 0xdd, 0, 4, byte(f.restart>>8), byte(f.restart))
	}
	return out
}

func (f jpegFile) mcus() int {
	h, v := int(f.factors[0]>>4), int(f.factors[0]&15)
	return ceilDiv(f.width, 8*h) * ceilDiv(f.height, 8*v)
}

// blocks is the number of blocks of a component.
func (f jpegFile) blocks(component int) int {
	return f.mcus() * int(f.factors[component]>>4) * int(f.factors[component]&15)
}

func (f jpegFile) baseline() []byte {
	out := append(f.head(0xc0), f.scanHeader("\x00\x3f\x00")...)
	bits := 0
	for i := range f.factors {
		bits += f.blocks(i) * f.bits(1, 63)
	}
	if f.restart == 0 {
		return append(append(out, make([]byte, ceilDiv(bits, 8))...), 0xff, 0xd9)
	}
	interval := make([]byte, ceilDiv(bits/f.mcus(), 8))
	for i := range f.mcus() {
		if i > 0 {
			out = append(out, 0xff, 0xd0+byte(i-1)%8)
		}
		out = append(out, interval...)
	}
	return append(out, 0xff, 0xd9)
}

// bits is what a block takes for its mean and the coefficients of a band.
func (f jpegFile) bits(first, last int) int {
	if f.ac&15 == 0 {
		return 2
	}
	return 1 + 2*ceilDiv(last-first+1, int(f.ac>>4)+1)
}

// scanHeader is that of all components, or of one with AC table 0 or 1.
func (f jpegFile) scanHeader(band string, one ...int) []byte {
	components := one
	if len(one) == 0 {
		for i := range f.factors {
			components = append(components, i)
		}
	}
	out := []byte{0xff, 0xda, 0, byte(6 + 2*len(components)), byte(len(components))}
	for _, c := range components {
		table := byte(0)
		if strings.HasSuffix(band, "\x10") && len(one) > 0 {
			table = 1
		}
		out = append(out, byte(c+1), table)
	}
	return append(out, band...)
}

// progressive has all coefficients but their last bit, and then refines them, for
// as many passes as are asked for. The means lack their last bit to the end.
func (f jpegFile) progressive(passes int) []byte {
	out := append(f.head(0xc2), f.scanHeader("\x00\x00\x01")...)
	total := 0
	for i := range f.factors {
		total += f.blocks(i)
	}
	out = append(out, make([]byte, ceilDiv(total, 8))...)
	coefficients := (f.bits(1, 63) - 1) / 2
	for pass := 1; pass < passes; pass++ {
		for i := range f.factors {
			n := f.blocks(i)
			if pass == 1 {
				out = append(out, f.scanHeader("\x01\x3f\x01", i)...)
				out = append(out, make([]byte, ceilDiv(n*f.bits(1, 63), 8))...)
				continue
			}
			out = append(out, f.scanHeader("\x01\x3f\x10", i)...)
			out = append(out, make([]byte, ceilDiv(n*coefficients+15*ceilDiv(n, 16384), 8))...)
		}
	}
	return append(out, 0xff, 0xd9)
}

func jpegSegment(marker byte, content []byte) []byte {
	out := []byte{0xff, marker}
	return append(binary.BigEndian.AppendUint16(out, uint16(len(content)+2)), content...)
}

// flood repeats a part until a file is full.
func flood(part []byte) []byte { return bytes.Repeat(part, (maxFile-1<<20)/len(part)) }

func jpegBombs() []Bomb {
	large := func(factors string, ac byte) jpegFile {
		return jpegFile{width: wide, height: high, factors: []byte(factors), ac: ac}
	}
	small := func(extra []byte) func() []byte {
		return jpegFile{width: 64, height: 64, factors: []byte(full), extra: extra}.baseline
	}
	flooded := func(part []byte) func() []byte {
		return func() []byte { return small(flood(part))() }
	}
	exif := func(entries int, next uint32) []byte {
		out := []byte("Exif\x00\x00MM\x00*\x00\x00\x00\x08")
		out = binary.BigEndian.AppendUint16(out, uint16(entries))
		for i := range entries {
			out = binary.BigEndian.AppendUint16(out, 0x8769) // the offset of another directory
			out = append(out, 0, 4, 0, 0, 0, 1, 0, 0, 0, byte(8*(i%2)))
		}
		return binary.BigEndian.AppendUint32(out, next)
	}
	between := func(part []byte) func() []byte {
		return func() []byte {
			f := jpegFile{width: 64, height: 64, factors: []byte(full), ac: 0x31}
			file := f.progressive(2)
			return append(append(file[:len(file)-2], flood(part)...), 0xff, 0xd9)
		}
	}
	return []Bomb{
		{"JPEG, 4:4:4", large(full, 0x31).baseline},
		{"JPEG, 4:4:4 without texture", large(full, 0).baseline},
		{"JPEG, 4:2:0", large(quarter, 0x31).baseline},
		{"JPEG, grey", large(grey, 0x31).baseline},
		{"JPEG, CMYK", large(cmyk, 0x31).baseline},
		{"JPEG, a restart marker after each MCU", func() []byte {
			f := large(quarter, 0x31)
			f.restart = 1
			return f.baseline()
		}},
		{"JPEG, 65535×769", jpegFile{width: 65535, height: 769, factors: []byte(full), ac: 0x31}.baseline},
		{"JPEG, 65535×65535", jpegFile{width: 65535, height: 65535, factors: []byte(grey)}.head0},
		{"progressive JPEG, 4:4:4", func() []byte { return large(full, 0x71).progressive(3) }},
		{"progressive JPEG, 4:2:0", func() []byte { return large(quarter, 0x31).progressive(3) }},
		{"progressive JPEG, grey", func() []byte { return large(grey, 0x31).progressive(3) }},
		{"progressive JPEG, CMYK", func() []byte { return large(cmyk, 0x71).progressive(3) }},
		{"progressive JPEG, 769×65535", func() []byte {
			return jpegFile{width: 769, height: 65535, factors: []byte(full), ac: 0x71}.progressive(3)
		}},
		{"progressive JPEG, 15 passes", func() []byte { return large(full, 0xf1).progressive(15) }},
		{"progressive JPEG, 100 scans of 24 MP", func() []byte {
			return jpegFile{width: 6000, height: 4000, factors: []byte(full), ac: 0xf1}.progressive(34)
		}},
		{"progressive JPEG, 100,000 scans of 64×64", func() []byte {
			return jpegFile{width: 64, height: 64, factors: []byte(grey), ac: 0x31}.progressive(100_000)
		}},
		{"JPEG, comments of 65533 bytes", flooded(jpegSegment(0xfe, make([]byte, 65533)))},
		{"JPEG, empty comments", flooded(jpegSegment(0xfe, nil))},
		{"JPEG, fill bytes", flooded([]byte{0xff})},
		{"JPEG, zeros between its scans", between([]byte{0})},
		{"JPEG, tables of quantization", flooded(jpegSegment(0xdb, append([]byte{0}, bytes.Repeat([]byte{1}, 64)...)))},
		{"JPEG, Huffman tables", flooded(jpegSegment(0xc4, append([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\xff"+strings.Repeat("\x00", 8)), make([]byte, 255)...)))},
		{"JPEG, restart intervals", flooded(jpegSegment(0xdd, []byte{0, 1}))},
		{"JPEG, 255 parts of a profile", small(profileParts())},
		{"JPEG, EXIF of 5,460 directories that point to themselves", small(jpegSegment(0xe1, exif(5400, 8)))},
		{"JPEG, EXIF in each of 500 segments", flooded(jpegSegment(0xe1, append([]byte("Exif\x00\x00"), make([]byte, 65000)...)))},
		{"JPEG, XMP in each of 500 segments", flooded(jpegSegment(0xe1, append([]byte("http://ns.adobe.com/xap/1.0/\x00"), bytes.Repeat([]byte("tiff:Orientation"), 4000)...)))},
	}
}

// head0 is a file without a scan's data.
func (f jpegFile) head0() []byte { return append(f.head(0xc0), f.scanHeader("\x00\x3f\x00")...) }

func profileParts() []byte {
	var out []byte
	for i := range 255 {
		out = append(out, jpegSegment(0xe2, append([]byte("ICC_PROFILE\x00"), append([]byte{byte(i + 1), 255}, make([]byte, 65519)...)...))...)
	}
	return out
}

func pngChunk(name string, content []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(content)))
	out = append(append(out, name...), content...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[4:]))
}

func deflated(write func(w io.Writer)) []byte {
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	write(w)
	_ = w.Close() // a buffer does not fail
	return out.Bytes()
}

// gigabyte is 2³⁰ zeros, deflated.
func gigabyte() []byte {
	return deflated(func(w io.Writer) {
		block := make([]byte, 1<<20)
		for range 1 << 10 {
			_, _ = w.Write(block)
		}
	})
}

// pngFile makes a PNG that is black, of rows with the same filter.
type pngFile struct {
	width, height      int
	depth, colour      byte
	channels           int
	interlaced, filter byte
	extra, behind      []byte // chunks before the pixels and behind them
	idat               int    // bytes of a chunk of pixel data, 0 for all
}

func (f pngFile) file() []byte {
	head := binary.BigEndian.AppendUint32(nil, uint32(f.width))
	head = binary.BigEndian.AppendUint32(head, uint32(f.height))
	out := append([]byte("\x89PNG\r\n\x1a\n"), pngChunk("IHDR", append(head, f.depth, f.colour, 0, 0, f.interlaced))...)
	if f.colour == 3 {
		out = append(out, pngChunk("PLTE", make([]byte, 6))...)
	}
	out = append(out, f.extra...)
	row := make([]byte, 1+ceilDiv(f.width*f.channels*int(f.depth), 8))
	row[0] = f.filter
	pixels := deflated(func(w io.Writer) {
		for range f.height {
			_, _ = w.Write(row)
		}
		if f.interlaced != 0 { // the passes have up to twice as many filter bytes; all are 0
			_, _ = w.Write(make([]byte, 2*f.height+64))
		}
	})
	for part := range slices.Chunk(pixels, max(1, min(len(pixels), f.idatSize()))) {
		out = append(out, pngChunk("IDAT", part)...)
	}
	return append(append(out, f.behind...), pngChunk("IEND", nil)...)
}

func (f pngFile) idatSize() int {
	if f.idat > 0 {
		return f.idat
	}
	return maxFile
}

func pngBombs() []Bomb {
	large := pngFile{width: wide, height: high, depth: 8, channels: 1}
	kind := func(depth, colour byte, channels int, filter byte) func() []byte {
		f := large
		f.depth, f.colour, f.channels, f.filter = depth, colour, channels, filter
		return f.file
	}
	interlaced := func(depth, colour byte, channels int) func() []byte {
		f := large
		f.depth, f.colour, f.channels, f.interlaced = depth, colour, channels, 1
		return f.file
	}
	small := pngFile{width: 64, height: 64, depth: 8, colour: 2, channels: 3}
	before := func(extra func() []byte) func() []byte {
		return func() []byte { f := small; f.extra = extra(); return f.file() }
	}
	behind := func(extra func() []byte) func() []byte {
		return func() []byte { f := small; f.behind = extra(); return f.file() }
	}
	const xmp = "XML:com.adobe.xmp\x00"
	return []Bomb{
		{"PNG, grey of 1 bit", kind(1, 0, 1, 0)},
		{"PNG, grey of 8 bits", kind(8, 0, 1, 0)},
		{"PNG, RGB of 8 bits, Paeth's filter", kind(8, 2, 3, 4)},
		{"PNG, RGBA of 8 bits, Paeth's filter", kind(8, 6, 4, 4)},
		{"PNG, RGB of 16 bits", kind(16, 2, 3, 4)},
		{"PNG, RGBA of 16 bits", kind(16, 6, 4, 4)},
		{"PNG, RGBA of 16 bits, 25 MP", pngFile{width: 8192, height: 3072, depth: 16, colour: 6, channels: 4, filter: 4}.file},
		{"PNG, a palette of two, of 8 bits", kind(8, 3, 1, 0)},
		{"PNG, interlaced grey of 8 bits", interlaced(8, 0, 1)},
		{"PNG, interlaced RGBA of 8 bits", interlaced(8, 6, 4)},
		{"PNG, interlaced RGBA of 8 bits, and 31 MB more", func() []byte {
			f := large
			f.colour, f.channels, f.interlaced, f.behind = 6, 4, 1, flood(pngChunk("teSt", make([]byte, 64<<10)))
			return f.file()
		}},
		{"PNG, RGBA of 16 bits, 44 MP", pngFile{width: 8192, height: 5376, depth: 16, colour: 6, channels: 4, filter: 4}.file},
		{"PNG, interlaced RGBA of 16 bits, 25 MP", pngFile{width: 8192, height: 3072, depth: 16, colour: 6, channels: 4, interlaced: 1}.file},
		{"PNG, 769×65535", pngFile{width: 769, height: 65535, depth: 8, colour: 6, channels: 4}.file},
		{"PNG, 65536×2", pngFile{width: 65536, height: 2, depth: 8, channels: 1}.file},
		{"PNG, 2³¹-1 pixels a side", pngFile{width: 1<<31 - 1, height: 1, depth: 1, channels: 1}.tooLarge},
		{"PNG, a profile of 1 GB", before(func() []byte { return pngChunk("iCCP", append([]byte("p\x00\x00"), gigabyte()...)) })},
		{"PNG, XMP of 1 GB, zTXt", before(func() []byte { return pngChunk("zTXt", append([]byte(xmp+"\x00"), gigabyte()...)) })},
		{"PNG, XMP of 1 GB, iTXt", before(func() []byte { return pngChunk("iTXt", append([]byte(xmp+"\x01\x00\x00\x00"), gigabyte()...)) })},
		{"PNG, a raw profile of 1 GB, zTXt", before(func() []byte {
			return pngChunk("zTXt", append([]byte("Raw profile type exif\x00\x00"), gigabyte()...))
		})},
		{"PNG, XMP in each of 30 chunks of 1 MB", before(func() []byte {
			return flood(pngChunk("iTXt", append([]byte(xmp+"\x00\x00\x00\x00"), make([]byte, 1<<20-64)...)))
		})},
		{"PNG, 1.3 million texts", before(func() []byte { return flood(pngChunk("tEXt", []byte("k\x00 some text"))) })},
		{"PNG, 2.7 million empty chunks", before(func() []byte { return flood(pngChunk("teSt", nil)) })},
		{"PNG, 2.7 million empty chunks behind the pixels", behind(func() []byte { return flood(pngChunk("teSt", nil)) })},
		{"PNG, 43,000 palettes", before(func() []byte { return flood(pngChunk("PLTE", make([]byte, 768))) })},
		{"PNG, 2.7 million empty IDAT", before(func() []byte { return flood(pngChunk("IDAT", nil)) })},
		{"PNG, pixel data of one byte a chunk", func() []byte { f := large; f.idat = 1; return f.file() }},
		{"APNG, 10,000 frames", behind(func() []byte {
			frame := append(pngChunk("fcTL", make([]byte, 26)), pngChunk("fdAT", make([]byte, 2000))...)
			return bytes.Repeat(frame, 10_000)
		})},
		{"PNG, 1 GB of pixel data for 64×64", func() []byte {
			f := small
			f.extra = pngChunk("IDAT", gigabyte())
			return f.file()
		}},
	}
}

// tooLarge has no pixel data.
func (f pngFile) tooLarge() []byte {
	head := binary.BigEndian.AppendUint32(nil, uint32(f.width))
	head = binary.BigEndian.AppendUint32(head, uint32(f.width))
	return append([]byte("\x89PNG\r\n\x1a\n"), pngChunk("IHDR", append(head, f.depth, f.colour, 0, 0, 0))...)
}

func gifBlocks(data []byte) []byte {
	var out []byte
	for part := range slices.Chunk(data, 255) {
		out = append(append(out, byte(len(part))), part...)
	}
	return append(out, 0)
}

func gifHead(width, height int) []byte {
	out := []byte("GIF89a")
	out = binary.LittleEndian.AppendUint16(out, uint16(width))
	out = binary.LittleEndian.AppendUint16(out, uint16(height))
	return append(out, 0x80, 0, 0, 0, 0, 0, 255, 255, 255)
}

func gifFrame(width, height int, flags byte, data []byte) []byte {
	out := []byte{',', 0, 0, 0, 0}
	out = binary.LittleEndian.AppendUint16(out, uint16(width))
	out = binary.LittleEndian.AppendUint16(out, uint16(height))
	return append(append(out, flags, 2), gifBlocks(data)...)
}

func gifPixels(n int) []byte {
	var out bytes.Buffer
	w := lzw.NewWriter(&out, lzw.LSB, 2)
	_, _ = w.Write(make([]byte, n)) // a buffer does not fail
	_ = w.Close()
	return out.Bytes()
}

func gifBombs() []Bomb {
	whole := func(width, height int, flags byte) func() []byte {
		return func() []byte {
			return append(append(gifHead(width, height), gifFrame(width, height, flags, gifPixels(width*height))...), ';')
		}
	}
	before := func(extra func() []byte) func() []byte {
		return func() []byte {
			return append(append(gifHead(64, 64), extra()...), append(gifFrame(64, 64, 0, gifPixels(64*64)), ';')...)
		}
	}
	return []Bomb{
		{"GIF", whole(wide, high, 0)},
		{"GIF, interlaced", whole(wide, high, 0x40)},
		{"GIF, 769×65535", whole(769, 65535, 0)},
		{"GIF, a frame of one pixel on 65535×769", func() []byte {
			return append(append(gifHead(65535, 769), gifFrame(1, 1, 0, gifPixels(1))...), ';')
		}},
		{"GIF, a frame of 65535×65535 on 1×1", func() []byte {
			return append(append(gifHead(1, 1), gifFrame(65535, 65535, 0, gifPixels(64))...), ';')
		}},
		{"GIF, clear codes only", func() []byte {
			// Codes of 3 bits: 4 clears the table. Eight of them are 3 bytes.
			return append(append(gifHead(wide, high), gifFrame(wide, high, 0, flood([]byte{0x24, 0x49, 0x92}))...), ';')
		}},
		{"GIF, 10,000 frames", func() []byte {
			frame := gifFrame(64, 64, 0, gifPixels(64*64))
			return append(append(gifHead(64, 64), bytes.Repeat(frame, 10_000)...), ';')
		}},
		{"GIF, empty comments", before(func() []byte { return flood([]byte{'!', 0xfe, 0}) })},
		{"GIF, a comment in blocks of one byte", before(func() []byte { return append([]byte{'!', 0xfe}, append(flood([]byte{1, 1}), 0)...) })},
		{"GIF, graphic controls", before(func() []byte { return flood([]byte{'!', 0xf9, 4, 1, 0, 0, 1, 0}) })},
		{"GIF, rubbish between blocks", before(func() []byte { return flood([]byte{0}) })},
	}
}

func webpChunk(name string, content []byte) []byte {
	out := binary.LittleEndian.AppendUint32([]byte(name), uint32(len(content)))
	out = append(out, content...)
	if len(content)%2 == 1 {
		out = append(out, 0)
	}
	return out
}

func webpFile(chunks ...[]byte) []byte {
	content := append([]byte("WEBP"), bytes.Join(chunks, nil)...)
	return append(binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(len(content))), content...)
}

func uint24(n int) []byte { return []byte{byte(n), byte(n >> 8), byte(n >> 16)} }

func webpExtended(flags byte, width, height int) []byte {
	return webpChunk("VP8X", slices.Concat([]byte{flags, 0, 0, 0}, uint24(width-1), uint24(height-1)))
}

func webpAnimationFrame(width, height int, chunks ...[]byte) []byte {
	return webpChunk("ANMF", slices.Concat(make([]byte, 6), uint24(width-1), uint24(height-1), make([]byte, 4), bytes.Join(chunks, nil)))
}

// bitWriter writes from the least significant bit upwards, as VP8L has it (RFC 9649, 3.2).
type bitWriter struct {
	out []byte
	n   int
}

func (w *bitWriter) write(value uint32, bits int) {
	for i := range bits {
		if w.n%8 == 0 {
			w.out = append(w.out, 0)
		}
		w.out[w.n/8] |= byte(value>>i&1) << (w.n % 8)
		w.n++
	}
}

// trees writes five Huffman trees of one symbol, 0, which takes no bits.
func (w *bitWriter) trees() {
	for range 5 {
		w.write(0b0001, 4) // simple, one symbol, of one bit: 0
	}
}

// fullTrees writes five Huffman trees of as many symbols as possible.
func (w *bitWriter) fullTrees(cache int) {
	// code writes a tree whose code lengths are those of a run of n symbols each.
	code := func(lengths ...[2]int) {
		w.write(0, 1) // not simple
		// Lengths are coded by the symbols 0 to 15, of which four are used, of 2 bits.
		used := map[int]bool{0: true, 1: true, 8: true, 12: true}
		order := []int{17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12}
		w.write(uint32(len(order)-4), 4)
		for _, symbol := range order {
			if used[symbol] {
				w.write(2, 3)
			} else {
				w.write(0, 3)
			}
		}
		w.write(0, 1) // as many lengths as symbols
		// Canonical codes, most significant bit first: 0, 1, 8, 12.
		codes := map[int]uint32{0: 0b00, 1: 0b10, 8: 0b01, 12: 0b11}
		for _, run := range lengths {
			for range run[1] {
				w.write(codes[run[0]], 2)
			}
		}
	}
	green := 280 + cache
	// A code of one bit for the literal 0, and the other half for 2048 of 12 bits.
	code([2]int{1, 1}, [2]int{12, 2048}, [2]int{0, green - 2049})
	for range 3 {
		code([2]int{8, 256})
	}
	code([2]int{0, 38}, [2]int{1, 2})
}

// lossless makes a VP8L picture that is transparent black, with the given
// transforms of RFC 9649, 3.5.
func lossless(width, height int, transforms ...uint32) []byte {
	w := &bitWriter{}
	w.losslessHead(width, height)
	w.transforms(transforms...)
	w.write(0, 2) // no cache, no groups of trees
	w.trees()
	return w.out
}

func (w *bitWriter) losslessHead(width, height int) {
	w.write(0x2f, 8)
	w.write(uint32(width-1), 14)
	w.write(uint32(height-1), 14)
	w.write(0, 4)
}

func (w *bitWriter) transforms(transforms ...uint32) {
	for _, t := range transforms {
		w.write(1, 1)
		w.write(t, 2)
		switch t {
		case 0, 1: // predictor, colour: blocks of 4×4 pixels, and a picture of them
			w.write(0, 3)
		case 3: // a palette of 256
			w.write(255, 8)
		}
		if t != 2 {
			w.write(0, 1) // no cache
			w.trees()
		}
	}
	w.write(0, 1)
}

// manyTrees makes a VP8L picture with as many sets of Huffman trees as are
// accepted, each as large as possible but the first, which nearly all pixels use.
func manyTrees(width, height int, transforms ...uint32) []byte {
	const groups = 2600
	w := &bitWriter{}
	w.losslessHead(width, height)
	w.transforms(transforms...)
	const cacheBits = 11
	w.write(1, 1)
	w.write(cacheBits, 4)
	w.write(1, 1) // groups, one for each 4×4 pixels
	w.write(0, 3)
	// Their numbers are pixels: red has the high byte, green the low one.
	w.write(0, 1) // no cache
	literal := func(symbols int) {
		w.write(0, 1) // not simple
		w.write(15-4, 4)
		for _, symbol := range []int{17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11} {
			if symbol == 0 || symbol == 8 {
				w.write(1, 3)
			} else {
				w.write(0, 3)
			}
		}
		w.write(0, 1)
		for i := range symbols {
			if i < 256 {
				w.write(1, 1)
			} else {
				w.write(0, 1)
			}
		}
	}
	literal(280) // green
	literal(256) // red
	for range 3 {
		w.write(0b0001, 4)
	}
	tiles := ceilDiv(width, 4) * ceilDiv(height, 4)
	reversed := func(v int) (out uint32) {
		for i := range 8 {
			out |= uint32(v>>i&1) << (7 - i)
		}
		return out
	}
	for i := range tiles {
		group := i
		if group >= groups {
			group = 0
		}
		w.write(reversed(group&255), 8)
		w.write(reversed(group>>8), 8)
	}
	w.trees()
	for range groups - 1 {
		w.fullTrees(1 << cacheBits)
	}
	// Each pixel of theirs is the literal of one bit, and three symbols of 8 bits.
	return append(w.out, make([]byte, groups*16*(1+3*8)/8+8)...)
}

// boolWriter is the arithmetic coder of VP8 (RFC 6386, 7.3).
type boolWriter struct {
	out    []byte
	size   uint32 // range
	bottom uint32
	left   int // bits to go until a byte is complete
}

func newBoolWriter() *boolWriter { return &boolWriter{size: 255, left: 24} }

func (w *boolWriter) write(probability uint32, bit bool) {
	split := 1 + ((w.size-1)*probability)>>8
	if bit {
		w.bottom += split
		if w.bottom < split {
			w.carry()
		}
		w.size -= split
	} else {
		w.size = split
	}
	for w.size < 128 {
		w.size <<= 1
		if w.bottom&(1<<31) != 0 {
			w.carry()
		}
		w.bottom <<= 1
		if w.left--; w.left == 0 {
			w.out = append(w.out, byte(w.bottom>>24))
			w.bottom &= 1<<24 - 1
			w.left = 8
		}
	}
}

func (w *boolWriter) carry() {
	for i := len(w.out) - 1; i >= 0; i-- {
		if w.out[i]++; w.out[i] != 0 {
			return
		}
	}
}

func (w *boolWriter) bits(value uint32, n int) {
	for i := n - 1; i >= 0; i-- {
		w.write(128, value>>i&1 == 1)
	}
}

// lossy makes a VP8 picture whose every block is filtered as much as possible
// and all of whose data are zero.
func lossy(width, height int) []byte {
	w := newBoolWriter()
	w.bits(0, 2)  // colour space, clamping
	w.bits(0, 1)  // no segments
	w.bits(0, 1)  // the normal filter
	w.bits(63, 6) // its level
	w.bits(0, 3)  // its sharpness
	w.bits(0, 1)  // no deltas
	first := append(w.out, make([]byte, 500<<10-len(w.out))...)
	out := uint24(len(first)<<5 | 1<<4)
	out = append(out, 0x9d, 0x01, 0x2a, byte(width), byte(width>>8), byte(height), byte(height>>8))
	return append(append(out, first...), make([]byte, 12<<20)...)
}

func webpBombs() []Bomb {
	const animated, alpha, exif, icc, xmp = 1 << 1, 1 << 4, 1 << 3, 1 << 5, 1 << 2
	small := webpChunk("VP8L", lossless(64, 64))
	before := func(flags byte, extra func() []byte) func() []byte {
		return func() []byte { return webpFile(webpExtended(flags, 64, 64), extra(), small) }
	}
	file := func(chunks ...[]byte) func() []byte { return func() []byte { return webpFile(chunks...) } }
	return []Bomb{
		{"WebP, lossless", file(webpChunk("VP8L", lossless(wide, high)))},
		{"WebP, lossless, four transforms", file(webpChunk("VP8L", lossless(wide, high, 0, 1, 2, 3)))},
		{"WebP, lossless, three transforms, 41 MP, and 31 MB more", func() []byte {
			return webpFile(webpChunk("VP8L", append(lossless(wide, 5040, 0, 1, 2), flood([]byte{0})...)))
		}},
		{"WebP, lossless, 2,600 sets of trees", func() []byte { return webpFile(webpChunk("VP8L", manyTrees(wide, high, 0, 1, 2))) }},
		{"WebP, lossless, 2,600 sets of trees, 41 MP, and 23 MB more", func() []byte {
			pixels := manyTrees(wide, 5040, 0, 1, 2)
			return webpFile(webpChunk("VP8L", append(pixels, make([]byte, maxFile-1<<20-len(pixels))...)))
		}},
		{"WebP, lossless, 2,600 sets of trees, 8192×512", func() []byte { return webpFile(webpChunk("VP8L", manyTrees(wide, 512))) }},
		{"WebP, lossless, 2,600 sets of trees, 208×208", func() []byte { return webpFile(webpChunk("VP8L", manyTrees(208, 208))) }},
		{"WebP, lossless, 16383×16383", file(webpChunk("VP8L", lossless(16383, 16383)))},
		{"WebP, lossy", func() []byte { return webpFile(webpChunk("VP8 ", lossy(wide, high))) }},
		{"WebP, lossy, with transparency", func() []byte {
			return webpFile(webpExtended(alpha, wide, high), webpChunk("ALPH", append([]byte{1}, lossless(wide, high)[5:]...)), webpChunk("VP8 ", lossy(wide, high)))
		}},
		{"WebP, lossy, with transparency, 26 MP", func() []byte {
			return webpFile(webpExtended(alpha, wide, 3072), webpChunk("ALPH", append([]byte{1}, lossless(wide, 3072)[5:]...)), webpChunk("VP8 ", lossy(wide, 3072)))
		}},
		{"WebP, lossy, 16383×16383", func() []byte { return webpFile(webpChunk("VP8 ", lossy(16383, 16383))) }},
		{"WebP, a header of 64×64 before 16383×16383", file(webpExtended(0, 64, 64), webpChunk("VP8L", lossless(16383, 16383)))},
		{"WebP, animation on 16383×16383", file(webpExtended(animated, 16383, 16383), webpAnimationFrame(64, 64, small))},
		{"WebP, animation, a frame of one pixel on 8192×6144", file(webpExtended(animated, wide, high), webpAnimationFrame(1, 1, webpChunk("VP8L", lossless(1, 1))))},
		{"WebP, animation, a frame of 16383×16383 on 64×64", file(webpExtended(animated, 64, 64), webpAnimationFrame(16383, 16383, webpChunk("VP8L", lossless(16383, 16383))))},
		{"WebP, animation, frames within frames", func() []byte {
			frame := small
			for range 1000 {
				frame = webpAnimationFrame(64, 64, frame)
			}
			return webpFile(webpExtended(animated, 64, 64), frame)
		}},
		{"WebP, 10,000 frames", func() []byte {
			return webpFile(webpExtended(animated, 64, 64), bytes.Repeat(webpAnimationFrame(64, 64, small), 10_000))
		}},
		{"WebP, 4 million empty chunks", before(0, func() []byte { return flood(webpChunk("teSt", nil)) })},
		{"WebP, EXIF, XMP and a profile of 10 MB each", before(exif|icc|xmp, func() []byte {
			return slices.Concat(webpChunk("EXIF", make([]byte, 10<<20)), webpChunk("XMP ", make([]byte, 10<<20)), webpChunk("ICCP", make([]byte, 10<<20)))
		})},
	}
}
