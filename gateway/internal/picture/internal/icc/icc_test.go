package icc

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
)

// What profiles do to pixels is tested against Little CMS in picture.

func TestSRGBCostsNothing(t *testing.T) {
	shifted := bytes.Clone(profileIn(t, "p3.webp"))
	// sRGB's primaries in place of P3's (IEC 61966-2-1 Annex F, adapted to D50).
	for tag, column := range map[string][3]float64{
		"rXYZ": {0.4360, 0.2225, 0.0139}, "gXYZ": {0.3851, 0.7169, 0.0971}, "bXYZ": {0.1431, 0.0606, 0.7141},
	} {
		content := profile(shifted).tag(tag)
		for i, v := range column {
			binary.BigEndian.PutUint32(content[8+4*i:], uint32(int32(v*(1<<16))))
		}
	}
	if got, err := New(shifted, RGB); got != nil || err != nil {
		t.Errorf("got %v, %v, want neither a transform nor an error", got, err)
	}
	if got, err := New(profileIn(t, "p3.webp"), RGB); got == nil || err != nil {
		t.Errorf("P3: got %v, %v, want a transform", got, err)
	}
}

func FuzzNew(f *testing.F) {
	for _, name := range []string{"p3.webp", "p3_alpha.webp", "adobe_lossy.webp"} {
		f.Add(profileIn(f, name))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, space := range []Space{RGB, Gray, CMYK} {
			transform, err := New(data, space)
			if err != nil && transform != nil {
				t.Errorf("%s: a transform and the error %v", space, err)
			}
			if transform == nil {
				continue
			}
			if space == CMYK {
				t.Error("a transform for CMYK")
			}
			for v := range 256 {
				pixel := []uint8{uint8(v), uint8(v * 7), uint8(255 - v)}
				if space == Gray {
					pixel = []uint8{uint8(v), uint8(v), uint8(v)}
				}
				transform.Convert(pixel)
			}
		}
	})
}

// profileIn returns the profile of a WebP of picture's.
func profileIn(tb testing.TB, name string) []byte {
	tb.Helper()
	file, err := os.ReadFile("../../testdata/colour/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	_, chunk, found := bytes.Cut(file, []byte("ICCP"))
	if !found {
		tb.Fatalf("%s has no profile", name)
	}
	size := binary.LittleEndian.Uint32(chunk)
	return bytes.Clone(chunk[4 : 4+size])
}
