package family

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Vocabulary is what a family's networks were taught to draw: groups of phrases. In JSON it is an
// object of lists whose order is kept. A family that takes any sentence has none.
type Vocabulary []PhraseGroup

// PhraseGroup is the phrases of one kind, such as places.
type PhraseGroup struct {
	Name    string
	Phrases []string
}

// UnmarshalJSON keeps the order of the groups, which a map would lose.
func (v *Vocabulary) UnmarshalJSON(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return fmt.Errorf("vocabulary is %.40s, want an object: the name of each group with its list of phrases", data)
	}
	groups := Vocabulary{}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		group := PhraseGroup{Name: fmt.Sprint(name)}
		if err := decoder.Decode(&group.Phrases); err != nil {
			return fmt.Errorf("vocabulary: group %q: %w, want a list of phrases", group.Name, err)
		}
		groups = append(groups, group)
	}
	*v = groups
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (v Vocabulary) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, group := range v {
		name, err := json.Marshal(group.Name)
		if err != nil {
			return nil, err
		}
		phrases, err := json.Marshal(group.Phrases)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = slices.Concat(out, name, []byte{':'}, phrases)
	}
	return append(out, '}'), nil
}

// faults are what a reader of the vocabulary would stumble over.
func (v Vocabulary) faults() (faults []error) {
	report := func(format string, args ...any) { faults = append(faults, fmt.Errorf("vocabulary: "+format, args...)) }
	if v != nil && len(v) == 0 {
		report("it has no group; leave the key out for a family that takes any sentence")
	}
	for i, group := range v {
		if strings.TrimSpace(group.Name) == "" {
			report("group %d has no name", i+1)
		}
		if slices.ContainsFunc(v[:i], func(other PhraseGroup) bool { return other.Name == group.Name }) {
			report("group %q stands there twice", group.Name)
		}
		if len(group.Phrases) == 0 {
			report("group %q has no phrase", group.Name)
		}
		for k, phrase := range group.Phrases {
			if strings.TrimSpace(phrase) == "" {
				report("group %q: phrase %d is empty", group.Name, k+1)
			} else if slices.Contains(group.Phrases[:k], phrase) {
				report("group %q has %q twice", group.Name, phrase)
			}
		}
	}
	return faults
}
