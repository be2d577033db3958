package tokenizer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

const (
	// Length is the number of token ids of a prompt: start of text, 75 of words, end of text.
	Length = 77
	// Marker follows the noun of a subject in a prompt.
	Marker = "<|image|>"

	startOfText = "<|startoftext|>"
	endOfText   = "<|endoftext|>"
	endOfWord   = "</w>" // suffix of the last symbol of a word in the vocabulary
)

// Tokenizer holds a vocabulary. It is immutable and safe for concurrent use.
type Tokenizer struct {
	merges     map[pair]merge
	inner      [256]int32 // id of each byte inside a word
	final      [256]int32 // id of each byte at the end of a word
	text       []string   // of each id, as it stands in the vocabulary
	start, end int32
}

// Prompt is a tokenised prompt.
type Prompt struct {
	// IDs are Length ids: start of text, words, end of text, and end of text again as padding.
	IDs []int64
	// Positions holds the index in IDs of each subject's token, the last one of the word before its
	// marker, in the order of the prompt.
	Positions []int
	// Tokens is how many tokens the prompt has with start and end of text, cut ones included.
	Tokens int
	// Truncated tells that the prompt did not fit; TruncatedText is what was cut, as the vocabulary
	// spells it (in lower case).
	Truncated     bool
	TruncatedText string
	// Text is the prompt without markers.
	Text string
}

// Load reads a vocabulary as CLIP ships it: vocab.json (token → id) and merges.txt (pairs of
// symbols, the most important first) in directory dir.
func Load(dir string) (*Tokenizer, error) {
	vocabulary, err := readVocabulary(filepath.Join(dir, "vocab.json"))
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	t := &Tokenizer{text: make([]string, len(vocabulary))}
	for token, id := range vocabulary {
		if id < 0 || int(id) >= len(vocabulary) {
			return nil, fmt.Errorf("tokenizer: vocab.json: id %d of %q is outside of 0 to %d", id, token, len(vocabulary)-1)
		}
		t.text[id] = token
	}
	lookup := func(id *int32, token string) {
		found, ok := vocabulary[token]
		if !ok {
			err = errors.Join(err, fmt.Errorf("tokenizer: vocab.json has no token %q", token))
		}
		*id = found
	}
	lookup(&t.start, startOfText)
	lookup(&t.end, endOfText)
	for b, symbol := range byteSymbols() {
		lookup(&t.inner[b], string(symbol))
		lookup(&t.final[b], string(symbol)+endOfWord)
	}
	if err != nil {
		return nil, err
	}
	t.merges, err = readMerges(filepath.Join(dir, "merges.txt"), vocabulary)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return t, nil
}

// Size is the number of token ids: they run from 0 to Size − 1.
func (t *Tokenizer) Size() int { return len(t.text) }

func readVocabulary(path string) (map[string]int32, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	vocabulary := make(map[string]int32, 50_000)
	if err := json.Unmarshal(raw, &vocabulary); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return vocabulary, nil
}

func readMerges(path string, vocabulary map[string]int32) (map[pair]merge, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	merges := make(map[pair]merge, len(vocabulary))
	lines := bufio.NewScanner(bytes.NewReader(raw))
	var joined []byte
	for number := 1; lines.Scan(); number++ {
		line := lines.Bytes()
		if len(line) == 0 || number == 1 && bytes.HasPrefix(line, []byte("#version")) {
			continue
		}
		left, right, _ := bytes.Cut(line, []byte(" "))
		joined = append(append(joined[:0], left...), right...)
		a, foundA := vocabulary[string(left)]
		b, foundB := vocabulary[string(right)]
		id, found := vocabulary[string(joined)]
		if !foundA || !foundB || !found {
			return nil, fmt.Errorf("%s: line %d: %q joins symbols that vocab.json does not have", path, number, line)
		}
		merges[pair{a, b}] = merge{rank: int32(number), id: id}
	}
	return merges, lines.Err()
}

// byteSymbols is the letter that stands for each byte in the vocabulary. Printable bytes of
// Latin-1 stand for themselves, the others for the letters from U+0100 on: no symbol is a space or a
// control character. (GPT-2's encoder.py, bytes_to_unicode.)
func byteSymbols() [256]rune {
	var symbols [256]rune
	next := rune(0x100)
	for b := range rune(256) {
		if b > ' ' && b < 0x7f || b > 0xa0 && b != 0xad {
			symbols[b] = b
			continue
		}
		symbols[b] = next
		next++
	}
	return symbols
}

// Encode tokenises a prompt. Markers become positions; the ids hold none. The error is a
// [*PromptError] and concerns the first misplaced marker.
func (t *Tokenizer) Encode(prompt string) (Prompt, error) {
	prompt = strings.ToValidUTF8(prompt, "\uFFFD")
	if err := checkMarkers(prompt); err != nil {
		return Prompt{}, err
	}
	out := Prompt{Text: withoutMarkers(prompt)}
	stream := []int32{t.start}
	var w wordEncoder
	for rest := prompt; rest != ""; {
		var text, special string
		text, special, rest = cutSpecial(rest)
		for word := range words(normalize(text)) {
			stream = w.encode(t, stream, word)
		}
		switch special {
		case Marker:
			out.Positions = append(out.Positions, len(stream)-1)
		case startOfText:
			stream = append(stream, t.start)
		case endOfText:
			stream = append(stream, t.end)
		}
	}
	if n := len(out.Positions); n > 0 && out.Positions[n-1] > Length-2 {
		return Prompt{}, beyondCut(n)
	}
	out.Tokens = len(stream) + 1
	if len(stream) > Length-1 {
		out.Truncated = true
		out.TruncatedText = t.decode(stream[Length-1:])
		stream = stream[:Length-1]
	}
	out.IDs = make([]int64, Length)
	for i := range out.IDs {
		out.IDs[i] = int64(t.end)
		if i < len(stream) {
			out.IDs[i] = int64(stream[i])
		}
	}
	return out, nil
}

// Cut is how many bytes of a prompt the text encoder reads; all of them where the prompt is not truncated. A word of
// which it reads a part is cut where the letters of that part end.
func (t *Tokenizer) Cut(prompt string) int {
	var w wordEncoder
	count := func(text string) (n int) {
		for word := range words(normalize(text)) {
			n += len(w.encode(t, nil, word))
		}
		return n
	}
	left := Length - 2
	for rest := prompt; rest != ""; {
		at := len(prompt) - len(rest)
		var text, special string
		text, special, rest = cutSpecial(rest)
		start := 0
		for chunk := range strings.FieldsSeq(text) { // no word goes across white space
			start += strings.Index(text[start:], chunk)
			if n := count(chunk); n <= left {
				left -= n
				start += len(chunk)
				continue
			}
			chunk = chunk[:min(len(chunk), 4096)] // more tokens than fit: none has 50 bytes
			var ends []int
			for i := range chunk {
				ends = append(ends, i)
			}
			read := sort.Search(len(ends), func(i int) bool { return count(chunk[:ends[i]]) > left }) - 1
			return at + start + ends[max(read, 0)]
		}
		if special == startOfText || special == endOfText {
			if left == 0 {
				return at + len(text)
			}
			left--
		}
	}
	return len(prompt)
}

// cutSpecial cuts text at its first special token. Those are found before anything else happens to
// a prompt, so that their letters count as they stand.
func cutSpecial(text string) (before, special, after string) {
	for i := 0; ; i += len("<|") {
		next := strings.Index(text[i:], "<|")
		if next < 0 {
			return text, "", ""
		}
		i += next
		for _, token := range [...]string{Marker, startOfText, endOfText} {
			if strings.HasPrefix(text[i:], token) {
				return text[:i], token, text[i+len(token):]
			}
		}
	}
}

// decode spells ids in words.
func (t *Tokenizer) decode(ids []int32) string {
	var spelled strings.Builder
	for _, id := range ids {
		spelled.WriteString(t.text[id])
	}
	bytesOf := map[rune]byte{}
	for b, symbol := range byteSymbols() {
		bytesOf[symbol] = byte(b)
	}
	var text []byte
	for _, symbol := range strings.ReplaceAll(spelled.String(), endOfWord, " ") {
		if b, found := bytesOf[symbol]; found {
			text = append(text, b)
		} else {
			text = append(text, ' ')
		}
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(text)), "\uFFFD")
}
