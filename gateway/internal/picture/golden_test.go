package picture

import (
	"bytes"
	"encoding/json"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/facediffuser/facediffuser/internal/golden"
)

// The files in testdata are the reference's (toolkit/goldens/picture.py): files
// of every kind, and what Pillow and PyTorch make of them.

func TestDecodeAsReference(t *testing.T) {
	var index struct {
		ObjectResolution int `json:"object_resolution"`
		Fixtures         map[string]struct{ Lossless bool }
	}
	if err := json.Unmarshal(readFile(t, "index.json"), &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Fixtures) < 30 {
		t.Fatalf("only %d fixtures", len(index.Fixtures))
	}
	d := NewDecoder(Limits{}, index.ObjectResolution)
	for name, fixture := range index.Fixtures {
		t.Run(name, func(t *testing.T) {
			got := decodeFile(t, d, name)
			worst, mean := difference(t, got, name+".object.png")
			isJPEG := filepath.Ext(name) == ".jpg"
			switch {
			case !isJPEG && name != "lossy.webp" && worst != 0:
				t.Errorf("differs by up to %d, mean %.4f; the same pixels must give the same result", worst, mean)
			case (isJPEG || fixture.Lossless) && worst > 3:
				t.Errorf("differs by up to %d; decoders may differ by the rounding of inverse DCT and colour only", worst)
			case mean > 1.5:
				t.Errorf("differs by %.3f in the mean", mean)
			}
		})
	}
}

func TestDecodeAtObjectResolution512(t *testing.T) {
	got := decodeFile(t, NewDecoder(Limits{}, 512), "odd.png")
	if worst, _ := difference(t, got, "odd.png.object512.png"); worst != 0 {
		t.Errorf("differs by up to %d", worst)
	}
}

func TestPixelValuesAsReference(t *testing.T) {
	tensors := openTensors(t)
	for _, c := range []struct {
		file, tensor string
		object, size int
	}{
		{"rgb.png", "rgb.png.pixel_values", 128, 64},
		{"odd.png", "odd.png.pixel_values", 128, 64},
		{"small.png", "small.png.pixel_values", 128, 64},
		{"rgba.png", "rgba.png.pixel_values", 128, 64},
		{"odd.png", "odd.png.pixel_values224", 512, 224},
	} {
		t.Run(c.tensor, func(t *testing.T) {
			want, err := tensors.Float32s(c.tensor)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]float32, 3*c.size*c.size)
			decodeFile(t, NewDecoder(Limits{}, c.object), c.file).PixelValues(got, c.size)
			if len(want) != len(got) {
				t.Fatalf("the golden has %d values, want %d", len(want), len(got))
			}
			worst := 0.0
			for i := range want {
				worst = max(worst, math.Abs(float64(got[i]-want[i])))
			}
			// 1e-6 of [0, 1], then divided by CLIP's standard deviation.
			if limit := 1e-6 / float64(clipStd[1]); worst > limit {
				t.Errorf("differs by up to %.3g, limit %.3g", worst, limit)
			}
		})
	}
}

func TestFromTensorAsReference(t *testing.T) {
	tensors := openTensors(t)
	for _, name := range []string{"ramp", "halves"} {
		values, err := tensors.Float32s(name + ".image")
		if err != nil {
			t.Fatal(err)
		}
		shape := tensors.Tensors[name+".image"].Shape
		got := FromTensor(values, shape[1], shape[2])
		if want := tensors.Tensors[name+".pixels"].Data; !bytes.Equal(got.Pix, want) {
			t.Errorf("%s: pixels differ", name)
		}
	}
}

func openTensors(t *testing.T) *golden.File {
	t.Helper()
	f, err := golden.Open("testdata/tensors.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func decodeFile(t testing.TB, d *Decoder, name string) *Reference {
	t.Helper()
	r, err := d.Decode(t.Context(), bytes.NewReader(readFile(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// difference compares with the pixels of a PNG: the largest difference in any
// channel and the mean.
func difference(t *testing.T, got *Reference, file string) (worst int, mean float64) {
	t.Helper()
	m, err := png.Decode(bytes.NewReader(readFile(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	if m.Bounds() != image.Rect(0, 0, got.Size(), got.Size()) {
		t.Fatalf("%s is %v, the reference is %d pixels a side", file, m.Bounds(), got.Size())
	}
	sum := 0
	for i, v := range got.pix {
		r, g, b, _ := m.At(i/3%got.size, i/3/got.size).RGBA()
		d := int(v) - int([]uint32{r, g, b}[i%3]>>8)
		worst, sum = max(worst, d, -d), sum+max(d, -d)
	}
	return worst, float64(sum) / float64(len(got.pix))
}
