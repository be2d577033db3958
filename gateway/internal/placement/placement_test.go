package placement_test

import (
	"bufio"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/placement"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
	"github.com/facediffuser/facediffuser/internal/golden"
)

const repository = "../../../model_repository/mini"

// nouns are those of a family that takes any sentence (toolkit/export/description.py).
var nouns = strings.Fields("woman man girl boy lady gentleman guy person child kid baby teenager mother father grandmother grandfather " +
	"sister brother friend actor actress astronaut chef doctor king queen student teacher")

var anySentence = sync.OnceValue(func() *placement.Placer { return placement.New(nouns, nil) })

// mini is a placer for the family that ships.
func mini(t testing.TB) *placement.Placer {
	t.Helper()
	f, err := family.Load(repository)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, group := range f.Vocabulary {
		for _, phrase := range group.Phrases {
			for _, word := range tokenizer.Words(phrase) {
				known[word.Text] = true
			}
		}
	}
	return placement.New(f.PersonNouns, func(word string) bool { return known[word] })
}

var loadTokenizer = sync.OnceValues(func() (*tokenizer.Tokenizer, error) { return tokenizer.Load(repository + "/tokenizer") })

type sentence struct {
	line     int
	placer   *placement.Placer
	images   int
	rung     string // or 400
	prompt   string
	want     string
	original string
}

// readSentences reads the table that testdata/sentences.tsv explains at its top.
func readSentences(t testing.TB) []sentence {
	t.Helper()
	file, err := os.Open("testdata/sentences.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	placer := anySentence()
	written := strings.NewReplacer("•", tokenizer.Marker, `\u200b`, "\u200b", `\u200d`, "\u200d")
	var all []sentence
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "# family mini" {
			placer = mini(t)
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		columns := strings.Split(line, "\t")
		if len(columns) != 4 {
			t.Fatalf("line %d has %d columns, want 4: %q", n, len(columns), line)
		}
		images, err := strconv.Atoi(columns[0])
		if err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
		s := sentence{line: n, placer: placer, images: images, rung: columns[1], prompt: written.Replace(columns[2]), original: columns[2]}
		s.want = written.Replace(columns[3])
		if s.want == "~" {
			s.want = s.prompt
		}
		all = append(all, s)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(all) < 200 {
		t.Fatalf("only %d sentences", len(all))
	}
	return all
}

func TestSentences(t *testing.T) {
	for _, s := range readSentences(t) {
		placed, err := s.placer.Place(s.prompt, s.images)
		if s.rung == "400" {
			var prompt *tokenizer.PromptError
			if !errors.As(err, &prompt) || prompt.Reason != tokenizer.Count {
				t.Errorf("line %d: %q with %d images became %q (%v), want a contradiction", s.line, s.original, s.images, placed.Prompt, err)
			}
			continue
		}
		if err != nil || placed.Prompt != s.want {
			t.Errorf("line %d: %d images and %q:\n got %q (%v)\nwant %q", s.line, s.images, s.original, placed.Prompt, err, s.want)
			continue
		}
		if string(placed.Rung) != s.rung {
			t.Errorf("line %d: %q is of rung %s, want %s", s.line, s.original, placed.Rung, s.rung)
		}
		// Whoever wrote markers where they belong, or img, needs no warning; all others want to know.
		standIn := strings.ReplaceAll(s.prompt, placement.StandIn, tokenizer.Marker) == s.want
		if warned := placed.Warning != ""; warned == (s.want == s.prompt || standIn) {
			t.Errorf("line %d: %q: warning %q", s.line, s.original, placed.Warning)
		}
		holds(t, s.placer, s.prompt, s.images, placed)
	}
}

// holds checks what is true of every placement: a marker for each image, each on a word of its own with a letter or digit,
// and nothing left to do.
func holds(t *testing.T, p *placement.Placer, prompt string, images int, placed placement.Placed) {
	t.Helper()
	if got := strings.Count(placed.Prompt, tokenizer.Marker); got != images {
		t.Fatalf("%q with %d images became %q", prompt, images, placed.Prompt)
	}
	again, err := p.Place(placed.Prompt, images)
	if err != nil || again.Prompt != placed.Prompt || again.Warning != "" {
		t.Fatalf("%q became %q, and that %q (%v) with the warning %q", prompt, placed.Prompt, again.Prompt, err, again.Warning)
	}
	if p == anySentence() && placed.Rung != placement.Words {
		keepsWords(t, prompt, placed)
	}
	tok, err := loadTokenizer()
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := tok.Encode(placed.Prompt)
	var refused *tokenizer.PromptError
	switch {
	case errors.As(err, &refused) && refused.Reason == tokenizer.BeyondCut:
	case err != nil || len(encoded.Positions) != images:
		t.Fatalf("%q became %q, which is encoded with positions %v: %v", prompt, placed.Prompt, encoded.Positions, err)
	}
	for before := range strings.SplitSeq(placed.Prompt, tokenizer.Marker) {
		if images--; images < 0 {
			break
		}
		if words := tokenizer.Words(before); len(words) == 0 {
			t.Fatalf("%q became %q: a marker without a word", prompt, placed.Prompt)
		}
	}
}

// keepsWords checks that a placement lost none of the user's words, ran none together and left them in their order. Only a
// marker inside a word, as in wom<|image|>an, leaves its halves together, and img may have become a marker.
func keepsWords(t *testing.T, prompt string, placed placement.Placed) {
	t.Helper()
	words := func(s string) []string {
		s = strings.ReplaceAll(strings.ToLower(strings.ToValidUTF8(s, "\uFFFD")), tokenizer.Marker, " ")
		return strings.FieldsFunc(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) })
	}
	cut := map[string]bool{}
	pieces := strings.Split(prompt, tokenizer.Marker)
	for i := range len(pieces) - 1 {
		if before, after := words(pieces[i]), words(pieces[i+1]); len(before) > 0 && len(after) > 0 {
			cut[before[len(before)-1]+after[0]] = true
		}
	}
	used, own := words(placed.Prompt), words(prompt)
	if placed.Rung == placement.Markers {
		isStandIn := func(word string) bool { return word == placement.StandIn }
		used, own = slices.DeleteFunc(used, isStandIn), slices.DeleteFunc(own, isStandIn)
	}
	for i := 0; i < len(own); i++ {
		found := false
		for len(used) > 0 && !found {
			found = used[0] == own[i]
			if i+1 < len(own) && used[0] == own[i]+own[i+1] && cut[used[0]] {
				found = true
				i++
			}
			used = used[1:]
		}
		if !found {
			t.Fatalf("%q became %q (%s), which does not keep its words", prompt, placed.Prompt, placed.Rung)
		}
	}
}

func TestWarningsAreShort(t *testing.T) {
	for _, prompt := range []string{"a woman", "in the snow", "• a woman"} {
		prompt = strings.ReplaceAll(prompt, "•", tokenizer.Marker) + strings.Repeat(" very happy", 1600)
		placed, err := anySentence().Place(prompt, 1)
		if err != nil || placed.Warning == "" || len(placed.Warning) > 500 {
			t.Errorf("a warning of %d bytes (%v) for %.20q…, want one of 500 at most", len(placed.Warning), err, prompt)
		}
	}
}

// The Python reference places markers where a prompt is unambiguous; so placed prompts are the same.
func TestPlacementsEqualReference(t *testing.T) {
	type placement struct {
		Prompt string           `json:"prompt"`
		Images int              `json:"images"`
		Used   string           `json:"used"`
		Error  tokenizer.Reason `json:"error"`
	}
	var header struct {
		PersonNouns []string `json:"person_nouns"`
	}
	cases, err := golden.ReadLines[placement]("testdata/placements.jsonl.gz", &header)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[tokenizer.Reason]int{}
	placer := newPlacer(header.PersonNouns)
	for _, c := range cases {
		seen[c.Error]++
		placed, err := placer.Place(c.Prompt, c.Images)
		var refused *tokenizer.PromptError
		switch {
		case c.Error == "" && (err != nil || placed.Prompt != c.Used):
			t.Errorf("%q with %d images: %q (%v), want %q", c.Prompt, c.Images, placed.Prompt, err, c.Used)
		case c.Error == tokenizer.Count && !errors.As(err, &refused):
			t.Errorf("%q with %d images: %q, want an error", c.Prompt, c.Images, placed.Prompt)
		case c.Error == "placement" && err != nil: // the ladder goes on where the reference stops
			t.Errorf("%q with %d images: %v", c.Prompt, c.Images, err)
		}
	}
	for _, reason := range []tokenizer.Reason{"", tokenizer.Count, "placement"} {
		if seen[reason] == 0 {
			t.Errorf("no case of %q", reason)
		}
	}
}

func newPlacer(nouns []string) *placement.Placer { return placement.New(nouns, nil) }

func TestContradictions(t *testing.T) {
	p := newPlacer([]string{"lady", "guy"})
	for _, c := range []struct {
		prompt string
		images int
		want   string
	}{
		{"a <|image|> b <|image|>", 1, "the prompt has 2 markers <|image|>, but there is 1 reference image; each image needs one marker, as in \"a lady <|image|>\", or leave out all markers"},
		{"a <|image|>", 3, "the prompt has 1 marker <|image|>, but there are 3 reference images; each image needs one marker, as in \"a lady <|image|> and a guy <|image|> and a lady <|image|>\", or leave out all markers"},
		{"a <|image|>", 0, "the prompt has 1 marker <|image|>, but there are 0 reference images"},
		{"a man img", 2, "the prompt has 1 marker <|image|>, but there are 2 reference images; the word img after a person counts as a marker; each image needs one marker, as in \"a lady <|image|> and a guy <|image|>\", or leave out all markers"},
	} {
		if _, err := p.Place(c.prompt, c.images); err == nil || err.Error() != c.want {
			t.Errorf("%q with %d images:\n got %v\nwant %s", c.prompt, c.images, err, c.want)
		}
	}
}

func FuzzPlace(f *testing.F) {
	for _, s := range readSentences(f) {
		f.Add(s.prompt, uint8(s.images))
	}
	f.Add("WOMAN\xff", uint8(1))
	f.Add("two of them img and a couple img", uint8(1))
	placers := []*placement.Placer{anySentence(), mini(f)}
	f.Fuzz(func(t *testing.T, prompt string, images uint8) {
		n := int(images % 6)
		for _, p := range placers {
			placed, err := p.Place(prompt, n)
			var refused *tokenizer.PromptError
			switch {
			case errors.As(err, &refused) && refused.Reason == tokenizer.Count:
				if !strings.Contains(prompt, tokenizer.Marker) && !strings.Contains(prompt, placement.StandIn) {
					t.Fatalf("%q has no marker: %v", prompt, err)
				}
			case err != nil:
				t.Fatalf("%q: %v", prompt, err)
			default:
				holds(t, p, prompt, n, placed)
			}
			if n > 0 && !strings.Contains(prompt, tokenizer.Marker) && !strings.Contains(prompt, placement.StandIn) {
				holds(t, p, prompt, n, p.InFront(prompt, n))
			}
		}
	})
}
