package picture

import (
	"bytes"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/gateway/internal/picture/picturetest"
)

// One photograph that several programs have written or damaged: the picture is
// the plain one's, whose pixels Pillow agrees with (jpegrows compares them).
func TestJPEGsOfOnePhotograph(t *testing.T) {
	d := NewDecoder(Limits{}, 128)
	plain := decodeFile(t, d, "jpeg/plain.jpg")
	for _, c := range []struct {
		name string
		mean float64 // difference that the other sampling of chroma makes
	}{
		{"no_eoi.jpg", 0},
		{"prog_no_eoi.jpg", 0},
		{"zero_padded.jpg", 0},
		{"2x2_1x1_1x2.jpg", 0.5},
		{"2x2_1x1_2x2.jpg", 0.5},
	} {
		got := decodeFile(t, d, "jpeg/"+c.name)
		sum := 0
		for i, v := range got.pix {
			sum += max(int(v)-int(plain.pix[i]), int(plain.pix[i])-int(v))
		}
		if mean := float64(sum) / float64(len(got.pix)); mean > c.mean {
			t.Errorf("%s differs from the plain file by %.3f in the mean, want at most %.3f", c.name, mean, c.mean)
		}
	}
}

func TestJPEGErrorsSayWhatToDo(t *testing.T) {
	d := NewDecoder(Limits{}, 64)
	plain := readFile(t, "jpeg/plain.jpg")
	var many []string
	for range 20 {
		many = append(many, picturetest.ScanMeans, picturetest.ScanTexture(1), picturetest.ScanTexture(2), picturetest.ScanTexture(3))
	}
	for _, c := range []struct {
		name string
		data []byte
		kind Kind
		says string
	}{
		{"half a file", plain[:len(plain)/2], KindCorrupt, "the JPEG is cut off before its end"},
		{"a progressive file within its first scan", readFile(t, "progressive.jpg")[:300], KindCorrupt, "the JPEG is cut off before its end"},
		{"half a file that says it is whole", append(bytes.Clone(plain[:len(plain)/2]), 0xff, 0xd9), KindCorrupt, "the JPEG is damaged"},
		{"arithmetic coding", bytes.Replace(plain, []byte{0xff, 0xc0}, []byte{0xff, 0xc9}, 1), KindUnsupportedFormat, "arithmetic coding); save it again as an ordinary PNG or JPEG"},
		{"scan upon scan", picturetest.FlatJPEG(4000, 3000, 0x11, many...), KindUnsupportedFormat, "more scans than encoders write); save it again as an ordinary PNG or JPEG"},
		{"too much memory", cmyk(picturetest.FlatJPEG(7000, 7000, 0x11, picturetest.ScanMeans)), KindTooManyPixels, "7000×7000 pixels of a kind that takes too much memory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if kind, message := kindOf(t, d, c.data); kind != c.kind || !strings.Contains(message, c.says) {
				t.Errorf("%s: %q; want %s: …%s…", kind, message, c.kind, c.says)
			}
		})
	}
}

// cmyk adds a fourth component to the frame of a flat file.
func cmyk(file []byte) []byte {
	at := bytes.Index(file, []byte{0xff, 0xc2})
	frame := bytes.Clone(file[at : at+19])
	frame[3], frame[9] = 20, 4
	return append(append(append(bytes.Clone(file[:at]), frame...), 4, 0x11, 0), file[at+19:]...)
}
