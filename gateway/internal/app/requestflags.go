package app

import (
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"github.com/facediffuser/facediffuser/gateway/internal/parameters"
)

// addRequestFlags adds the flags that are parameters of a request under
// another spelling.
func addRequestFlags(f *pflag.FlagSet) {
	for _, p := range parameters.All() {
		switch {
		case p.Flag == "":
		case p.Name == "return_fusion_map":
			f.Bool(p.Flag, false, "also write a map of each picture, out-fusion.png: white where the subject model won every step of the fusion, black where the scene model did")
		default:
			f.Var(&parameterValue{placeholder: p.Placeholder}, p.Flag, flagHelp(p))
		}
	}
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
