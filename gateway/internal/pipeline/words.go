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
			known[word] = true
		}
	}
	return known
}

// warnOfUnknownWords tells which words of a text the networks were never
// taught. Such a request is served all the same: the rest of it may be enough.
func (p *Pipeline) warnOfUnknownWords(r *Request, param, text string) {
	if p.known == nil {
		return
	}
	read := tokenizer.Words(text)
	read = read[:min(len(read), tokenizer.Length)] // a word is a token at least: what follows is cut
	var unknown []string
	for _, word := range read {
		if quoted := fmt.Sprintf("%q", word); !p.known[word] && !slices.Contains(unknown, quoted) {
			unknown = append(unknown, quoted)
		}
	}
	if len(unknown) > 0 {
		r.Warnings = append(r.Warnings, Warning{param, fmt.Sprintf(
			"%s was not taught these words of the %s and cannot heed them: %s. GET /v1/models/%s lists its vocabulary, as does its pipeline.json",
			p.family.Name, strings.ReplaceAll(param, "_", " "), strings.Join(unknown, ", "), p.family.Name)})
	}
}
