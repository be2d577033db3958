package httpapi

import (
	"errors"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"github.com/facediffuser/facediffuser/gateway/internal/parameters"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
	"github.com/facediffuser/facediffuser/gateway/internal/upload"
)

// A page asks while somebody types, so that a question is short and comes at once.
const (
	maxQuestionBytes = 64 << 10
	questionTimeout  = 10 * time.Second
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
	q, err := s.readQuestion(c)
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

// readQuestion reads the body of a request to check a prompt.
func (s *server) readQuestion(c *gin.Context) (q question, err error) {
	body := upload.RequestBody(c.Writer, c.Request)
	if media, _, _ := mime.ParseMediaType(body.ContentType); media != "application/json" {
		return q, otherMedia(c, "application/json")
	}
	fields := s.questionFields()
	var names []string
	for _, p := range fields {
		names = append(names, p.Name)
	}
	unknown := func(name string) *fault {
		f := &fault{kind: invalidValue, code: "unknown_parameter", param: name,
			message: "unknown field " + value{text: name}.short() + "; the fields are " + strings.Join(names, ", ")}
		if pictureField(name) {
			f.message += "; this request takes no images, only their number as subjects"
		}
		return f
	}
	form, err := s.Intake.Within(upload.Limits{MaxTextBytes: maxQuestionBytes, Timeout: questionTimeout}).ReadJSON(c.Request.Context(), body, 0)
	if e := (*upload.Error)(nil); errors.As(err, &e) && e.Kind == upload.KindTooManyImages {
		return q, unknown("images")
	}
	if err != nil {
		return q, err
	}
	defer form.Close()
	err = members(form.JSON, func(name string, raw any) error {
		p, ok := fields.Find(name)
		switch {
		case !ok:
			return unknown(name)
		case raw == nil:
			return nil
		}
		said := value{json: raw}
		r, ok := said.read(p)
		if !ok {
			return invalid(name, "%s must be %s, not %s", name, p.Want(), said.short())
		}
		switch name {
		case "prompt":
			q.prompt = r.text
		case "subjects":
			q.subjects = r.integer
		case "negative_prompt":
			q.negative = r.text
		case "model":
			q.model = r.text
		}
		return nil
	})
	return q, err
}

// questionFields are those of a request for pictures that say what the prompt
// means, and the number of images in place of the images.
func (s *server) questionFields() parameters.Set {
	most := maxImages
	if dims, ok := s.Pipeline.KnownDimensions(); ok {
		most = dims.Subjects
	}
	return parameters.Set{
		s.fields.Get("prompt"),
		{Name: "subjects", Type: parameters.Integer, Low: 0, High: float64(most), Default: 0, Help: "how many reference images there will be"},
		s.fields.Get("negative_prompt"),
		s.fields.Get("model"),
	}
}
