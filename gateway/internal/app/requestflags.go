package app

import (
	"cmp"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"github.com/facediffuser/facediffuser/gateway/internal/parameters"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
)

// addRequestFlags adds the flags that are parameters of a request under
// another spelling. Those that the command has already mean a little more.
func addRequestFlags(f *pflag.FlagSet) {
	for _, p := range parameters.All() {
		switch {
		case p.Flag == "" || f.Lookup(p.Flag) != nil:
		case p.Type == parameters.Boolean:
			_, means, _ := strings.Cut(p.Help, ": ")
			f.Bool(p.Flag, false, "also write a map of each picture, out-fusion.png: "+means)
		default:
			f.Var(&parameterValue{placeholder: p.Placeholder}, p.Flag, flagHelp(p))
		}
	}
}

// spelled is a parameter as the command line has it.
func spelled(p parameters.Parameter) string {
	if p.Name == "n" {
		return "-n"
	}
	return "--" + p.Flag
}

// inFlags puts flags in place of the fields in a message of the API. A name that
// is an English word as well is a field's only where the message is about it.
func inFlags(param, message string) string {
	for _, p := range parameters.All() {
		if p.Flag != "" && (p.Name == param || strings.Contains(p.Name, "_")) {
			message = regexp.MustCompile(`(^|[^\w-])`+p.Name+`\b`).ReplaceAllString(message, "${1}"+spelled(p))
		}
	}
	return message
}

// checkFlags refuses flags that say nothing without another one.
func (g *generation) checkFlags() error {
	if g.flags.Changed("previews") && g.previewDir == "" {
		return usagef("--previews needs --preview-dir, the directory for them")
	}
	if len(g.subjects) > 0 {
		return nil
	}
	for _, p := range parameters.All() {
		if f := g.flags.Lookup(p.Flag); p.On == parameters.Edits && f != nil && f.Changed && f.Value.String() != "false" {
			return usagef("--%s needs at least one --subject", p.Flag)
		}
	}
	if strings.Contains(g.prompt, tokenizer.Marker) {
		return usagef("the prompt has the marker %s of a subject, but there is no --subject; give one for each marker", tokenizer.Marker)
	}
	return nil
}

// whole is the value of a flag that is an integer of the request.
func (g *generation) whole(name string, low int) (int, error) {
	p := parameters.All().Get(name)
	p.Low = float64(low)
	text := cmp.Or(g.flags.Lookup(p.Flag).Value.String(), p.Otherwise())
	if n, ok := parameters.Whole(text); ok && p.Holds(float64(n)) {
		return n, nil
	}
	return 0, usagef("%s must be %s, not %s", spelled(p), p.Want(), text)
}

// flagHelp is a parameter's help with the spellings of the command line, its
// values and its default.
func flagHelp(p parameters.Parameter) string {
	help := regexp.MustCompile("`([^`]+)`").ReplaceAllStringFunc(p.Help, func(quoted string) string {
		name := strings.Trim(quoted, "`")
		if other, ok := parameters.All().Find(name); ok && other.Flag != "" {
			return "--" + other.Flag
		}
		return name
	})
	takes := p.Range()
	if len(p.Words) > 0 {
		takes = parameters.List(p.Words)
	}
	if takes != "" {
		takes += "; "
	}
	return help + " (" + takes + "default: " + p.Otherwise() + ")"
}

// parameterValue is the text of a flag, which the gateway checks. It implements
// pflag.Value so that the help shows the placeholder.
type parameterValue struct{ text, placeholder string }

func (v *parameterValue) String() string { return v.text }
func (v *parameterValue) Type() string   { return v.placeholder }

func (v *parameterValue) Set(text string) error {
	v.text = text
	return nil
}

// fusionMaps says whether to write the fusion maps as well.
func (g *generation) fusionMaps() bool {
	f := g.flags.Lookup(parameters.All().Get("return_fusion_map").Flag)
	return f.Value.String() == "true"
}

// fusionMapFile names the map of a picture.
func fusionMapFile(picture string) string {
	return strings.TrimSuffix(picture, filepath.Ext(picture)) + "-fusion.png"
}
