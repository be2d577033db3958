package family

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func withVocabulary(vocabulary string) (*Family, error) {
	return read(strings.NewReader(strings.Replace(valid, "{", `{"vocabulary": `+vocabulary+`,`, 1)))
}

func TestVocabularyKeepsItsOrder(t *testing.T) {
	const text = `{"times":["at night","at dusk"],"people":["a woman","a \"man\""],"\"places\"":["at the beach"]}`
	f, err := withVocabulary(text)
	if err != nil {
		t.Fatal(err)
	}
	want := Vocabulary{{"times", []string{"at night", "at dusk"}}, {"people", []string{"a woman", `a "man"`}}, {`"places"`, []string{"at the beach"}}}
	if diff := cmp.Diff(want, f.Vocabulary); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
	written, err := json.Marshal(f.Vocabulary)
	if err != nil || string(written) != text {
		t.Errorf("%v: written as %s", err, written)
	}
}

func TestFamilyOfAnySentenceHasNoVocabulary(t *testing.T) {
	f, err := read(strings.NewReader(valid))
	if err != nil || f.Vocabulary != nil {
		t.Errorf("%v, %v", f.Vocabulary, err)
	}
}

func TestVocabularyFaults(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                              "vocabulary: it has no group; leave the key out for a family that takes any sentence",
		`null`:                            "vocabulary is null, want an object",
		`["x"]`:                           `vocabulary is ["x"], want an object: the name of each group with its list of phrases`,
		`{"a":3}`:                         `vocabulary: group "a": json: cannot unmarshal number`,
		`{"a":["x", 3]}`:                  `vocabulary: group "a": json: cannot unmarshal number`,
		`{"a":[]}`:                        `vocabulary: group "a" has no phrase`,
		`{"a":null}`:                      `vocabulary: group "a" has no phrase`,
		`{"a":["x", " "]}`:                `vocabulary: group "a": phrase 2 is empty`,
		`{"a":["x", "y", "x"]}`:           `vocabulary: group "a" has "x" twice`,
		`{"a":["x"],"b":["y"],"a":["z"]}`: `vocabulary: group "a" stands there twice`,
		`{" ":["x"]}`:                     "vocabulary: group 1 has no name",
	} {
		if _, err := withVocabulary(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
	_, err := withVocabulary(`{"a":[],"b":["y","y"]}`)
	for _, want := range []string{`group "a" has no phrase`, `group "b" has "y" twice`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q: all faults at once", err, want)
		}
	}
	if _, err := withVocabulary(`{"a":["x"],"b":["x"]}`); err != nil {
		t.Errorf("a phrase may stand in two groups: %v", err)
	}
}
