package parameters_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/parameters"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
)

var update = flag.Bool("update", false, "rewrite the table of fields in the documentation")

// TestDocumentation holds docs/http-api.md to the table: every field with its values, its default and its help.
func TestDocumentation(t *testing.T) {
	const file, begin, end = "../../../docs/http-api.md", "<!-- fields -->\n", "<!-- /fields -->\n"
	var b strings.Builder
	b.WriteString("| field | takes | without it | |\n|---|---|---|---|\n")
	for _, p := range parameters.All() {
		takes := p.Want()
		if len(p.Words) > 0 {
			takes = "`" + strings.Join(p.Words, "`, `") + "`"
		}
		if p.On == parameters.Edits {
			takes += "; edits only"
		}
		without := p.Otherwise()
		switch {
		case p.Required:
			without = "an error"
		case p.Default != nil:
			without = "`" + without + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", p.Name, takes, without, strings.ReplaceAll(p.Help, "|", `\|`))
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), begin)
	table, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no %q … %q", file, begin, end)
	}
	if diff := cmp.Diff(b.String(), table); diff != "" {
		if *update && os.Getenv("CI") == "" {
			if err := os.WriteFile(file, []byte(head+begin+b.String()+end+tail), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		t.Errorf("table of fields differs (go test -update rewrites it):\n%s", diff)
	}
}

// TestPicturesCarryWhatIsRecorded: a picture carries the recorded parameters
// under their names and types, size as width and height, and nothing else but
// what is no parameter.
func TestPicturesCarryWhatIsRecorded(t *testing.T) {
	kinds := map[reflect.Kind]parameters.Type{
		reflect.String: parameters.Text, reflect.Int: parameters.Integer, reflect.Uint32: parameters.Integer,
		reflect.Float64: parameters.Number, reflect.Bool: parameters.Boolean,
	}
	all := parameters.All()
	recorded := []string{"size"}
	carrier := reflect.TypeFor[pipeline.Parameters]()
	for i := range carrier.NumField() {
		field := carrier.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if slices.Contains([]string{"weights", "subjects", "width", "height", "nsfw", "software"}, name) {
			continue
		}
		p, ok := all.Find(name)
		if !ok || kinds[field.Type.Kind()] != p.Type {
			t.Errorf("a picture carries %s as a %v, which is no parameter of that type", name, field.Type)
		}
		recorded = append(recorded, name)
	}
	var want []string
	for _, p := range all {
		if p.Recorded {
			want = append(want, p.Name)
		}
	}
	slices.Sort(recorded)
	slices.Sort(want)
	if !slices.Equal(recorded, want) {
		t.Errorf("a picture carries\n%v, the table says\n%v", recorded, want)
	}
}

// TestDefaultsAreValues: what holds without a parameter could be said as well, for the family that ships too.
func TestDefaultsAreValues(t *testing.T) {
	f, err := family.Load("../../../model_repository/mini")
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []parameters.Set{parameters.All(), parameters.Of(f)} {
		for _, p := range set {
			ok := !p.Required || p.Default == nil
			switch d := p.Default.(type) {
			case nil:
				ok = p.Required != (p.Absent != "")
			case string:
				ok = ok && p.Type == parameters.Text && p.Takes(d)
			case int:
				ok = ok && p.Type == parameters.Integer && p.Holds(float64(d))
			case float64:
				ok = ok && p.Type == parameters.Number && p.Holds(d)
			case bool:
				ok = ok && p.Type == parameters.Boolean
			}
			if !ok || p.Name == "" || p.Help == "" || strings.HasSuffix(p.Help, ".") {
				t.Errorf("%+v", p)
			}
			for _, w := range p.Unserved {
				if p.Takes(w) {
					t.Errorf("%s: %s is served and unserved", p.Name, w)
				}
			}
		}
	}
}

// TestFamilyBounds: the table is filled in from the family, and stays as it is for the next one.
func TestFamilyBounds(t *testing.T) {
	var f family.Family
	if err := json.Unmarshal([]byte(`{"limits": {"max_inference_steps": 30, "min_guidance_scale": 1, "max_guidance_scale": 7.5},
		"defaults": {"num_inference_steps": 12, "guidance_scale": 2, "scheduler": "pndm"}}`), &f); err != nil {
		t.Fatal(err)
	}
	of := parameters.Of(&f)
	for name, want := range map[string]string{
		"num_inference_steps": "an integer from 1 to 30, 12", "guidance_scale": "a number from 1 to 7.5, 2", "scheduler": "ddim, pndm or dpmpp_2m, pndm", "eta": "a number from 0 to 1, 0",
		"seed": "an integer from 0 to 4294967295, random, and returned", "final_step": "an integer of at least -1, the family's share of the steps",
	} {
		p := of.Get(name)
		if got := p.Want() + ", " + p.Otherwise(); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := parameters.All().Get("num_inference_steps").Want(); got != "an integer of at least 1" {
		t.Errorf("the table has become a family's: %q", got)
	}
}
