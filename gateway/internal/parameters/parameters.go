package parameters

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
)

// Type is what a value is, under the names of JSON Schema.
type Type string

// The types of parameters.
const (
	Text    Type = "string"
	Integer Type = "integer"
	Number  Type = "number"
	Boolean Type = "boolean"
)

// On says which requests have a parameter.
type On int

// The two kinds of requests.
const (
	Edits       On = 1 << iota // with subjects
	Generations                // without
	Both        = Edits | Generations
)

// Bounds of what any family serves, as in the OpenAI Images API.
const (
	MaxPictures = 10     // n
	MaxPreviews = 3      // partial_images
	maxPrompt   = 32_000 // characters of a prompt, as for OpenAI's GPT image models
	maxName     = 512    // model, user and safety_identifier
)

// Parameter describes one parameter of a request.
type Parameter struct {
	Name string // the HTTP field
	// Flag is the flag of `facediffuser generate` without its dashes. Empty
	// where the command line has no such flag, or has one with a meaning of its
	// own. Placeholder stands for its value in help texts.
	Flag, Placeholder string

	On       On
	Type     Type
	Required bool
	// Words are all the values that a Text takes; none if any text will do.
	Words []string
	// Pattern is what a Text must match; nil if any text will do. Shape is the
	// same for readers.
	Pattern *regexp.Regexp
	Shape   string
	// MaxLength is the most characters (Unicode code points) of a Text; 0 where
	// Words or Pattern bound it.
	MaxLength int
	// Low and High are the inclusive bounds of an Integer or a Number; infinite
	// where there is none.
	Low, High float64

	// Default is used when a request does not say the parameter; nil if there is
	// no fixed one. Absent then says what happens.
	Default any
	Absent  string
	// Help is one or two sentences, without a capital at the start and a full
	// stop at the end.
	Help string

	// Unserved are values of OpenAI's API that are not served here, and Why.
	// They are refused in other words than values that nobody knows.
	Unserved []string
	Why      string

	// Recorded says that a picture carries the parameter (see
	// pipeline.Parameters), because it takes part in what the picture shows.
	Recorded bool

	// ofFamily fills in the bounds and the default that a family has; nil where
	// they are the same for all.
	ofFamily func(*Parameter, *family.Family)
}

// Set is the parameters of requests.
type Set []Parameter

// All are the parameters as they are for any family.
func All() Set { return slices.Clone(table) }

// Of are the parameters with the bounds and defaults of a family.
func Of(f *family.Family) Set {
	set := All()
	for i := range set {
		if fill := set[i].ofFamily; fill != nil {
			fill(&set[i], f)
		}
	}
	return set
}

// Find returns the parameter of that name.
func (s Set) Find(name string) (Parameter, bool) {
	i := slices.IndexFunc(s, func(p Parameter) bool { return p.Name == name })
	if i < 0 {
		return Parameter{}, false
	}
	return s[i], true
}

// Get is Find for a name that is known to be in the table.
func (s Set) Get(name string) Parameter {
	p, ok := s.Find(name)
	if !ok {
		panic("parameters: no parameter " + name)
	}
	return p
}

// Holds says whether a value lies within the bounds; NaN and infinities never do.
func (p Parameter) Holds(x float64) bool {
	return x >= p.Low && x <= p.High && !math.IsInf(x, 0)
}

// Takes says whether a text is one of the words or matches the pattern, and is
// short enough.
func (p Parameter) Takes(s string) bool {
	return p.fits(s) && (len(p.Words) == 0 || slices.Contains(p.Words, s)) && (p.Pattern == nil || p.Pattern.MatchString(s))
}

// fits counts what JSON Schema's maxLength does.
func (p Parameter) fits(s string) bool {
	return p.MaxLength == 0 || len(s) <= p.MaxLength || utf8.RuneCountInString(s) <= p.MaxLength
}

// Want completes "must be …".
func (p Parameter) Want() string {
	switch {
	case p.Type == Boolean:
		return "true or false"
	case len(p.Words) > 0:
		return List(p.Words)
	case p.Shape != "":
		return p.Shape
	case p.MaxLength > 0:
		return fmt.Sprintf("a string of at most %d characters", p.MaxLength)
	case p.Type == Text:
		return "a string"
	}
	want := "a number"
	if p.Type == Integer {
		want = "an integer"
	}
	switch bounds := p.Range(); {
	case strings.HasPrefix(bounds, "at "):
		return want + " of " + bounds
	case bounds != "":
		return want + " " + bounds
	}
	return want
}

// Ranged says whether the parameter is a number, which may have bounds.
func (p Parameter) Ranged() bool { return p.Type == Integer || p.Type == Number }

// Range are the bounds in words; empty without any.
func (p Parameter) Range() string {
	low, high := strconv.FormatFloat(p.Low, 'f', -1, 64), strconv.FormatFloat(p.High, 'f', -1, 64)
	switch hasLow, hasHigh := !math.IsInf(p.Low, 0), !math.IsInf(p.High, 0); {
	case !p.Ranged():
		return ""
	case hasLow && hasHigh:
		return "from " + low + " to " + high
	case hasLow:
		return "at least " + low
	case hasHigh:
		return "at most " + high
	}
	return ""
}

// Otherwise says in words what holds for a request without the parameter.
func (p Parameter) Otherwise() string {
	if p.Default == nil {
		return p.Absent
	}
	return fmt.Sprint(p.Default)
}

// Refusal says why a value that OpenAI's API has is not served; empty if the
// value is none of those.
func (p Parameter) Refusal(s string) string {
	if !slices.Contains(p.Unserved, s) {
		return ""
	}
	why := p.Why
	if why == "" {
		why = "this gateway serves " + List(p.Words)
	}
	return fmt.Sprintf("%s %s is not supported: %s", p.Name, s, why)
}

// List joins words: "a", "a or b", "a, b or c".
func List(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
