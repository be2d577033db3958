package picture

import (
	"bytes"
	"encoding/json"
	"errors"
	"image"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/bep/imagemeta"
	"golang.org/x/image/webp"

	_ "image/jpeg"
	_ "image/png"
)

func testPicture(w, h int) *Picture {
	p := &Picture{Width: w, Height: h, Pix: make([]uint8, 3*w*h)}
	for i := range p.Pix {
		x, y := i/3%w, i/3/w
		p.Pix[i] = uint8(128 + 100*math.Sin(float64(x*(i%3+1))/17+float64(y)/11))
	}
	return p
}

func encode(t testing.TB, p *Picture, e Encoding) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Encode(&out, p, e); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var metaFormats = map[string]imagemeta.ImageFormat{JPEG: imagemeta.JPEG, WebP: imagemeta.WebP}

// xmp reads the XMP of a file with a library. It does not look into iTXt chunks,
// so a PNG's packet is handed to it as a JPEG's.
func xmp(t *testing.T, format string, file []byte) map[string]imagemeta.TagInfo {
	t.Helper()
	if format == PNG {
		_, packet, found := bytes.Cut(file, []byte("iTXtXML:com.adobe.xmp\x00\x00\x00\x00\x00"))
		packet, rest, ended := bytes.Cut(packet, []byte(`<?xpacket end="r"?>`))
		if !found || !ended || len(rest) < 12 {
			t.Fatal("the PNG has no XMP")
		}
		format = JPEG
		file = append([]byte("\xff\xd8\xff\xe1"), byte((len(packet)+31)>>8), byte(len(packet)+31))
		file = append(append(file, "http://ns.adobe.com/xap/1.0/\x00"...), packet...)
		file = append(file, 0xff, 0xd9)
	}
	var tags imagemeta.Tags
	_, err := imagemeta.Decode(imagemeta.Options{
		R: bytes.NewReader(file), ImageFormat: metaFormats[format], Sources: imagemeta.XMP,
		HandleTag: func(tag imagemeta.TagInfo) error { tags.Add(tag); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return tags.XMP()
}

func TestEncodeKeepsThePicture(t *testing.T) {
	p := testPicture(67, 41) // WebP chunks of odd length among the sizes
	parameters := []byte(`{"prompt":"x","seed":1}`)
	for _, format := range []string{PNG, WebP, JPEG} {
		for _, embed := range []bool{false, true} {
			file := encode(t, p, Encoding{Format: format, Compression: 100, Parameters: parameters, EmbedParameters: embed, EmbedXMP: embed})
			m, name, err := image.Decode(bytes.NewReader(file))
			if err != nil || name != format {
				t.Fatalf("%s, embedding %v: %q, %v", format, embed, name, err)
			}
			if m.Bounds() != p.Bounds() {
				t.Fatalf("%s is %v", format, m.Bounds())
			}
			worst := 0
			for i, v := range p.Pix {
				r, g, b, _ := m.At(i/3%p.Width, i/3/p.Width).RGBA()
				d := int(v) - int([]uint32{r, g, b}[i%3]>>8)
				worst = max(worst, d, -d)
			}
			if limit := map[string]int{JPEG: 70}[format]; worst > limit { // JPEG halves the chroma of this rainbow
				t.Errorf("%s, embedding %v: differs by up to %d, limit %d", format, embed, worst, limit)
			}
		}
	}
}

func TestParametersReturn(t *testing.T) {
	p := testPicture(16, 16)
	for name, prompt := range map[string]string{
		"plain":   "a woman <|image|> reading in the snow at night",
		"unicode": "une femme à l’école 🎨 & <b>\"quotes\"</b>\n\ttab \u2028",
		"long":    strings.Repeat("très long, ", 20000), // several JPEG segments
	} {
		want, err := json.Marshal(map[string]any{"prompt": prompt, "seed": 4294967295})
		if err != nil {
			t.Fatal(err)
		}
		for _, format := range []string{PNG, JPEG, WebP} {
			for _, xmp := range []bool{false, true} {
				file := encode(t, p, Encoding{Format: format, Compression: 80, Parameters: want, EmbedParameters: true, EmbedXMP: xmp})
				got, err := ReadParameters(bytes.NewReader(file))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, %s: %d bytes, want %d; %v", name, format, len(got), len(want), err)
				}
			}
		}
	}
}

func TestSyntheticMark(t *testing.T) {
	p := testPicture(16, 16)
	for _, format := range []string{PNG, JPEG, WebP} {
		for _, embed := range []bool{false, true} {
			e := Encoding{Format: format, Compression: 80, Parameters: []byte(`{"seed":1}`), EmbedParameters: embed, EmbedXMP: true}
			tags := xmp(t, format, encode(t, p, e))
			source := tags["DigitalSourceType"]
			if source.Value != digitalSourceType || source.Namespace != namespaceIPTC {
				t.Errorf("%s: DigitalSourceType is %+v", format, source)
			}
			if tool := tags["CreatorTool"]; tool.Value != creatorTool || tool.Namespace != namespaceXMP {
				t.Errorf("%s: CreatorTool is %+v", format, tool)
			}
			if len(tags) > 3 {
				t.Errorf("%s: more than is meant to be there: %v", format, tags)
			}
		}
	}
}

func TestNothingEmbeddedWhenSwitchedOff(t *testing.T) {
	p := testPicture(16, 16)
	for _, format := range []string{PNG, JPEG, WebP} {
		file := encode(t, p, Encoding{Format: format, Compression: 80, Parameters: []byte(`{"prompt":"secret"}`)})
		if _, err := ReadParameters(bytes.NewReader(file)); !errors.Is(err, ErrNoParameters) {
			t.Errorf("%s: error %v, want ErrNoParameters", format, err)
		}
		for _, word := range []string{"secret", "Face-Diffuser", parametersKey, "trainedAlgorithmicMedia"} {
			if bytes.Contains(file, []byte(word)) {
				t.Errorf("%s holds %q", format, word)
			}
		}
	}
}

func TestEncodeIsDeterministic(t *testing.T) {
	p := testPicture(64, 48)
	for _, format := range []string{PNG, JPEG, WebP} {
		e := Encoding{Format: format, Compression: 90, Parameters: []byte(`{"seed":1}`), EmbedParameters: true, EmbedXMP: true}
		if first := encode(t, p, e); !bytes.Equal(first, encode(t, p, e)) {
			t.Errorf("%s: two encodings differ", format)
		}
	}
}

func TestCompressionIsQuality(t *testing.T) {
	p := testPicture(128, 128)
	sizes := []int{}
	for _, quality := range []int{0, 50, 100} {
		sizes = append(sizes, len(encode(t, p, Encoding{Format: JPEG, Compression: quality})))
	}
	if sizes[0] >= sizes[1] || sizes[1] >= sizes[2] {
		t.Errorf("sizes %v do not grow", sizes)
	}
	for _, quality := range []int{-1, 101} {
		if err := Encode(io.Discard, p, Encoding{Format: JPEG, Compression: quality}); err == nil {
			t.Errorf("compression %d is accepted", quality)
		}
	}
	if err := Encode(io.Discard, p, Encoding{Format: "gif"}); err == nil {
		t.Error("gif is accepted")
	}
}

// A WebP made here must be one for the decoder of uploads as well: pictures come
// back as references.
func TestWebPDecodesWithAnotherLibrary(t *testing.T) {
	file := encode(t, testPicture(33, 17), Encoding{Format: WebP, EmbedXMP: true})
	if _, err := webp.Decode(bytes.NewReader(file)); err != nil {
		t.Error(err)
	}
	if size := int(file[4]) | int(file[5])<<8 | int(file[6])<<16; size != len(file)-8 {
		t.Errorf("the header says %d bytes, the file has %d", size, len(file)-8)
	}
}

func TestFromTensorClampsAndIgnoresNaN(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	got := FromTensor([]float32{-3, 3, nan, -inf, inf, 0}, 1, 2).Pix
	if want := []uint8{0, 0, 255, 255, 0, 128}; !bytes.Equal(got, want) { // 127.5 rounds to even
		t.Errorf("pixels %v, want %v", got, want)
	}
}

func FuzzReadParameters(f *testing.F) {
	p := testPicture(8, 8)
	for _, format := range []string{PNG, JPEG, WebP} {
		f.Add(encode(f, p, Encoding{Format: format, Parameters: []byte(`{"seed":1}`), EmbedParameters: true, EmbedXMP: true}))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if parameters, err := ReadParameters(bytes.NewReader(file)); err == nil && !json.Valid(parameters) {
			t.Errorf("%q is not JSON", parameters)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	p := testPicture(512, 512)
	for _, format := range []string{PNG, JPEG, WebP} {
		b.Run(format, func(b *testing.B) {
			for b.Loop() {
				if err := Encode(io.Discard, p, Encoding{Format: format, Compression: 90, EmbedXMP: true}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFromTensor(b *testing.B) {
	image := make([]float32, 3*512*512)
	for b.Loop() {
		FromTensor(image, 512, 512)
	}
}
