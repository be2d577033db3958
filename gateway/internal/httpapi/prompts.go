package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"os"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
)

// A page asks while somebody types, so that a question is short and comes at once.
const (
	maxQuestionBytes = 64 << 10
	questionTimeout  = 10 * time.Second
	// dimensionsTimeout is how long the networks may take to say how many subjects they take.
	dimensionsTimeout = time.Second
)

// PromptCheck says what a prompt means. Offsets count characters (Unicode code points) of prompt_used.
type PromptCheck struct {
	Model      string           `json:"model"`
	Rung       string           `json:"rung"` // how the markers came to their places: see package placement
	PromptUsed string           `json:"prompt_used"`
	Subjects   []CheckedSubject `json:"subjects"` // in the order of the images
	CheckedText
	TokenLimit     int                `json:"token_limit"`
	NegativePrompt *CheckedText       `json:"negative_prompt"` // its offsets are its own; null without one
	Warnings       []pipeline.Warning `json:"warnings"`
}

// CheckedText is what the text encoder makes of a text.
type CheckedText struct {
	UnknownWords []CheckedWord `json:"unknown_words"` // that the family was not taught; none for one that takes any sentence
	Tokens       int           `json:"tokens"`        // of the whole text, with its start and end
	CutAt        *int          `json:"cut_at"`        // the first character that is not read; null if all are
}

// CheckedWord is a word in lower case and where it is.
type CheckedWord struct {
	Word  string `json:"word"`
	Start int    `json:"start"`
	End   int    `json:"end"`
}

// CheckedSubject is the word that a reference image belongs to, and the marker behind it.
type CheckedSubject struct {
	CheckedWord
	MarkerStart int `json:"marker_start"`
	MarkerEnd   int `json:"marker_end"`
}

// question is the body of a request to check a prompt.
type question struct {
	prompt, negative, model string
	subjects                int
}

// checkPrompt says what a prompt means without making a picture, while the networks are away too.
func (s *server) checkPrompt(c *gin.Context) {
	f := s.Pipeline.Family()
	ctx, cancel := context.WithTimeout(c.Request.Context(), dimensionsTimeout)
	defer cancel()
	most := maxImages
	if dims, err := s.Pipeline.Dimensions(ctx); err == nil {
		most = dims.Subjects
	}
	q, err := readQuestion(c, most)
	if err == nil && q.model != "" && !f.Answers(q.model) {
		err = unknownModel(q.model, f)
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	read, err := s.Pipeline.ReadPrompt(q.prompt, q.negative, q.subjects)
	if err != nil {
		s.fail(c, err)
		return
	}
	answer := PromptCheck{
		Model: f.Name, Rung: string(read.Rung), PromptUsed: read.Prompt.Text, Subjects: []CheckedSubject{},
		CheckedText: checkedText(read.Prompt), TokenLimit: tokenizer.Length, Warnings: append([]pipeline.Warning{}, read.Warnings...),
	}
	for _, subject := range read.Subjects {
		at := utf8.RuneCountInString(read.Prompt.Text[:subject.Marker])
		answer.Subjects = append(answer.Subjects, CheckedSubject{
			CheckedWord: checkedWord(read.Prompt.Text, subject.Word), MarkerStart: at, MarkerEnd: at + len(tokenizer.Marker),
		})
	}
	if q.negative != "" {
		negative := checkedText(read.Negative)
		answer.NegativePrompt = &negative
	}
	s.answer(c, http.StatusOK, answer)
}

func checkedText(t pipeline.Text) CheckedText {
	checked := CheckedText{UnknownWords: []CheckedWord{}, Tokens: t.Tokens}
	for _, word := range t.Unknown {
		checked.UnknownWords = append(checked.UnknownWords, checkedWord(t.Text, word))
	}
	if t.Truncated() {
		at := utf8.RuneCountInString(t.Text[:t.Cut])
		checked.CutAt = &at
	}
	return checked
}

func checkedWord(text string, w tokenizer.Word) CheckedWord {
	start := utf8.RuneCountInString(text[:w.Start])
	return CheckedWord{Word: w.Text, Start: start, End: start + utf8.RuneCountInString(text[w.Start:w.End])}
}

// readQuestion reads a JSON object of at most maxQuestionBytes within questionTimeout.
func readQuestion(c *gin.Context, mostSubjects int) (q question, err error) {
	if media, _, _ := mime.ParseMediaType(c.ContentType()); media != "application/json" {
		return q, &fault{kind: unsupportedMedia, message: c.FullPath() + " takes application/json, not content type " + value{text: c.ContentType()}.short()}
	}
	connection := http.NewResponseController(c.Writer)
	_ = connection.SetReadDeadline(time.Now().Add(questionTimeout)) // a recorder, in tests, has none
	body, err := io.ReadAll(io.LimitReader(c.Request.Body, maxQuestionBytes+1))
	if len(body) > maxQuestionBytes {
		// A client that is still sending would see a broken connection instead of the answer.
		_, _ = io.CopyN(io.Discard, c.Request.Body, 16<<20)
		return q, &fault{kind: bodyTooLarge, message: "the request body is over the limit of 64 KiB"}
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return q, &fault{kind: requestTimeout, message: "the request body did not arrive within " + questionTimeout.String()}
	case err != nil:
		return q, &fault{kind: clientGone}
	}
	_ = connection.SetReadDeadline(time.Time{})

	fields, err := readObject(body)
	if err != nil {
		return q, err
	}
	for name, raw := range fields {
		var want string
		var ok bool
		switch name {
		case "prompt":
			q.prompt, ok = raw.(string)
			want = "a string"
		case "negative_prompt":
			q.negative, ok = raw.(string)
			want = "a string"
		case "model":
			q.model, ok = raw.(string)
			want = "a string"
		case "subjects":
			q.subjects, ok = integerOf(raw)
			ok = ok && q.subjects >= 0 && q.subjects <= mostSubjects
			want = "an integer from 0 to " + strconv.Itoa(mostSubjects) + ", the number of reference images"
		default:
			return q, &fault{kind: invalidValue, code: "unknown_parameter", param: name,
				message: "unknown field " + value{text: name}.short() + "; the fields are prompt, subjects, negative_prompt and model"}
		}
		if !ok {
			return q, invalid(name, "%s must be %s, not %s", name, want, value{json: raw}.short())
		}
	}
	return q, nil
}

// readObject reads a JSON object; null means that a member is absent.
func readObject(body []byte) (map[string]any, error) {
	malformed := func(what string) error {
		return &fault{kind: invalidValue, code: "invalid_body", message: what}
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if open, err := decoder.Token(); err != nil {
		return nil, malformed("the body is not valid JSON; send an object such as {\"prompt\": \"a woman in the snow\", \"subjects\": 1}")
	} else if open != json.Delim('{') {
		return nil, malformed("the body must be a JSON object")
	}
	said, members := map[string]bool{}, map[string]any{}
	for decoder.More() {
		token, err := decoder.Token()
		name, _ := token.(string) // the decoder accepts no other key
		var raw any
		if err == nil {
			err = decoder.Decode(&raw)
		}
		if err != nil {
			return nil, malformed("the body is not valid JSON: " + err.Error())
		}
		if said[name] {
			return nil, invalid(name, "%s appears twice", name)
		}
		said[name] = true
		if raw != nil {
			members[name] = raw
		}
	}
	if _, err := decoder.Token(); err != nil { // the closing brace
		return nil, malformed("the body is not valid JSON: it ends too early")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed("the body goes on after its JSON object")
	}
	return members, nil
}

// integerOf takes numbers such as 2 and 2.0.
func integerOf(raw any) (int, bool) {
	number, ok := raw.(json.Number)
	if !ok {
		return 0, false
	}
	x, err := number.Float64()
	if err != nil || x != math.Trunc(x) || math.Abs(x) > math.MaxInt32 {
		return 0, false
	}
	return int(x), true
}
