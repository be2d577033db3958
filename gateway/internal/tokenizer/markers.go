package tokenizer

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Reason says which rule a prompt breaks.
type Reason string

// The reasons of a [PromptError].
const (
	NoWord        Reason = "no_word"        // a marker with no word before it
	FollowsMarker Reason = "follows_marker" // a marker directly after another one
	InsideWord    Reason = "inside_word"    // a marker with letters on both sides
	BeyondCut     Reason = "beyond_cut"     // a marker whose word does not fit into 77 tokens
	Count         Reason = "count"          // more or fewer markers than reference images
	Placement     Reason = "placement"      // reference images, and no way to tell where they belong
)

// PromptError is a prompt that does not say clearly which words are its subjects. Message is meant
// for the user who wrote the prompt.
type PromptError struct {
	Reason  Reason
	Message string
}

func (e *PromptError) Error() string { return e.Message }

func promptError(reason Reason, format string, args ...any) error {
	return &PromptError{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func beyondCut(number int) error {
	return promptError(BeyondCut, "marker %d (%s) lies beyond the %d tokens that the text encoder reads; move its subject forward or shorten the prompt", number, Marker, Length)
}

// checkMarkers reports the first marker that stands where no subject's noun is.
func checkMarkers(prompt string) error {
	pieces := strings.Split(prompt, Marker)
	for i, after := range pieces[1:] {
		before, number := pieces[i], i+1
		word := strings.TrimRightFunc(before, unicode.IsSpace)
		last, _ := utf8.DecodeLastRuneInString(word)
		switch {
		case word == "" && i > 0:
			return promptError(FollowsMarker, "marker %d (%s) follows another marker directly; each subject needs its own noun before its marker", number, Marker)
		case word == "", unicode.IsPunct(last), strings.HasSuffix(word, startOfText), strings.HasSuffix(word, endOfText):
			return promptError(NoWord, "marker %d (%s) has no word before it; it belongs after the noun of a subject, as in \"a woman %s in the snow\"", number, Marker, Marker)
		}
		left, _ := utf8.DecodeLastRuneInString(before)
		right, _ := utf8.DecodeRuneInString(after)
		if after != "" && isWordRune(left) && isWordRune(right) {
			return promptError(InsideWord, "marker %d (%s) stands inside a word; it belongs after the whole noun of a subject", number, Marker)
		}
	}
	return nil
}

// isWordRune tells letters, marks and numbers.
func isWordRune(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsNumber(r)
}

// withoutMarkers is the prompt as the text encoder sees it. A prompt that has markers loses double
// spaces with them.
func withoutMarkers(prompt string) string {
	if !strings.Contains(prompt, Marker) {
		return prompt
	}
	return strings.Join(strings.Fields(strings.ReplaceAll(prompt, Marker, " ")), " ")
}

// StandIn is the word that marks a subject in prompts which were written for other front ends.
const StandIn = "img"

// plainWords are runs of letters, digits, accents, underscores and hyphens.
var plainWords = regexp.MustCompile(`[\p{L}\p{N}_\x{300}-\x{36f}-]+`)

// PlaceMarkers returns the prompt with a marker for each reference image, where the user may leave
// markers out:
//
//  1. A prompt with markers stays as it is; there must be as many as images.
//  2. The standalone word `img` stands for a marker if there are as many as images.
//  3. Otherwise, if the prompt has as many person nouns as images, in any case, a marker follows
//     each of them.
//
// The error is a [*PromptError] with reason [Count] or [Placement]; the latter shows the prompt
// with markers placed, as an example.
func PlaceMarkers(prompt string, images int, personNouns []string) (used string, err error) {
	if markers := strings.Count(prompt, Marker); markers > 0 || images == 0 {
		if markers != images {
			return "", promptError(Count, "the prompt has %s %s, but there %s", count(markers, "marker"), Marker, imagesThere(images))
		}
		return prompt, nil
	}
	spans := plainWords.FindAllStringIndex(prompt, -1)
	standIns := slices.DeleteFunc(slices.Clone(spans), func(s []int) bool { return prompt[s[0]:s[1]] != StandIn })
	if len(standIns) == images {
		return replaceWords(prompt, standIns, func(string) string { return Marker }), nil
	}
	isNoun := map[string]bool{}
	for _, noun := range personNouns {
		isNoun[strings.ToLower(noun)] = true
	}
	nouns := slices.DeleteFunc(slices.Clone(spans), func(s []int) bool { return !isNoun[strings.ToLower(prompt[s[0]:s[1]])] })
	if len(nouns) == images {
		return replaceWords(prompt, nouns, withMarker), nil
	}
	return "", promptError(Placement, "put the marker %s after the noun of each subject: there %s and the prompt does not say where they belong; for example %q",
		Marker, imagesThere(images), example(prompt, images, spans, nouns))
}

func withMarker(word string) string { return word + " " + Marker }

// replaceWords replaces the words at spans.
func replaceWords(prompt string, spans [][]int, replace func(word string) string) string {
	var out strings.Builder
	end := 0
	for _, span := range spans {
		out.WriteString(prompt[end:span[0]])
		out.WriteString(replace(prompt[span[0]:span[1]]))
		end = span[1]
	}
	out.WriteString(prompt[end:])
	return out.String()
}

// example is the user's prompt with markers placed: after person nouns as far as there are any,
// then after other words that may be a subject, else after words that it adds.
func example(prompt string, images int, spans, nouns [][]int) string {
	chosen := slices.Clone(nouns[:min(images, len(nouns))])
	for _, span := range spans {
		word := prompt[span[0]:span[1]]
		if len(chosen) < images && utf8.RuneCountInString(word) > 2 && !slices.Contains(functionWords, strings.ToLower(word)) &&
			!slices.ContainsFunc(nouns, func(n []int) bool { return n[0] == span[0] }) {
			chosen = append(chosen, span)
		}
	}
	slices.SortFunc(chosen, func(a, b []int) int { return a[0] - b[0] })
	marked := replaceWords(prompt, chosen, withMarker)
	for range images - len(chosen) {
		marked = strings.TrimSpace(marked + " and a person " + Marker)
	}
	return marked
}

// functionWords are never the noun of a subject.
var functionWords = []string{
	"and", "the", "with", "from", "for", "into", "onto", "over", "under", "near", "next", "behind", "before", "photo", "picture",
	"painting", "portrait", "drawing", "his", "her", "its", "their", "our", "your", "this", "that", StandIn,
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
