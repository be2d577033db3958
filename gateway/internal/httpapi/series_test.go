package httpapi_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestSeriesFromTheStart: every series that an alert could be made of is scraped before the first request, at 0.
func TestSeriesFromTheStart(t *testing.T) {
	g := serve(t, newFake())
	scraped := g.metrics(t)
	want := []string{
		`facediffuser_pictures_total{outcome="succeeded"} 0`, `facediffuser_pictures_total{outcome="failed"} 0`, `facediffuser_pictures_total{outcome="canceled"} 0`,
		`facediffuser_pictures_total{outcome="expired"} 0`, `facediffuser_pictures_total{outcome="rejected"} 0`, `facediffuser_pictures_total{outcome="refused"} 0`,
		`facediffuser_safety_checks_total{verdict="passed"} 0`, `facediffuser_safety_checks_total{verdict="flagged"} 0`, `facediffuser_safety_checks_total{verdict="refused"} 0`,
		`facediffuser_step_seconds_count{model="mini",stage="scene_construction"} 0`, `facediffuser_step_seconds_count{model="mini",stage="subject_scene_fusion"} 0`,
		`facediffuser_step_seconds_count{model="mini",stage="subject_enhancement"} 0`,
		`facediffuser_queue_seconds_count 0`, `facediffuser_picture_seconds_count 0`,
		`facediffuser_http_request_seconds_count{route="/v1/images/edits"} 0`, `facediffuser_http_request_seconds_count{route="/v1/images/generations"} 0`,
		`facediffuser_http_request_seconds_count{route="other"} 0`,
		`facediffuser_http_requests_total{method="GET",route="/readyz",status="503"} 0`, `facediffuser_http_requests_total{method="other",route="other",status="404"} 0`,
	}
	for _, status := range []int{200, 400, 404, 408, 413, 415, 422, 429, 499, 500, 503, 504} {
		want = append(want, fmt.Sprintf(`facediffuser_http_requests_total{method="POST",route="/v1/images/edits",status="%d"} 0`, status))
	}
	for _, code := range codesInSource(t) {
		want = append(want, fmt.Sprintf(`facediffuser_errors_total{kind=%q} 0`, code))
	}
	for _, line := range want {
		if !strings.Contains(scraped, line+"\n") {
			t.Errorf("not there from the start: %s", line)
		}
	}
}

// TestNoSeriesBeginsLater: what real requests count was there before.
func TestNoSeriesBeginsLater(t *testing.T) {
	g := serve(t, newFake())
	before := series(g.metrics(t))
	for _, body := range []string{`{"prompt": "a man"}`, `{"prompt": "a man", "n": 0}`, `{"prompt": "a man", "mask": ""}`, `{}`, `[`, `{"prompt": "a man", "model": "x"}`, `{"what": 1}`} {
		response, err := http.Post(g.URL+"/v1/images/generations", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	for _, path := range []string{"/nowhere", "/v1/images/edits", "/v1/models/x", "/healthz"} {
		response, err := http.Get(g.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	after := series(g.metrics(t))
	if len(after) < 50 {
		t.Fatalf("only %d series", len(after))
	}
	for _, s := range after {
		if !slices.Contains(before, s) {
			t.Errorf("began later: %s", s)
		}
	}
}

// series are the names and labels of a scrape, without values.
func series(text string) []string {
	return regexp.MustCompile(`(?m)^facediffuser_\w+(\{.*\})?`).FindAllString(text, -1)
}

// codesInSource are the error codes that the packages behind the API are written with: literals of a field code or Code, and the kinds of
// packages upload and picture.
func codesInSource(t *testing.T) (codes []string) {
	t.Helper()
	add := func(e ast.Expr) {
		if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
			code, err := strconv.Unquote(l.Value)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, code)
		}
	}
	for _, dir := range []string{".", "../pipeline", "../upload", "../picture"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok && (key.Name == "code" || key.Name == "Code") {
						add(n.Value)
					}
				case *ast.ValueSpec:
					if kind, ok := n.Type.(*ast.Ident); ok && (kind.Name == "Kind" || kind.Name == "kind") {
						add(n.Values[0])
					}
				}
				return true
			})
		}
	}
	if len(codes) < 30 {
		t.Fatalf("found only %q", codes)
	}
	return codes
}
