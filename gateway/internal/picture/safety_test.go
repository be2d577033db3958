package picture

import (
	"bytes"
	"fmt"
	"image/png"
	"testing"

	"github.com/facediffuser/facediffuser/internal/golden"
)

// safety.safetensors holds what transformers' CLIPImageProcessor makes of PNG
// files of this folder, whole arrays (toolkit/goldens/picture.py).
func TestPixelValuesOfAPictureAreCLIPImageProcessors(t *testing.T) {
	tensors, err := golden.Open("testdata/safety.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file string
		size int
	}{
		{"odd.png.object512.png", 224}, // Stable Diffusion's sizes
		{"rgb.png", 64},                // lying, enlarged a little
		{"odd.png", 32},                // standing, by odd factors
		{"small.png", 64},              // enlarged a lot
		{"noise.png", 32},              // black and white by turns: bicubic leaves 0 … 255
		{"noise.png", 48},              // its own height: cut alone
	} {
		name := fmt.Sprintf("%s.clip%d", c.file, c.size)
		t.Run(name, func(t *testing.T) {
			want, err := tensors.Float32s(name)
			if err != nil {
				t.Fatal(err)
			}
			m, err := png.Decode(bytes.NewReader(readFile(t, c.file)))
			if err != nil {
				t.Fatal(err)
			}
			p := &Picture{Width: m.Bounds().Dx(), Height: m.Bounds().Dy()}
			for i := range p.Width * p.Height {
				r, g, b, _ := m.At(i%p.Width, i/p.Width).RGBA()
				p.Pix = append(p.Pix, uint8(r>>8), uint8(g>>8), uint8(b>>8))
			}
			if len(want) != 3*c.size*c.size {
				t.Fatalf("the golden has %d values, want %d", len(want), 3*c.size*c.size)
			}
			got := make([]float32, len(want))
			p.PixelValues(got, c.size)
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("value %d is %v, want %v, to the last bit", i, got[i], want[i])
				}
			}
		})
	}
}
