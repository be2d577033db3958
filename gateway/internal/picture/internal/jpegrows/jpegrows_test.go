package jpegrows

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/gateway/internal/picture/picturetest"
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
			compareWithStandardLibrary(t, readFile(t, file))
		})
	}
}

// TestSequentialWithSeveralScans covers what Pillow cannot write: each component
// of a sequential file in a scan of its own.
func TestSequentialWithSeveralScans(t *testing.T) {
	compareWithStandardLibrary(t, severalScans(t))
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

// compareWithStandardLibrary: all samples that image/jpeg has are the same here.
// It repeats chroma samples where they are interpolated here.
func compareWithStandardLibrary(t *testing.T, data []byte) {
	t.Helper()
	want, err := jpeg.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	subsampled, ok := want.(*image.YCbCr)
	if !ok || subsampled.SubsampleRatio == image.YCbCrSubsampleRatio444 {
		if got := mustDecode(t, data); !bytes.Equal(got.Pix, asRGBA(want).Pix) {
			t.Error("differs from image/jpeg")
		}
		return
	}
	err = Decode(t.Context(), bytes.NewReader(data), func(m image.Image) error {
		rows, ok := m.(*image.YCbCr)
		if !ok {
			return fmt.Errorf("rows are a %T", m)
		}
		for y := rows.Rect.Min.Y; y < rows.Rect.Max.Y; y++ {
			if !bytes.Equal(rows.Y[rows.YOffset(0, y):][:rows.Rect.Dx()], subsampled.Y[subsampled.YOffset(0, y):][:rows.Rect.Dx()]) {
				t.Errorf("the luma of row %d differs from image/jpeg", y)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The pixels are Pillow's (testdata/layouts.py). The inverse DCTs and the
// conversions to RGB differ by rounding.
func TestLayoutsAsPillow(t *testing.T) {
	files, err := filepath.Glob("testdata/layouts/*.jpg")
	if err != nil || len(files) < 69 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			compareWithPillow(t, mustDecode(t, readFile(t, file)), strings.TrimSuffix(file, ".jpg")+".png")
		})
	}
}

func compareWithPillow(t *testing.T, got *image.RGBA, file string) {
	t.Helper()
	want, err := png.Decode(bytes.NewReader(readFile(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	if got.Bounds() != want.Bounds() {
		t.Fatalf("%v, Pillow has %v", got.Bounds(), want.Bounds())
	}
	worst := 0
	for i, v := range asRGBA(want).Pix {
		d := int(v) - int(got.Pix[i])
		worst = max(worst, d, -d)
	}
	if worst > 3 {
		t.Errorf("differs from Pillow by up to %d", worst)
	}
}

func TestFractionalSamplingIsUnsupported(t *testing.T) {
	// libjpeg: "Fractional sampling not implemented yet".
	data := patchFrame(readFile(t, "testdata/layouts/3x1_1x1_1x1.jpg"), func(frame []byte) { frame[10] = 0x21 })
	var unsupported jpeg.UnsupportedError
	if _, err := ReadHeader(bytes.NewReader(data)); !errors.As(err, &unsupported) || !strings.Contains(err.Error(), "fractional sampling") {
		t.Errorf("error %v", err)
	}
}

// Section A.2.2: the factors of a single component do not matter.
func TestGreyWithAnyFactors(t *testing.T) {
	for _, name := range []string{"testdata/sequential_grey.jpg", "testdata/progressive_grey.jpg"} {
		data := readFile(t, name)
		want := mustDecode(t, data)
		for factors := range 256 {
			h, v := factors>>4, factors&15
			if h < 1 || 4 < h || v < 1 || 4 < v {
				continue
			}
			got := mustDecode(t, patchFrame(data, func(frame []byte) { frame[7] = byte(factors) }))
			if !bytes.Equal(got.Pix, want.Pix) {
				t.Errorf("%s with factors %d×%d differs", name, h, v)
			}
		}
	}
}

// Where a component has no texture, the inverse DCT is left out.
func TestFlatBlockIsInverseDCT(t *testing.T) {
	for dc := -1024; dc <= 1023; dc++ {
		for _, q := range []int32{1, 3, 16, 255} {
			c := component{quant: &block{q}, stride: 1, plane: make([]byte, 9*8)}
			if int32(dc)*q < -1<<11 || 1<<11 <= int32(dc)*q {
				continue // beyond what an encoder makes of 8 bits
			}
			c.reconstruct(&coefs{int16(dc)}, false, 0, 0)
			flat := bytes.Clone(c.plane)
			c.reconstruct(&coefs{int16(dc)}, true, 0, 0)
			if !bytes.Equal(flat, c.plane) {
				t.Fatalf("DC coefficient %d·%d: %d, the inverse DCT gives %d", dc, q, flat[8], c.plane[8])
			}
		}
	}
}

func TestCMYKWithoutAdobeMarkerIsInverted(t *testing.T) {
	data := readFile(t, "testdata/sequential_cmyk.jpg")
	adobe := bytes.Index(data, []byte{0xff, app14Marker})
	bare := append(bytes.Clone(data[:adobe]), data[adobe+2+int(binary.BigEndian.Uint16(data[adobe+2:])):]...)
	if !bytes.Equal(mustDecode(t, bare).Pix, mustDecode(t, data).Pix) {
		t.Error("differs from the file with the marker")
	}
}

// What Pillow 13 takes three components for, by which of the hints are there.
func TestColourSpaceAsPillow(t *testing.T) {
	const none = -1
	plain := readFile(t, "testdata/sequential_444.jpg")
	app0 := bytes.Index(plain, []byte{0xff, app0Marker})
	bare := append(bytes.Clone(plain[:app0]), plain[app0+18:]...)
	for _, c := range []struct {
		jfif  bool
		adobe int // its transform
		ids   string
		isRGB bool
	}{
		{true, none, "\x01\x02\x03", false},
		{true, none, "RGB", false},
		{true, 0, "\x01\x02\x03", false},
		{false, none, "\x01\x02\x03", false},
		{false, none, "\x00\x01\x02", false},
		{false, none, "rgb", false},
		{false, none, "RGB", true},
		{false, 0, "\x01\x02\x03", true},
		{false, 0, "RGB", true},
		{false, 1, "\x01\x02\x03", false},
		{false, 1, "RGB", false},
		{false, 2, "RGB", false},
		{false, 5, "\x01\x02\x03", false},
	} {
		data := bare
		if c.jfif {
			data = plain
		}
		data = renamed(data, c.ids)
		if c.adobe != none {
			data = inserted(data, "\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"+string(rune(c.adobe)))
		}
		err := Decode(t.Context(), bytes.NewReader(data), func(m image.Image) error {
			if isRGB := m.ColorModel() == color.RGBAModel; isRGB != c.isRGB {
				return fmt.Errorf("%+v: RGB is %t", c, isRGB)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// The pictures of an attack: megapixels of one colour in a few bytes a scan.
func TestScansAreLimited(t *testing.T) {
	const sides = 2048 // 4 megapixels
	textures := []string{picturetest.ScanTexture(1), picturetest.ScanTexture(2), picturetest.ScanTexture(3)}
	manyOf := func(n int) []string { return append([]string{picturetest.ScanMeans}, slices.Repeat(textures, n)...) }
	err := decodeOnly(t.Context(), picturetest.FlatJPEG(sides, sides, 0x11, manyOf(63)...))
	var unsupported jpeg.UnsupportedError
	if !errors.As(err, &unsupported) || !strings.Contains(err.Error(), "more scans") {
		t.Errorf("error %v", err)
	}
	// The most that an encoder makes, jpegtran's -scans with a line for every
	// coefficient, on an ordinary small picture.
	if err := decodeOnly(t.Context(), picturetest.FlatJPEG(800, 600, 0x11, manyOf(63)...)); err != nil {
		t.Errorf("a small picture with 190 scans: %v", err)
	}
	// libjpeg's own script, on a large one.
	script := []string{picturetest.ScanMeans, picturetest.ScanTexture(1), picturetest.ScanTexture(3), picturetest.ScanTexture(2), picturetest.ScanTexture(1), picturetest.ScanTextureLast(1), picturetest.ScanMeansLast, picturetest.ScanTextureLast(3), picturetest.ScanTextureLast(2), picturetest.ScanTextureLast(1)}
	if err := decodeOnly(t.Context(), picturetest.FlatJPEG(sides, sides, 0x11, script...)); err != nil {
		t.Errorf("libjpeg's script: %v", err)
	}
}

func TestDecodeEndsWithItsContext(t *testing.T) {
	gone := errors.New("the client is gone")
	for name, data := range map[string][]byte{
		"several scans": picturetest.FlatJPEG(2048, 2048, 0x11, picturetest.ScanMeans, picturetest.ScanTexture(1), picturetest.ScanTextureLast(1)),
		"one scan":      flatSequential(2048, 2048),
	} {
		t.Run(name, func(t *testing.T) {
			// How often a whole decoding looks at its context, and what it then has done.
			whole := &countedContext{Context: t.Context(), limit: -1}
			if err := decodeOnly(whole, data); err != nil {
				t.Fatal(err)
			}
			if rows := 2048 / 8; whole.asked < rows {
				t.Errorf("looked at its context %d times, want once for each of the %d rows of blocks of every scan", whole.asked, rows)
			}
			for at := 0; at < whole.asked; at += 50 {
				ctx, cancel := context.WithCancelCause(t.Context())
				counted := &countedContext{Context: ctx, limit: at, then: func() { cancel(gone) }}
				if err := decodeOnly(counted, data); !errors.Is(err, gone) {
					t.Fatalf("error %v, want the cause", err)
				}
				if counted.asked > at+2 { // context.Cause looks, too
					t.Fatalf("went on after %d looks at its context, to %d", at+1, counted.asked)
				}
				cancel(nil)
			}
		})
	}
}

// countedContext calls then at the limit-th look at its state.
type countedContext struct {
	context.Context
	asked, limit int
	then         func()
}

func (c *countedContext) Err() error {
	if c.asked == c.limit {
		c.then()
	}
	c.asked++
	return c.Context.Err()
}

// flatSequential is the same in one sequential scan.
func flatSequential(width, height int) []byte {
	file := picturetest.FlatJPEG(width, height, 0x11, picturetest.ScanMeans)
	file[bytes.Index(file, []byte{0xff, sof2Marker})+1] = sof0Marker
	bits := 2 * 3 * ceilDiv(width, 8) * ceilDiv(height, 8) // a difference and an end for each block
	return append(file[:len(file)-2], make([]byte, ceilDiv(bits, 8))...)
}

// Memory is what Decode allocates, up to small things.
func TestHeaderTellsTheMemory(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		// bytes a pixel of the coefficients: 2 a sample, and 1 a block
		perPixel float64
	}{
		{"progressive 4:4:4", picturetest.FlatJPEG(2000, 1500, 0x11, picturetest.ScanMeans), 3 * (2 + 1./64)},
		{"progressive 4:2:0", picturetest.FlatJPEG(2000, 1500, 0x22, picturetest.ScanMeans), 1.5 * (2 + 1./64)},
		{"sequential", flatSequential(2000, 1500), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, err := ReadHeader(bytes.NewReader(c.data))
			if err != nil || h.Width != 2000 || h.Height != 1500 {
				t.Fatalf("%+v, %v", h, err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if err := decodeOnly(t.Context(), c.data); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			allocated := int64(after.TotalAlloc - before.TotalAlloc)
			const small = 1 << 20 // the decoder and the heads of 1500 rows
			if h.Memory > allocated || h.Memory < allocated-small {
				t.Errorf("%d bytes, %d were allocated", h.Memory, allocated)
			}
			if want := int64(c.perPixel * 2000 * 1504); h.Memory < want || h.Memory > want+want/50+small {
				t.Errorf("%d bytes, want about %d", h.Memory, want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	data := readFile(t, "testdata/progressive_420.jpg")
	stop := errors.New("stop")
	if err := Decode(t.Context(), bytes.NewReader(data), func(image.Image) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error %v, want the callback's", err)
	}
	for _, short := range []string{"", "\xff", "\xff\xd8", "\xff\xd8\xff\xd9", "\xff\xd8\xff\xe0\x00"} {
		if err := decodeOnly(t.Context(), []byte(short)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("error %v for %q", err, short)
		}
	}
	// A reader's error is not the end of the file, wherever it comes.
	for n := range len(data) - 2 {
		for _, broken := range []error{errors.New("broken"), io.ErrUnexpectedEOF, fmt.Errorf("broken: %w", io.EOF)} {
			err := Decode(t.Context(), io.MultiReader(bytes.NewReader(data[:n]), errorReader{broken}), func(image.Image) error { return nil })
			if err == nil {
				t.Fatalf("no error when the reader breaks after %d bytes of %d", n, len(data))
			}
		}
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func asRGBA(m image.Image) *image.RGBA {
	dst := image.NewRGBA(m.Bounds())
	draw.Draw(dst, dst.Rect, m, m.Bounds().Min, draw.Src)
	return dst
}

func decodeOnly(ctx context.Context, data []byte) error {
	return Decode(ctx, bytes.NewReader(data), func(image.Image) error { return nil })
}

func mustDecode(t *testing.T, data []byte) *image.RGBA {
	t.Helper()
	got, err := decodeWhole(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// decodeWhole puts the rows together and checks that each comes once.
func decodeWhole(ctx context.Context, data []byte) (*image.RGBA, error) {
	h, err := ReadHeader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	dst := image.NewRGBA(image.Rect(0, 0, h.Width, h.Height))
	next := 0
	err = Decode(ctx, bytes.NewReader(data), func(rows image.Image) error {
		b := rows.Bounds()
		if b.Min.Y != next || b.Min.X != 0 || b.Max.X != h.Width || b.Dy() < 1 || b.Max.Y > h.Height {
			return errMisplaced
		}
		next = b.Max.Y
		draw.Draw(dst, b, rows, b.Min, draw.Src)
		return nil
	})
	if err == nil && next != h.Height {
		return nil, errMisplaced
	}
	return dst, err
}

var errMisplaced = errors.New("rows are missing or out of place")

func FuzzDecode(f *testing.F) {
	for _, pattern := range []string{"testdata/*.jpg", "testdata/layouts/*.jpg"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			f.Add(readFile(f, file))
		}
	}
	f.Add(picturetest.FlatJPEG(16, 16, 0x22, picturetest.ScanMeans, picturetest.ScanTexture(1), picturetest.ScanTextureLast(1), picturetest.ScanMeansLast))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ReadHeader(bytes.NewReader(data))
		if err != nil {
			if decodeOnly(t.Context(), data) == nil {
				t.Fatalf("decoded, but its header cannot be read: %v", err)
			}
			return
		}
		if h.Width*h.Height > 1<<18 {
			return
		}
		if _, err := decodeWhole(t.Context(), data); errors.Is(err, errMisplaced) {
			t.Fatal(err)
		}
	})
}

// 24 megapixels in one scan, and in ten more that add nothing.
func BenchmarkFlatPicture(b *testing.B) {
	for name, scan := range map[string]string{
		"means": "", "runs": picturetest.ScanTexture(1), "refined runs": picturetest.ScanTextureLast(1), "refined means": picturetest.ScanMeansLast,
	} {
		b.Run(name, func(b *testing.B) {
			scans := []string{picturetest.ScanMeans}
			if scan != "" {
				scans = append(scans, slices.Repeat([]string{scan}, 10)...)
			}
			data := picturetest.FlatJPEG(6000, 4000, 0x11, scans...)
			for b.Loop() {
				if err := decodeOnly(b.Context(), data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
