package picture

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"image"
	"image/jpeg"
	"slices"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/gateway/internal/picture/internal/icc"
)

// The files in testdata/colour are the reference's (toolkit/goldens/colour.py):
// files with profiles of every kind, and what Pillow and Little CMS see in them.
func TestColoursAsReference(t *testing.T) {
	var index struct {
		ObjectResolution int `json:"object_resolution"`
		Fixtures         map[string]struct {
			Lossless bool
			Warning  string // a word of it; such a profile is not applied
		}
	}
	if err := json.Unmarshal(readFile(t, "colour/index.json"), &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Fixtures) < 55 {
		t.Fatalf("only %d fixtures", len(index.Fixtures))
	}
	d := NewDecoder(Limits{}, index.ObjectResolution)
	for name, fixture := range index.Fixtures {
		t.Run(name, func(t *testing.T) {
			got := decodeFile(t, d, "colour/"+name)
			worst, mean := difference(t, got, "colour/"+name+".object.png")
			switch {
			case (got.Warning() != "") != (fixture.Warning != "") || !strings.Contains(got.Warning(), fixture.Warning):
				t.Errorf("warning %q, want %q", got.Warning(), fixture.Warning)
			case fixture.Lossless && worst > 1:
				t.Errorf("differs by up to %d, mean %.3f", worst, mean)
			case mean > 0.5:
				t.Errorf("differs by %.3f in the mean, up to %d; decoders differ by less", mean, worst)
			}
		})
	}
}

// A chunk with a wrong checksum is none of Pillow's: it refuses the file.
func TestProfileWithWrongChecksum(t *testing.T) {
	file := readFile(t, "colour/p3.png")
	at := bytes.Index(file, []byte("iCCP"))
	size := int(binary.BigEndian.Uint32(file[at-4:]))
	for name, offset := range map[string]int{"content": at + size - 20, "checksum": at + 4 + size} {
		damaged := bytes.Clone(file)
		damaged[offset] ^= 1
		convert, warning := toSRGB(formatPNG, icc.RGB, bytes.NewReader(damaged))
		if convert != nil || !strings.Contains(warning, "damaged") {
			t.Errorf("wrong %s: warning %q", name, warning)
		}
	}
}

// A small file must not make a large profile.
func TestProfileThatInflates(t *testing.T) {
	var chunk bytes.Buffer
	chunk.WriteString("x\x00\x00")
	z := zlib.NewWriter(&chunk)
	if _, err := z.Write(make([]byte, 64<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := inflateProfile(chunk.Bytes())
	if err != nil || len(got) != maxProfile {
		t.Errorf("%d bytes, %v, want %d", len(got), err, maxProfile)
	}
}

func FuzzColours(f *testing.F) {
	for _, name := range []string{"p3.png", "parts_out_of_order.jpg", "p3.webp", "grey_table.png", "hdr_cicp.png", "lut.png", "raised_para4.png"} {
		f.Add(readFile(f, "colour/"+name), uint8(0))
	}
	formats := []*format{formatPNG, formatJPEG, formatWebP}
	spaces := []icc.Space{icc.RGB, icc.Gray, icc.CMYK}
	f.Fuzz(func(t *testing.T, file []byte, pick uint8) {
		space := spaces[int(pick)%len(spaces)]
		for _, format := range formats {
			convert, warning := toSRGB(format, space, bytes.NewReader(file))
			if convert != nil && warning != "" {
				t.Errorf("converts and warns: %s", warning)
			}
			if convert != nil {
				convert.Convert([]uint8{0, 0, 0, 255, 255, 255, pick, 7, 9})
			}
		}
	})
}

func BenchmarkDecodeColours(b *testing.B) {
	file := twelveMegapixels(b)
	for name, profile := range map[string]string{"none": "", "sRGB": "srgb.png", "P3": "p3.png", "ProPhoto": "prophoto.png"} {
		b.Run(name, func(b *testing.B) {
			encoded := file
			if profile != "" {
				encoded = withProfile(file, profileOf(b, profile))
			}
			d := NewDecoder(Limits{}, 224)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Decode(b.Context(), bytes.NewReader(encoded)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func profileOf(tb testing.TB, name string) []byte {
	tb.Helper()
	var found colours
	found.readPNG(bytes.NewReader(readFile(tb, "colour/"+name)))
	if found.profile == nil {
		tb.Fatalf("%s has no profile", name)
	}
	return found.profile
}

// withProfile puts a profile into a JPEG.
func withProfile(file, profile []byte) []byte {
	segment := append([]byte("\xff\xe2\x00\x00ICC_PROFILE\x00\x01\x01"), profile...)
	binary.BigEndian.PutUint16(segment[2:], uint16(len(segment)-2))
	return slices.Concat(file[:2], segment, file[2:])
}

func twelveMegapixels(tb testing.TB) []byte {
	tb.Helper()
	m := image.NewYCbCr(image.Rect(0, 0, 4032, 3024), image.YCbCrSubsampleRatio420)
	for i := range m.Y {
		m.Y[i] = uint8(i%4032/16 ^ i/4032/12)
	}
	for i := range m.Cb {
		m.Cb[i], m.Cr[i] = uint8(i/2016/8), uint8(i%2016/9)
	}
	var out bytes.Buffer
	if err := jpeg.Encode(&out, m, &jpeg.Options{Quality: 85}); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}
