// Package placement finds where the markers of the subjects go in a sentence.
//
// The embedding of each reference image is fused into the state of one token, the one before its marker <|image|>. Every
// image therefore needs a word of its own, a noun if possible. People write sentences without markers: Place
// climbs down a ladder, and the first rung that fits every image wins.
//
//  1. Markers. There must be as many as images. The word img right after a person counts as one, as in FastComposer's
//     prompts. A marker that follows no word that can be a subject (a symbol, a comma, "and", nothing) moves
//     to the noun that is meant, or gets one.
//  2. Nouns. As many persons as images are named one by one ("a woman and her friend"): a marker follows
//     each.
//  3. Words. Plurals, numbers, groups, pronouns and names ("two women", "a couple", "put her on the beach", "Alice reading"); also
//     more or fewer people than images. Words that stand for several people, or for somebody unnamed, are replaced by nouns.
//  4. Front. Nobody is found: "a person <|image|>" is put in front of the sentence, once for each image.
//
// words.txt holds the words that it knows; they are English. See docs/sentences.md and ADR 20.
package placement

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
)

// Rung of the ladder that placed the markers.
type Rung string

// The rungs, in order. None is that of a sentence without subjects.
const (
	None    Rung = "none"
	Markers Rung = "markers"
	Nouns   Rung = "nouns"
	Words   Rung = "words"
	Front   Rung = "front"
)

// Placed is a prompt with as many markers as images. Placing it again changes nothing.
type Placed struct {
	Prompt string
	Rung   Rung
	// Warning says what was understood; "" where the prompt had its markers in their places.
	Warning string
}

// Placer places markers for one family. It is immutable.
type Placer struct {
	lexicon *lexicon
	nouns   []string // the family's
	knows   func(word string) bool
}

// New makes a placer for a family with these person nouns. knows says whether the family was taught a word in lower
// case; nil for a family that takes any sentence. A marker is put on no word that the family does not know:
// one of its nouns replaces it.
func New(personNouns []string, knows func(word string) bool) *Placer {
	if knows == nil {
		knows = func(string) bool { return true }
	}
	return &Placer{lexicon: newLexicon(personNouns), nouns: personNouns, knows: knows}
}

// Place gives each of the images a marker. The error is a [*tokenizer.PromptError] of reason [tokenizer.Count]: the
// prompt's own markers contradict the images.
func (p *Placer) Place(prompt string, images int) (Placed, error) {
	prompt = strings.ToValidUTF8(prompt, "\uFFFD")
	marked, standIns := prompt, 0
	if images > 0 {
		marked, standIns = p.replaceStandIns(prompt)
	}
	if markers := strings.Count(marked, tokenizer.Marker); markers > 0 {
		if markers != images {
			return Placed{}, p.contradiction(markers, images, standIns > 0)
		}
		repaired, invented := p.repair(marked)
		if invented { // "<|image|><|image|> a woman and a man"
			if placed, ok := p.inSentence(withoutMarkers(marked), images); ok && placed.Rung == Nouns {
				repaired = placed.Prompt
			}
		}
		placed := Placed{Prompt: repaired, Rung: Markers}
		if repaired != marked {
			placed.Warning = fmt.Sprintf("a marker %s belongs right after the noun of its subject; the prompt was read as %s", tokenizer.Marker, quote(repaired))
		}
		return placed, nil
	}
	if images == 0 {
		return Placed{Prompt: prompt, Rung: None}, nil
	}
	if placed, ok := p.inSentence(prompt, images); ok {
		return placed, nil
	}
	return p.InFront(prompt, images), nil
}

// InFront is the last rung: it puts a person for each image before the sentence. A caller takes it when the text encoder
// does not read as far as the markers that Place has put.
func (p *Placer) InFront(prompt string, images int) Placed {
	persons := repeat(p.marked("a person", "person"), images)
	rest := strings.TrimLeftFunc(strings.ToValidUTF8(prompt, "\uFFFD"), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsPunct(r) && strings.ContainsRune(",.;:!?-", r)
	})
	rest = p.withoutCommand(rest)
	if words := wordsOf(rest); len(words) > 0 && words[0].start == 0 && p.goesOn(words[0].low) {
		first, size := utf8.DecodeRuneInString(rest)
		rest = " " + string(unicode.ToLower(first)) + rest[size:]
	} else if rest != "" {
		rest = ", " + rest
	}
	used := persons + rest
	return Placed{Prompt: used, Rung: Front, Warning: fmt.Sprintf("no word for a person was found in the first %d tokens of the prompt, so it was read as %s",
		tokenizer.Length, quote(used))}
}

// withoutCommand leaves out the words that tell somebody to draw, as in "please show me", at the beginning of a text, if the
// family does not know them. They disturb what it does know.
func (p *Placer) withoutCommand(text string) string {
	end := 0
	for _, w := range wordsOf(text) {
		if !p.lexicon.is("commands", w.low) || end == 0 && p.knows(w.low) {
			break
		}
		end = w.suffixEnd
	}
	if end == 0 {
		return text
	}
	return strings.TrimLeftFunc(text[end:], unicode.IsSpace)
}

// goesOn tells a first word that describes the subject before it.
func (p *Placer) goesOn(low string) bool {
	return p.lexicon.is("continuations", low) || strings.HasSuffix(low, "ing") && !p.lexicon.is("ing", low)
}

// inSentence is the rungs of nouns and words. It is not ok where the sentence names nobody.
func (p *Placer) inSentence(prompt string, images int) (Placed, bool) {
	people := p.lexicon.people(prompt)
	singles, possible := 0, 0
	for _, one := range people {
		switch {
		case one.possessive:
		case one.kind == group:
			possible += max(one.size, 1)
			if one.size <= 0 || one.size > largestGroup {
				possible = images
			}
		default:
			singles++
			possible++
		}
	}
	// The owner in "a woman's hat" is a subject only where others do not suffice.
	owners := singles != images && possible < images
	var chosen []person
	for _, one := range people {
		if one.possessive && (!owners || one.kind == group) || singles == images && one.kind == group {
			continue
		}
		chosen = append(chosen, one)
	}
	if len(chosen) == 0 {
		return Placed{}, false
	}
	shares, left := share(chosen, images)

	var out strings.Builder
	end, last := 0, 0
	for i, n := range shares {
		if n > 0 {
			last = i
		}
	}
	rung := Nouns
	for i, one := range chosen {
		if shares[i] == 0 {
			continue
		}
		if one.kind != noun {
			rung = Words
		}
		before := prompt[end:one.start]
		if end == 0 {
			before = p.withoutCommand(before)
		}
		out.WriteString(before)
		out.WriteString(p.render(prompt, one, shares[i], images, i == 0 && strings.TrimSpace(prompt[:one.start]) == ""))
		end = one.end
		several := shares[i] > 1 || i == last && left > 0
		if one.verb > 0 && (one.asker != "" || one.auxiliary != "" || !several) {
			end = one.verb
		}
		if i == last && left > 0 {
			if one.possessive {
				return Placed{}, false
			}
			out.WriteString(" and " + repeat(p.marked("a person", "person"), left))
		}
		if one.auxiliary != "" && end == one.verb {
			out.WriteString(" " + one.auxiliary)
		}
		if one.copula && end == one.verb {
			if several {
				out.WriteString(" are")
			} else {
				out.WriteString(" is")
			}
		}
	}
	out.WriteString(prompt[end:])
	used := out.String()
	if left > 0 || len(chosen) > images || slices.ContainsFunc(people, func(one person) bool { return one.kind == group && singles != images }) {
		rung = Words
	}
	warning := fmt.Sprintf("the prompt has no marker %s for %s; it was read as %s", tokenizer.Marker, theImages(images), quote(used))
	return Placed{Prompt: used, Rung: rung, Warning: warning}, true
}

// share says how many images each of the people gets, in order, and how many are left over.
func share(people []person, images int) (shares []int, left int) {
	shares = make([]int, len(people))
	left = images
	for i, one := range people {
		if left == 0 {
			break
		}
		n := 1
		if one.kind == group {
			n = one.size
			if n <= 0 || n > largestGroup { // what those behind it do not need, and one at least
				n = left
				for _, other := range people[i+1:] {
					n -= max(1, min(other.size, largestGroup))
				}
				n = max(n, 1)
			}
		}
		shares[i] = min(n, left)
		left -= shares[i]
	}
	return shares, left
}

// render is the phrase of one or more people with n markers, of as many as there are images.
func (p *Placer) render(prompt string, one person, n, images int, first bool) string {
	phrase := prompt[one.start:one.end]
	switch one.kind {
	case noun:
		head := prompt[one.head:one.end]
		if p.knows(one.noun) {
			return phrase + " " + tokenizer.Marker
		}
		known := p.known(one)
		before := prompt[one.start:one.head]
		switch strings.ToLower(strings.TrimSpace(before)) {
		case "", "a", "an":
			if one.attached {
				return like(head, known, false) + " " + tokenizer.Marker
			}
			return like(phrase, article(known)+" "+known, true) + " " + tokenizer.Marker
		}
		return before + like(head, known, false) + " " + tokenizer.Marker
	case name:
		if one.text != "" {
			phrase = one.text
		}
		if known := p.known(one); !p.knowsAll(phrase) {
			if one.attached {
				return known + " " + tokenizer.Marker
			}
			return like(phrase, article(known)+" "+known, first) + " " + tokenizer.Marker
		}
		return phrase + " " + tokenizer.Marker
	case pronoun:
		known := p.known(one)
		return like(phrase, article(known)+" "+known, first || one.asker == "") + " " + tokenizer.Marker
	}

	known := p.known(one)
	words := known
	if one.adjectives != "" {
		words = one.adjectives + " " + known
	}
	if one.owner != "" && !one.ownerless && known == one.noun {
		words = one.owner + " " + words
	} else {
		words = article(words) + " " + words
	}
	marked := repeat(words+" "+tokenizer.Marker, n)
	rest := ""
	switch {
	case one.size == crowd || one.size > largestGroup || one.size == 0 && images == 1 && !one.plural:
		rest = " and " + lowerFirst(phrase)
	case one.size > n:
		rest = " and " + repeat(words, one.size-n)
	}
	return like(phrase, marked, true) + rest
}

// marked is words with a marker; where the family does not know their noun, with one that it knows.
func (p *Placer) marked(words, noun string) string {
	if known := p.known(person{noun: noun}); known != noun {
		words = article(known) + " " + known
	}
	return words + " " + tokenizer.Marker
}

// known is the noun of a person if the family knows it, else the nearest that it does.
func (p *Placer) known(one person) string {
	nearest := []string{one.noun, "person"}
	switch one.gender {
	case female:
		nearest = []string{one.noun, "woman", "person"}
	case male:
		nearest = []string{one.noun, "man", "person"}
	}
	for _, noun := range nearest {
		if p.knows(noun) {
			return noun
		}
	}
	return p.nouns[0]
}

func (p *Placer) knowsAll(phrase string) bool {
	return !slices.ContainsFunc(wordsOf(phrase), func(w word) bool { return !p.knows(w.low) })
}

func (p *Placer) contradiction(markers, images int, standIns bool) error {
	message := fmt.Sprintf("the prompt has %s %s, but there %s", count(markers, "marker"), tokenizer.Marker, imagesThere(images))
	if standIns {
		message += fmt.Sprintf("; the word %s after a person counts as a marker", StandIn)
	}
	if images > 0 {
		var persons []string
		for i := range images {
			noun := p.nouns[i%len(p.nouns)]
			persons = append(persons, article(noun)+" "+noun+" "+tokenizer.Marker)
		}
		message += fmt.Sprintf("; each image needs one marker, as in %q, or leave out all markers", strings.Join(persons, " and "))
	}
	return &tokenizer.PromptError{Reason: tokenizer.Count, Message: message}
}

// article is the indefinite article of words, by their first letter.
func article(words string) string {
	if words != "" && strings.ContainsRune("aeiouAEIOU", rune(words[0])) {
		return "an"
	}
	return "a"
}

// like writes words with a capital if they replace what had one, and may.
func like(replaced, words string, may bool) string {
	first, _ := utf8.DecodeRuneInString(replaced)
	if r, size := utf8.DecodeRuneInString(words); may && unicode.IsUpper(first) {
		return string(unicode.ToUpper(r)) + words[size:]
	}
	return words
}

func lowerFirst(s string) string {
	r, size := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(r)) + s[size:]
}

// repeat joins words with "and".
func repeat(words string, n int) string {
	return strings.Join(slices.Repeat([]string{words}, n), " and ")
}

// quote shows a prompt in a warning, a long one by its beginning.
func quote(prompt string) string {
	const most = 300
	if r := []rune(prompt); len(r) > most {
		prompt = string(r[:most]) + "…"
	}
	return fmt.Sprintf("%q", prompt)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func imagesThere(n int) string {
	if n == 1 {
		return "is 1 reference image"
	}
	return "are " + count(n, "reference image")
}

func theImages(n int) string {
	if n == 1 {
		return "the reference image"
	}
	return fmt.Sprintf("the %d reference images", n)
}
