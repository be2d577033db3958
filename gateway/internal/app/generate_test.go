package app

import (
	"encoding/json"
	"slices"
	"testing"
)

func TestWarningsNameTheFile(t *testing.T) {
	o := order{subjects: []*subject{{name: "anna.jpg"}, {name: "ben.png"}}}
	got := new(generation).warnings(o, json.RawMessage(`{"warnings": [
		{"param": "prompt", "message": "the prompt is too long"},
		{"param": "image[1]", "message": "image[1]: the colour profile was not applied"}]}`))
	if want := []string{"the prompt is too long", "ben.png: the colour profile was not applied"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
