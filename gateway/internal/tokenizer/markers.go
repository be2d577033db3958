package tokenizer

import (
	"fmt"
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
