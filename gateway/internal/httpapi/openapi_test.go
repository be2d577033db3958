package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/parameters"
)

// object is a JSON object.
type object = map[string]any

// document is openapi.json, as JSON and as a store of compiled schemas. Schemas
// of OpenAPI 3.1 are JSON Schema (2020-12), so that no more is needed to check
// answers.
var document = sync.OnceValue(func() (d struct {
	object
	compiler *jsonschema.Compiler
}) {
	d.compiler = jsonschema.NewCompiler()
	read := func(name string) any {
		file, err := os.Open(name)
		if err != nil {
			panic(err)
		}
		defer file.Close()
		content, err := jsonschema.UnmarshalJSON(file)
		if err != nil {
			panic(err)
		}
		return content
	}
	d.object = read("openapi.json").(object)
	for _, name := range []string{"openapi.json", "testdata/openapi-3.1.schema.json"} {
		content := read(name)
		if name == "openapi.json" {
			closeSchemas(content)
		}
		if err := d.compiler.AddResource("file:///"+name, content); err != nil {
			panic(err)
		}
	}
	return d
})

// closeSchemas lets objects have only the keys that are described. In the
// document answers are open, so that generated clients take the keys of a later
// version.
func closeSchemas(v any) {
	switch v := v.(type) {
	case object:
		if _, ok := v["properties"].(object); ok && v["type"] == "object" && v["additionalProperties"] == nil {
			v["additionalProperties"] = false
		}
		for _, child := range v {
			closeSchemas(child)
		}
	case []any:
		for _, child := range v {
			closeSchemas(child)
		}
	}
}

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

// TestDocumentIsValid validates the document by the schema that the OpenAPI
// Initiative publishes for OpenAPI 3.1, and its schemas by JSON Schema's.
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

// matchesDocument compares an answer with the document: path, method, status,
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
		for name, header := range headers {
			ref, ok := header.(object)["$ref"].(string)
			if !ok {
				t.Fatalf("the header %s is no reference", name)
			}
			optional := at(t, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...).(object)["required"] == false
			if resp.Header.Get(name) == "" && !optional {
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

// eventMatchesDocument validates one event of a stream by its schema.
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

// TestRoutesAreDocumented compares the routes with the document's paths, both
// ways. HEAD is wherever GET is, and left out of the document.
func TestRoutesAreDocumented(t *testing.T) {
	g := serve(t, newFake())
	engine, ok := g.Config.Handler.(*gin.Engine)
	if !ok {
		t.Fatalf("the handler is a %T", g.Config.Handler)
	}
	var routes, documented []string
	for _, r := range engine.Routes() {
		if r.Method == http.MethodHead {
			continue
		}
		routes = append(routes, r.Method+" "+regexp.MustCompile(`[:*](\w+)`).ReplaceAllString(r.Path, "{$1}"))
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

// schema is a parameter as openapi.json should describe it. In JSON null means
// absent; a form cannot hold it.
func schema(p parameters.Parameter, form bool) object {
	o := object{"description": describe(p), "type": string(p.Type)}
	for name, bound := range map[string]float64{"minimum": p.Low, "maximum": p.High} {
		if p.Ranged() && !math.IsInf(bound, 0) {
			o[name] = bound
		}
	}
	if o["maximum"] != nil && p.High > math.MaxInt32 {
		o["format"] = "int64" // generated clients take 32 bits without it
	}
	if p.MaxLength > 0 {
		o["maxLength"] = float64(p.MaxLength)
	}
	if p.Pattern != nil {
		o["pattern"] = p.Pattern.String()
	}
	if p.Default != nil {
		o["default"] = p.Default
	}
	var words []any
	for _, w := range p.Words {
		words = append(words, w)
	}
	if !form && !p.Required {
		o["type"] = []any{string(p.Type), "null"}
		if words != nil {
			words = append(words, nil)
			if p.Default != nil { // in words: openapi-generator makes Go of it that does not compile
				delete(o, "default")
				o["description"] = fmt.Sprintf("%s Absent: %v.", describe(p), p.Default)
			}
		}
	}
	if words != nil {
		o["enum"] = words
	}
	return o
}

// describe makes sentences of a parameter's help.
func describe(p parameters.Parameter) string {
	help := p.Help
	if first, size := utf8.DecodeRuneInString(help); size > 0 {
		help = string(unicode.ToUpper(first)) + help[size:] + "."
	}
	if p.Absent != "" {
		help += " Absent: " + p.Absent + "."
	}
	return help
}

// TestFieldsAreDocumented compares the document with the table of parameters.
func TestFieldsAreDocumented(t *testing.T) {
	for name, on := range map[string]parameters.On{
		"EditForm": parameters.Edits, "EditRequest": parameters.Edits, "GenerationRequest": parameters.Generations,
	} {
		documented := object{}
		for p, s := range at(t, "components", "schemas", name, "properties").(object) {
			if !strings.HasPrefix(p, "image") {
				documented[p] = s
			}
		}
		want := object{}
		for _, p := range parameters.All() {
			if p.On&on != 0 {
				want[p.Name] = schema(p, name == "EditForm")
			}
		}
		// Through JSON, so that numbers are of one type.
		if diff := cmp.Diff(decode[object](t, marshal(t, want)), decode[object](t, marshal(t, documented))); diff != "" {
			t.Errorf("%s: the table's -, openapi.json's +\n%s", name, diff)
		}
	}
	var names []string
	for _, p := range parameters.All() {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	if got := slices.Sorted(slices.Values(httpapi.FieldNames())); !slices.Equal(got, names) {
		t.Errorf("a request can set\n%v, the table has\n%v", got, names)
	}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestFieldsTakeWhatIsDocumented sends every field the values at the edges of
// what the document allows.
func TestFieldsTakeWhatIsDocumented(t *testing.T) {
	g := serve(t, newFake())
	const path = "/v1/images/generations" // fields of both endpoints are read by the same code
	for field, s := range at(t, "components", "schemas", "GenerationRequest", "properties").(object) {
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

// TestCapabilitiesHaveTheParameters: those of the table, with the family's bounds.
func TestCapabilitiesHaveTheParameters(t *testing.T) {
	g := serve(t, newFake())
	resp, data := g.do(t, "GET", "/v1/capabilities", "", nil)
	matchesDocument(t, resp, data)
	listed := map[string]httpapi.ParameterCapability{}
	for _, p := range decode[httpapi.Capabilities](t, data).Families[0].Parameters {
		listed[p.Name] = p
	}
	if len(listed) != len(parameters.All()) {
		t.Errorf("%d parameters, the table has %d", len(listed), len(parameters.All()))
	}
	bound := func(x float64) *float64 { return &x }
	for _, want := range []httpapi.ParameterCapability{
		{Name: "num_inference_steps", Type: "integer", Minimum: bound(1), Maximum: bound(100), Default: 6.0},
		{Name: "guidance_scale", Type: "number", Minimum: bound(1), Maximum: bound(20), Default: 5.0},
		{Name: "scheduler", Type: "string", Enum: []string{"ddim", "pndm", "dpmpp_2m"}, Default: "ddim"},
		{Name: "start_merge_step", Type: "integer", Minimum: bound(-1)},
	} {
		got := listed[want.Name]
		if got.Description == "" || len(got.Endpoints) == 0 {
			t.Errorf("%+v", got)
		}
		got.Description, got.Endpoints = "", nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("want -, listed +\n%s", diff)
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
	}
	good, bad = []string{"1", "1.0", "1e0"}, []string{`"1"`, "true"} // integers as JSON Schema has them
	if strings.Contains(kind, "integer") {
		bad = append(bad, "1.5")
	}
	for name, beyond := range map[string]float64{"minimum": -1, "maximum": 1} {
		if bound, ok := s[name].(json.Number); ok {
			x, err := bound.Float64()
			if err != nil {
				panic(err)
			}
			good, bad = append(good, encode(x)), append(bad, encode(x+beyond))
		}
	}
	return good, bad
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
