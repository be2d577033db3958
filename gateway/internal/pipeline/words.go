package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
)

// words is a set of words in lower case.
type words map[string]bool

// has says whether a family was taught a word: any, if it takes any sentence.
func (w words) has(word string) bool { return w == nil || w[word] }

// knownWords are the words that a family's vocabulary and its person nouns
// consist of; nil for a family that takes any sentence.
func knownWords(f *family.Family) words {
	if f.Vocabulary == nil {
		return nil
	}
	phrases := slices.Clone(f.PersonNouns)
	for _, group := range f.Vocabulary {
		phrases = append(phrases, group.Phrases...)
	}
	known := words{}
	for _, phrase := range phrases {
		for _, word := range tokenizer.Words(phrase) {
			known[word.Text] = true
		}
	}
	return known
}

// unknownWords are the words of a prompt that the networks were never taught, up
// to the byte at which it is cut.
func (p *Pipeline) unknownWords(prompt string, cut int) []tokenizer.Word {
	if p.known == nil {
		return nil
	}
	// The letters of a marker are no word, and its place is kept.
	blank := strings.Repeat(" ", len(tokenizer.Marker))
	found := tokenizer.Words(strings.ReplaceAll(prompt[:cut], tokenizer.Marker, blank))
	return slices.DeleteFunc(found, func(w tokenizer.Word) bool { return p.known[w.Text] })
}

// unknownWarning tells of them. Such a request is served all the same: the
// rest of it may be enough.
func (p *Pipeline) unknownWarning(param string, unknown []tokenizer.Word) Warning {
	const most = 20 // words that are shown
	var quoted []string
	for _, word := range unknown {
		if q := fmt.Sprintf("%q", excerpt(word.Text)); !slices.Contains(quoted, q) {
			quoted = append(quoted, q)
		}
	}
	if more := len(quoted) - most; more > 0 {
		quoted = append(quoted[:most], fmt.Sprintf("and %d more", more))
	}
	return Warning{param, fmt.Sprintf(
		"%s was not taught these words of the %s and cannot heed them: %s. GET /v1/models/%s lists its vocabulary, as does its pipeline.json",
		p.family.Name, strings.ReplaceAll(param, "_", " "), strings.Join(quoted, ", "), p.family.Name)}
}
