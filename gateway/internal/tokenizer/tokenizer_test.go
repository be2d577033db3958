package tokenizer

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/facediffuser/facediffuser/internal/golden"
)

// vocabularyDir holds CLIP's vocabulary, as a model family ships it.
const vocabularyDir = "../../../model_repository/mini/tokenizer"

var loadOnce = sync.OnceValues(func() (*Tokenizer, error) { return Load(vocabularyDir) })

func load(t testing.TB) *Tokenizer {
	t.Helper()
	tok, err := loadOnce()
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func readLines[T any](t *testing.T, path string, header any) []T {
	t.Helper()
	cases, err := golden.ReadLines[T](path, header)
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestEncodeEqualsReferenceOnStrings(t *testing.T) {
	type text struct {
		Text   string  `json:"text"`
		IDs    []int64 `json:"ids"`
		CutIDs []int32 `json:"cut_ids"`
	}
	tok := load(t)
	cases := readLines[text](t, "testdata/strings.jsonl.gz", &json.RawMessage{})
	if len(cases) < 10_000 {
		t.Fatalf("only %d strings", len(cases))
	}
	cut := 0
	for _, c := range cases {
		got, err := tok.Encode(c.Text)
		if err != nil {
			t.Errorf("%q: %v", c.Text, err)
			continue
		}
		want := slices.Clone(c.IDs)
		for len(want) < Length {
			want = append(want, int64(tok.end))
		}
		if !slices.Equal(got.IDs, want) {
			t.Errorf("%q:\n got %v\nwant %v", c.Text, got.IDs, want)
		}
		if got.Text != c.Text {
			t.Errorf("%q became %q", c.Text, got.Text)
		}
		if got.Truncated != (len(c.CutIDs) > 0) {
			t.Errorf("%q: truncated %v, %d ids should have been cut", c.Text, got.Truncated, len(c.CutIDs))
		}
		if got.Truncated {
			cut++
			if got.TruncatedText != tok.decode(c.CutIDs) {
				t.Errorf("%q: %q was cut, want %q", c.Text, got.TruncatedText, tok.decode(c.CutIDs))
			}
		}
	}
	if cut == 0 {
		t.Error("no string is too long")
	}
}

func TestMarkersEqualReference(t *testing.T) {
	type marked struct {
		Prompt    string  `json:"prompt"`
		IDs       []int64 `json:"ids"`
		Positions []int   `json:"positions"`
		Text      string  `json:"text"`
		Error     Reason  `json:"error"`
	}
	tok := load(t)
	seen := map[Reason]int{}
	for _, c := range readLines[marked](t, "testdata/markers.jsonl.gz", &json.RawMessage{}) {
		seen[c.Error]++
		got, err := tok.Encode(c.Prompt)
		if reason := reasonOf(t, err); reason != c.Error {
			t.Errorf("%q: error %q (%v), want %q", c.Prompt, reason, err, c.Error)
			continue
		}
		if err != nil {
			continue
		}
		if !slices.Equal(got.IDs, c.IDs) || !slices.Equal(got.Positions, c.Positions) {
			t.Errorf("%q:\n got %v at %v\nwant %v at %v", c.Prompt, got.IDs, got.Positions, c.IDs, c.Positions)
		}
		if got.Text != c.Text {
			t.Errorf("%q: text %q, want %q", c.Prompt, got.Text, c.Text)
		}
	}
	for _, reason := range []Reason{"", NoWord, FollowsMarker, InsideWord, BeyondCut} {
		if seen[reason] == 0 {
			t.Errorf("no case of %q", reason)
		}
	}
}

// reasonOf is the reason of a PromptError, and "" without an error.
func reasonOf(t *testing.T, err error) Reason {
	t.Helper()
	if err == nil {
		return ""
	}
	var prompt *PromptError
	if !errors.As(err, &prompt) {
		t.Fatalf("error %v is not a PromptError", err)
	}
	return prompt.Reason
}

func TestPlacementsEqualReference(t *testing.T) {
	type placement struct {
		Prompt string `json:"prompt"`
		Images int    `json:"images"`
		Used   string `json:"used"`
		Error  Reason `json:"error"`
	}
	var header struct {
		PersonNouns []string `json:"person_nouns"`
	}
	seen := map[Reason]int{}
	for _, c := range readLines[placement](t, "testdata/placements.jsonl.gz", &header) {
		seen[c.Error]++
		used, err := PlaceMarkers(c.Prompt, c.Images, header.PersonNouns)
		if reason := reasonOf(t, err); reason != c.Error || used != c.Used {
			t.Errorf("%q with %d images: %q, %q; want %q, %q", c.Prompt, c.Images, used, reason, c.Used, c.Error)
		}
	}
	for _, reason := range []Reason{"", Count, Placement} {
		if seen[reason] == 0 {
			t.Errorf("no case of %q", reason)
		}
	}
}

func TestPlacementMessages(t *testing.T) {
	nouns := []string{"woman", "man"}
	for _, c := range []struct {
		prompt string
		images int
		want   string
	}{
		{"a woman <|image|> and a man <|image|>", 1, "the prompt has 2 markers <|image|>, but there is 1 reference image"},
		{"a woman <|image|>", 3, "the prompt has 1 marker <|image|>, but there are 3 reference images"},
		{"a woman <|image|>", 0, "the prompt has 1 marker <|image|>, but there are 0 reference images"},
		{"a woman and a dog in the snow", 2, `"a woman <|image|> and a dog <|image|> in the snow"`},
		{"a man, a woman and another man", 2, `"a man <|image|>, a woman <|image|> and another man"`},
		{"a chef in the kitchen", 1, `"a chef <|image|> in the kitchen"`},
		{"at sea", 2, `"at sea <|image|> and a person <|image|>"`},
	} {
		_, err := PlaceMarkers(c.prompt, c.images, nouns)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q with %d images: %v, want %q", c.prompt, c.images, err, c.want)
		}
	}
}

// What the example of a placement error says must itself be accepted.
func TestPlacementExamplesAreValidPrompts(t *testing.T) {
	tok := load(t)
	nouns := []string{"woman", "man"}
	for _, prompt := range []string{"a woman and a dog", "at sea", "two men, laughing", "", "woman man woman man woman", "«él» and élan", "3 2 1"} {
		for images := 1; images <= 4; images++ {
			_, err := PlaceMarkers(prompt, images, nouns)
			if err == nil {
				continue
			}
			_, quoted, _ := strings.Cut(err.Error(), "for example ")
			var shown string
			if err := json.Unmarshal([]byte(quoted), &shown); err != nil {
				t.Fatalf("%q: %v", quoted, err)
			}
			if used, err := PlaceMarkers(shown, images, nouns); err != nil || used != shown {
				t.Errorf("%q with %d images: the example %q is refused: %v", prompt, images, shown, err)
			}
			if _, err := tok.Encode(shown); err != nil {
				t.Errorf("%q with %d images: the example %q is refused: %v", prompt, images, shown, err)
			}
		}
	}
}

// A prompt of one endless word must not cost quadratic time, which would be minutes here.
func TestLongWordsAreFast(t *testing.T) {
	tok := load(t)
	start := time.Now()
	got, err := tok.Encode(strings.Repeat("abracadabra", 20_000))
	if err != nil {
		t.Fatal(err)
	}
	if !got.Truncated || len(got.IDs) != Length {
		t.Errorf("truncated %v, %d ids", got.Truncated, len(got.IDs))
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("a word of 220,000 letters took %v", took)
	}
}

func TestLoadErrors(t *testing.T) {
	vocab, err := os.ReadFile(filepath.Join(vocabularyDir, "vocab.json"))
	if err != nil {
		t.Fatal(err)
	}
	merges, err := os.ReadFile(filepath.Join(vocabularyDir, "merges.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, vocab, merges, want string }{
		{"no vocabulary", "", string(merges), "vocab.json"},
		{"no merges", string(vocab), "", "merges.txt"},
		{"not JSON", "{", string(merges), "vocab.json"},
		{"id out of range", `{"a": 7}`, string(merges), `id 7 of "a" is outside of 0 to 0`},
		{"no special tokens", `{"a": 0}`, string(merges), `no token "<|startoftext|>"`},
		{"unknown merge", string(vocab), "q qqqqq", `line 1: "q qqqqq" joins symbols`},
		{"no pair", string(vocab), "#version: 0.2\nqueue\n", "line 2"},
	} {
		dir := t.TempDir()
		for name, content := range map[string]string{"vocab.json": c.vocab, "merges.txt": c.merges} {
			if content == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func FuzzEncode(f *testing.F) {
	for _, seed := range []string{
		"", "a woman <|image|> reading in the snow", "<|image|>", "it's <|ENDOFTEXT|>!!", "İstanbul ΑΣ é\u0301 👩‍🚀", "\xff\xfe<|image|>\x80",
		strings.Repeat("word ", 90) + "<|image|>", "a<|image|><|image|>b", "<|startoftext|> <|endoftext|><|image|>",
	} {
		f.Add(seed)
	}
	tok := load(f)
	f.Fuzz(func(t *testing.T, prompt string) {
		got, err := tok.Encode(prompt)
		if err != nil {
			if reasonOf(t, err) == "" || !strings.Contains(prompt, Marker) {
				t.Fatalf("%q: %v", prompt, err)
			}
			return
		}
		if len(got.IDs) != Length || got.IDs[0] != int64(tok.start) || got.IDs[Length-1] != int64(tok.end) {
			t.Fatalf("%q: ids %v", prompt, got.IDs)
		}
		for _, id := range got.IDs {
			if id < 0 || id >= int64(len(tok.text)) {
				t.Fatalf("%q: id %d", prompt, id)
			}
		}
		if len(got.Positions) != strings.Count(prompt, Marker) {
			t.Fatalf("%q: %d positions", prompt, len(got.Positions))
		}
		for i, p := range got.Positions {
			if p < 1 || p > Length-2 || i > 0 && p <= got.Positions[i-1] {
				t.Fatalf("%q: positions %v", prompt, got.Positions)
			}
		}
		if strings.Contains(got.Text, Marker) && !strings.Contains(prompt, Marker) {
			t.Fatalf("%q: text %q", prompt, got.Text)
		}
		// Markers change nothing but positions: words with a marker behind them tokenise alike.
		if strings.Contains(prompt, Marker) {
			spaced, err := tok.Encode(strings.ReplaceAll(prompt, Marker, " "))
			if err != nil || !slices.Equal(spaced.IDs, got.IDs) {
				t.Fatalf("%q: ids %v with markers, %v without (%v)", prompt, got.IDs, spaced.IDs, err)
			}
		}
	})
}

func FuzzPlaceMarkers(f *testing.F) {
	f.Add("a woman and a man in the snow", uint8(2))
	f.Add("img and IMG <|image|>", uint8(1))
	f.Add("WOMAN\xff", uint8(1))
	f.Fuzz(func(t *testing.T, prompt string, images uint8) {
		used, err := PlaceMarkers(prompt, int(images%6), []string{"woman", "man"})
		if err != nil {
			if reason := reasonOf(t, err); reason != Count && reason != Placement {
				t.Fatalf("%q: %v", prompt, err)
			}
			return
		}
		if got := strings.Count(used, Marker); got != int(images%6) {
			t.Fatalf("%q with %d images became %q", prompt, images%6, used)
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := Load(vocabularyDir); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	tok := load(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tok.Encode("a woman <|image|> and a man <|image|> reading the newspaper in the snow at night, watercolour"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestWords(t *testing.T) {
	got := Words("A Woman's T-shirt,\n2 cafe\u0301s \xff!")
	want := []string{"a", "woman", "t", "shirt", "2", "caf\u00e9s"}
	if !slices.Equal(got, want) {
		t.Errorf("words %q, want %q", got, want)
	}
	if got := Words(" … "); len(got) != 0 {
		t.Errorf("words %q of punctuation", got)
	}
}
