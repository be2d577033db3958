package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
)

// object is a JSON object.
type object = map[string]any

// document is openapi.json, as JSON and as a store of compiled schemas. Schemas
// of OpenAPI 3.1 are JSON Schema (2020-12), so that no more is needed to hold
// answers against them.
var document = sync.OnceValue(func() (d struct {
	object
	compiler *jsonschema.Compiler
}) {
	d.compiler = jsonschema.NewCompiler()
	for _, name := range []string{"openapi.json", "testdata/openapi-3.1.schema.json"} {
		file, err := os.Open(name)
		if err != nil {
			panic(err)
		}
		defer file.Close()
		content, err := jsonschema.UnmarshalJSON(file)
		if err == nil {
			err = d.compiler.AddResource("file:///"+name, content)
		}
		if err != nil {
			panic(err)
		}
		if name == "openapi.json" {
			d.object = content.(object)
		}
	}
	return d
})

// at follows keys into the document.
func at(t testing.TB, keys ...string) any {
	t.Helper()
	var here any = document().object
	for _, k := range keys {
		o, _ := here.(object)
		var ok bool
		if here, ok = o[k]; !ok {
			t.Fatalf("openapi.json has no %s", strings.Join(keys, " → "))
		}
	}
	return here
}

// compiled is the schema at those keys; compiling checks it against the
// metaschema and follows its references.
func compiled(t testing.TB, keys ...string) *jsonschema.Schema {
	t.Helper()
	location := "file:///openapi.json#"
	for _, k := range keys {
		location += "/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(k)
	}
	schema, err := document().compiler.Compile(location)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func conforms(t testing.TB, schema *jsonschema.Schema, data []byte) {
	t.Helper()
	content, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err == nil {
		err = schema.Validate(content)
	}
	if err != nil {
		t.Errorf("%v\nin %.300s", err, data)
	}
}

// TestDocumentIsValid holds the document against the schema that the OpenAPI
// Initiative publishes for OpenAPI 3.1, and its schemas against JSON Schema's.
func TestDocumentIsValid(t *testing.T) {
	d := document()
	official, err := d.compiler.Compile("file:///testdata/openapi-3.1.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := official.Validate(d.object); err != nil {
		t.Error(err)
	}
	for name := range at(t, "components", "schemas").(object) {
		compiled(t, "components", "schemas", name)
	}
	var follow func(any)
	follow = func(v any) {
		switch v := v.(type) {
		case object:
			if ref, ok := v["$ref"].(string); ok {
				at(t, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
			}
			for _, child := range v {
				follow(child)
			}
		case []any:
			for _, child := range v {
				follow(child)
			}
		}
	}
	follow(d.object)
}

// matchesDocument holds an answer against the document: path, method, status,
// headers, content type and every key. Schemas take no keys that they do not name.
func matchesDocument(t testing.TB, resp *http.Response, data []byte) {
	t.Helper()
	path := resp.Request.URL.Path
	for template := range at(t, "paths").(object) {
		if regexp.MustCompile("^" + regexp.MustCompile(`\{\w+\}`).ReplaceAllString(template, "[^/]+") + "$").MatchString(path) {
			path = template
		}
	}
	keys := []string{"paths", path, strings.ToLower(resp.Request.Method), "responses", fmt.Sprint(resp.StatusCode)}
	if headers, ok := at(t, keys...).(object)["headers"].(object); ok {
		for name := range headers {
			if resp.Header.Get(name) == "" {
				t.Errorf("%s %d: no header %s", path, resp.StatusCode, name)
			}
		}
	}
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	at(t, append(keys, "content", media)...)
	if media == "application/json" {
		conforms(t, compiled(t, append(keys, "content", media, "schema")...), data)
	}
}

// eventMatchesDocument holds one event of a stream against its schema.
func eventMatchesDocument(t testing.TB, event string) {
	t.Helper()
	parts := regexp.MustCompile(`^event: (\S+)\ndata: (\{.*\})$`).FindStringSubmatch(event)
	if parts == nil {
		t.Fatalf("no event: %.100q", event)
	}
	var data struct{ Type string }
	if err := json.Unmarshal([]byte(parts[2]), &data); err != nil || data.Type != parts[1] {
		t.Errorf("event %s has type %q (%v)", parts[1], data.Type, err)
	}
	_, what, _ := strings.Cut(parts[1], ".")
	name := map[string]string{"partial_image": "PartialImageEvent", "completed": "CompletedEvent", "progress": "ProgressEvent", "": "ErrorBody"}[what]
	conforms(t, compiled(t, "components", "schemas", name), []byte(parts[2]))
}

// TestRoutesAreDocumented compares the routes with the document's paths, both ways.
func TestRoutesAreDocumented(t *testing.T) {
	g := serve(t, newFake())
	engine, ok := g.Config.Handler.(*gin.Engine)
	if !ok {
		t.Fatalf("the handler is a %T", g.Config.Handler)
	}
	var routes, documented []string
	for _, r := range engine.Routes() {
		routes = append(routes, r.Method+" "+regexp.MustCompile(`:(\w+)`).ReplaceAllString(r.Path, "{$1}"))
	}
	for path, item := range at(t, "paths").(object) {
		for method := range item.(object) {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(routes)
	slices.Sort(documented)
	if !slices.Equal(routes, documented) {
		t.Errorf("routes\n%s\ndocumented\n%s", strings.Join(routes, "\n"), strings.Join(documented, "\n"))
	}
}

// TestErrorsAreDocumented compares the table of docs/http-api.md with the one in the code.
func TestErrorsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/http-api.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]int{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (\\d{3}) \\|").FindAllStringSubmatch(string(text), -1) {
		if documented[row[1]], err = strconv.Atoi(row[2]); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(httpapi.Statuses(), documented); diff != "" {
		t.Errorf("the code's -, docs/http-api.md's +\n%s", diff)
	}
}

// TestFieldsAreDocumented compares the fields with the document, and then
// sends every field the values at the edges of what the document allows.
func TestFieldsAreDocumented(t *testing.T) {
	g := serve(t, newFake())
	fields := httpapi.FieldNames()
	for name, path := range map[string]string{
		"EditForm": "/v1/images/edits", "EditRequest": "/v1/images/edits", "GenerationRequest": "/v1/images/generations",
	} {
		properties := object{}
		for p, schema := range at(t, "components", "schemas", name, "properties").(object) {
			if !strings.HasPrefix(p, "image") {
				properties[p] = schema
			}
		}
		if got, want := slices.Sorted(maps.Keys(properties)), slices.Sorted(slices.Values(fields[path])); !slices.Equal(got, want) {
			t.Errorf("%s documents\n%v, the endpoint takes\n%v", name, got, want)
		}
		if name != "GenerationRequest" {
			continue // the values: fields of both endpoints are read by the same code
		}
		for field, s := range properties {
			good, bad := edges(s.(object))
			for _, v := range good {
				resp, data := g.json(t, path, requestWith(field, v))
				if resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %s is documented, but: %s", field, v, data)
				}
			}
			for _, v := range bad {
				resp, data := g.json(t, path, requestWith(field, v))
				if resp.StatusCode != http.StatusBadRequest || !bytes.Contains(data, fmt.Appendf(nil, `"param":%q`, field)) {
					t.Errorf("%s: %s is not documented, but: %d %.200s", field, v, resp.StatusCode, data)
				}
			}
		}
	}
}

// edges are JSON values just inside and just outside of a schema.
func edges(s object) (good, bad []string) {
	encode := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return string(data)
	}
	kind := fmt.Sprint(s["type"]) // such as [integer null]
	values, isEnum := s["enum"].([]any)
	low, bounded := s["minimum"].(json.Number)
	_, patterned := s["pattern"]
	switch {
	case isEnum:
		for _, v := range values {
			good = append(good, encode(v))
		}
		return good, []string{`"another"`, "1", "true"}
	case strings.Contains(kind, "string") && patterned:
		return []string{`"auto"`, `"8x8"`}, []string{"1", "[]", `"8"`, `"0x8"`, `"8x8 "`}
	case strings.Contains(kind, "string"):
		return []string{`"mini"`}, []string{"1", "true", "[]", "{}"} // mini is also the name of a model
	case strings.Contains(kind, "boolean"):
		return []string{"true", "false"}, []string{`"true"`, "1"}
	case strings.Contains(kind, "integer") && bounded:
		from, err1 := low.Int64()
		to, err2 := s["maximum"].(json.Number).Int64()
		if err1 != nil || err2 != nil {
			panic(s)
		}
		return []string{encode(from), encode(to)}, []string{encode(from - 1), encode(to + 1), `"1"`, "true", "1.5"}
	case strings.Contains(kind, "integer"):
		return []string{"3"}, []string{`"1"`, "true", "1.5"}
	}
	return []string{"0", "1", "0.5"}, []string{`"1"`, "true"}
}

// requestWith makes a request with one field set, and what that field needs to make sense.
func requestWith(field, value string) string {
	body := map[string]json.RawMessage{"prompt": json.RawMessage(`"a hill"`), "num_inference_steps": json.RawMessage("1")}
	switch field {
	case "partial_images", "progress":
		body["stream"] = json.RawMessage("true")
	case "output_compression":
		body["output_format"] = json.RawMessage(`"jpeg"`)
	}
	body[field] = json.RawMessage(value)
	data, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return string(data)
}
