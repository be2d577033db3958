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

// Where a prompt is cut, what is before is read whole and the next word is not.
func TestCut(t *testing.T) {
	tok := load(t)
	for _, c := range []struct{ prompt, read string }{
		{"a woman <|image|> in the snow", "a woman <|image|> in the snow"},
		{strings.Repeat("cat ", 80), strings.Repeat("cat ", 74) + "cat"},
		{"a woman <|image|> " + strings.Repeat("cat ", 80), "a woman <|image|> " + strings.Repeat("cat ", 72) + "cat"},
		{strings.Repeat("cat ", 74) + "unphotographable dog", strings.Repeat("cat ", 74) + "un"}, // the first piece of a word fits
		{strings.Repeat("<|startoftext|>", 80), strings.Repeat("<|startoftext|>", 75)},
		{strings.Repeat("猫", 100), ""},
	} {
		got := tok.Cut(c.prompt)
		if c.read != "" && strings.TrimRight(c.prompt[:got], " ") != c.read {
			t.Errorf("%q is read up to %q, want %q", c.prompt, c.prompt[:got], c.read)
		}
		read, err := tok.Encode(c.prompt[:got])
		if err != nil || read.Truncated {
			t.Errorf("%q is read up to %d, but that is cut itself (%v)", c.prompt, got, err)
		}
		whole, err := tok.Encode(c.prompt)
		if bare := strings.NewReplacer(" ", "", Marker, ""); whole.Truncated && strings.HasPrefix(c.prompt, "cat") && bare.Replace(c.prompt[:got]+whole.TruncatedText) != bare.Replace(c.prompt) {
			t.Errorf("%q is read up to %q, and %q was cut", c.prompt, c.prompt[:got], whole.TruncatedText)
		}
		if err != nil || whole.Truncated != (got < len(c.prompt)) || whole.Truncated && read.Tokens < Length-1 {
			t.Errorf("%q: cut at %d of %d with %d tokens before, truncated %v (%v)", c.prompt, got, len(c.prompt), read.Tokens, whole.Truncated, err)
		}
	}
}

func TestWords(t *testing.T) {
	const text = "A Woman's T-shirt,\n2 cafe\u0301s \xff!"
	got := Words(text)
	want := []Word{{"a", 0, 1}, {"woman", 2, 7}, {"t", 10, 11}, {"shirt", 12, 17}, {"2", 19, 20}, {"caf\u00e9s", 21, 28}}
	if !slices.Equal(got, want) {
		t.Errorf("words %v, want %v", got, want)
	}
	if got := Words(" … "); len(got) != 0 {
		t.Errorf("words %v of punctuation", got)
	}
}

func TestTokensAreCounted(t *testing.T) {
	tok := load(t)
	for prompt, want := range map[string]int{"": 2, "a cat": 4, "a woman <|image|> in snow": 6, strings.Repeat("cat ", 100): 102} {
		if got, err := tok.Encode(prompt); err != nil || got.Tokens != want {
			t.Errorf("%q has %d tokens, want %d (%v)", prompt, got.Tokens, want, err)
		}
	}
}
