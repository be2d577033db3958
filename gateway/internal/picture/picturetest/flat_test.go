package picturetest

import (
	"bytes"
	"image"
	"image/color"
	_ "image/jpeg"
	"testing"
)

func TestFlatJPEGIsWhatItClaims(t *testing.T) {
	for _, factors := range []byte{0x11, 0x21, 0x22} {
		file := FlatJPEG(100, 60, factors, ScanMeans, ScanTexture(1), ScanTexture(3), ScanTexture(2), ScanTextureLast(2), ScanMeansLast, ScanTextureLast(3), ScanTextureLast(1))
		m, _, err := image.Decode(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		if m.Bounds() != image.Rect(0, 0, 100, 60) {
			t.Errorf("%v", m.Bounds())
		}
		for y := range 60 {
			for x := range 100 {
				if r, g, b, _ := m.At(x, y).RGBA(); r>>8 != 128 || g>>8 != 128 || b>>8 != 128 {
					t.Fatalf("pixel %d,%d is %v", x, y, color.RGBAModel.Convert(m.At(x, y)))
				}
			}
		}
	}
}
