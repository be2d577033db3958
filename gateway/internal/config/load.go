package config

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/spf13/pflag"
)

// envPrefix begins the name of every variable: FACEDIFFUSER_MAX_QUEUE.
const envPrefix = "FACEDIFFUSER_"

// Variable returns the name of the environment variable of a flag.
func Variable(flag string) string { return envPrefix + strings.ToUpper(Key(flag)) }

// Key returns the name of a flag in a configuration file.
func Key(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// Load completes c, whose flags have been parsed into it by the set that c.Flags returned: a setting without a flag comes from its
// variable, without that from the file. It joins every fault it finds, those of Validate included.
func (c *Config) Load(flags *pflag.FlagSet, getenv func(string) string) error {
	var faults []error
	flags.VisitAll(func(f *pflag.Flag) {
		if v := getenv(Variable(f.Name)); v != "" && !f.Changed {
			faults = append(faults, set(f, v, Variable(f.Name)))
		}
	})
	if c.File != "" {
		data, err := os.ReadFile(c.File)
		if err != nil {
			faults = append(faults, fmt.Errorf("config: %w", err))
		} else {
			faults = append(faults, fromFile(flags, c.File, data)...)
		}
	}
	// A value that could not be read is still at its default, so Validate cannot report it a second time.
	return errors.Join(append(faults, c.Validate())...)
}

// set gives a flag the text that a source holds for it.
func set(f *pflag.Flag, text, source string) error {
	f.Changed = true // also when it fails: the next source must not hide the fault
	if f.Value.Set(text) == nil {
		return nil
	}
	want := map[string]string{
		"int": "a whole number", "int64": "a whole number", "bool": "true or false",
		"duration": "a duration such as 20s", "size": "a size such as 20MiB",
	}[f.Value.Type()]
	if want == "" {
		want = f.Value.Type()
	}
	return fmt.Errorf("%s: must be %s, not %q", source, want, text)
}

// fromFile sets the flags that a YAML or JSON mapping names and that nothing has set before. Faults carry file and line.
func fromFile(flags *pflag.FlagSet, name string, data []byte) (faults []error) {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return []error{fmt.Errorf("%s: %s", name, yaml.FormatError(err, false, true))}
	}
	var entries []*ast.MappingValueNode
	for _, doc := range file.Docs {
		switch body := doc.Body.(type) {
		case nil, *ast.CommentGroupNode:
		case *ast.MappingNode:
			entries = append(entries, body.Values...)
		case *ast.MappingValueNode:
			entries = append(entries, body)
		default:
			return []error{fmt.Errorf("%s:%d: must be a mapping of settings", name, body.GetToken().Position.Line)}
		}
	}
	seen := map[string]bool{}
	for _, e := range entries {
		key := e.Key.GetToken().Value
		source := fmt.Sprintf("%s:%d: %s", name, e.Key.GetToken().Position.Line, key)
		f := flags.Lookup(strings.ReplaceAll(key, "_", "-"))
		text, ok := scalar(e.Value)
		switch {
		case f == nil || Key(f.Name) != key || key == "config":
			faults = append(faults, fmt.Errorf("%s: is not a setting%s", source, nearest(flags, key)))
		case seen[key]:
			faults = append(faults, fmt.Errorf("%s: is set twice", source))
		case !ok:
			faults = append(faults, fmt.Errorf("%s: must be one value or a list of values", source))
		case !f.Changed:
			faults = append(faults, set(f, text, source))
		}
		seen[key] = true
	}
	return faults
}

// scalar returns a node as the text that its flag would take: lists are joined by commas.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	case *ast.SequenceNode:
		parts := make([]string, len(n.Values))
		for i, v := range n.Values {
			if _, nested := v.(*ast.SequenceNode); nested {
				return "", false
			}
			var ok bool
			if parts[i], ok = scalar(v); !ok {
				return "", false
			}
		}
		return strings.Join(parts, ","), true
	}
	return "", false
}

// nearest names the setting that was probably meant: the one whose name differs least.
func nearest(flags *pflag.FlagSet, key string) string {
	best, least := "", 3
	flags.VisitAll(func(f *pflag.Flag) {
		if d := levenshtein.ComputeDistance(Key(f.Name), key); d < least && f.Name != "config" {
			best, least = Key(f.Name), d
		}
	})
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (is %s meant?)", best)
}
