package placement

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
)

// StandIn is the word for a marker in FastComposer's prompts.
const StandIn = "img"

// replaceStandIns writes each img that stands right after a person as a marker, and says how many there are.
func (p *Placer) replaceStandIns(prompt string) (string, int) {
	var out strings.Builder
	words, end, found := wordsOf(prompt), 0, 0
	for i, w := range words {
		if w.text != StandIn || w.suffix != "" || !w.joined || i == 0 || words[i-1].suffix != "" || !p.person(words[i-1]) {
			continue
		}
		out.WriteString(prompt[end:w.start] + tokenizer.Marker)
		end = w.end
		found++
	}
	return out.String() + prompt[end:], found
}

// person tells words that stand for people.
func (p *Placer) person(w word) bool {
	l := p.lexicon
	_, singular := l.nouns[w.low]
	_, plural := l.plurals[w.low]
	_, group := l.sections["groups"][w.low]
	_, tag := (&parser{lexicon: l}).tag(w.low)
	switch w.low {
	case "he", "she", "him", "her", "me", "you", "they", "them", "us", "we":
		return true
	}
	return singular || plural || group || tag != "" || l.is("names", w.low) || w.capital() && l.is("capital names", w.low)
}

// repair puts every marker of a prompt behind a word that can be a subject:
//
//   - A word before it takes it, as it is written, unless that is one that only leads to a noun ("and", "the", "with").
//   - Inside the word for a person it moves to the word's end; elsewhere only a space was forgotten.
//   - Behind brackets that follow a person it moves to the person: "a woman (25)".
//   - Behind the 's of a person it moves to the person.
//   - Behind symbols, emoji and invisible characters it moves back to the word before them, behind a comma or a full
//     stop only if that word is a person.
//   - Otherwise it moves on to the noun that follows ("<|image|> a young woman"), and if none does, it gets one.
//
// It tells whether one had to be invented. The user's own words stay as they are.
func (p *Placer) repair(prompt string) (repaired string, invented bool) {
	pieces := strings.Split(prompt, tokenizer.Marker)
	var out strings.Builder
	for i := range len(pieces) - 1 {
		before, after, more := pieces[i], &pieces[i+1], i+2 < len(pieces)
		last, gap := lastWord(before)
		next, _ := utf8.DecodeRuneInString(*after)
		if before != "" && gap == "" && isWord(next) && !p.person(last) { // inside a word
			rest := strings.TrimLeftFunc(*after, isWord)
			whole := before + (*after)[:len(*after)-len(rest)]
			if word, _ := lastWord(whole); p.person(word) {
				before, *after = whole+" ", rest
				last, gap = lastWord(before)
				next, _ = utf8.DecodeRuneInString(rest)
			}
		}
		separator := ""
		if r, _ := utf8.DecodeLastRuneInString(before); (before != "" || i > 0) && !unicode.IsSpace(r) && !opens(r) {
			separator = " "
		}
		if bracket := p.bracketBehindPerson(before); bracket > 0 {
			out.WriteString(strings.TrimRightFunc(before[:bracket], unicode.IsSpace) + " " + tokenizer.Marker + " " + strings.TrimRightFunc(before[bracket:], unicode.IsSpace))
			if isWord(next) {
				out.WriteString(" ")
			}
			continue
		}
		fits := bindable(last)
		leads := fits && (p.lexicon.is("openers", last.low) || p.lexicon.is("determiners", last.low))
		switch {
		case fits && last.suffix != "" && p.person(last): // the woman's
			out.WriteString(before[:last.end] + " " + tokenizer.Marker + strings.TrimRightFunc(before[last.end:], unicode.IsSpace))
			if isWord(next) {
				out.WriteString(" ")
			}
		case leads || !fits || last.suffix != "" || strings.ContainsFunc(gap, endsClause) && !p.person(last):
			if ahead := p.nounAhead(*after, more); ahead > 0 {
				out.WriteString(before + separator + strings.TrimLeftFunc((*after)[:ahead], unicode.IsSpace) + " " + tokenizer.Marker)
				*after = (*after)[ahead:]
				break
			}
			invented = true
			noun := p.known(person{noun: "person"})
			if !leads || strings.TrimSpace(gap) != "" || last.suffix != "" || !p.lexicon.is("determiners", last.low) {
				noun = article(noun) + " " + noun
			}
			out.WriteString(before + separator)
			if i > 0 && strings.TrimSpace(before) == "" {
				out.WriteString("and ")
			}
			out.WriteString(noun + " " + tokenizer.Marker)
			if isWord(next) {
				out.WriteString(" ")
			}
		case gap == "" && isWord(next):
			out.WriteString(before + " " + tokenizer.Marker + " ")
		case strings.TrimSpace(gap) == "":
			out.WriteString(before + tokenizer.Marker)
		default:
			out.WriteString(before[:last.suffixEnd] + " " + tokenizer.Marker + strings.TrimRightFunc(gap, unicode.IsSpace))
			if isWord(next) {
				out.WriteString(" ")
			}
		}
	}
	return out.String() + pieces[len(pieces)-1], invented
}

// bracketBehindPerson is where the brackets open in which a text ends, if a person comes right before them; else 0.
func (p *Placer) bracketBehindPerson(text string) int {
	text = strings.TrimRightFunc(text, unicode.IsSpace)
	if !strings.HasSuffix(text, ")") && !strings.HasSuffix(text, "]") {
		return 0
	}
	open := strings.LastIndexAny(text, "([")
	if open < 0 {
		return 0
	}
	if word, gap := lastWord(text[:open]); p.person(word) && word.suffix == "" && strings.TrimSpace(gap) == "" {
		return open
	}
	return 0
}

// withoutMarkers is a prompt without its markers, and none of its words run together.
func withoutMarkers(prompt string) string {
	pieces := strings.Split(prompt, tokenizer.Marker)
	text := pieces[0]
	for _, piece := range pieces[1:] {
		text = strings.TrimRightFunc(text, unicode.IsSpace)
		if r, _ := utf8.DecodeRuneInString(piece); isWord(r) {
			text += " "
		}
		text += piece
	}
	return strings.TrimSpace(text)
}

// lastWord is the last word of a text, and what follows it.
func lastWord(text string) (last word, gap string) {
	if words := wordsOf(text); len(words) > 0 {
		last = words[len(words)-1]
	}
	return last, text[last.suffixEnd:]
}

// bindable tells a word that ends in a letter, number or accent, and is no emoji of a digit.
func bindable(w word) bool {
	r, _ := utf8.DecodeLastRuneInString(w.text)
	return isWord(r) && !strings.ContainsAny(w.text, "\u20e3\ufe0f")
}

// nounAhead is the end of the noun that the text goes on with, behind its article and adjectives; 0 if there is
// none, or if it has a marker of its own, as more say.
func (p *Placer) nounAhead(text string, more bool) int {
	const most = 5
	for i, w := range wordsOf(text) {
		switch {
		case i == 0 && strings.TrimSpace(text[:w.start]) != "", i > 0 && !w.joined, i == most:
			return 0
		case p.person(w) && w.suffix == "" && (!more || strings.TrimSpace(text[w.end:]) != ""):
			return w.end
		case p.lexicon.is("function words", w.low) && !p.lexicon.is("determiners", w.low), strings.HasSuffix(w.low, "ing"):
			return 0
		}
	}
	return 0
}

// endsClause tells punctuation behind which a marker has nothing more to do with the words before it.
func endsClause(r rune) bool {
	return strings.ContainsRune(".,;:!?()[]{}<>|/\n…—–", r)
}

// opens tells quotation marks and brackets that no space follows.
func opens(r rune) bool {
	return strings.ContainsRune("\"'", r) || unicode.In(r, unicode.Ps, unicode.Pi)
}

func isWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsNumber(r)
}
