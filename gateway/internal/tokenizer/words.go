package tokenizer

import (
	"iter"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What CLIPTokenizerFast does to a text before byte-pair encoding (transformers,
// models/clip/tokenization_clip.py):
//
//  1. normalise: Unicode NFC, white space to single spaces, lower case letter by letter
//  2. split by
//     <\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+
//  3. split again by the ByteLevel rule, which only divides a special token's text of step 2 (in
//     other capitals than the special token itself) into punctuation, letters and punctuation

// Word is a word of a text in lower case and composed letters, and its bytes in the text.
type Word struct {
	Text       string
	Start, End int
}

// wordPattern is step 2 for a text that is not normalised: an accent of its own belongs to its letter.
var wordPattern = regexp.MustCompile(`(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}[\p{L}\p{M}]*|\p{N}`)

// Words are the words of a text as the text encoder reads them, without punctuation and endings such as 's.
func Words(text string) []Word {
	var found []Word
	for _, span := range wordPattern.FindAllStringIndex(text, -1) {
		if text[span[0]] != '\'' {
			found = append(found, Word{normalize(text[span[0]:span[1]]), span[0], span[1]})
		}
	}
	return found
}

// normalize is step 1. Spaces need not be joined: they only separate words.
func normalize(text string) string {
	text = nfc(text)
	var lower strings.Builder
	lower.Grow(len(text))
	for _, r := range text {
		appendLower(&lower, r)
	}
	return lower.String()
}

// words yields the words of a normalised text, steps 2 and 3.
func words(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for text != "" {
			r, size := utf8.DecodeRuneInString(text)
			if unicode.IsSpace(r) {
				text = text[size:]
				continue
			}
			for _, n := range wordLengths(text) {
				if n == 0 {
					break
				}
				if !yield(text[:n]) {
					return
				}
				text = text[n:]
			}
		}
	}
}

// wordLengths is how many bytes the next words of a text that starts with none of white space
// have; unused elements are 0.
func wordLengths(text string) [3]int {
	for _, token := range [...]string{startOfText, endOfText} {
		if strings.HasPrefix(text, token) {
			return [3]int{len("<|"), len(token) - len("<||>"), len("|>")}
		}
	}
	for _, ending := range [...]string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"} {
		if strings.HasPrefix(text, ending) {
			return [3]int{len(ending)}
		}
	}
	r, size := utf8.DecodeRuneInString(text)
	switch {
	case isNumber(r):
		return [3]int{size}
	case isLetter(r):
		return [3]int{runLength(text, isLetter)}
	default:
		return [3]int{runLength(text, isOther)}
	}
}

func isOther(r rune) bool {
	return !unicode.IsSpace(r) && !isLetter(r) && !isNumber(r)
}

// runLength is how many bytes at the start of text belong to runes of a kind.
func runLength(text string, kind func(rune) bool) int {
	if end := strings.IndexFunc(text, func(r rune) bool { return !kind(r) }); end >= 0 {
		return end
	}
	return len(text)
}
