package httpapi_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
)

// away are networks that cannot be reached.
type away struct{ pipeline.Networks }

func (away) Dimensions(context.Context) (pipeline.Dimensions, error) {
	return pipeline.Dimensions{}, errors.New("nobody answers")
}

// serveMini is the API on the family that ships, while its networks are away.
func serveMini(t testing.TB) *gateway {
	t.Helper()
	f, err := family.Load("../../../model_repository/mini")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(f.TokenizerDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.New(pipeline.Options{Family: f, Tokenizer: tok, Networks: away{}, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, newFake(), func(o *httpapi.Options, _ *job.Options) { o.Pipeline = p })
}

func TestPromptsAreChecked(t *testing.T) {
	g := serveMini(t)
	long := strings.Repeat("snow ", 80)
	for name, c := range map[string]struct{ body, want string }{
		"nouns": {`{"prompt": "a woman and a man at the beach", "subjects": 2}`, `{
			"model": "mini", "rung": "nouns", "prompt_used": "a woman <|image|> and a man <|image|> at the beach",
			"subjects": [{"word": "woman", "start": 2, "end": 7, "marker_start": 8, "marker_end": 17}, {"word": "man", "start": 24, "end": 27, "marker_start": 28, "marker_end": 37}],
			"unknown_words": [], "tokens": 10, "token_limit": 77, "cut_at": null, "negative_prompt": null,
			"warnings": [{"param": "prompt", "message": "the prompt has no marker <|image|> for the 2 reference images; it was read as \"a woman <|image|> and a man <|image|> at the beach\""}]}`},
		"characters, not bytes": {`{"prompt": "👩 é, a Zebra, a woman <|image|>", "subjects": 1.0, "model": "face-diffuser", "negative_prompt": null}`, `{
			"model": "mini", "rung": "markers", "prompt_used": "👩 é, a Zebra, a woman <|image|>",
			"subjects": [{"word": "woman", "start": 16, "end": 21, "marker_start": 22, "marker_end": 31}],
			"unknown_words": [{"word": "é", "start": 2, "end": 3}, {"word": "zebra", "start": 7, "end": 12}], "tokens": 11, "token_limit": 77, "cut_at": null, "negative_prompt": null,
			"warnings": [{"param": "prompt", "message": "mini was not taught these words of the prompt and cannot heed them: \"é\", \"zebra\". GET /v1/models/mini lists its vocabulary, as does its pipeline.json"}]}`},
		"cut": {`{"prompt": "` + long + `", "negative_prompt": "blurry"}`, `{
			"model": "mini", "rung": "none", "prompt_used": "` + long + `", "subjects": [],
			"unknown_words": [], "tokens": 82, "token_limit": 77, "cut_at": 375,
			"negative_prompt": {"unknown_words": [{"word": "blurry", "start": 0, "end": 6}], "tokens": 3, "cut_at": null},
			"warnings": [{"param": "prompt", "message": "the prompt is longer than the 77 tokens that the text encoder reads; this part was cut: \"snow snow snow snow snow\""},
				{"param": "negative_prompt", "message": "mini was not taught these words of the negative prompt and cannot heed them: \"blurry\". GET /v1/models/mini lists its vocabulary, as does its pipeline.json"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			resp, data := g.json(t, "/v1/prompts/check", c.body)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", resp.StatusCode, data)
			}
			matchesDocument(t, resp, data)
			var got, want any
			if err := errors.Join(json.Unmarshal(data, &got), json.Unmarshal([]byte(c.want), &want)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
		})
	}
}

func TestPromptChecksAreRefused(t *testing.T) {
	g := serveMini(t)
	for _, c := range []struct {
		body           string
		status         int
		param, message string
	}{
		{`{}`, 400, "prompt", "prompt is empty"},
		{`{"prompt": null}`, 400, "prompt", "prompt is empty"},
		{`{"prompt": " "}`, 400, "prompt", `"the woman <|image|> in the snow at night"`},
		{`{"prompt": 7}`, 400, "prompt", "prompt must be a string of at most 32000 characters, not 7"},
		{`{"prompt": "a woman <|image|>"}`, 400, "prompt", "there are 0 reference images"},
		{`{"prompt": "a woman <|image|>", "subjects": 3}`, 400, "prompt", "1 marker <|image|>, but there are 3 reference images"},
		{`{"prompt": "` + strings.Repeat("snow ", 80) + `woman <|image|>", "subjects": 1}`, 400, "prompt", "lies beyond the 77 tokens"},
		{`{"prompt": "a", "subjects": 5}`, 400, "subjects", "subjects must be an integer from 0 to 4, not 5"},
		{`{"prompt": "a", "subjects": -1}`, 400, "subjects", "from 0 to 4"},
		{`{"prompt": "a", "subjects": 1.5}`, 400, "subjects", "not 1.5"},
		{`{"prompt": "a", "subjects": "1"}`, 400, "subjects", `not "1"`},
		{`{"prompt": "a", "negative_prompt": "<|image|>"}`, 400, "negative_prompt", "subjects belong in prompt"},
		{`{"prompt": "a", "images": 1}`, 400, "images", `unknown field "images"; the fields are prompt, subjects, negative_prompt, model; this request takes no images, only their number as subjects`},
		{`{"prompt": "a", "prompt": "b"}`, 400, "prompt", "prompt is given twice; send it once"},
		{`{"prompt": "a", "model": "gpt-image-1"}`, 404, "model", "does not exist"},
		{``, 400, "", "the request body is empty"},
		{`[]`, 400, "", "must be a JSON object"},
		{`{"prompt": "a"`, 400, "", "ends too early"},
		{`{"prompt": "a"} {}`, 400, "", "goes on after"},
		{`{"prompt": "` + strings.Repeat("a", 64<<10) + `"}`, 413, "", "over the limit of 64 KiB"},
	} {
		resp, data := g.json(t, "/v1/prompts/check", c.body)
		matchesDocument(t, resp, data)
		var body httpapi.ErrorBody
		if err := json.Unmarshal(data, &body); err != nil {
			t.Fatal(err)
		}
		param := ""
		if body.Error.Param != nil {
			param = *body.Error.Param
		}
		if resp.StatusCode != c.status || param != c.param || !strings.Contains(body.Error.Message, c.message) {
			t.Errorf("%.80s: %d %s, want %d on %q with %q", c.body, resp.StatusCode, data, c.status, c.param, c.message)
		}
	}
	resp, data := g.do(t, http.MethodPost, "/v1/prompts/check", "text/plain", strings.NewReader("{}"))
	matchesDocument(t, resp, data)
	if resp.StatusCode != http.StatusUnsupportedMediaType {
		t.Errorf("a text is answered with %d %s", resp.StatusCode, data)
	}
}

// TestPromptChecksTakeBodiesAsOtherRequestsDo: encodings of the body as for pictures.
func TestPromptChecksTakeBodiesAsOtherRequestsDo(t *testing.T) {
	g := serveMini(t)
	const plain = `{"prompt": "a man"}`
	for name, c := range map[string]struct {
		body, media, encoding string
		status                int
		param, message        string
	}{
		"gzip":        {zip(t, plain), "application/json", "gzip", 200, "", ""},
		"mark":        {"\ufeff" + plain, "application/json", "", 200, "", ""},
		"nulls":       {`{"prompt": "a man", "model": null, "subjects": null}`, "application/json", "", 200, "", ""},
		"float":       {`{"prompt": "a man", "subjects": 1.0}`, "application/json", "", 200, "", ""},
		"UTF-8":       {plain, `application/json; charset="utf-8"`, "", 200, "", ""},
		"brotli":      {plain, "application/json", "br", 415, "", `content encoding "br" is not supported`},
		"UTF-16":      {"\xff\xfe{\x00}\x00", "application/json", "", 400, "", "is UTF-16"},
		"empty":       {"", "application/json", "", 400, "", "is empty"},
		"not UTF-8":   {"{\"prompt\": \"caf\xe9\"}", "application/json", "", 400, "", "byte 0xe9"},
		"latin-1":     {plain, "application/json; charset=iso-8859-1", "", 415, "", `charset "iso-8859-1"`},
		"no type":     {plain, "", "", 415, "", "takes application/json, not a body without a content type"},
		"unknown":     {`{"prompt": "a man", "foo": null}`, "application/json", "", 400, "foo", `unknown field "foo"`},
		"images":      {`{"prompt": "a man", "images": [{"image_url": "data:image/png;base64,AAAA"}]}`, "application/json", "", 400, "images", "only their number as subjects"},
		"first fault": {`{"subjects": -1, "model": 3, "prompt": 5, "x": 1}`, "application/json", "", 400, "subjects", "from 0 to 4"},
		"bomb":        {zip(t, strings.Repeat(" ", 1<<20)), "application/json", "gzip", 413, "", "over the limit of 64 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			var headers []string
			if c.encoding != "" {
				headers = []string{"Content-Encoding", c.encoding}
			}
			resp, data := g.do(t, http.MethodPost, "/v1/prompts/check", c.media, strings.NewReader(c.body), headers...)
			matchesDocument(t, resp, data)
			if resp.StatusCode != c.status || c.param != "" && !strings.Contains(string(data), `"param":"`+c.param+`"`) {
				t.Fatalf("%d %s, want %d on %q", resp.StatusCode, data, c.status, c.param)
			}
			if c.status == http.StatusOK {
				if used := decode[httpapi.PromptCheck](t, data).PromptUsed; !strings.HasPrefix(used, "a man") {
					t.Errorf("prompt used %q", used)
				}
			} else if e := decode[httpapi.ErrorBody](t, data).Error; !strings.Contains(e.Message, c.message) {
				t.Errorf("message %q lacks %q", e.Message, c.message)
			}
		})
	}
}

func zip(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// connection gives a recorder the read deadline of a connection.
type connection struct {
	*httptest.ResponseRecorder
	net.Conn
}

func (c connection) Write(p []byte) (int, error) { return c.ResponseRecorder.Write(p) }

func TestSlowQuestionsEnd(t *testing.T) {
	g := serveMini(t)
	handler := g.Config.Handler
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		defer server.Close()
		go func() { _, _ = io.WriteString(client, `{"prompt": `) }()
		w := connection{httptest.NewRecorder(), server}
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/v1/prompts/check", server)
		req.Header.Set("Content-Type", "application/json")
		start := time.Now()
		handler.ServeHTTP(w, req)
		if took := time.Since(start); w.Code != http.StatusRequestTimeout || took != 10*time.Second {
			t.Errorf("%d after %v: %s", w.Code, took, w.Body)
		}
	})
}
