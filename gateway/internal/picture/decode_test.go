package picture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/png"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/facediffuser/facediffuser/gateway/internal/picture/picturetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kindOf decodes and returns the kind and the message of the error.
func kindOf(t *testing.T, d *Decoder, data []byte) (Kind, string) {
	t.Helper()
	_, err := d.Decode(t.Context(), bytes.NewReader(data))
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want an *Error", err)
	}
	return e.Kind, e.Message
}

func TestOtherFormatsAreNamed(t *testing.T) {
	d := NewDecoder(Limits{}, 64)
	for _, c := range []struct {
		name, data string
		kind       Kind
		says       string
	}{
		{"HEIC", "\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", KindUnsupportedFormat, "the file is HEIC, which is not supported; send a JPEG. On an iPhone, share the photo with Options > Most Compatible"},
		{"HEIC by a compatible brand", "\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic", KindUnsupportedFormat, "on a Samsung or another Android phone, switch off high efficiency pictures"},
		{"AVIF", "\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf", KindUnsupportedFormat, "the file is AVIF, which is not supported; open it in an image viewer or editor and export it as JPEG"},
		{"other HEIF", "\x00\x00\x00\x14ftypmif1\x00\x00\x00\x00mif1", KindUnsupportedFormat, "the file is HEIF, which is not supported; send a JPEG"},
		{"bytes of a brand behind the list", "\x00\x00\x00\x14ftypmif1\x00\x00\x00\x00mif1heic", KindUnsupportedFormat, "HEIF, which is"},
		{"video", "\x00\x00\x00\x14ftypisom\x00\x00\x00\x00mp41", KindUnsupportedFormat, "the file is a video, which is not supported; send a still picture"},
		{"Live Photo", "\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  ", KindUnsupportedFormat, "the photo without its video"},
		{"Canon's raw photo", "\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01crx isom", KindUnsupportedFormat, "the file is a raw photo, which is not supported; export it as JPEG"},
		{"TIFF little endian", "II*\x00\x08\x00\x00\x00", KindUnsupportedFormat, "the file is TIFF, which is not supported; export it as JPEG or PNG"},
		{"TIFF big endian", "MM\x00*\x00\x00\x00\x08", KindUnsupportedFormat, "TIFF"},
		{"DNG little endian", "II*\x00\x08\x00\x00\x00\x02\x00\xfe\x00\x04\x00\x01\x00\x00\x00\x01\x00\x00\x00\x12\xc6\x01\x00\x04\x00\x00\x00\x01\x04\x00\x00", KindUnsupportedFormat, "the file is a raw photo (DNG), which is not supported; send the JPEG"},
		{"DNG big endian, its directory far and long", "MM\x00*\x00\x00\x02\x00" + strings.Repeat("\x00", 0x1f8) + "\x00\x41" + strings.Repeat("\x01\x00\x00\x03\x00\x00\x00\x01\x00\x01\x00\x00", 64) + "\xc6\x12\x00\x01\x00\x00\x00\x04\x01\x04\x00\x00", KindUnsupportedFormat, "(DNG)"},
		{"TIFF with DNG's number as a value", "II*\x00\x08\x00\x00\x00\x01\x00\xfe\x00\x04\x00\x01\x00\x00\x00\x12\xc6\x00\x00", KindUnsupportedFormat, "the file is TIFF"},
		{"Canon's raw photo in a TIFF", "II*\x00\x10\x00\x00\x00CR\x02\x00", KindUnsupportedFormat, "the file is a raw photo, which"},
		{"Fujifilm's raw photo", "FUJIFILMCCD-RAW 0201", KindUnsupportedFormat, "the file is a raw photo, which"},
		{"AVI", "RIFF\x00\x10\x00\x00AVI LIST", KindUnsupportedFormat, "the file is a video"},
		{"sound in RIFF", "RIFF\x00\x10\x00\x00WAVEfmt ", KindNotAnImage, "not an image"},
		{"Matroska", "\x1a\x45\xdf\xa3\x01\x00\x00\x00", KindUnsupportedFormat, "the file is a video"},
		{"Windows Media", "\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9", KindUnsupportedFormat, "the file is a video"},
		{"MPEG", "\x00\x00\x01\xba\x44", KindUnsupportedFormat, "the file is a video"},
		{"QuickTime without a type", "\x00\x00\x00\x08wide\x00\x00\x10\x00mdat", KindUnsupportedFormat, "the file is a video"},
		{"JPEG 2000", "\x00\x00\x00\x0cjP  \r\n\x87\n", KindUnsupportedFormat, "the file is JPEG 2000, which"},
		{"JPEG 2000 by its brand", "\x00\x00\x00\x18ftypjp2 \x00\x00\x00\x00jp2 ", KindUnsupportedFormat, "the file is JPEG 2000, which"},
		{"JPEG XL by its brand", "\x00\x00\x00\x14ftypjxl \x00\x00\x00\x00jxl ", KindUnsupportedFormat, "the file is JPEG XL, which"},
		{"SVG", "<svg xmlns=\"http://www.w3.org/2000/svg\"/>", KindUnsupportedFormat, "SVG"},
		{"SVG with a declaration", "\xef\xbb\xbf<?xml version=\"1.0\"?>\n<svg/>", KindUnsupportedFormat, "SVG"},
		{"PDF", "%PDF-1.7\n", KindUnsupportedFormat, "PDF"},
		{"BMP", "BM\x00\x00", KindUnsupportedFormat, "the file is BMP, which is not supported; convert it to JPEG"},
		{"JPEG XL", "\x00\x00\x00\x0cJXL \r\n\x87\n", KindUnsupportedFormat, "JPEG XL"},
		{"text", "a woman reading", KindNotAnImage, "not an image; send PNG"},
		{"XML", "<?xml version=\"1.0\"?><rss/>", KindNotAnImage, "not an image"},
		{"empty", "", KindNotAnImage, "empty"},
		{"zeros", strings.Repeat("\x00", 100), KindNotAnImage, "not an image"},
	} {
		t.Run(c.name, func(t *testing.T) {
			kind, message := kindOf(t, d, []byte(c.data))
			if kind != c.kind || !strings.Contains(message, c.says) {
				t.Errorf("%s: %q; want %s: …%s…", kind, message, c.kind, c.says)
			}
		})
	}
}

func TestTruncatedFiles(t *testing.T) {
	d := NewDecoder(Limits{}, 64)
	for _, name := range []string{"rgb.png", "progressive.jpg", "orientation1.jpg", "cmyk.jpg", "palette.gif", "lossless.webp", "lossy.webp", "alpha.webp"} {
		t.Run(name, func(t *testing.T) {
			data := readFile(t, name)
			for _, n := range []int{len(data) / 2, len(data) * 9 / 10} {
				if kind, message := kindOf(t, d, data[:n]); kind != KindCorrupt || !strings.Contains(message, "cut off") && !strings.Contains(message, "damaged") {
					t.Errorf("first %d bytes of %d: %s: %q", n, len(data), kind, message)
				}
			}
		})
	}
}

func TestDamagedFile(t *testing.T) {
	data := readFile(t, "rgb.png")
	data[len(data)/2] ^= 0xff
	if kind, message := kindOf(t, NewDecoder(Limits{}, 64), data); kind != KindCorrupt || !strings.Contains(message, "the PNG is damaged") {
		t.Errorf("%s: %q", kind, message)
	}
}

// pngHeader is a PNG that claims a size and ends.
func pngOfSize(width, height uint32, depth, colour byte) []byte {
	chunk := binary.BigEndian.AppendUint32([]byte("IHDR"), width)
	chunk = binary.BigEndian.AppendUint32(chunk, height)
	chunk = append(chunk, depth, colour, 0, 0, 0)
	out := append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"), chunk...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(chunk))
}

func TestHugePictureIsRefusedByItsHeader(t *testing.T) {
	d := NewDecoder(Limits{}, 64)
	const rgb = 2
	for _, c := range []struct {
		name          string
		width, height uint32
		depth         byte
		says          string
	}{
		{"over the cap", 8192, 6153, 8, "8192×6153 pixels; at most 50.4 megapixels and 65535 pixels a side are accepted: send it smaller, 64 pixels a side are used"},
		{"product over 32 bits", 1 << 30, 1 << 30, 8, "at most 50.4 megapixels"},
		{"one row of millions", 23_000_000, 1, 8, "65535 pixels a side"},
		{"16 bits", 7000, 6500, 16, "a PNG of 8 bits a channel"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if kind, message := kindOf(t, d, pngOfSize(c.width, c.height, c.depth, rgb)); kind != KindTooManyPixels || !strings.Contains(message, c.says) {
				t.Errorf("%s: %q; want …%s…", kind, message, c.says)
			}
		})
	}
	// 8192×6144 in a WebP's extended header, with transparency.
	webp := appendRIFF(nil, "RIFF", appendRIFF([]byte("WEBP"), "VP8X", []byte{1 << 4, 0, 0, 0, 0xff, 0x1f, 0, 0xff, 0x17, 0}))
	if kind, message := kindOf(t, d, webp); kind != KindTooManyPixels || !strings.Contains(message, "8192×6144") {
		t.Errorf("%s: %q", kind, message)
	}
	// What phones and cameras make by default is not refused for its size.
	for _, side := range [][2]uint32{{5712, 4284}, {6016, 4016}, {8064, 6048}, {8160, 6120}, {8192, 6144}} {
		if kind, message := kindOf(t, d, pngOfSize(side[0], side[1], 8, rgb)); kind != KindCorrupt {
			t.Errorf("%d×%d: %s: %s; want %s, for the pixels are missing", side[0], side[1], kind, message, KindCorrupt)
		}
	}
}

// A WebP's extended header must not hide the size of the picture in it.
func TestWebPWithFalseCanvas(t *testing.T) {
	data := appendRIFF([]byte("WEBP"), "VP8X", []byte{0, 0, 0, 0, 3, 0, 0, 3, 0, 0})
	data = appendRIFF(data, "VP8L", []byte{0x2f, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0})
	if kind, message := kindOf(t, NewDecoder(Limits{}, 64), appendRIFF(nil, "RIFF", data)); kind != KindCorrupt {
		t.Errorf("%s: %q", kind, message)
	}
}

// Sideways pictures take another path through the resampler; turning the pixels
// first and taking the upright path must give the same, also when enlarging.
func TestOrientationIsTurningThePixels(t *testing.T) {
	for _, size := range []image.Point{{33, 20}, {20, 33}, {7, 3}, {1, 9}, {64, 64}} {
		src := image.NewNRGBA(image.Rectangle{Max: size})
		for i := range src.Pix {
			src.Pix[i] = uint8(i*i*7 + i/5)
			if i%4 == 3 {
				src.Pix[i] = 255
			}
		}
		for orientation := 1; orientation <= 8; orientation++ {
			turned := turn(src, orientation)
			want := square(turned, 1, 24)
			if got := square(src, orientation, 24); !bytes.Equal(got, want) {
				t.Errorf("%v, orientation %d: differs", size, orientation)
			}
		}
	}
}

func square(m image.Image, orientation, size int) []uint8 {
	s := newSquarer(m.Bounds().Dx(), m.Bounds().Dy(), orientation, size)
	if err := s.addImage(context.Background(), m, make([]uint8, 3*m.Bounds().Dx()), nil); err != nil {
		panic(err)
	}
	return s.finish()
}

// turn is the definition of EXIF's orientation: where row 0 and column 0 of the
// file are to be seen.
func turn(m *image.NRGBA, orientation int) *image.NRGBA {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	at := map[int]func(x, y int) (int, int){
		1: func(x, y int) (int, int) { return x, y },                 // top, left
		2: func(x, y int) (int, int) { return w - 1 - x, y },         // top, right
		3: func(x, y int) (int, int) { return w - 1 - x, h - 1 - y }, // bottom, right
		4: func(x, y int) (int, int) { return x, h - 1 - y },         // bottom, left
		5: func(x, y int) (int, int) { return y, x },                 // left, top
		6: func(x, y int) (int, int) { return h - 1 - y, x },         // right, top
		7: func(x, y int) (int, int) { return h - 1 - y, w - 1 - x }, // right, bottom
		8: func(x, y int) (int, int) { return y, w - 1 - x },         // left, bottom
	}[orientation]
	out := image.NewNRGBA(m.Rect)
	if orientation >= 5 {
		out = image.NewNRGBA(image.Rect(0, 0, h, w))
	}
	for y := range h {
		for x := range w {
			tx, ty := at(x, y)
			out.SetNRGBA(tx, ty, m.NRGBAAt(x, y))
		}
	}
	return out
}

func TestDecodeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the client is gone")
	cancel(gone)
	if _, err := NewDecoder(Limits{}, 64).Decode(ctx, bytes.NewReader(readFile(t, "rgb.png"))); !errors.Is(err, gone) {
		t.Errorf("error %v, want the cause", err)
	}
}

func TestDecodeReturnsTheReadersError(t *testing.T) {
	broken := errors.New("broken")
	r := &failing{bytes.NewReader(readFile(t, "rgb.png")), 200, broken}
	if _, err := NewDecoder(Limits{}, 64).Decode(t.Context(), r); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

// failing is a file that cannot be read beyond a position.
type failing struct {
	*bytes.Reader
	end int64
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	at := f.Size() - int64(f.Len())
	if at >= f.end {
		return 0, f.err
	}
	return f.Reader.Read(p[:min(int64(len(p)), f.end-at)])
}

func FuzzDecode(f *testing.F) {
	for _, name := range []string{
		"rgb.png", "rgba.png", "palette_alpha.png", "grey16.png", "bilevel.png", "orientation6.png", "animated.gif",
		"lossless.webp", "lossy.webp", "alpha.webp", "orientation6.webp", "orientation6.jpg", "progressive.jpg", "cmyk.jpg",
		"jpeg/prog_no_eoi.jpg", "jpeg/zero_padded.jpg", "jpeg/2x2_1x1_1x2.jpg",
	} {
		f.Add(readFile(f, name))
	}
	addCases(f, "*")
	d := NewDecoder(Limits{MaxPixels: 1 << 18}, 32)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := d.Decode(t.Context(), bytes.NewReader(data))
		var e *Error
		switch {
		case err == nil:
			if r.Size() != 32 || len(r.pix) != 3*32*32 {
				t.Error("a reference of the wrong size")
			}
		case !errors.As(err, &e) || e.Message == "" || e.Kind == "":
			t.Errorf("error %#v", err)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	var photo bytes.Buffer
	if err := png.Encode(&photo, testPicture(2000, 1500)); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		data []byte
	}{{"PNG3MP", photo.Bytes()}, {"ProgressiveJPEG12MP", picturetest.TallJPEG(readFile(b, "strip.jpg"), 3000, 0)}} {
		b.Run(c.name, func(b *testing.B) {
			d := NewDecoder(Limits{}, 512)
			for b.Loop() {
				if _, err := d.Decode(b.Context(), bytes.NewReader(c.data)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPixelValues(b *testing.B) {
	r := &Reference{size: 512, pix: make([]uint8, 3*512*512)}
	dst := make([]float32, 3*224*224)
	for b.Loop() {
		r.PixelValues(dst, 224)
	}
}
