package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/upload"
	"github.com/facediffuser/facediffuser/tritonclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// part is a part of a form; content is a file's if file is set.
type part struct{ name, content, file string }

func form(t testing.TB, parts ...part) (body *bytes.Buffer, contentType string) {
	t.Helper()
	body = new(bytes.Buffer)
	w := multipart.NewWriter(body)
	for _, p := range parts {
		var to io.Writer
		var err error
		if p.file != "" {
			to, err = w.CreateFormFile(p.name, p.file)
		} else {
			to, err = w.CreateFormField(p.name)
		}
		if err == nil {
			_, err = io.WriteString(to, p.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return body, w.FormDataContentType()
}

func (g *gateway) do(t testing.TB, method, path, contentType string, body io.Reader, headers ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, g.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, data
}

func (g *gateway) edit(t testing.TB, parts ...part) (*http.Response, []byte) {
	t.Helper()
	body, contentType := form(t, parts...)
	return g.do(t, "POST", "/v1/images/edits", contentType, body)
}

func (g *gateway) json(t testing.TB, path, body string, headers ...string) (*http.Response, []byte) {
	t.Helper()
	return g.do(t, "POST", path, "application/json", strings.NewReader(body), headers...)
}

func decode[T any](t testing.TB, data []byte) (v T) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %.300s", err, data)
	}
	return v
}

// isError checks an error's whole shape and returns it.
func isError(t testing.TB, resp *http.Response, data []byte, status int, param, code string) httpapi.Error {
	t.Helper()
	if resp.StatusCode != status {
		t.Errorf("status %d, want %d: %s", resp.StatusCode, status, data)
	}
	if resp.Header.Get("X-Request-Id") == "" {
		t.Error("no x-request-id")
	}
	keys := decode[map[string]map[string]any](t, data)["error"]
	for _, k := range []string{"message", "type", "param", "code"} {
		if _, ok := keys[k]; !ok {
			t.Errorf("the error has no %s: %s", k, data)
		}
	}
	e := decode[httpapi.ErrorBody](t, data).Error
	got := ""
	if e.Param != nil {
		got = *e.Param
	}
	if got != param || e.Code == nil || *e.Code != code || e.Message == "" || len(keys) != 4 {
		t.Errorf("want param %q and code %q: %s", param, code, data)
	}
	if retry := resp.Header.Get("Retry-After") != ""; retry != (status == 429 || status == 503) {
		t.Errorf("status %d with retry-after %q", status, resp.Header.Get("Retry-After"))
	}
	// What the same request would meet again; the SDKs try 408, 409, 429 and 5xx again unless this header forbids it.
	final := code == "not_finite" || code == "insufficient_quota" || status >= 400 && status < 500 && status != 408 && status != 409 && status != 429
	if got := resp.Header.Get("X-Should-Retry"); final != (got == "false") || !final && got != "" {
		t.Errorf("status %d, code %s with x-should-retry %q", status, code, got)
	}
	return e
}

func TestEdit(t *testing.T) {
	g := serve(t, newFake())
	alice := string(face(t))
	resp, data := g.edit(t,
		part{"image[]", alice, "a.png"}, part{"n", "2", ""}, part{"image[]", alice, "b.png"}, part{"seed", "42", ""},
		part{"prompt", "long tale of a man <|image|> and a woman <|image|>", ""}, part{"return_fusion_map", "true", ""},
		part{"user", "u1", ""}, part{"response_format", "b64_json", ""}, part{"model", "face-diffuser", ""}, part{"size", "", ""}, part{"scheduler", "dpmpp_2m", ""})
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v: %s", resp.StatusCode, resp.Header, data)
	}
	matchesDocument(t, resp, data)
	got := decode[httpapi.ImagesResponse](t, data)
	if d := time.Since(time.Unix(got.Created, 0)); d < -time.Second || d > time.Minute {
		t.Errorf("created %v ago", d)
	}
	if id := resp.Header.Get("X-Facediffuser-Job-Id"); id == "" || id != got.FaceDiffuser.JobID {
		t.Errorf("job id %q in the header, %q in the body", id, got.FaceDiffuser.JobID)
	}
	for k, image := range got.Data {
		file, err := base64.StdEncoding.DecodeString(image.B64JSON)
		if err != nil {
			t.Fatal(err)
		}
		parameters, err := picture.ReadParameters(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		if p := decode[pipeline.Parameters](t, parameters); p.Seed != 42+uint32(k) || p.Subjects != 2 || p.Scheduler != "dpmpp_2m" {
			t.Errorf("picture %d carries %+v", k, p)
		}
		if !bytes.Contains(file, []byte("trainedAlgorithmicMedia")) {
			t.Errorf("picture %d is not marked as synthetic", k)
		}
		if image.FusionMap == "" {
			t.Errorf("picture %d has no fusion map", k)
		}
		got.Data[k].B64JSON, got.Data[k].FusionMap = "", ""
	}
	got.Created, got.FaceDiffuser.JobID = 0, ""
	detail := func(seed uint32) httpapi.ImageDetails {
		return httpapi.ImageDetails{
			Seed: seed, Fusion: httpapi.FusionDetails{Steps: []int{2, 3}, SDMShare: []float64{0.5, 0.25}},
			Timings: httpapi.Timings{Total: 3, Queued: 1, Networks: 2},
		}
	}
	want := httpapi.ImagesResponse{
		Data: []httpapi.Image{
			{RevisedPrompt: "long tale of a man <|image|> and a woman <|image|>", Seed: 42},
			{RevisedPrompt: "long tale of a man <|image|> and a woman <|image|>", Seed: 43},
		}, Background: "opaque", OutputFormat: "png", Quality: "auto", Size: "8x8",
		Usage:            httpapi.Usage{InputTokens: 79, OutputTokens: 2, TotalTokens: 81, InputTokensDetails: httpapi.InputDetails{TextTokens: 77, ImageTokens: 2}},
		SafetyIdentifier: "u1",
		FaceDiffuser: httpapi.Details{
			PromptUsed: "long tale of a man <|image|> and a woman <|image|>",
			Warnings:   []pipeline.Warning{{Param: "prompt", Message: "the prompt was cut"}},
			Parameters: pipeline.Parameters{Model: "mini", Prompt: "long tale of a man <|image|> and a woman <|image|>", Subjects: 2, Seed: 42, Scheduler: "dpmpp_2m", Steps: 6, Width: 8, Height: 8},
			Images:     []httpapi.ImageDetails{detail(42), detail(43)},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}

func TestEditJSON(t *testing.T) {
	g := serve(t, newFake())
	url := "data:image/png;base64," + base64.StdEncoding.EncodeToString(face(t))
	resp, data := g.json(t, "/v1/images/edits", fmt.Sprintf(
		`{"images": [{"image_url": %q}, {"image_url": %q}], "prompt": "<|image|> <|image|>", "seed": null, "guidance_scale": 3.5, "scheduler": "pndm", "stream": false}`, url, url))
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d: %s", resp.StatusCode, data)
	}
	matchesDocument(t, resp, data)
	if got := decode[httpapi.ImagesResponse](t, data); got.FaceDiffuser.Parameters.Subjects != 2 || got.FaceDiffuser.Parameters.Scheduler != "pndm" {
		t.Errorf("%+v", got.FaceDiffuser)
	}
}

func TestFormats(t *testing.T) {
	g := serve(t, newFake())
	for format, magic := range map[string]string{"png": "\x89PNG", "jpeg": "\xff\xd8", "webp": "RIFF"} {
		resp, data := g.json(t, "/v1/images/generations", fmt.Sprintf(`{"prompt": "a hill", "output_format": %q}`, format))
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d: %s", format, resp.StatusCode, data)
		}
		got := decode[httpapi.ImagesResponse](t, data)
		file, err := base64.StdEncoding.DecodeString(got.Data[0].B64JSON)
		if err != nil || !bytes.HasPrefix(file, []byte(magic)) || got.OutputFormat != format {
			t.Errorf("%s: %v, %s begins %q", format, err, got.OutputFormat, file[:4])
		}
	}
}

func TestProvenanceIsSwitchable(t *testing.T) {
	g := serve(t, newFake(), func(o *httpapi.Options, _ *job.Options) { o.EmbedParameters, o.EmbedXMP = false, false })
	_, data := g.json(t, "/v1/images/generations", `{"prompt": "a secret hill"}`)
	file, err := base64.StdEncoding.DecodeString(decode[httpapi.ImagesResponse](t, data).Data[0].B64JSON)
	if err != nil || bytes.Contains(file, []byte("secret")) || bytes.Contains(file, []byte("trainedAlgorithmicMedia")) {
		t.Errorf("%v: %q", err, file)
	}
}

func TestBadForms(t *testing.T) {
	g := serve(t, newFake())
	alice, prompt := part{"image", string(face(t)), "a.png"}, part{"prompt", "a man <|image|>", ""}
	for _, c := range []struct {
		parts       []part
		status      int
		param, code string
		message     string // part of it
	}{
		{[]part{prompt}, 400, "image", "missing_required_parameter", "one reference image for each subject"},
		{[]part{alice}, 400, "prompt", "missing_required_parameter", "prompt is empty"},
		{[]part{alice, alice, prompt}, 400, "prompt", "invalid_value", "1 markers for 2 images"},
		{[]part{alice, prompt, prompt}, 400, "prompt", "invalid_value", "is given twice; send it once"},
		{[]part{alice, alice, alice, alice, alice, prompt}, 400, "image[4]", "too_many_images", "at most 4"},
		{[]part{{"image", "not an image", "a.png"}, prompt}, 400, "image[0]", "not_an_image", "not an image"},
		{[]part{{"image", alice.content[:80], "a.png"}, prompt}, 400, "image[0]", "corrupt_image", "the PNG is"},
		{[]part{{"image", "\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "a.heic"}, prompt}, 400, "image[0]", "unsupported_format", "Options > Most Compatible"},
		{[]part{{"image", alice.content + strings.Repeat("x", 1<<20), "a.png"}, prompt}, 413, "image[0]", "image_too_large", "MiB"},
		{[]part{{"image", "https://example.org/a.png", ""}, prompt}, 400, "image", "invalid_value", "must be a file"},
		{[]part{alice, {"prompt", "a man", "prompt.txt"}}, 400, "prompt", "invalid_value", "must be text, not a file"},
		{[]part{alice, prompt, {"n", "two", ""}}, 400, "n", "invalid_value", `n must be an integer from 1 to 10, not "two"`},
		{[]part{alice, prompt, {"n", "11", ""}}, 400, "n", "invalid_value", "from 1 to 10"},
		{[]part{alice, prompt, {"n", "0", ""}}, 400, "n", "invalid_value", "from 1 to 10"},
		{[]part{alice, prompt, {"stream", "True", ""}, {"n", "0", ""}}, 400, "n", "invalid_value", "from 1 to 10"}, // as Python writes it
		{[]part{alice, prompt, {"stream", "yes", ""}}, 400, "stream", "invalid_value", `must be true or false, not "yes"`},
		{[]part{alice, prompt, {"seed", "-1", ""}}, 400, "seed", "invalid_value", "from 0 to 4294967295"},
		{[]part{alice, prompt, {"guidance_scale", "NaN", ""}}, 400, "guidance_scale", "invalid_value", "a number"},
		{[]part{alice, prompt, {"num_inference_steps", "101", ""}}, 400, "num_inference_steps", "invalid_value", "from 1 to 100"},
		{[]part{alice, prompt, {"size", "big", ""}}, 400, "size", "invalid_value", "this family serves 8x8"},
		{[]part{alice, prompt, {"size", "512x512", ""}}, 400, "size", "unsupported_value", "not served"},
		{[]part{alice, prompt, {"quality", "best", ""}}, 400, "quality", "invalid_value", "low, medium, high or auto"},
		{[]part{alice, prompt, {"scheduler", "euler", ""}}, 400, "scheduler", "invalid_value", `must be ddim, pndm or dpmpp_2m, not "euler"`},
		{[]part{alice, prompt, {"output_format", "gif", ""}}, 400, "output_format", "unsupported_value", "gif is not supported"},
		{[]part{alice, prompt, {"output_compression", "50", ""}}, 400, "output_compression", "invalid_value", "works on jpeg"},
		{[]part{alice, prompt, {"response_format", "url", ""}}, 400, "response_format", "unsupported_value", "b64_json"},
		{[]part{alice, prompt, {"background", "transparent", ""}}, 400, "background", "unsupported_value", "no transparency"},
		{[]part{alice, prompt, {"partial_images", "2", ""}}, 400, "partial_images", "invalid_value", "needs stream=true"},
		{[]part{alice, prompt, {"progress", "true", ""}}, 400, "progress", "invalid_value", "needs stream=true"},
		{[]part{alice, prompt, {"mask", alice.content, "mask.png"}}, 400, "mask", "unsupported_parameter", "no region to edit"},
		{[]part{alice, prompt, {"svg[model]", "x", ""}}, 400, "svg", "unsupported_parameter", "png, jpeg and webp"},
		{[]part{alice, prompt, {"guidanze_scale", "3", ""}}, 400, "guidanze_scale", "unknown_parameter", `unknown field "guidanze_scale"; did you mean guidance_scale?`},
		{[]part{alice, prompt, {"subjects[]", "x", ""}}, 400, "subjects[]", "unknown_parameter", "unknown field"},
		{[]part{{"imge", alice.content, "a.png"}, prompt}, 400, "imge", "unknown_parameter", "did you mean image?"},
		{[]part{alice, prompt, {"model", "dall-e-3", ""}}, 404, "model", "model_not_found", `serves "mini"`},
		{[]part{alice, prompt, {"user", strings.Repeat("x", 2<<20), ""}}, 400, "user", "field_too_large", "limit"},
	} {
		resp, data := g.edit(t, c.parts...)
		e := isError(t, resp, data, c.status, c.param, c.code)
		if !strings.Contains(e.Message, c.message) {
			t.Errorf("message %q lacks %q", e.Message, c.message)
		}
		matchesDocument(t, resp, data)
	}
	// Bodies that are no forms.
	body, contentType := form(t, alice, prompt)
	cut := body.Bytes()[:body.Len()-30]
	for _, c := range []struct {
		contentType, body string
		status            int
		code              string
	}{
		{contentType, string(cut), 400, "invalid_body"},
		{contentType, "", 400, "invalid_body"},
		{"multipart/form-data", string(cut), 415, "unsupported_content"},
		{"text/plain", "hello", 415, "unsupported_media_type"},
		{"", "hello", 415, "unsupported_media_type"},
	} {
		resp, data := g.do(t, "POST", "/v1/images/edits", c.contentType, strings.NewReader(c.body))
		isError(t, resp, data, c.status, "", c.code)
	}
}

func TestBadJSON(t *testing.T) {
	g := serve(t, newFake())
	url := "data:image/png;base64," + base64.StdEncoding.EncodeToString(face(t))
	for _, c := range []struct {
		path, body  string
		param, code string
		message     string
	}{
		{"generations", `{"prompt": "a hill"`, "", "invalid_body", "ends too early"},
		{"generations", `{"prompt": "a hill"} x`, "", "invalid_body", "goes on"},
		{"generations", `["prompt"]`, "", "invalid_body", "must be a JSON object"},
		{"generations", ``, "", "invalid_body", "is empty"},
		{"generations", `{}`, "prompt", "missing_required_parameter", "prompt is empty"},
		{"generations", `{"prompt": 5}`, "prompt", "invalid_value", "must be a string of at most 32000 characters, not 5"},
		{"generations", `{"prompt": ["a", "b"]}`, "prompt", "invalid_value", `not ["a","b"]`},
		{"generations", `{"prompt": "a", "n": "2"}`, "n", "invalid_value", `an integer from 1 to 10, not "2"`},
		{"generations", `{"prompt": "a", "n": 1.5}`, "n", "invalid_value", "not 1.5"},
		{"generations", `{"prompt": "a", "n": 1, "n": 2}`, "n", "invalid_value", "is given twice; send it once"},
		{"generations", `{"prompt": "a", "seed": 4294967296}`, "seed", "invalid_value", "from 0 to 4294967295"},
		{"generations", `{"prompt": "a", "seed": 99999999999999999999999}`, "seed", "invalid_value", "from 0 to"},
		{"generations", `{"prompt": "a", "guidance_scale": 1e999}`, "guidance_scale", "invalid_value", "a number"},
		{"generations", `{"prompt": "a", "stream": "true"}`, "stream", "invalid_value", "true or false"},
		{"generations", `{"prompt": "a", "style": "vivid"}`, "style", "unsupported_parameter", "in the prompt"},
		{"generations", `{"prompt": "a", "start_merge_step": 3}`, "start_merge_step", "invalid_value", "a field of /v1/images/edits"},
		{"generations", `{"prompt": "a", "Prompt": "b"}`, "Prompt", "unknown_parameter", "did you mean prompt?"},
		{"edits", `{"prompt": "a"}`, "image", "missing_required_parameter", "image is missing"},
		{"edits", `{"prompt": "a", "images": []}`, "image", "missing_required_parameter", "image is missing"},
		{"edits", `{"prompt": "a", "images": "x"}`, "images", "invalid_value", `must be a list, as in images: [{"image_url": "data:`},
		{"edits", `{"prompt": "a", "images": ["x"]}`, "images[0]", "invalid_value", `must be an object, as in images: [{"image_url": "data:`},
		{"edits", `{"prompt": "a", "images": ["` + url + `"]}`, "images[0]", "invalid_value", "must be an object"},
		{"edits", `{"prompt": "a", "images": [null, {"image_url": {"url": "` + url + `"}}]}`, "images[1].image_url", "invalid_value", "not an object as in a chat"},
		{"edits", `{"prompt": "a", "images": [{"image_url": null}]}`, "images[0].image_url", "invalid_value", "is missing"},
		{"edits", `{"prompt": "a", "image": "` + url + `"}`, "image", "unknown_parameter", `in JSON, pictures are images: [{"image_url"`},
		{"edits", `{"prompt": "a", "mask": {"image_url": "data:image/png;base64,@@"}, "images": [{"image_url": "` + url + `"}]}`, "mask", "unsupported_parameter", "no region to edit"},
		{"generations", `{"prompt": "a", "\ud800": 1}`, "\ufffd", "unknown_parameter", "unknown field \"\ufffd\""},
		{"generations", `{"prompt": "a", "seed": 1e-400}`, "seed", "invalid_value", "not 1e-400"},
		{"generations", `{"prompt": "a", "seed": 7.00000000000000000001}`, "seed", "invalid_value", "an integer"},
		{"generations", `{"prompt": "a" "n": 1}`, "", "invalid_body", "(at offset 15)"},
		{"edits", `{"prompt": "a", "images": [{"image_url": "https://example.org/a.png"}]}`, "images[0].image_url", "unsupported_value", "web address"},
		{"edits", `{"prompt": "a", "images": [{"image_url": "a.png"}]}`, "images[0].image_url", "invalid_value", "must be a data: URL"},
		{"edits", `{"prompt": "a", "images": [{"image_url": 1}]}`, "images[0].image_url", "invalid_value", "must be a data: URL"},
		{"edits", `{"prompt": "a", "images": [{"file_id": "file-1"}]}`, "images[0].file_id", "unsupported_parameter", "keeps no files"},
		{"edits", `{"prompt": "a", "images": [{"url": "x"}]}`, "images[0].url", "unknown_parameter", "unknown field"},
		{"edits", `{"prompt": "a", "images": [], "image_url": "` + url + `"}`, "image_url", "unknown_parameter", "unknown field"},
		{"edits", `{"prompt": "a", "images": [{"image_url": "data:image/png;base64,@@@@"}]}`, "images[0].image_url", "invalid_data_url", "base64"},
	} {
		resp, data := g.json(t, "/v1/images/"+c.path, c.body)
		e := isError(t, resp, data, 400, c.param, c.code)
		if !strings.Contains(e.Message, c.message) {
			t.Errorf("%s: message %q lacks %q", c.body, e.Message, c.message)
		}
	}
	resp, data := g.do(t, "POST", "/v1/images/generations", "multipart/form-data; boundary=x", strings.NewReader("--x--"))
	isError(t, resp, data, 415, "", "unsupported_media_type")
}

// TestHarmlessFields: what OpenAI's clients send and what has no effect here.
func TestHarmlessFields(t *testing.T) {
	g := serve(t, newFake())
	resp, data := g.json(t, "/v1/images/generations", `{"prompt": "a", "background": "auto", "moderation": "low", "user": "u",
		"safety_identifier": "s", "response_format": "b64_json", "quality": "auto", "size": "auto", "output_compression": 100,
		"partial_images": 0, "negative_prompt": "", "seed": null}`)
	if resp.StatusCode != http.StatusOK || decode[httpapi.ImagesResponse](t, data).SafetyIdentifier != "s" {
		t.Errorf("%d: %s", resp.StatusCode, data)
	}
}

func TestPathsAndMethods(t *testing.T) {
	g := serve(t, newFake())
	resp, data := g.do(t, "GET", "/v1/nothing", "", nil)
	isError(t, resp, data, 404, "", "not_found")
	resp, data = g.do(t, "GET", "/v1/images/edits", "", nil)
	isError(t, resp, data, 405, "", "method_not_allowed")
	if resp.Header.Get("Allow") != "POST" {
		t.Errorf("Allow: %q", resp.Header.Get("Allow"))
	}
	resp, data = g.do(t, "GET", "/v1/models/gpt-image-1", "", nil)
	isError(t, resp, data, 404, "model", "model_not_found")
	for _, path := range []string{"/v1/models", "/v1/models/mini", "/v1/models/face-diffuser", "/v1/capabilities", "/healthz", "/readyz", "/openapi.json"} {
		resp, data := g.do(t, "GET", path, "", nil)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", path, resp.StatusCode, data)
		}
		matchesDocument(t, resp, data)
		head, body := g.do(t, "HEAD", path, "", nil)
		if head.StatusCode != http.StatusOK || len(body) != 0 || head.Header.Get("Content-Type") != resp.Header.Get("Content-Type") || head.ContentLength == 0 {
			t.Errorf("HEAD %s: %d %v with %d bytes", path, head.StatusCode, head.Header, len(body))
		}
	}
	if resp, _ := g.do(t, "HEAD", "/v1/models/gpt-image-1", "", nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("HEAD of an unknown model: %d", resp.StatusCode)
	}
	g.do(t, "INVENTED", "/healthz", "", nil)
	metrics := g.metrics(t)
	for _, want := range []string{
		`facediffuser_http_requests_total{method="GET",route="/v1/models/*id",status="404"} 1`,
		`facediffuser_http_requests_total{method="other",route="other",status="404"} 1`,
		`facediffuser_errors_total{code="model_not_found"} 2`,
	} {
		want = strings.ReplaceAll(want, `{code=`, `{kind=`)
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// TestSchedulersAreCapabilities: which there are, the family's, and those of a quality.
func TestSchedulersAreCapabilities(t *testing.T) {
	f := newFake()
	f.family.Defaults = family.Defaults{Scheduler: "pndm", Steps: 6, StageBounds: family.StageBounds{StartMerge: 0.5, Final: 1}}
	g := serve(t, f)
	resp, data := g.do(t, "GET", "/v1/capabilities", "", nil)
	matchesDocument(t, resp, data)
	got := decode[httpapi.Capabilities](t, data).Families[0]
	if !slices.Equal(got.Schedulers, []string{"ddim", "pndm", "dpmpp_2m"}) || got.Quality["low"] != (family.Preset{Scheduler: "dpmpp_2m", Steps: 4}) {
		t.Errorf("schedulers %v, quality %+v", got.Schedulers, got.Quality)
	}
	// Bounds that are shares of 6 steps, in a loop of 7 iterations.
	if d := got.Defaults; d.Scheduler != "pndm" || d.StartMergeStep != 3 || d.FinalStep != 6 {
		t.Errorf("defaults %+v", d)
	}
}

// TestVocabularyOfAModel: groups come in the family's order, and a family that takes any sentence has no such key.
func TestVocabularyOfAModel(t *testing.T) {
	small := newFake()
	small.family.Vocabulary = family.Vocabulary{{Name: "times", Phrases: []string{"at night", "at dusk"}}, {Name: "places", Phrases: []string{"at the beach"}}}
	limited, free := serve(t, small), serve(t, newFake())
	for _, path := range []string{"/v1/models", "/v1/models/mini"} {
		resp, data := limited.do(t, "GET", path, "", nil)
		matchesDocument(t, resp, data)
		if want := `"vocabulary":{"times":["at night","at dusk"],"places":["at the beach"]}`; !bytes.Contains(data, []byte(want)) {
			t.Errorf("%s: no %s in %s", path, want, data)
		}
		if _, data := free.do(t, "GET", path, "", nil); bytes.Contains(data, []byte("vocabulary")) {
			t.Errorf("%s: a vocabulary from nowhere: %s", path, data)
		}
	}
}

func TestRequestID(t *testing.T) {
	g := serve(t, newFake())
	resp, _ := g.do(t, "GET", "/healthz", "", nil, "X-Request-Id", "trace-1:2.3")
	if id := resp.Header.Get("X-Request-Id"); id != "trace-1:2.3" {
		t.Errorf("the client's id became %q", id)
	}
	for _, bad := range []string{"a b", "a\tb", strings.Repeat("x", 129), "é"} {
		resp, _ := g.do(t, "GET", "/healthz", "", nil, "X-Request-Id", bad)
		if id := resp.Header.Get("X-Request-Id"); !strings.HasPrefix(id, "req_") || len(id) < 20 {
			t.Errorf("id %q for a client that sent %q", id, bad)
		}
	}
}

// TestLog: one line a request, with its numbers, and nothing of what it is about.
func TestLog(t *testing.T) {
	g := serve(t, newFake())
	resp, _ := g.edit(t, part{"image", string(face(t)), "alice-smith.png"}, part{"prompt", "alice <|image|> in secret", ""}, part{"n", "2", ""}, part{"user", "bob", ""})
	text := <-g.log
	line := decode[map[string]any](t, []byte(text))
	want := map[string]any{
		"level": "INFO", "msg": "request", "method": "POST", "route": "/v1/images/edits", "status": 200.0,
		"request_id": resp.Header.Get("X-Request-Id"), "job": resp.Header.Get("X-Facediffuser-Job-Id"),
		"model": "mini", "n": 2.0, "steps": 6.0, "subjects": 1.0, "stream": false,
	}
	for k, v := range want {
		if line[k] != v {
			t.Errorf("%s is %v, want %v", k, line[k], v)
		}
	}
	if s, ok := line["seconds"].(float64); !ok || s <= 0 {
		t.Errorf("seconds %v", line["seconds"])
	}
	for _, secret := range []string{"secret", "alice", "bob", "png"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log holds %q: %s", secret, text)
		}
	}
	g.json(t, "/v1/images/generations", `{"prompt": "a", "n": 0}`)
	if line := decode[map[string]any](t, []byte(<-g.log)); line["code"] != "invalid_value" || line["status"] != 400.0 {
		t.Errorf("logged %v", line)
	}
	select {
	case extra := <-g.log:
		t.Errorf("a second line: %s", extra)
	default:
	}
}

func TestFailuresOfJobs(t *testing.T) {
	network := func(kind tritonclient.Kind) error {
		return fmt.Errorf("networks: %w", &tritonclient.Error{Op: "ModelInfer", Model: "unet_tdm", Replica: "10.0.0.7:8001", Kind: kind, Err: errors.New("secret detail")})
	}
	for name, c := range map[string]struct {
		err    error
		status int
		code   string
	}{
		"unavailable": {network(tritonclient.Unavailable), 503, "networks_unavailable"},
		"breaker":     {network(tritonclient.BreakerOpen), 503, "networks_unavailable"},
		"slow":        {network(tritonclient.DeadlineExceeded), 503, "networks_unavailable"},
		"internal":    {network(tritonclient.Internal), 503, "networks_unavailable"},
		"NaN":         {network(tritonclient.NotFinite), 500, "not_finite"},
		"bad shape":   {network(tritonclient.BadResponse), 503, "networks_unavailable"},
		"unlisted":    {errors.New("secret detail"), 500, "internal_error"},
		"panic":       {nil, 500, "internal_error"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.step = func(context.Context, int, int) error {
				if c.err == nil {
					panic("secret detail")
				}
				return c.err
			}
			g := serve(t, f)
			for _, stream := range []bool{false, true} {
				// Nothing has been sent when the first step fails: a stream's failure is an ordinary one.
				resp, data := g.json(t, "/v1/images/generations", fmt.Sprintf(`{"prompt": "a", "stream": %v}`, stream))
				e := isError(t, resp, data, c.status, "", c.code)
				if after := resp.Header.Get("Retry-After"); c.status == 503 && after != "8" { // 7.2 s, as the supervisor has it
					t.Errorf("retry-after %q, want 8", after)
				}
				if strings.Contains(e.Message, "secret") || strings.Contains(e.Message, "10.0.0.7") {
					t.Errorf("the client sees %q", e.Message)
				}
			}
			var logged strings.Builder
			for len(g.log) > 0 {
				logged.WriteString(<-g.log)
			}
			if !strings.Contains(logged.String(), "secret detail") {
				t.Errorf("the log lacks the cause: %s", logged.String())
			}
			// The next request works.
			f.step = nil
			if resp, data := g.json(t, "/v1/images/generations", `{"prompt": "a"}`); resp.StatusCode != http.StatusOK {
				t.Errorf("the next request: %d %s", resp.StatusCode, data)
			}
		})
	}
}

func TestExpiredJob(t *testing.T) {
	f := newFake()
	newGate(f) // which nothing opens
	g := serve(t, f, func(_ *httpapi.Options, j *job.Options) { j.Timeout = time.Millisecond })
	resp, data := g.json(t, "/v1/images/generations", `{"prompt": "a"}`)
	isError(t, resp, data, 504, "", "job_expired")
	matchesDocument(t, resp, data)
}

// A request's time runs from its first byte, and an upload that takes all of its
// own gets the documented 408, not what is logged for a client that has left.
func TestSlowUploads(t *testing.T) {
	decoder := picture.NewDecoder(picture.Limits{}, 32)
	short := func(o *httpapi.Options, _ *job.Options) {
		o.Intake = upload.NewIntake(decoder, upload.Limits{Timeout: 50 * time.Millisecond})
	}
	const text, form = "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\n", "multipart/form-data; boundary=b"
	for name, c := range map[string]struct {
		change            func(*httpapi.Options, *job.Options)
		contentType, body string
		status            int
		code              string
	}{
		"over the upload's time":           {short, form, text, 408, "upload_too_slow"},
		"over it in what may be a picture": {short, form, "--b\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n", 408, "upload_too_slow"},
		"over it in JSON":                  {short, "application/json", "", 408, "upload_too_slow"},
		"over the request's time":          {func(o *httpapi.Options, _ *job.Options) { o.Limits.RequestTimeout = 50 * time.Millisecond }, form, text, 504, "job_expired"},
	} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, newFake(), c.change)
			conn, err := net.Dial("tcp", g.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			const head = "POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: 1000000\r\n\r\n%s"
			if _, err := fmt.Fprintf(conn, head, c.contentType, c.body); err != nil {
				t.Fatal(err)
			}
			go func() { // a client that sends a little now and then, for as long as it may
				for ticker := time.NewTicker(10 * time.Millisecond); ; <-ticker.C {
					if _, err := io.WriteString(conn, "a"); err != nil {
						return
					}
				}
			}()
			resp, err := http.ReadResponse(bufio.NewReader(conn), httptest.NewRequest("POST", "/v1/images/edits", nil))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			data, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			isError(t, resp, data, c.status, "", c.code)
			matchesDocument(t, resp, data)
		})
	}
}

func TestPanicInAHandler(t *testing.T) {
	f := newFake()
	f.dimensions = func() (pipeline.Dimensions, error) { panic("secret detail") }
	g := serve(t, f)
	resp, data := g.do(t, "GET", "/v1/capabilities", "", nil)
	if e := isError(t, resp, data, 500, "", "internal_error"); strings.Contains(e.Message, "secret") {
		t.Errorf("the client sees %q", e.Message)
	}
	if line := <-g.log; !strings.Contains(line, "secret detail") || !strings.Contains(line, resp.Header.Get("X-Request-Id")) {
		t.Errorf("logged %s", line)
	}
}

func TestNotReady(t *testing.T) {
	f := newFake()
	down := &tritonclient.Error{Op: "ModelConfig", Kind: tritonclient.Unavailable, Err: errors.New("refused")}
	f.dimensions = func() (pipeline.Dimensions, error) { return pipeline.Dimensions{}, down }
	g := serve(t, f, func(o *httpapi.Options, _ *job.Options) {
		o.Ready = func() []string { return []string{"unet_sdm on a:1", "vae_decoder on a:1"} }
	})
	resp, data := g.json(t, "/v1/images/generations", `{"prompt": "a"}`)
	isError(t, resp, data, 503, "", "networks_unavailable")
	resp, data = g.do(t, "GET", "/readyz", "", nil)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !bytes.Contains(data, []byte(`"missing":["unet_sdm on a:1","vae_decoder on a:1"]`)) {
		t.Errorf("/readyz: %d %s", resp.StatusCode, data)
	}
	matchesDocument(t, resp, data)
	if resp, _ = g.do(t, "GET", "/healthz", "", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("/healthz: %d", resp.StatusCode)
	}
	resp, data = g.do(t, "GET", "/v1/capabilities", "", nil)
	if resp.StatusCode != http.StatusOK || !bytes.Contains(data, []byte(`"sizes":null`)) {
		t.Errorf("/v1/capabilities: %d %s", resp.StatusCode, data)
	}
	matchesDocument(t, resp, data)
}

// gate lets steps through one at a time.
type gate struct{ arrived, pass chan struct{} }

func newGate(f *fake) *gate {
	g := &gate{make(chan struct{}, 100), make(chan struct{}, 100)}
	f.step = func(ctx context.Context, _, _ int) error {
		g.arrived <- struct{}{}
		select {
		case <-g.pass:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return g
}

func TestQueueFullAndDrain(t *testing.T) {
	f := newFake()
	gate := newGate(f)
	g := serve(t, f, func(_ *httpapi.Options, j *job.Options) { j.MaxQueue = 0 })
	answered := make(chan int, 1)
	go func() {
		resp, _ := g.json(t, "/v1/images/generations", `{"prompt": "a", "num_inference_steps": 1, "n": 2}`)
		answered <- resp.StatusCode
	}()
	<-gate.arrived
	resp, data := g.json(t, "/v1/images/generations", `{"prompt": "a"}`)
	isError(t, resp, data, 429, "", "queue_full")
	matchesDocument(t, resp, data)

	drained := make(chan error, 1)
	go func() { drained <- g.runner.Drain(context.Background()) }()
	for !g.runner.Draining() {
		time.Sleep(time.Millisecond)
	}
	resp, data = g.json(t, "/v1/images/generations", `{"prompt": "a"}`)
	isError(t, resp, data, 503, "", "shutting_down")
	if resp, data = g.do(t, "GET", "/readyz", "", nil); resp.StatusCode != http.StatusServiceUnavailable || !bytes.Contains(data, []byte("shutting down")) {
		t.Errorf("/readyz while draining: %d %s", resp.StatusCode, data)
	}
	gate.pass <- struct{}{}
	gate.pass <- struct{}{}
	if status := <-answered; status != 200 {
		t.Errorf("the request that was running got %d", status)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// TestClientGone: whoever leaves stops the loop within one step.
func TestClientGone(t *testing.T) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprint("stream=", stream), func(t *testing.T) {
			f := newFake()
			gate := newGate(f)
			g := serve(t, f)
			ctx, leave := context.WithCancel(t.Context())
			body, contentType := form(t, part{"image", string(face(t)), "a.png"}, part{"prompt", "a <|image|>", ""}, part{"stream", fmt.Sprint(stream), ""})
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL+"/v1/images/edits", body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", contentType)
			done := make(chan error, 1)
			go func() {
				resp, err := http.DefaultClient.Do(req)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				done <- err
			}()
			<-gate.arrived
			gate.pass <- struct{}{}
			<-gate.arrived // in the second step
			leave()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("the client got %v", err)
			}
			// The request's log line comes when its job has ended.
			line := decode[map[string]any](t, []byte(<-g.log))
			if line["code"] != "client_closed_request" {
				t.Errorf("logged %v", line)
			}
			if err := g.runner.Drain(t.Context()); err != nil {
				t.Error(err)
			}
			if n := len(gate.arrived); n != 0 {
				t.Errorf("%d more steps after the client left", n)
			}
		})
	}
}

func TestIdempotencyKey(t *testing.T) {
	f := newFake()
	g := serve(t, f)
	ask := func(key, body string) (*http.Response, httpapi.ImagesResponse) {
		resp, data := g.json(t, "/v1/images/generations", body, "Idempotency-Key", key)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%d: %s", resp.StatusCode, data)
		}
		return resp, decode[httpapi.ImagesResponse](t, data)
	}
	_, first := ask("k1", `{"prompt": "a", "n": 2}`)
	_, again := ask("k1", `{"n": 2, "prompt": "a"}`)
	if first.FaceDiffuser.JobID != again.FaceDiffuser.JobID || !cmp.Equal(first.Data, again.Data) {
		t.Errorf("the same request ran twice: jobs %s and %s", first.FaceDiffuser.JobID, again.FaceDiffuser.JobID)
	}
	if _, other := ask("k2", `{"prompt": "a", "n": 2}`); other.FaceDiffuser.JobID == first.FaceDiffuser.JobID {
		t.Error("another key got the same job")
	}
	resp, data := g.json(t, "/v1/images/generations", `{"prompt": "b", "n": 2}`, "Idempotency-Key", "k1")
	isError(t, resp, data, 422, "Idempotency-Key", "idempotency_key_reused")
	resp, data = g.json(t, "/v1/images/generations", `{"prompt": "b"}`, "Idempotency-Key", strings.Repeat("k", 256))
	isError(t, resp, data, 400, "Idempotency-Key", "invalid_value")

	// Subjects count: the same fields with another face are another request.
	edit := func(image []byte) (*http.Response, []byte) {
		body, contentType := form(t, part{"image", string(image), "a.png"}, part{"prompt", "a <|image|>", ""})
		return g.do(t, "POST", "/v1/images/edits", contentType, body, "Idempotency-Key", "k3")
	}
	one := face(t)
	if resp, data := edit(one); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d: %s", resp.StatusCode, data)
	}
	if resp, data := edit(one); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d: %s", resp.StatusCode, data)
	}
	resp, data = edit(otherFace(t))
	isError(t, resp, data, 422, "Idempotency-Key", "idempotency_key_reused")

	// What failed may be tried again.
	f.step = func(context.Context, int, int) error { return errors.New("broken") }
	resp, data = g.json(t, "/v1/images/generations", `{"prompt": "c"}`, "Idempotency-Key", "k4")
	isError(t, resp, data, 500, "", "internal_error")
	f.step = nil
	ask("k4", `{"prompt": "c"}`)
}

// TestIdempotentWaitersShareAJob: the job goes on while one of them is there.
func TestIdempotentWaitersShareAJob(t *testing.T) {
	f := newFake()
	gate := newGate(f)
	g := serve(t, f)
	start := func(ctx context.Context) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL+"/v1/images/generations",
			strings.NewReader(`{"prompt": "a", "num_inference_steps": 3, "stream": true, "progress": true}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", "k")
		return http.DefaultClient.Do(req)
	}
	gate.pass <- struct{}{} // the head of an answer comes with the first step
	ctx, leave := context.WithCancel(t.Context())
	first, err := start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	second, err := start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leave()
	first.Body.Close()
	if line := decode[map[string]any](t, []byte(<-g.log)); line["code"] != "client_closed_request" {
		t.Errorf("logged %v", line)
	}
	gate.pass <- struct{}{}
	gate.pass <- struct{}{}
	data, err := io.ReadAll(second.Body)
	second.Body.Close()
	if err != nil || !bytes.Contains(data, []byte("event: image_generation.completed")) {
		t.Errorf("the one that stayed got %v, %.200s", err, data)
	}
}

// TestLongTexts: what is repeated in every answer is bounded, in characters, wherever it is said.
func TestLongTexts(t *testing.T) {
	g := serve(t, newFake())
	for _, path := range []string{"/v1/images/generations", "/v1/prompts/check"} {
		for name, most := range map[string]int{"prompt": 32_000, "negative_prompt": 32_000, "user": 512, "safety_identifier": 512} {
			if path == "/v1/prompts/check" && !strings.Contains(name, "prompt") {
				continue
			}
			for _, letter := range []string{"a", "é"} {
				fields := map[string]any{"prompt": "a hill", name: strings.Repeat(letter, most)}
				body := func() string { return string(encode(t, fields)) }
				if resp, data := g.json(t, path, body()); resp.StatusCode != http.StatusOK && len(body()) < 64<<10 {
					t.Errorf("%s: %s of %d characters: %d %.200s", path, name, most, resp.StatusCode, data)
				}
				fields[name] = strings.Repeat(letter, most+1)
				if len(body()) > 64<<10 && path == "/v1/prompts/check" {
					continue // its body is bounded too
				}
				resp, data := g.json(t, path, body())
				if e := isError(t, resp, data, 400, name, "invalid_value"); !strings.Contains(e.Message, fmt.Sprint(most)) {
					t.Errorf("%s: %s", path, e.Message)
				}
			}
		}
	}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
