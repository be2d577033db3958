package pipeline

import (
	"errors"
	"fmt"
	"strings"

	"github.com/facediffuser/facediffuser/gateway/internal/placement"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
)

// Reading is what a prompt and a negative prompt mean to a family.
type Reading struct {
	Prompt, Negative Text
	// Rung says how the markers of the prompt came to their places.
	Rung placement.Rung
	// Subjects are in the order of the images.
	Subjects []Subject
	Warnings []Warning
}

// Subject is the word of a prompt whose token state is augmented by a reference
// image, and the first byte of the marker behind it.
type Subject struct {
	Word   tokenizer.Word
	Marker int
}

// Text is a prompt as the text encoder reads it. Offsets are in bytes.
type Text struct {
	Text    string           // the prompt with its markers in their places
	Unknown []tokenizer.Word // that the family was not taught
	Tokens  int              // with start and end of text, cut ones included
	Cut     int              // where the text encoder stops; len(Text) unless it is cut

	tokens tokenizer.Prompt
}

// Truncated tells that the text does not fit into [tokenizer.Length] tokens.
func (t Text) Truncated() bool { return t.tokens.Truncated }

// ReadPrompt places the markers of so many subjects in a prompt and tokenises
// it. It calls no network. The error is an *InputError.
func (p *Pipeline) ReadPrompt(prompt, negative string, subjects int) (*Reading, error) {
	if strings.TrimSpace(prompt) == "" {
		return nil, &InputError{Param: "prompt", Code: "missing_required_parameter",
			Message: fmt.Sprintf("prompt is empty; describe the scene, for example \"the %s %s in the snow at night\"", p.family.PersonNouns[0], tokenizer.Marker)}
	}
	if strings.Contains(negative, tokenizer.Marker) {
		return nil, invalid("negative_prompt", "negative_prompt holds the subject marker %s; subjects belong in prompt", tokenizer.Marker)
	}
	placed, err := p.placer.Place(prompt, subjects)
	if err != nil {
		return nil, invalid("prompt", "%v", err)
	}
	text, err := p.read(placed.Prompt)
	if refused := new(tokenizer.PromptError); placed.Rung != placement.Markers && errors.As(err, &refused) && refused.Reason == tokenizer.BeyondCut {
		placed = p.placer.InFront(prompt, subjects)
		text, err = p.read(placed.Prompt)
	}
	if err != nil {
		return nil, invalid("prompt", "%v", err)
	}
	r := &Reading{Prompt: text, Rung: placed.Rung, Subjects: subjectsOf(text.Text)}
	if placed.Warning != "" {
		r.Warnings = append(r.Warnings, Warning{"prompt", placed.Warning})
	}
	if r.Negative, err = p.read(negative); err != nil {
		return nil, invalid("negative_prompt", "%v", err)
	}
	for _, t := range []struct {
		param string
		Text
	}{{"prompt", r.Prompt}, {"negative_prompt", r.Negative}} {
		if t.Truncated() {
			r.Warnings = append(r.Warnings, Warning{t.param, fmt.Sprintf("the %s is longer than the %d tokens that the text encoder reads; this part was cut: %q",
				strings.ReplaceAll(t.param, "_", " "), tokenizer.Length, excerpt(strings.TrimSpace(t.Text.Text[t.Cut:])))})
		}
	}
	for _, t := range []struct {
		param   string
		unknown []tokenizer.Word
	}{{"prompt", r.Prompt.Unknown}, {"negative_prompt", r.Negative.Unknown}} {
		if len(t.unknown) > 0 {
			r.Warnings = append(r.Warnings, p.unknownWarning(t.param, t.unknown))
		}
	}
	return r, nil
}

// excerpt is the beginning of a text, short enough for a warning.
func excerpt(text string) string {
	const most = 60 // characters
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "…"
	}
	return text
}

// subjectsOf finds the markers of a prompt, and the words before them.
func subjectsOf(prompt string) (subjects []Subject) {
	end := 0
	for before := range strings.SplitSeq(prompt, tokenizer.Marker) {
		marker := end + len(before)
		if marker == len(prompt) {
			break // behind the last marker
		}
		if words := tokenizer.Words(before); len(words) > 0 {
			last := words[len(words)-1]
			last.Start, last.End = last.Start+end, last.End+end
			subjects = append(subjects, Subject{last, marker})
		}
		end = marker + len(tokenizer.Marker)
	}
	return subjects
}

func (p *Pipeline) read(text string) (Text, error) {
	text = strings.ToValidUTF8(text, "\uFFFD")
	tokens, err := p.tokenizer.Encode(text)
	if err != nil {
		return Text{}, err
	}
	t := Text{Text: text, Tokens: tokens.Tokens, Cut: len(text), tokens: tokens}
	if tokens.Truncated {
		t.Cut = p.tokenizer.Cut(text)
	}
	t.Unknown = p.unknownWords(text, t.Cut)
	return t, nil
}
