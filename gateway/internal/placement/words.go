package placement

import (
	_ "embed"
	"strconv"
	"strings"

	"github.com/gertd/go-pluralize"
)

//go:embed words.txt
var table string

// gender is the one that a noun or a pronoun tells of.
type gender byte

const (
	neutral gender = iota
	female
	male
)

// lexicon is words.txt with the nouns of a family.
type lexicon struct {
	sections map[string]map[string]int // of words.txt: word → number, 0 without one
	nouns    map[string]gender         // singular
	plurals  map[string]string         // plural → singular
}

// readTable reads words.txt.
func readTable() map[string]map[string]int {
	sections := map[string]map[string]int{}
	var section map[string]int
	for line := range strings.Lines(table) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			section = map[string]int{}
			sections[strings.TrimSuffix(name, "]")] = section
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		last := ""
		for word := range strings.FieldsSeq(line) {
			if n, err := strconv.Atoi(word); err == nil {
				section[last] = n
				continue
			}
			section[word] = 0
			last = word
		}
	}
	return sections
}

func newLexicon(familyNouns []string) *lexicon {
	l := &lexicon{sections: readTable(), nouns: map[string]gender{}, plurals: map[string]string{}}
	english := pluralize.NewClient()
	add := func(noun string, g gender) {
		if _, known := l.nouns[noun]; !known {
			l.nouns[noun] = g
			for _, plural := range []string{english.Plural(noun), noun + "s"} { // persons, too
				if plural != noun {
					l.plurals[plural] = noun
				}
			}
		}
	}
	for section, g := range map[string]gender{"female": female, "male": male, "person": neutral} {
		for noun := range l.sections[section] {
			add(noun, g)
		}
	}
	for _, noun := range familyNouns {
		add(strings.ToLower(noun), neutral)
	}
	return l
}

func (l *lexicon) is(section, word string) bool {
	_, ok := l.sections[section][word]
	return ok
}

// number is what a number word or digits say; 0 for other words.
func (l *lexicon) number(word string) int {
	if n, err := strconv.Atoi(word); err == nil && n > 1 && n < 1000 {
		return n
	}
	return l.sections["numbers"][word]
}
