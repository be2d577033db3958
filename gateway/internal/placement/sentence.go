package placement

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// word is one of a sentence.
type word struct {
	start, end int    // bytes
	text, low  string // as it is written, and in lower case
	suffix     string // of a contraction or possessive, without its apostrophe: s, m, re …
	suffixEnd  int    // end of word and suffix
	joined     bool   // nothing but white space lies between the word before and this one
}

// wordPattern is a letter, digit or underscore, then also accents and hyphens.
var wordPattern = regexp.MustCompile(`[\p{L}\p{N}_][\p{L}\p{M}\p{N}_-]*`)

// weights are what other front ends load by a prompt, as in <lora:woman:1>.
var weights = regexp.MustCompile(`<\w+:[^<>\s]*>`)

func wordsOf(text string) []word {
	var words []word
	end := 0
	for _, span := range wordPattern.FindAllStringIndex(text, -1) {
		w := word{start: span[0], end: span[1], text: text[span[0]:span[1]], suffixEnd: span[1]}
		w.low = strings.ToLower(w.text)
		gap := text[end:w.start]
		if (strings.HasSuffix(gap, "'") || strings.HasSuffix(gap, "’")) && isSuffix(w.low) {
			if n := len(words); n > 0 && utf8.RuneCountInString(gap) == 1 {
				words[n-1].suffix, words[n-1].suffixEnd = w.low, w.end
			}
			end = w.end
			continue
		}
		w.joined = len(words) > 0 && gap != "" && strings.TrimSpace(gap) == ""
		words = append(words, w)
		end = w.end
	}
	return words
}

func isSuffix(low string) bool {
	switch low {
	case "s", "t", "m", "d", "re", "ve", "ll":
		return true
	}
	return false
}

func (w word) capital() bool {
	r, _ := utf8.DecodeRuneInString(w.text)
	return unicode.IsUpper(r)
}

// kind of a person in a sentence.
type kind byte

const (
	noun kind = iota
	name
	pronoun
	group
)

// crowd is the size of a group of which the subjects are only some.
const crowd = -1

// largestGroup is how many people a sentence can have one by one.
const largestGroup = 4

// person is one or more people in a sentence.
type person struct {
	kind kind
	// start and end are the bytes of the phrase with article and adjectives, head those of its noun.
	start, end int
	head       int
	noun       string // singular, in lower case
	gender     gender
	size       int    // of a group: how many; 0 any number; crowd
	owner      string // my, her … of a group
	adjectives string // of a group
	ownerless  bool   // my family is not my person
	possessive bool   // the woman's
	plural     bool   // a pronoun that stands for several
	asker      string // the pronoun me for I, me and myself; you
	verb       int    // end of the am, are or contraction after a pronoun, with which its noun may not agree; 0 without
	copula     bool   // that cannot be left out, as in "she's a queen"
	auxiliary  string // the word of a contraction that cannot be left out, as in "she'll wave"
	attached   bool   // words before the phrase belong to it, as in "the president's wife": no article
	collective bool   // the word is one for many: a crowd, a team
	text       string // the phrase as it would be in full, as in "Mr. [Smith] and Mrs. Smith"; "" for itself
}

// parser finds the people of a sentence.
type parser struct {
	*lexicon
	sentence string
	words    []word
	found    []person
	used     int  // words before this one belong to somebody already
	negated  bool // the last person was
	guise    bool // the last person was what another looks like
	credited bool // the last name was an artist's
}

// people finds whom a sentence names, in its order.
func (l *lexicon) people(sentence string) []person {
	sentence = weights.ReplaceAllStringFunc(sentence, func(s string) string { return strings.Repeat(",", len(s)) })
	p := &parser{lexicon: l, sentence: sentence, words: wordsOf(sentence)}
	p.markOwners()
	for i := 0; i < len(p.words); {
		next := p.personAt(i)
		if next > i {
			p.used = next
			i = next
			continue
		}
		i++
	}
	return p.withoutRole()
}

// markOwners finds the possessives of words in s, as in "the boys' room".
func (p *parser) markOwners() {
	for i := range max(0, len(p.words)-1) {
		w, next := &p.words[i], &p.words[i+1]
		gap, isApostrophe := strings.CutPrefix(p.sentence[w.end:next.start], "'")
		if !isApostrophe {
			gap, isApostrophe = strings.CutPrefix(gap, "’")
		}
		if isApostrophe && gap != "" && strings.TrimSpace(gap) == "" && strings.HasSuffix(w.low, "s") && !p.is("function words", next.low) &&
			(p.isPerson(w.low) || p.is("groups", w.low) || p.isName(i)) {
			w.suffix, w.suffixEnd, next.joined = "s", next.start-len(gap), true
		}
	}
}

// withoutRole is the people found, without whoever draws: "You are an artist. Draw a woman."
func (p *parser) withoutRole() []person {
	if len(p.found) > 1 && p.found[0].asker == "you" && p.found[0].copula && strings.ContainsAny(p.sentence[p.found[0].end:p.found[1].start], ".!;:\n") {
		return p.found[1:]
	}
	return p.found
}

// low is word i in lower case if it directly follows the one before; else "".
func (p *parser) low(i int) string {
	if i < 0 || i >= len(p.words) || !p.words[i].joined {
		return ""
	}
	return p.words[i].low
}

// before is the word before word i if nothing but white space lies between them; else "".
func (p *parser) before(i int) string {
	if i <= 0 || i >= len(p.words) || !p.words[i].joined {
		return ""
	}
	return p.words[i-1].low
}

// isPerson tells nouns and groups of people.
func (p *parser) isPerson(low string) bool {
	_, singular := p.nouns[low]
	_, plural := p.plurals[low]
	return singular || plural
}

// personAt looks whether word i is the head of a person's phrase, adds that and returns the index of the word
// behind it; i if it is none.
func (p *parser) personAt(i int) int {
	w := p.words[i]
	if number, singular := p.tag(w.low); singular != "" {
		found := person{kind: noun, start: w.start, end: w.end, head: w.start, noun: singular, gender: p.nouns[singular]}
		if number > 1 {
			found.kind, found.size = group, number
		}
		return p.add(found, i, i+1)
	}
	if couple, next := p.couple(i); next > i {
		return p.add(couple, i, next)
	}
	share, isShare := p.sections["shares"][w.low] // one of my friends
	if number := p.number(w.low); number > 0 || isShare {
		number = max(number, share)
		if next := p.low(i + 2); p.low(i+1) == "of" && (next == "them" || next == "us" || next == "you") {
			start := i
			for start > p.used && (p.before(start) == "the" || p.before(start) == "all") {
				start--
			}
			return p.add(person{kind: group, plural: true, start: p.words[start].start, end: p.words[i+2].end, head: w.start, noun: "person", size: number}, start, i+3)
		}
	}
	if number := p.number(w.low); (number > 1 || isShare) && p.low(i+1) == "of" { // two of my friends
		if next := p.groupOf(i, max(number, share)); next > i {
			return next
		}
	} else if number > 1 && w.low == "both" && p.ends(i+1) {
		return p.add(person{kind: group, plural: true, start: w.start, end: w.end, head: w.start, noun: "person", size: number}, i, i+1)
	} else if number > 1 && p.ends(i+1) { // these two, but not the 7 on a shirt
		switch before := p.before(i); {
		case before == "these", before == "those", (before == "the" || before == "all") && !isDigits(w.low):
			return p.add(person{kind: group, plural: true, start: p.words[i-1].start, end: w.end, head: w.start, noun: "person", size: number}, i-1, i+1)
		}
	}
	size, isGroup := p.sections["groups"][w.low]
	if p.is("crowds", w.low) {
		size, isGroup = crowd, true
	}
	if one, ok := strings.CutSuffix(w.low, "s"); ok && !isGroup && p.is("groups", one) { // two couples
		size, isGroup = p.sections["groups"][one], true
		if number := p.number(p.before(i)); number > 0 && p.low(i+1) != "of" {
			size *= number
		} else {
			size = 0
		}
	}
	singular, isPlural := p.plurals[w.low]
	sex, isNoun := p.nouns[w.low]
	switch {
	case (isGroup || p.is("collectives", w.low)) && p.low(i+1) == "of":
		return p.groupOf(i, size)
	case isGroup && (w.low == "many" || w.low == "countless" || p.is("things", p.low(i+1)) || p.isPerson(p.low(i+1))):
		return i
	case isGroup:
		if !isPlural {
			singular = "person"
		}
		return p.phrase(i, person{kind: group, noun: singular, gender: p.nouns[singular], size: size, ownerless: !isPlural, collective: !isPlural})
	case (isPlural || isNoun) && w.suffix == "" && p.isPerson(p.low(i+1)):
		return i // a woman doctor
	case isNoun && w.capital() && w.suffix == "" && p.is("names", p.low(i+1)) && p.words[i+1].capital(): // Queen Elizabeth
		start, _, _, _ := p.premodifiers(i)
		return p.add(person{kind: name, start: p.words[start].start, head: w.start, end: p.words[i+1].end, noun: w.low, gender: sex}, start, i+2)
	case isPlural:
		return p.phrase(i, person{kind: group, noun: singular, gender: p.nouns[singular]})
	case isNoun:
		return p.phrase(i, person{kind: noun, noun: w.low, gender: sex})
	case (p.isName(i) || p.namedWith(i)) && !p.isNamedThing(i):
		return p.name(i)
	}
	return p.pronounAt(i)
}

// ends tells that no noun follows before word i.
func (p *parser) ends(i int) bool {
	low := p.low(i)
	return low == "" || p.is("function words", low) && !p.is("determiners", low) && low != "of"
}

// tag is how many people a tag such as 2girls counts, and the noun in it; "" for other words.
func (p *parser) tag(low string) (number int, singular string) {
	digits := strings.TrimLeftFunc(low, unicode.IsDigit)
	if len(digits) == len(low) {
		return 0, ""
	}
	if _, ok := p.nouns[digits]; ok && low[:len(low)-len(digits)] == "1" {
		return 1, digits
	}
	return p.number(low[:len(low)-len(digits)]), p.plurals[digits]
}

// groupOf is a couple of friends, a family of four.
func (p *parser) groupOf(i, size int) int {
	head := i + 2
	for head < i+6 && p.low(head) != "" && p.plurals[p.low(head)] == "" && (p.number(p.low(head)) == 0 || p.measures(head)) && (!p.is("function words", p.low(head)) || p.is("determiners", p.low(head))) {
		head++
	}
	if n := p.number(p.low(head)); n > 0 {
		size = n
		if p.plurals[p.low(head+1)] != "" {
			head++
		}
	}
	singular, ownerless := p.plurals[p.low(head)], false
	if singular == "" {
		if p.number(p.low(head)) == 0 {
			return i
		}
		singular, ownerless = "person", true
	}
	start, _, _, owner := p.premodifiers(i)
	if p.attached(start) && p.words[start-1].suffix != "" {
		return i // the boys' team of doctors
	}
	var adjectives []string
	for k, w := range p.words[i+2 : head] {
		switch {
		case owns(w.low):
			owner = w.low
		case !p.is("determiners", w.low) && (p.number(w.low) == 0 || p.measures(i+2+k)):
			adjectives = append(adjectives, w.text)
		}
	}
	return p.add(person{
		kind: group, start: p.words[start].start, end: p.words[head].end, head: p.words[i].start, noun: singular, gender: p.nouns[singular],
		size: size, owner: owner, adjectives: strings.Join(adjectives, " "), possessive: p.words[head].suffix == "s", ownerless: ownerless,
		collective: p.is("groups", p.words[i].low) || p.is("crowds", p.words[i].low) || p.is("collectives", p.words[i].low),
	}, start, head+1)
}

// phrase adds the person whose noun is word i, with its article, number and adjectives.
func (p *parser) phrase(i int, found person) int {
	w := p.words[i]
	start, number, adjectives, own := p.premodifiers(i)
	found.start, found.head, found.end = p.words[start].start, w.start, w.end
	found.possessive = w.suffix == "s"
	found.attached = p.attached(start)
	if number != 0 {
		if first := p.words[start].low; found.kind == noun && (first == "a" || first == "an") {
			return i // a two man tent
		}
		if found.kind == noun || found.size <= 0 {
			found.size = number
		}
		found.kind = group // two woman, as some write
	}
	if found.kind != group {
		return p.add(found, start, i+1)
	}
	found.adjectives, found.owner = adjectives, own
	found.possessive = found.possessive || w.suffix != ""
	if found.attached && p.words[start-1].suffix != "" { // Alice's friends
		if n := len(p.found); found.collective || n == 0 || !p.found[n-1].possessive || p.used != start {
			return i
		}
		owner := p.found[len(p.found)-1]
		p.found = p.found[:len(p.found)-1]
		found.start, found.owner = owner.start, p.sentence[owner.start:p.words[start-1].suffixEnd]
	}
	return p.add(found, start, i+1)
}

// attached tells that the words before word i belong to the same phrase, though they are none of its adjectives.
func (p *parser) attached(i int) bool {
	if i == 0 || !p.words[i].joined {
		return false
	}
	w := p.words[i-1]
	return w.suffix == "s" || p.is("determiners", w.low) ||
		i > p.used && !p.is("function words", w.low) && w.suffix == "" && p.number(w.low) == 0 && !p.is("crowds", w.low) && !strings.HasSuffix(w.low, "ing")
}

// measures tells a number that counts no heads but years, feet or wars, as in "a 25 year old woman" and "six foot four".
func (p *parser) measures(i int) bool {
	return p.isUnit(p.low(i+1)) || p.isUnit(p.before(i)) || p.is("labels", p.before(i))
}

func (p *parser) isUnit(low string) bool {
	low, _, _ = strings.Cut(low, "-") // year-old
	return p.is("units", low)
}

func isDigits(low string) bool {
	return strings.TrimFunc(low, unicode.IsDigit) == ""
}

// premodifiers are what belongs to the noun at word i before it: the first word of it, the number that it says,
// its adjectives and its owner (my, her).
func (p *parser) premodifiers(i int) (start, number int, adjectives, owner string) {
	const most = 3 // adjectives
	start = i
	for count := 0; start > p.used && p.words[start].joined; start-- {
		w := p.words[start-1]
		number := p.number(w.low) > 0
		measured := number && p.measures(start-1) || p.isUnit(w.low) || p.is("dimensions", w.low)
		if w.suffix != "" || p.is("determiners", w.low) || p.is("function words", w.low) || number && !measured || p.is("crowds", w.low) || strings.HasSuffix(w.low, "ing") && !p.determined(start-1) {
			break
		}
		if count == most {
			start = i // too long to be adjectives
			break
		}
		if !measured {
			count++
		}
	}
	var said []string
	for _, w := range p.words[start:i] {
		said = append(said, w.text)
	}
	adjectives = strings.Join(said, " ")
	if start > p.used {
		if n := p.number(p.before(start)); n > 0 {
			start, number = start-1, n
		} else if p.is("crowds", p.before(start)) {
			start, number = start-1, crowd
		}
	}
	for start > p.used && (p.is("determiners", p.before(start)) || number > 0 && p.before(start) == "all") && p.words[start-1].suffix == "" {
		start--
		if d := p.words[start].low; owns(d) {
			owner = d
		}
	}
	return start, number, adjectives, owner
}

// owns tells the determiners that stay with each of a group.
func owns(low string) bool {
	return slices.Contains([]string{"my", "our", "your", "his", "her", "their"}, low)
}

// determined tells whether a determiner or a number comes right before word i.
func (p *parser) determined(i int) bool {
	return i > p.used && (p.is("determiners", p.before(i)) || p.number(p.before(i)) > 0)
}

// add takes a person whose phrase has the words from first up to next, unless the sentence says that nobody is there.
func (p *parser) add(found person, first, next int) int {
	before := p.before(first)
	switch before {
	case "no", "without", "not", "never", "except", "minus", "neither":
		p.negated = true
		return next
	case "or", "nor":
		if p.negated {
			return next
		}
	}
	p.negated = false
	if low := p.words[first].low; low == "none" || low == "neither" {
		p.negated = true
		return next
	}
	if p.guise = p.isGuise(first); p.guise || p.isPredicate(first) || found.collective && p.isWhere(first) {
		return next
	}
	if p.credited = p.isCredited(found, first); p.credited {
		return next
	}
	p.found = append(p.found, found)
	return next
}

// isGuise tells what somebody is shown as, as in "make her look like a queen": it is no second person.
func (p *parser) isGuise(first int) bool {
	further := p.before(first - 1)
	switch p.before(first) {
	case "as":
		return further != "well" && further != "such"
	case "like":
		return !p.is("wishing", further) && (first < 2 || p.words[first-2].suffix != "d") && further != "i"
	case "into":
		return slices.ContainsFunc(p.words[max(0, first-6):first], func(w word) bool { return p.is("turning", w.low) })
	case "and", "or":
		low := p.words[first].low
		return p.guise && p.used == first-1 && (!p.is("determiners", low) || low == "a" || low == "an")
	}
	return false
}

// isPredicate tells what the person before is, as in "she is a queen".
func (p *parser) isPredicate(first int) bool {
	if len(p.found) == 0 || !p.words[first].joined {
		return false
	}
	if p.used == first {
		return p.found[len(p.found)-1].verb > 0
	}
	return p.used == first-1 && p.words[first-1].joined && p.is("copulas", p.words[first-1].low)
}

// isWhere tells the many among whom somebody is, as in "a woman in a crowd".
func (p *parser) isWhere(first int) bool {
	before := p.before(first)
	return p.is("among", before) || before == "of" && p.is("middles", p.before(first-1))
}

// isCredited tells the artist of a style, as in "art by Alex" and "in the style of Leonardo", and those in a row with one.
func (p *parser) isCredited(found person, first int) bool {
	switch p.before(first) {
	case "by":
		if further := p.before(first - 1); further == "" || p.is("works", further) {
			return found.kind == name || further != ""
		}
	case "of":
		if p.is("styles", p.before(first-1)) {
			return true
		}
	}
	return p.credited && found.kind == name && !strings.ContainsAny(p.sentence[p.words[p.used-1].end:found.start], ".;\n")
}

// name adds a given name, with the family name behind it.
func (p *parser) name(i int) int {
	w := p.words[i]
	if n := len(p.found); n > 0 && i > 0 && w.joined && p.found[n-1].end == p.words[i-1].end && p.found[n-1].kind == noun && p.used == i {
		return i + 1 // my friend Alice is one person
	}
	if p.is("naming", p.before(i)) {
		return i + 1 // a man called Peter
	}
	start, last := i, p.lastOfName(i)
	found := person{kind: name, noun: "person"}
	for start > p.used && p.words[start].joined && p.words[start-1].capital() && w.capital() && p.words[start-1].suffix == "" &&
		!p.is("function words", p.before(start)) && !p.isPerson(p.before(start)) {
		start--
	}
	if t := start - 1; t >= p.used && p.isTitle(t) {
		start = t
	}
	found.entitle(gender(p.sections["titles"][p.words[start].low]))
	found.start, found.head, found.end = p.words[start].start, w.start, p.words[last].end
	found.attached = p.attached(start)
	found.possessive = p.words[last].suffix == "s" && p.low(last+1) != "" && !p.verbal(last+1)
	return p.add(found, start, last+1)
}

// lastOfName is the last word of the name that begins with word i.
func (p *parser) lastOfName(i int) int {
	const most = 3
	last := i
	for next := i + 1; p.words[last].suffix == "" && p.low(next) != "" && !p.is("function words", p.low(next)) && !p.isPerson(p.low(next)) &&
		(p.isName(next) || p.words[i].capital() && p.words[next].capital()); next++ {
		if next-i == most {
			return i // Every Word Has A Capital
		}
		last = next
	}
	return last
}

// isTitle tells a title before a name, with or without a full stop.
func (p *parser) isTitle(i int) bool {
	return i+1 < len(p.words) && p.is("titles", p.words[i].low) && p.words[i].suffix == "" &&
		slices.Contains([]string{" ", ". ", "."}, p.sentence[p.words[i].end:p.words[i+1].start])
}

// couple is the first of those who share a family name, as in "Mr. and Mrs. Smith".
func (p *parser) couple(i int) (first person, next int) {
	if i+3 >= len(p.words) || !p.is("titles", p.words[i].low) || p.words[i+1].low != "and" || !p.isTitle(i+2) || !p.words[i+3].capital() {
		return person{}, i
	}
	w := p.words[i]
	first = person{kind: name, noun: "person", start: w.start, head: w.start, end: w.end}
	first.entitle(gender(p.sections["titles"][w.low]))
	if strings.HasPrefix(p.sentence[w.end:], ".") {
		first.end++
	}
	first.text = p.sentence[w.start:first.end] + " " + p.sentence[p.words[i+3].start:p.words[p.lastOfName(i+3)].end]
	return first, i + 1
}

// entitle makes a woman or a man of somebody whose title says so.
func (one *person) entitle(g gender) {
	one.gender = g
	switch g {
	case female:
		one.noun = "woman"
	case male:
		one.noun = "man"
	}
}

// isNamedThing tells a name that is not somebody's, as in "San Antonio", "a Jack Russell" and "jean jacket".
func (p *parser) isNamedThing(i int) bool {
	if p.is("named things", p.low(p.lastOfName(i)+1)) {
		return true
	}
	if i > 0 && p.is("places", p.words[i-1].low) && strings.Trim(p.sentence[p.words[i-1].end:p.words[i].start], ". ") == "" {
		return true
	}
	start, number, _, _ := p.premodifiers(i)
	return p.is("determiners", p.words[start].low) && !owns(p.words[start].low) || number != 0
}

// isName tells given names that are known.
func (p *parser) isName(i int) bool {
	if i >= len(p.words) {
		return false
	}
	w := p.words[i]
	return p.is("names", w.low) || w.capital() && p.is("capital names", w.low)
}

// namedWith tells a word with a capital that stands beside a name or behind a title, as in "Harry and Sally".
func (p *parser) namedWith(i int) bool {
	w := p.words[i]
	if !w.capital() || p.is("function words", w.low) || p.is("titles", w.low) {
		return false
	}
	if i > 0 && p.isTitle(i-1) {
		return true
	}
	joint := func(from, to int) bool {
		switch strings.TrimSpace(p.sentence[from:to]) {
		case "and", "&", "+", ",":
			return true
		}
		return false
	}
	if n := len(p.found); n > 0 && p.found[n-1].kind == name && !p.found[n-1].possessive && joint(p.found[n-1].end, w.start) {
		return true
	}
	for next := i + 1; next <= i+2 && w.suffix == ""; next++ {
		if p.isName(next) && p.words[next].capital() && joint(w.end, p.words[next].start) {
			return true
		}
	}
	return false
}

// verbal tells words that follow "Alice's" where that means "Alice is".
func (p *parser) verbal(i int) bool {
	low := p.low(i)
	return strings.HasSuffix(low, "ing") || p.is("continuations", low) || p.is("determiners", low)
}

// pronounAt adds the person for whom the pronoun at word i stands, unless that is one who was named before.
func (p *parser) pronounAt(i int) int {
	w := p.words[i]
	found := person{kind: pronoun, start: w.start, head: w.start, end: w.end, noun: "person"}
	named := func(g gender) bool {
		for _, f := range p.found {
			if f.kind != group && f.asker == "" && (f.gender == g || f.gender == neutral) {
				return true
			}
		}
		return false
	}
	asked := func(who string) bool {
		found.asker = who
		for _, f := range p.found {
			if f.asker == who {
				return true
			}
		}
		return false
	}
	giving := p.is("giving", p.before(i)) && (p.is("determiners", p.low(i+1)) || p.number(p.low(i+1)) > 0)
	switch w.low {
	case "she", "herself":
		found.gender, found.noun = female, "woman"
	case "her":
		next := p.low(i + 1)
		object := next == "" || p.is("function words", next) || strings.HasSuffix(next, "ing") || p.is("letting", p.before(i))
		if !object {
			return i
		}
		found.gender, found.noun = female, "woman"
	case "he", "him", "himself":
		found.gender, found.noun = male, "man"
	case "i":
		if w.suffix == "d" || w.suffix == "ll" || w.suffix == "ve" || p.is("wishing", p.low(i+1)) || !w.capital() && p.before(i) != "and" && w.suffix != "m" && p.low(i+1) != "am" && p.low(i+1) != "was" || asked("me") {
			return i
		}
	case "me", "myself":
		if giving || asked("me") {
			return i
		}
	case "you", "yourself":
		if w.suffix == "d" || w.suffix == "ll" || w.suffix == "ve" || p.is("asking", p.before(i)) || p.is("asked", p.low(i+1)) || asked("you") {
			return i
		}
	case "they", "them", "themselves", "we", "us", "ourselves":
		if len(p.found) > 0 || giving || p.before(i) == "let" {
			return i
		}
		found.kind, found.plural = group, true
	default:
		return i
	}
	if found.gender != neutral && named(found.gender) {
		return i
	}
	next := i + 1
	if n := p.number(p.low(next)); n > 0 && (found.plural || w.low == "you") && !p.isPerson(p.low(next+1)) { // us two
		found.kind, found.plural, found.size, found.end = group, true, n, p.words[next].end
		return p.add(found, i, next+1)
	}
	switch {
	case w.suffix == "ll":
		found.verb, found.auxiliary = w.suffixEnd, "will"
	case w.suffix == "d":
		found.verb, found.auxiliary = w.suffixEnd, "would"
	case w.suffix == "ve":
		found.verb, found.auxiliary = w.suffixEnd, "have"
	case w.suffix == "s" || w.suffix == "m" || w.suffix == "re":
		found.end, found.verb = w.suffixEnd, w.suffixEnd
	case (found.asker != "" || found.plural) && (p.low(next) == "am" || p.low(next) == "are"):
		found.verb = p.words[next].end
		next++
	}
	found.copula = found.verb > 0 && p.is("determiners", p.low(next))
	return p.add(found, i, next)
}
