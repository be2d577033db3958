package app

import (
	"encoding/json"
	"slices"
	"testing"
)

func TestWarningsNameTheFile(t *testing.T) {
	g := &generation{subjects: []string{"anna.jpg", "ben.png"}}
	got := g.warnings(json.RawMessage(`{"warnings": [
		{"param": "prompt", "message": "the prompt is too long"},
		{"param": "image[1]", "message": "image[1]: the colour profile was not applied"}]}`))
	if want := []string{"the prompt is too long", "ben.png: the colour profile was not applied"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
