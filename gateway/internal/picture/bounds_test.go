package picture

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"image"
	"io"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/gateway/internal/picture/picturetest"
)

// Small pictures whose decoders hold much more than their pixels do not take the
// places of photographs.
func TestTreesOfLosslessWebPAreHeavy(t *testing.T) {
	found := 0
	for _, bomb := range picturetest.Bombs() {
		if !strings.HasSuffix(bomb.Name, "sets of trees, 208×208") {
			continue
		}
		found++
		h, err := webpHeader(bytes.NewReader(bomb.File()))
		if err != nil {
			t.Fatal(err)
		}
		if h.width != 208 || h.height != 208 || h.memory < 120<<20 {
			t.Errorf("%d×%d pixels and %d MiB, want 208×208 and at least 120", h.width, h.height, h.memory>>20)
		}
	}
	if found != 1 {
		t.Errorf("%d bombs found, want 1", found)
	}
	// An ordinary small one is light, whatever its chunk claims to hold.
	file := readFile(t, "lossless.webp")
	at := bytes.Index(file, []byte("VP8L"))
	copy(file[at+4:], "\xff\xff\xff\x7f")
	h, err := webpHeader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if h.memory > lightMemory {
		t.Errorf("%d MiB", h.memory>>20)
	}
}

// Behind the end of a lossless WebP its decoder asks on, up to four times a pixel.
func TestEndOfDataEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	r := &bitReader{ctx: ctx, r: bufio.NewReader(strings.NewReader("ab"))}
	for _, want := range []byte("ab") {
		if c, err := r.ReadByte(); c != want || err != nil {
			t.Fatalf("%q, %v", c, err)
		}
	}
	for range 1 << 18 {
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	gone := errors.New("gone")
	cancel(gone)
	for range 1 << 17 {
		if _, err := r.ReadByte(); errors.Is(err, gone) {
			return
		}
	}
	t.Error("goes on")
}

func TestRowsEndWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	m := image.NewGray(image.Rect(0, 0, 8, 8))
	if err := newSquarer(8, 8, 1, 4).addImage(ctx, m, make([]byte, 3*8), nil); !errors.Is(err, gone) {
		t.Errorf("error %v", err)
	}
}
