package picturetest

import (
	"bytes"
	"image"
	_ "image/jpeg"
	"os"
	"testing"
)

func TestTallJPEGIsWhatItClaims(t *testing.T) {
	strip, err := os.ReadFile("../testdata/strip.jpg")
	if err != nil {
		t.Fatal(err)
	}
	file := TallJPEG(strip, 80, 100_000)
	config, _, err := image.DecodeConfig(bytes.NewReader(file))
	if err != nil || config.Width != 4000 || config.Height != 80 {
		t.Fatalf("%+v, %v", config, err)
	}
	m, _, err := image.Decode(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	one, _, err := image.Decode(bytes.NewReader(strip))
	if err != nil {
		t.Fatal(err)
	}
	for y := range 80 {
		for x := 0; x < 4000; x += 7 {
			if m.At(x, y) != one.At(x, y%8) {
				t.Fatalf("pixel %d,%d differs from the strip", x, y)
			}
		}
	}
}
