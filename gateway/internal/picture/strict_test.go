package picture

import (
	"bytes"
	"image"
	"image/gif"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/image/webp"
)

// What the libraries' own decoders read, which are stricter, has to be read here
// too, and with the same pixels.

func FuzzPNGAsImagePNG(f *testing.F) {
	for _, name := range []string{"rgb.png", "rgba.png", "palette_alpha.png", "grey16.png", "bilevel.png", "grey_keyed.png", "orientation6.png"} {
		f.Add(readFile(f, name))
	}
	addCases(f, "*.png")
	f.Fuzz(func(t *testing.T, data []byte) {
		asStrict(t, data, png.DecodeConfig, png.Decode, formatPNG)
	})
}

func FuzzGIFAsImageGIF(f *testing.F) {
	f.Add(readFile(f, "palette.gif"))
	f.Add(readFile(f, "animated.gif"))
	f.Add([]byte("GIF89a\x03\x00\x02\x00\x80\x00\x00\x00\x01\x02\xff\xfe\xfd!\xf9\x04\x01\x00\x00\x01\x00,\x01\x00\x00\x00\x02\x00\x02\x00\x40\x02\x03\x44\x50\x05\x00;"))
	addCases(f, "*.gif")
	f.Fuzz(func(t *testing.T, data []byte) {
		asStrict(t, data, gif.DecodeConfig, gif.Decode, formatGIF)
	})
}

func FuzzWebPAsImageWebP(f *testing.F) {
	for _, name := range []string{"lossless.webp", "lossy.webp", "alpha.webp", "orientation6.webp"} {
		f.Add(readFile(f, name))
	}
	addCases(f, "*.webp")
	f.Fuzz(func(t *testing.T, data []byte) {
		// It takes a later picture for that of an animation, and alpha for meant.
		if !bytes.Contains(data, []byte("ANMF")) && !bytes.Contains(data, []byte("VP8L")) {
			asStrict(t, data, webp.DecodeConfig, func(r io.Reader) (image.Image, error) {
				m, err := webp.Decode(r)
				switch m := m.(type) {
				case *image.YCbCr:
					return &lossyWebP{image.NYCbCrA{YCbCr: *m}}, err
				case *image.NYCbCrA:
					return &lossyWebP{*m}, err
				}
				return m, err
			}, formatWebP)
		}
	})
}

// asStrict compares the rows of a format here with what a stricter decoder makes of them.
func asStrict(t *testing.T, data []byte, config func(io.Reader) (image.Config, error), decode func(io.Reader) (image.Image, error), here *format) {
	t.Helper()
	c, err := config(bytes.NewReader(data))
	if err != nil || c.Width*c.Height > 1<<16 || c.Width > maxSide || c.Height > maxSide {
		return
	}
	strict, err := decode(bytes.NewReader(data))
	if err != nil || strict.Bounds().Empty() {
		return
	}
	got, err := here.header(bytes.NewReader(data))
	if err != nil || got.width != c.Width || got.height != c.Height {
		t.Fatalf("%d×%d pixels, %v; want %d×%d", got.width, got.height, err, c.Width, c.Height)
	}
	canvas := make([]uint8, 3*c.Width*c.Height)
	err = here.rows(t.Context(), bytes.NewReader(data), func(m image.Image) error {
		copyRows(canvas, c.Width, m, m.Bounds())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(canvas) // what it does not cover is ours to fill
	copyRows(want, c.Width, strict, strict.Bounds())
	if !bytes.Equal(canvas, want) {
		t.Error("other pixels")
	}
}

func copyRows(canvas []uint8, width int, m image.Image, part image.Rectangle) {
	row := rowReader(m)
	for y := part.Min.Y; y < part.Max.Y; y++ {
		row(canvas[3*(y*width+part.Min.X):3*(y*width+part.Max.X)], part.Min.X, y)
	}
}

// FuzzMetadata looks for blocks that are read beyond their ends.
func FuzzMetadata(f *testing.F) {
	for _, name := range []string{"orientation6.jpg", "orientation6.png", "orientation6.webp"} {
		f.Add(readFile(f, name))
	}
	f.Add([]byte("II*\x00\x08\x00\x00\x00\x02\x00\x0f\x01\x02\x00\x09\x00\x00\x00\x26\x00\x00\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00A camera\x00"))
	f.Add([]byte("MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x05\x00\x00\x00\x01\x00\x00\x00\x1a\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x01"))
	addCases(f, "exif*")
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range []metadata{
			jpegMetadata(bytes.NewReader(data)), pngMetadata(bytes.NewReader(data)), webpMetadata(bytes.NewReader(data)),
			{exif: data}, {xmp: data},
		} {
			if o := m.orientation(); o < 1 || o > 8 {
				t.Errorf("orientation %d", o)
			}
		}
	})
}

// addCases adds files of test/pillow/cases to the corpus.
func addCases(f *testing.F, pattern string) {
	f.Helper()
	files, err := filepath.Glob("../../../test/pillow/cases/" + pattern)
	if err != nil || len(files) == 0 {
		f.Fatalf("no files %s, %v", pattern, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}
