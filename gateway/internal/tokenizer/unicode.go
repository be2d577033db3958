package tokenizer

import (
	"cmp"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// The reference takes Unicode from three places of different age: letters and numbers from
// Oniguruma (Unicode 16), lower case from Rust (17), normalisation from the crate
// unicode-normalization-alignments (9). Go's tables are those of Unicode 15. This file holds the
// differences; each was found by comparing the ids of every code point.

// isLetter is \p{L}.
func isLetter(r rune) bool { return unicode.IsLetter(r) || unicode.Is(newLetters, r) }

// isNumber is \p{N}.
func isNumber(r rune) bool { return unicode.IsNumber(r) || unicode.Is(newNumbers, r) }

// appendLower appends the lower case of r to b.
func appendLower(b *strings.Builder, r rune) {
	switch {
	case r == 'İ': // the one letter whose lower case is two
		b.WriteString("i\u0307")
	case r > unicode.MaxASCII && newLower[r] != 0:
		b.WriteRune(newLower[r])
	case r >= 0x10d50 && r <= 0x10d65: // Garay
		b.WriteRune(r + 0x20)
	case r >= 0x16ea0 && r <= 0x16eb8: // Beria Erfe
		b.WriteRune(r + 0x1b)
	default:
		b.WriteRune(unicode.ToLower(r))
	}
}

// combiningClass is the canonical combining class of r in Unicode 9.
func combiningClass(r rune) uint8 {
	if unicode.Is(newMarks, r) {
		return 0
	}
	return norm.NFD.PropertiesString(string(r)).CCC()
}

// nfc is Unicode normalisation form C as the reference has it. norm.NFC has newer marks, and it
// breaks sequences of more than 30 of them up (UAX 15, stream-safe text); text that concerns
// neither is what it takes for normal, the usual case.
func nfc(text string) string {
	if norm.NFC.IsNormalString(text) && strings.IndexFunc(text, func(r rune) bool { return unicode.Is(newMarks, r) }) < 0 {
		return text
	}
	// 1. decompose, except Hangul syllables, which step 3 would compose again
	var runes []rune
	for _, r := range text {
		if decomposed := norm.NFD.PropertiesString(string(r)).Decomposition(); decomposed != nil && !unicode.Is(newMarks, r) {
			runes = append(runes, []rune(string(decomposed))...)
		} else {
			runes = append(runes, r)
		}
	}
	// 2. order each run of marks by class
	for i := 0; i < len(runes); i++ {
		end := i
		for end < len(runes) && combiningClass(runes[end]) != 0 {
			end++
		}
		slices.SortStableFunc(runes[i:end], func(a, b rune) int { return cmp.Compare(combiningClass(a), combiningClass(b)) })
		i = end
	}
	// 3. compose each rune with the last starter, unless one of the same class, or a starter, stands
	// between them
	composed := runes[:0]
	starter, last := -1, uint8(0) // index of the last starter; class of what stands between
	for _, r := range runes {
		class := combiningClass(r)
		if starter >= 0 && (starter == len(composed)-1 || last < class) {
			if joined, ok := compose(composed[starter], r); ok {
				composed[starter] = joined
				continue
			}
		}
		composed = append(composed, r)
		last = class
		if class == 0 {
			starter = len(composed) - 1
		}
	}
	return string(composed)
}

// compose is the composition of two runes, if Unicode 9 has one.
func compose(a, b rune) (rune, bool) {
	if unicode.Is(newMarks, b) {
		return 0, false
	}
	joined := []rune(norm.NFC.String(string([]rune{a, b})))
	return joined[0], len(joined) == 1
}

// newLower holds lower case letters of Unicode 16 and 17.
var newLower = map[rune]rune{
	0x1c89: 0x1c8a, 0xa7cb: 0x264, 0xa7cc: 0xa7cd, 0xa7ce: 0xa7cf, 0xa7d2: 0xa7d3, 0xa7d4: 0xa7d5, 0xa7da: 0xa7db, 0xa7dc: 0x19b,
}

// newLetters and newNumbers are those of Unicode 15.1 and 16.
var (
	newLetters = &unicode.RangeTable{
		R16: []unicode.Range16{{0x1c89, 0x1c8a, 1}, {0xa7cb, 0xa7cd, 1}, {0xa7da, 0xa7dc, 1}},
		R32: []unicode.Range32{
			{0x105c0, 0x105f3, 1}, {0x10d4a, 0x10d65, 1}, {0x10d6f, 0x10d85, 1}, {0x10ec2, 0x10ec4, 1}, {0x11380, 0x11389, 1},
			{0x1138b, 0x1138e, 3}, {0x11390, 0x113b5, 1}, {0x113b7, 0x113b7, 1}, {0x113d1, 0x113d3, 2}, {0x11bc0, 0x11be0, 1},
			{0x13460, 0x143fa, 1}, {0x16100, 0x1611d, 1}, {0x16d40, 0x16d6c, 1}, {0x18cff, 0x18cff, 1}, {0x1e5d0, 0x1e5ed, 1},
			{0x1e5f0, 0x1e5f0, 1}, {0x2ebf0, 0x2ee5d, 1},
		},
	}
	newNumbers = &unicode.RangeTable{R32: []unicode.Range32{
		{0x10d40, 0x10d49, 1}, {0x116d0, 0x116e3, 1}, {0x11bf0, 0x11bf9, 1}, {0x16130, 0x16139, 1}, {0x16d70, 0x16d79, 1},
		{0x1ccf0, 0x1ccf9, 1}, {0x1e5f1, 0x1e5fa, 1},
	}}
	// newMarks have a combining class or a composition since Unicode 10, or another class than before.
	newMarks = &unicode.RangeTable{
		R16: []unicode.Range16{
			{0x7fd, 0x7fd, 1}, {0x898, 0x89f, 1}, {0x8ca, 0x8d3, 1}, {0x9fe, 0x9fe, 1}, {0xc3c, 0xc3c, 1}, {0xd3b, 0xd3c, 1},
			{0xeba, 0xeba, 1}, {0x1715, 0x1715, 1}, {0x1abf, 0x1ace, 1}, {0x1df6, 0x1dfa, 1}, {0xa82c, 0xa82c, 1},
		},
		R32: []unicode.Range32{
			{0x10d24, 0x10d27, 1}, {0x10eab, 0x10eac, 1}, {0x10efd, 0x10eff, 1}, {0x10f46, 0x10f50, 1}, {0x10f82, 0x10f85, 1},
			{0x11070, 0x11070, 1}, {0x1133b, 0x1133b, 1}, {0x1145e, 0x1145e, 1}, {0x11839, 0x1183a, 1}, {0x11930, 0x11930, 1},
			{0x11938, 0x11938, 1}, {0x1193d, 0x1193e, 1}, {0x11943, 0x11943, 1}, {0x119e0, 0x119e0, 1}, {0x11a34, 0x11a34, 1},
			{0x11a47, 0x11a47, 1}, {0x11a99, 0x11a99, 1}, {0x11d42, 0x11d42, 1}, {0x11d44, 0x11d45, 1}, {0x11d97, 0x11d97, 1},
			{0x11f41, 0x11f42, 1}, {0x16ff0, 0x16ff1, 1}, {0x1e08f, 0x1e08f, 1}, {0x1e130, 0x1e136, 1}, {0x1e2ae, 0x1e2ae, 1},
			{0x1e2ec, 0x1e2ef, 1}, {0x1e4ec, 0x1e4ef, 1},
		},
	}
)
