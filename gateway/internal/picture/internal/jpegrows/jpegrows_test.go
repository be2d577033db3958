package jpegrows

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/draw"
	"image/jpeg"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The files in testdata were written by Pillow 13 (libjpeg-turbo): 53×37 pixels
// of every subsampling and colour space it offers, sequential and progressive,
// with and without restart markers.

func TestEqualToStandardLibrary(t *testing.T) {
	files, err := filepath.Glob("testdata/*.jpg")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, data)
		})
	}
}

// TestSequentialWithSeveralScans covers what Pillow cannot write: each component
// of a sequential file in a scan of its own.
func TestSequentialWithSeveralScans(t *testing.T) {
	compare(t, severalScans(t))
}

// severalScans joins three grey files into one of three components. All three
// use the tables of the first, as the encoder's are fixed.
func severalScans(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	for c := range 3 {
		m := image.NewGray(image.Rect(0, 0, 48, 24))
		for i := range m.Pix {
			m.Pix[i] = byte(i*(c+1)/5 ^ i/48*3)
		}
		var grey bytes.Buffer
		if err := jpeg.Encode(&grey, m, nil); err != nil {
			t.Fatal(err)
		}
		file := grey.Bytes()
		sof := bytes.Index(file, []byte{0xff, sof0Marker})
		sos := bytes.Index(file, []byte{0xff, sosMarker})
		if c == 0 {
			out.Write(file[:sof])
			out.Write([]byte{0xff, sof0Marker, 0, 17, 8, 0, 24, 0, 48, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0})
			out.Write(file[sof+2+int(binary.BigEndian.Uint16(file[sof+2:])) : sos])
		}
		out.Write([]byte{0xff, sosMarker, 0, 8, 1, byte(c + 1), 0, 0, 63, 0})
		out.Write(file[sos+10 : len(file)-2])
	}
	out.Write([]byte{0xff, eoiMarker})
	return out.Bytes()
}

func compare(t *testing.T, data []byte) {
	t.Helper()
	want, err := jpeg.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeWhole(data, want.Bounds())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Pix, asRGBA(want).Pix) {
		t.Error("differs from image/jpeg")
	}
}

func asRGBA(m image.Image) *image.RGBA {
	dst := image.NewRGBA(m.Bounds())
	draw.Draw(dst, dst.Rect, m, m.Bounds().Min, draw.Src)
	return dst
}

// decodeWhole puts the bands together and checks that they cover every row once.
func decodeWhole(data []byte, bounds image.Rectangle) (*image.RGBA, error) {
	dst := image.NewRGBA(bounds)
	next := 0
	err := Decode(bytes.NewReader(data), func(band image.Image) error {
		b := band.Bounds()
		if b.Min.Y != next || b.Min.X != 0 || b.Max.X != bounds.Max.X || b.Dy() < 1 {
			return errors.New("a band is out of place")
		}
		next = b.Max.Y
		draw.Draw(dst, b, band, b.Min, draw.Src)
		return nil
	})
	if err == nil && next != bounds.Max.Y {
		return nil, errors.New("rows are missing")
	}
	return dst, err
}

func TestCMYKWithoutAdobeMarkerIsInverted(t *testing.T) {
	data, err := os.ReadFile("testdata/sequential_cmyk.jpg")
	if err != nil {
		t.Fatal(err)
	}
	want, err := jpeg.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	adobe := bytes.Index(data, []byte{0xff, app14Marker})
	bare := append(bytes.Clone(data[:adobe]), data[adobe+2+int(binary.BigEndian.Uint16(data[adobe+2:])):]...)
	got, err := decodeWhole(bare, want.Bounds())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Pix, asRGBA(want).Pix) {
		t.Error("differs from the file with the marker")
	}
}

func TestTooManyScans(t *testing.T) {
	data, err := os.ReadFile("testdata/progressive_444.jpg")
	if err != nil {
		t.Fatal(err)
	}
	// Repeat the first AC scan, which overwrites what it has written before.
	start := bytes.Index(data, []byte{0xff, sosMarker}) + 2
	start += bytes.Index(data[start:], []byte{0xff, sosMarker})
	end := start + 2
	for data[end] != 0xff || data[end+1] == 0 {
		end++
	}
	many := append(bytes.Clone(data[:end]), bytes.Repeat(data[start:end], maxScans)...)
	many = append(many, data[end:]...)
	err = Decode(bytes.NewReader(many), func(image.Image) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "too many scans") {
		t.Errorf("error %v, want too many scans", err)
	}
}

func TestErrors(t *testing.T) {
	data, err := os.ReadFile("testdata/progressive_420.jpg")
	if err != nil {
		t.Fatal(err)
	}
	none := func(image.Image) error { return nil }
	for n := 0; n < len(data)-1; n += 5 {
		if err := Decode(bytes.NewReader(data[:n]), none); err == nil {
			t.Fatalf("no error for the first %d bytes of %d", n, len(data))
		}
	}
	stop := errors.New("stop")
	if err := Decode(bytes.NewReader(data), func(image.Image) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error %v, want the callback's", err)
	}
	if err := Decode(strings.NewReader("\xff\xd8\xff\xd9"), none); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("error %v for a file without a scan", err)
	}
}

// FuzzDecode: whatever image/jpeg decodes is decoded here, but for the list.
// Pixels are not compared: coefficients beyond 16 bits, which no encoder makes,
// wrap here.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.jpg")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := jpeg.DecodeConfig(bytes.NewReader(data))
		if err != nil || config.Width*config.Height > 1<<18 || config.Width == 0 || config.Height == 0 {
			return
		}
		_, err = decodeWhole(data, image.Rect(0, 0, config.Width, config.Height))
		if _, wantErr := jpeg.Decode(bytes.NewReader(data)); wantErr != nil {
			return
		}
		if err != nil {
			for _, known := range []string{"too many scans", "scan after a complete image", "complete scan after a partial one"} {
				if strings.Contains(err.Error(), known) {
					return
				}
			}
			t.Fatalf("image/jpeg decodes it: %v", err)
		}
	})
}
