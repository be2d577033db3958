package jpegrows

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image/jpeg"
	"io"
	"path/filepath"
	"strings"
	"testing"
)

// segment is a marker segment, its header included, and the entropy-coded data
// after it.
type segment struct {
	marker       byte
	header, data []byte
}

// segments takes a file apart, up to its End Of Image marker.
func segments(file []byte) []segment {
	var out []segment
	for rest := file[2:]; rest[1] != eoiMarker; {
		n := 2 + int(binary.BigEndian.Uint16(rest[2:]))
		s := segment{marker: rest[1], header: rest[:n]}
		rest = rest[n:]
		end := 0
		for rest[end] != 0xff || rest[end+1] == 0 || rst0Marker <= rest[end+1] && rest[end+1] <= rst7Marker {
			end++
		}
		s.data, rest = rest[:end], rest[end:]
		out = append(out, s)
	}
	return out
}

// joined puts a file together without an End Of Image marker; change returns
// what stands in the place of each segment.
func joined(file []byte, change func(s segment) []segment) []byte {
	out := []byte{0xff, soiMarker}
	for _, s := range segments(file) {
		s.header = bytes.Clone(s.header)
		for _, s := range change(s) {
			out = append(append(out, s.header...), s.data...)
		}
	}
	return out
}

func patchFrame(file []byte, patch func(frame []byte)) []byte {
	return ended(joined(file, func(s segment) []segment {
		if sof0Marker <= s.marker && s.marker <= sof2Marker {
			patch(s.header[4:])
		}
		return []segment{s}
	}))
}

// renamed gives the components other identifiers, in the frame and the scans.
func renamed(file []byte, ids string) []byte {
	return ended(joined(file, func(s segment) []segment {
		switch s.marker {
		case sof0Marker, sof2Marker:
			for i := range s.header[9] {
				s.header[10+3*i] = ids[i]
			}
		case sosMarker:
			for i := range s.header[4] {
				s.header[5+2*i] = ids[s.header[5+2*i]-1]
			}
		}
		return []segment{s}
	}))
}

func ended(file []byte) []byte { return append(file, 0xff, eoiMarker) }

// inserted puts a segment behind the Start Of Image marker.
func inserted(file []byte, segment string) []byte {
	return append(append(bytes.Clone(file[:2]), segment...), file[2:]...)
}

// between puts junk behind every segment and its data.
func between(file []byte, junk string) []byte {
	return ended(joined(file, func(s segment) []segment { return []segment{s, {data: []byte(junk)}} }))
}

var wholeFiles = []string{
	"sequential_grey.jpg", "sequential_444.jpg", "sequential_420.jpg", "sequential_420_restart.jpg", "sequential_cmyk.jpg",
	"progressive_grey.jpg", "progressive_444.jpg", "progressive_420.jpg", "progressive_restart.jpg", "progressive_cmyk.jpg",
	"layouts/alone.jpg", "layouts/alone_restart.jpg", "layouts/chroma_then_luma.jpg", "layouts/4x2_1x1_1x1_progressive.jpg",
}

// Damage that leaves the picture whole changes no pixel. Pillow and libjpeg read
// the same, but for the files without an End Of Image marker, which Pillow reads
// with LOAD_TRUNCATED_IMAGES.
func TestHarmlessDamage(t *testing.T) {
	trailer := strings.Repeat("vendor\x00", 100)
	for _, name := range wholeFiles {
		data := readFile(t, "testdata/"+name)
		bare := data[:len(data)-2]
		for what, damaged := range map[string][]byte{
			"no EOI":                        bare,
			"half an EOI":                   data[:len(data)-1],
			"zeros for EOI":                 append(bytes.Clone(bare), make([]byte, 512)...),
			"a trailer for EOI":             append(bytes.Clone(bare), trailer...),
			"a trailer after EOI":           append(bytes.Clone(data), trailer...),
			"another picture after EOI":     append(bytes.Clone(data), data...),
			"restart marker before EOI":     append(bytes.Clone(bare), 0xff, rst7Marker, 0xff, eoiMarker),
			"zeros between segments":        between(data, "\x00\x00\x00"),
			"text between segments":         between(data, "xyz"),
			"stuffed bytes between":         between(data, "\xff\x00"),
			"fill bytes between":            between(data, "\xff\xff\xff"),
			"stuffed fill bytes between":    between(data, "\xff\xff\x00"),
			"restart markers between":       between(data, "\xff\xd3"),
			"an empty segment":              inserted(data, "\xff\xe5\x00\x02"),
			"a segment shorter than that":   inserted(data, "\xff\xe5\x00\x01"),
			"arithmetic conditioning":       inserted(data, "\xff\xcc\x00\x04\x00\x10"),
			"an empty Huffman table":        inserted(data, "\xff\xc4\x00\x13\x03"+strings.Repeat("\x00", 16)),
			"a second quantization table 3": inserted(data, "\xff\xdb\x00\x43\x03"+strings.Repeat("\x01", 64)),
		} {
			got, err := decodeWhole(t.Context(), damaged)
			if err != nil {
				t.Errorf("%s, %s: %v", name, what, err)
				continue
			}
			if want := mustDecode(t, data); !bytes.Equal(got.Pix, want.Pix) {
				t.Errorf("%s, %s: other pixels", name, what)
			}
		}
	}
}

// The same for what only some files can have.
func TestUncommonButValid(t *testing.T) {
	plain := readFile(t, "testdata/sequential_420.jpg")
	progressive := readFile(t, "testdata/progressive_420.jpg")
	restart := readFile(t, "testdata/sequential_420_restart.jpg")
	first := bytes.Index(restart, []byte{0xff, rst0Marker})
	other := func(s segment) segment { // a table of the same place with other values
		header := bytes.Clone(s.header)
		copy(header[5:], bytes.Repeat([]byte{7}, 64))
		return segment{header: header}
	}
	tables := func(file []byte, marker byte, change func(s segment) []segment) []byte {
		return ended(joined(file, func(s segment) []segment {
			if s.marker != marker {
				return []segment{s}
			}
			return change(s)
		}))
	}
	in16Bits := func(precision byte) []byte {
		return tables(plain, dqtMarker, func(s segment) []segment {
			wide := []byte{0xff, dqtMarker, 0, 2 + 1 + 128, precision<<4 | s.header[4]}
			for _, v := range s.header[5:69] {
				wide = append(wide, 0, v)
			}
			return []segment{{header: wide}}
		})
	}
	for _, c := range []struct {
		name       string
		same, file []byte
	}{
		{"all identifiers 0", plain, renamed(plain, "\x00\x00\x00")},
		{"all identifiers 1", plain, renamed(plain, "\x01\x01\x01")},
		{"a repeated identifier", plain, renamed(plain, "\x01\x01\x02")},
		{"another", plain, renamed(plain, "\x01\x02\x02")},
		{"identifiers from 0", progressive, renamed(progressive, "\x00\x01\x02")},
		{"no Huffman tables, as in Motion JPEG", plain, tables(plain, dhtMarker, func(segment) []segment { return nil })},
		{"16-bit quantization tables", plain, in16Bits(1)},
		{"16-bit by another number", plain, in16Bits(2)},
		{"Huffman tables 2 and 3 in a baseline file", plain, ended(joined(plain, func(s segment) []segment {
			switch s.marker {
			case dhtMarker:
				s.header[4] |= 2
			case sosMarker:
				for i := range s.header[4] {
					s.header[6+2*i] |= 0x22
				}
			}
			return []segment{s}
		}))},
		{"quantization tables replaced after the first scan", progressive, tables(progressive, sosMarker, func() func(s segment) []segment {
			var late []segment
			for _, s := range segments(progressive) {
				if s.marker == dqtMarker {
					late = append(late, other(s))
				}
			}
			return func(s segment) []segment {
				out := append([]segment{s}, late...)
				late = nil
				return out
			}
		}())},
		{"bounds of a progressive scan in a sequential one", plain, tables(plain, sosMarker, func(s segment) []segment {
			s.header[len(s.header)-2] = 0
			return []segment{s}
		})},
		{"extended sequential", plain, bytes.Replace(plain, []byte{0xff, sof0Marker}, []byte{0xff, sof1Marker}, 1)},
		{"number of lines after the scan", plain, append(joined(plain, func(s segment) []segment { return []segment{s} }), "\xff\xdc\x00\x04\x00\x25\xff\xd9"...)},
		{"restart markers of another number", restart, bytes.Replace(restart, []byte{0xff, rst0Marker}, []byte{0xff, rst7Marker}, 1)},
		{"bytes before a restart marker", restart, append(append(bytes.Clone(restart[:first]), 0, 0, 0xff, 0), restart[first:]...)},
		{"fill bytes before a restart marker", restart, append(append(bytes.Clone(restart[:first]), 0xff, 0xff), restart[first:]...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if bytes.Equal(c.file, c.same) {
				t.Fatal("the file was not changed")
			}
			if !bytes.Equal(mustDecode(t, c.file).Pix, mustDecode(t, c.same).Pix) {
				t.Error("other pixels")
			}
		})
	}
}

// A progressive file that ends after one of its scans is decoded from those that
// are there, however it ends. TestLayoutsAsPillow compares the pixels.
func TestProgressiveEndsAfterAScan(t *testing.T) {
	files, err := filepath.Glob("testdata/layouts/progressive_*_scans*.jpg")
	if err != nil || len(files) < 29 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		data := readFile(t, name)
		bare := data[:len(data)-2]
		want := mustDecode(t, data)
		for what, file := range map[string][]byte{
			"the end of the file": bare, "half an EOI": data[:len(data)-1], "zeros": append(bytes.Clone(bare), make([]byte, 300)...),
		} {
			got, err := decodeWhole(t.Context(), file)
			if err != nil {
				t.Errorf("%s, then %s: %v", name, what, err)
			} else if !bytes.Equal(got.Pix, want.Pix) {
				t.Errorf("%s, then %s: other pixels", name, what)
			}
		}
	}
}

// No estimate divides by a quantization step of 0. libjpeg makes none then.
func TestNoEstimateByStepsOfZero(t *testing.T) {
	data := readFile(t, "testdata/layouts/progressive_grey_scans1.jpg")
	zeroed := ended(joined(data, func(s segment) []segment {
		if s.marker == dqtMarker {
			copy(s.header[6:], make([]byte, 63))
		}
		return []segment{s}
	}))
	got, err := decodeWhole(t.Context(), zeroed)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 64 { // of the first block
		if x, y := i%8, i/8; got.RGBAAt(x, y) != got.RGBAAt(0, 0) {
			t.Fatalf("(%d, %d) is %v, (0, 0) is %v; they have one value in the file", x, y, got.RGBAAt(x, y), got.RGBAAt(0, 0))
		}
	}
}

// A file that ends anywhere else has lost pixels.
func TestTruncatedPixelData(t *testing.T) {
	for _, name := range wholeFiles {
		data := readFile(t, "testdata/"+name)
		// Where a file may end: before a segment once all rows are there.
		whole := map[int]bool{}
		progressive := strings.Contains(name, "progressive")
		at, scans := 2, 0
		all := segments(data)
		for i, s := range all {
			if progressive && scans > 0 || i == len(all)-1 {
				whole[at], whole[at+1] = scans > 0, scans > 0
			}
			at += len(s.header) + len(s.data)
			if s.marker == sosMarker {
				scans++
			}
		}
		for n := 0; n < at-1; n += 3 {
			if whole[n] {
				continue
			}
			if err := decodeOnly(t.Context(), data[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s: error %v for the first %d bytes of %d", name, err, n, len(data))
			}
		}
	}
}

// A marker in the midst of a scan leaves pixels out, too; libjpeg makes them grey.
func TestScanEndsEarly(t *testing.T) {
	for _, name := range wholeFiles {
		data := readFile(t, "testdata/"+name)
		file := ended(joined(data, func(s segment) []segment {
			s.data = s.data[:len(s.data)/2]
			return []segment{s}
		}))
		var format jpeg.FormatError
		if err := decodeOnly(t.Context(), file); !errors.As(err, &format) {
			t.Errorf("%s with half of each scan: error %v", name, err)
		}
	}
}

func TestOtherModesAreNamed(t *testing.T) {
	data := readFile(t, "testdata/sequential_420.jpg")
	for marker, mode := range map[byte]string{0xc3: "lossless", 0xc5: "hierarchical", 0xc9: "arithmetic coding", 0xca: "arithmetic coding"} {
		_, err := ReadHeader(bytes.NewReader(bytes.Replace(data, []byte{0xff, sof0Marker}, []byte{0xff, marker}, 1)))
		var unsupported jpeg.UnsupportedError
		if !errors.As(err, &unsupported) || string(unsupported) != mode {
			t.Errorf("marker %#x: error %v, want %s", marker, err, mode)
		}
	}
}

func TestMissingTables(t *testing.T) {
	for _, marker := range []byte{dqtMarker, dhtMarker} {
		file := ended(joined(readFile(t, "testdata/progressive_420.jpg"), func(s segment) []segment {
			if s.marker == marker {
				return nil
			}
			return []segment{s}
		}))
		var format jpeg.FormatError
		if err := decodeOnly(t.Context(), file); !errors.As(err, &format) {
			t.Errorf("without marker %#x: error %v", marker, err)
		}
	}
}
