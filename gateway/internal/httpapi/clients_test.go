package httpapi_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
)

// recorded is a body as a client sent it.
func recorded(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/clients/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestRecordedBodies: each is served, or refused by the name of what is wrong.
func TestRecordedBodies(t *testing.T) {
	g := serve(t, newFake())
	const edits, generations, form = "/v1/images/edits", "/v1/images/generations", "multipart/form-data; boundary=X"
	for _, c := range []struct {
		file, path, contentType string
		headers                 []string
		status                  int
		param, code, message    string
	}{
		{file: "ok_json.json", path: edits, status: 200},
		{file: "json_file_id_null.json", path: edits, status: 200},
		{file: "json_style_null.json", path: generations, status: 200},
		{file: "json_bom.json", path: generations, status: 200},
		{file: "json.gz", path: generations, headers: []string{"Content-Encoding", "gzip"}, status: 200},
		{file: "form_empty_slot.bin", path: edits, contentType: form, status: 200},
		{file: "form_filename_at.bin", path: edits, contentType: form, status: 200},
		{file: "form_filename_space.bin", path: edits, contentType: form, status: 200},
		{file: "json_images_null.json", path: edits, status: 400, param: "image", code: "missing_required_parameter", message: "image is missing"},
		{file: "json_image_key.json", path: edits, status: 400, param: "image", code: "unknown_parameter", message: `in JSON, pictures are images: [{"image_url": `},
		{file: "json_latin1.json", path: generations, status: 400, code: "invalid_body", message: "not UTF-8"},
		{file: "json.gz", path: generations, status: 400, code: "invalid_body", message: "not UTF-8"},
		{file: "json.gz", path: generations, headers: []string{"Content-Encoding", "br"}, status: 415, code: "unsupported_content", message: "in gzip"},
		{file: "json_style_null.json", path: generations, contentType: "application/json; charset=latin1", status: 415, code: "unsupported_content", message: "UTF-8"},
	} {
		if c.contentType == "" {
			c.contentType = "application/json"
		}
		resp, data := g.do(t, "POST", c.path, c.contentType, bytes.NewReader(recorded(t, c.file)), c.headers...)
		if c.status == 200 {
			if resp.StatusCode != 200 {
				t.Errorf("%s: %d %s", c.file, resp.StatusCode, data)
			}
			continue
		}
		if e := isError(t, resp, data, c.status, c.param, c.code); !strings.Contains(e.Message, c.message) {
			t.Errorf("%s: message %q lacks %q", c.file, e.Message, c.message)
		}
		if got := resp.Header.Get("Accept-Encoding"); (got == "gzip") != (c.status == 415) {
			t.Errorf("%s: %d with accept-encoding %q", c.file, c.status, got)
		}
		matchesDocument(t, resp, data)
	}
}

// TestNullIsAbsent: for every field of OpenAI's API, served or not, and the images.
func TestNullIsAbsent(t *testing.T) {
	g := serve(t, newFake())
	for _, name := range []string{
		"model", "n", "size", "output_format", "output_compression", "stream", "partial_images", "response_format", "quality", "input_fidelity",
		"background", "moderation", "user", "safety_identifier", "mask", "markup", "style", "complexity", "svg", "frame_count", "frame_duration_ms", "image",
	} {
		if name == "input_fidelity" {
			continue // of edits, below
		}
		resp, data := g.json(t, "/v1/images/generations", fmt.Sprintf(`{"prompt": "a hill", %q: null}`, name))
		if resp.StatusCode != http.StatusOK {
			t.Errorf("JSON %s: %d %s", name, resp.StatusCode, data)
		}
		if name == "image" {
			continue
		}
		resp, data = g.edit(t, part{"prompt", "a man <|image|>", ""}, part{"image", string(face(t)), "a.png"}, part{name, "", ""})
		if resp.StatusCode != http.StatusOK {
			t.Errorf("form %s: %d %s", name, resp.StatusCode, data)
		}
	}
	resp, data := g.edit(t, part{"prompt", "a man <|image|>", ""}, part{"image", string(face(t)), "a.png"}, part{"input_fidelity", "", ""}, part{"image[]", "", ""}, part{"svg[model]", "", ""})
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, data)
	}
	// A typo stays one, and what cannot be missing is missing.
	resp, data = g.json(t, "/v1/images/generations", `{"prompt": "a hill", "stile": null}`)
	isError(t, resp, data, 400, "stile", "unknown_parameter")
	resp, data = g.json(t, "/v1/images/generations", `{"prompt": null}`)
	isError(t, resp, data, 400, "prompt", "missing_required_parameter")
	resp, data = g.json(t, "/v1/images/edits", `{"prompt": "a", "images": [{"image_url": null, "file_id": null}]}`)
	isError(t, resp, data, 400, "images[0].image_url", "invalid_value")
}

// TestEmptyPicturesAreAbsent: what a client's form for pictures leaves empty.
func TestEmptyPicturesAreAbsent(t *testing.T) {
	g := serve(t, newFake())
	image := `{"image_url": "data:image/png;base64,` + base64.StdEncoding.EncodeToString(face(t)) + `"}`
	for _, empty := range []string{`null`, `""`, `{}`, `{"file_id": null}`, `{"image_url": null}`, `{"image_url": "", "file_id": null}`} {
		for _, field := range []string{"mask", "markup"} {
			resp, data := g.json(t, "/v1/images/edits", fmt.Sprintf(`{"prompt": "a man <|image|>", "images": [null, %s, null], %q: %s}`, image, field, empty))
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%s %s: %d %s", field, empty, resp.StatusCode, data)
			}
		}
	}
	for _, field := range []string{"images", "image", "mask"} {
		for _, empty := range []string{`null`, `[]`, `[null]`, `""`} {
			resp, data := g.json(t, "/v1/images/generations", fmt.Sprintf(`{"prompt": "a hill", %q: %s}`, field, empty))
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%s %s: %d %s", field, empty, resp.StatusCode, data)
			}
		}
	}
	resp, data := g.json(t, "/v1/images/edits", `{"prompt": "a man <|image|>", "images": [null]}`)
	isError(t, resp, data, 400, "image", "missing_required_parameter")
	resp, data = g.json(t, "/v1/images/generations", `{"prompt": "a hill", "images": [`+image+`]}`)
	if e := isError(t, resp, data, 400, "images", "unknown_parameter"); !strings.Contains(e.Message, "/v1/images/edits") {
		t.Errorf("message %q", e.Message)
	}
	resp, data = g.json(t, "/v1/images/generations", `{"prompt": "a man <|image|>"}`)
	if e := isError(t, resp, data, 400, "prompt", "invalid_value"); !strings.Contains(e.Message, "; images are sent to /v1/images/edits") {
		t.Errorf("message %q", e.Message)
	}
}

// TestNumbersOfForms: as JSON writes them (RFC 8259, section 6), not as Go does.
func TestNumbersOfForms(t *testing.T) {
	g := serve(t, newFake())
	for _, c := range [][2]string{
		{"seed", "1_0"}, {"seed", "0x10"}, {"seed", "+5"}, {"seed", "007"}, {"seed", "1e-400"}, {"n", "0x1"}, {"n", "1."}, {"guidance_scale", "0x1p2"},
		{"guidance_scale", "1_0.5"}, {"guidance_scale", "inf"}, {"guidance_scale", "NaN"}, {"guidance_scale", "true"}, {"guidance_scale", ".5"},
	} {
		resp, data := g.edit(t, part{"prompt", "a man <|image|>", ""}, part{"image", string(face(t)), "a.png"}, part{c[0], c[1], ""})
		isError(t, resp, data, 400, c[0], "invalid_value")
	}
}

// TestPicturesInTheWrongField: the message says where they belong.
func TestPicturesInTheWrongField(t *testing.T) {
	g := serve(t, newFake())
	alice, prompt := string(face(t)), part{"prompt", "a man <|image|>", ""}
	for _, c := range []struct {
		part             part
		param, code, say string
	}{
		{part{"images", alice, "a.png"}, "images", "unknown_parameter", "files in image, repeated or as image[]"},
		{part{"images[]", alice, "a.png"}, "images[]", "unknown_parameter", "files in image, repeated or as image[]"},
		{part{"images", `[{"image_url": "x"}]`, ""}, "images", "unknown_parameter", "files in image, repeated or as image[]"},
		{part{"image_url", "data:image/png;base64,AA", ""}, "image_url", "unknown_parameter", "files in image"},
		{part{"image", "data:image/png;base64,AA", ""}, "image", "invalid_value", "must be a file, not text"},
	} {
		resp, data := g.edit(t, prompt, c.part)
		if e := isError(t, resp, data, 400, c.param, c.code); !strings.Contains(e.Message, c.say) {
			t.Errorf("message %q lacks %q", e.Message, c.say)
		}
	}
	for _, name := range []string{"image", "images", "image[]"} {
		resp, data := g.json(t, "/v1/images/generations", fmt.Sprintf(`{"prompt": "a", %q: "x"}`, name))
		if e := isError(t, resp, data, 400, name, "unknown_parameter"); !strings.Contains(e.Message, "/v1/images/edits") {
			t.Errorf("message %q", e.Message)
		}
	}
	resp, data := g.json(t, "/v1/images/edits", `{"prompt": "a <|image|>", "image": "`+strings.Repeat("x", 2<<20)+`"}`)
	if e := isError(t, resp, data, 400, "", "field_too_large"); !strings.Contains(e.Message, `images: [{"image_url": `) {
		t.Errorf("message %q", e.Message)
	}
	// A picture whose part has no file name is one all the same, as of curl -F 'image=<a.png'.
	if resp, data := g.edit(t, prompt, part{"image", alice, ""}); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, data)
	}
}

// TestValuesOfTheSDKs: what OpenAI's SDKs (Python 3.54.0) have for a field and
// is not served is distinguished from what nobody knows.
func TestValuesOfTheSDKs(t *testing.T) {
	g := serve(t, newFake())
	for field, values := range map[string][]string{
		"quality":         {"xhigh", "max", "standard", "hd"},
		"output_format":   {"gif", "svg"},
		"background":      {"transparent"},
		"response_format": {"url"},
		"size":            {"1024x1024", "1536x1024", "1024x1536", "256x256", "512x512", "1792x1024", "1024x1792"},
	} {
		for _, v := range values {
			resp, data := g.json(t, "/v1/images/generations", fmt.Sprintf(`{"prompt": "a hill", %q: %q}`, field, v))
			isError(t, resp, data, 400, field, "unsupported_value")
		}
	}
	resp, data := g.json(t, "/v1/images/generations", `{"prompt": "a hill", "quality": "hd"}`)
	if e := isError(t, resp, data, 400, "quality", "unsupported_value"); e.Message != "quality hd is not supported: this gateway serves low, medium, high or auto" {
		t.Errorf("message %q", e.Message)
	}
}

// TestIntegers: JSON Schema takes a number without a fraction for an integer, whatever its spelling.
func TestIntegers(t *testing.T) {
	g := serve(t, newFake())
	for spelling, want := range map[string]uint32{"7": 7, "7.0": 7, "7e0": 7, "70e-1": 7, "4294967295.0": 4294967295, "-0.0": 0} {
		for _, ask := range []func() (*http.Response, []byte){
			func() (*http.Response, []byte) {
				return g.json(t, "/v1/images/generations", `{"prompt": "a hill", "seed": `+spelling+`}`)
			},
			func() (*http.Response, []byte) {
				return g.edit(t, part{"prompt", "a man <|image|>", ""}, part{"image", string(face(t)), "a.png"}, part{"seed", spelling, ""})
			},
		} {
			resp, data := ask()
			if resp.StatusCode != http.StatusOK || decode[httpapi.ImagesResponse](t, data).Data[0].Seed != want {
				t.Errorf("seed %s: %d %.300s", spelling, resp.StatusCode, data)
			}
		}
	}
	for _, spelling := range []string{"7.5", "1e400", "4294967296.0", "-1.0", "9007199254740993"} {
		resp, data := g.json(t, "/v1/images/generations", `{"prompt": "a hill", "seed": `+spelling+`}`)
		isError(t, resp, data, 400, "seed", "invalid_value")
	}
}

func TestQuery(t *testing.T) {
	g := serve(t, newFake())
	const body = `{"prompt": "a hill"}`
	if resp, data := g.json(t, "/v1/images/generations?api-version=2025-04-01-preview", body); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, data)
	}
	if resp, data := g.do(t, "GET", "/healthz?probe=1", "", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, data) // probes send what they like
	}
	for _, c := range []struct{ method, query, param, code, message string }{
		{"POST", "seed=7", "seed", "unknown_parameter", "it is a field of the body"},
		{"POST", "api-version=1&x=1", "x", "unknown_parameter", `unknown query parameter "x"`},
		{"POST", "a=%zz", "", "invalid_value", "cannot be read"},
	} {
		resp, data := g.do(t, c.method, "/v1/images/generations?"+c.query, "application/json", strings.NewReader(body))
		if e := isError(t, resp, data, 400, c.param, c.code); !strings.Contains(e.Message, c.message) {
			t.Errorf("%s: message %q", c.query, e.Message)
		}
	}
	resp, data := g.do(t, "GET", "/v1/models?limit=3", "", nil)
	isError(t, resp, data, 400, "limit", "unknown_parameter")
	matchesDocument(t, resp, data)
}

// TestMisdirected: a base URL that is almost right.
func TestMisdirected(t *testing.T) {
	g := serve(t, newFake())
	for path, want := range map[string]string{
		"/images/edits":         "use /v1/images/edits (the base URL must end in /v1)",
		"/images/edits/":        "use /v1/images/edits (the base URL must end in /v1)",
		"/v1/v1/images/edits":   "use /v1/images/edits (/v1 is there twice",
		"/v1/images/edits/":     "use /v1/images/edits (without a slash",
		"/v1//images/edits":     "use /v1/images/edits (without a slash",
		"/models/mini":          "use /v1/models/mini (the base URL must end in /v1)",
		"/v1/images/variation":  "no such path: /v1/images/variation",
		"/v1/models/":           "use /v1/models (without a slash",
		"/api/v1/images/edits":  "use /v1/images/edits (without /api before /v1",
		"/v1/images/generation": "did you mean /v1/images/generations?",
		"/v1/image/edits":       "did you mean /v1/images/edits?",
		"/v1/chat/completions":  "no such path: /v1/chat/completions",
		// Azure's form, as openai.AzureOpenAI of the Python SDK makes it.
		"/openai/deployments/gpt-image-1/images/edits": "use /v1/images/edits (this gateway has no deployments",
		"/": "no such path: /",
	} {
		method := http.MethodPost
		if strings.HasPrefix(path, "/v1/models") {
			method = http.MethodGet
		}
		resp, data := g.do(t, method, path, "application/json", strings.NewReader(`{}`))
		e := isError(t, resp, data, 404, "", "not_found")
		if !strings.Contains(e.Message, want) || strings.Contains(want, "no such") && e.Message != want {
			t.Errorf("%s: message %q, want %q", path, e.Message, want)
		}
	}
}

// TestRefusedBodiesAreRead: a client that sends a large body before it reads
// gets the answer, not a broken connection.
func TestRefusedBodiesAreRead(t *testing.T) {
	g := serve(t, newFake())
	for target, status := range map[string]int{"/images/edits": 404, "/v1/images/edits?x=1": 400, "/v1/images/edits": 415, "/v1/models": 405} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		const size = 16 << 20
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", target, size)
		if n, err := conn.Write(make([]byte, size)); err != nil {
			t.Fatalf("%s: the connection broke after %d bytes: %v", target, n, err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != status {
			t.Errorf("%s: %d %s, %v", target, resp.StatusCode, data, err)
		}
	}
}

// TestAliases: every name has an entry, as programs look for the one that they know.
func TestAliases(t *testing.T) {
	f := newFake()
	f.family.Aliases = []string{"face-diffuser", "openai/gpt-image-1"}
	g := serve(t, f)
	resp, data := g.do(t, "GET", "/v1/models", "", nil)
	matchesDocument(t, resp, data)
	others := map[string][]string{}
	for _, m := range decode[httpapi.ModelList](t, data).Data {
		others[m.ID] = m.Aliases
	}
	want := map[string][]string{
		"mini": {"face-diffuser", "openai/gpt-image-1"}, "face-diffuser": {"mini", "openai/gpt-image-1"}, "openai/gpt-image-1": {"mini", "face-diffuser"},
	}
	if diff := cmp.Diff(want, others); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
	for _, path := range []string{"/v1/models/openai/gpt-image-1", "/v1/models/" + url.PathEscape("openai/gpt-image-1")} {
		_, data = g.do(t, "GET", path, "", nil)
		if m := decode[httpapi.Model](t, data); m.ID != "openai/gpt-image-1" {
			t.Errorf("%s: %s", path, data)
		}
	}
	if resp, data := g.json(t, "/v1/images/generations", `{"prompt": "a", "model": "openai/gpt-image-1"}`); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, data)
	}
}

// TestAddressesBehindProxies: what a trusted proxy says is believed, and nobody else.
func TestAddressesBehindProxies(t *testing.T) {
	forwarded := []string{
		"X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "faces.example.org", "X-Forwarded-Prefix", "/faces/",
	}
	for name, c := range map[string]struct {
		proxies, public string
		headers         []string
		server, client  string
	}{
		"direct":             {"", "", nil, "/", "127.0.0.1"},
		"a liar":             {"10.0.0.0/8", "", forwarded, "/", "127.0.0.1"},
		"a trusted proxy":    {"127.0.0.0/8", "", forwarded, "https://faces.example.org/faces", "203.0.113.9"},
		"two proxies":        {"127.0.0.0/8", "", []string{"X-Forwarded-Proto", "https, http", "X-Forwarded-Host", "a.example.org, b"}, "https://a.example.org", "127.0.0.1"},
		"ports":              {"127.0.0.0/8", "", []string{"X-Forwarded-For", "6.6.6.6:1234", "X-Real-IP", "1.2.3.4"}, "http://", "6.6.6.6"},
		"brackets":           {"127.0.0.0/8", "", []string{"X-Forwarded-For", "[2001:db8::17]:443"}, "http://", "2001:db8::17"},
		"brackets alone":     {"127.0.0.0/8", "", []string{"X-Forwarded-For", "[2001:db8::17]"}, "http://", "2001:db8::17"},
		"another header":     {"127.0.0.0/8", "", []string{"X-Real-IP", "1.2.3.4"}, "http://", "127.0.0.1"},
		"said by the client": {"127.0.0.0/8", "", []string{"X-Forwarded-For", "1.2.3.4, 203.0.113.9, 127.0.0.7"}, "http://", "203.0.113.9"},
		"in two lines":       {"127.0.0.0/8", "", []string{"X-Forwarded-For", "1.2.3.4", "X-Forwarded-For", "203.0.113.9"}, "http://", "203.0.113.9"},
		"nonsense":           {"127.0.0.0/8", "", []string{"X-Forwarded-For", "1.2.3.4, unknown, 127.0.0.7"}, "http://", "127.0.0.7"},
		"all trusted":        {"127.0.0.0/8", "", []string{"X-Forwarded-For", "127.0.0.9, 127.0.0.7"}, "http://", "127.0.0.9"},
		"a public URL wins":  {"127.0.0.0/8", "https://public.example.org/f", forwarded, "https://public.example.org/f", "203.0.113.9"},
	} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, newFake(), func(o *httpapi.Options, _ *job.Options) {
				o.PublicURL = c.public
				if c.proxies != "" {
					o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix(c.proxies)}
				}
			})
			resp, data := g.do(t, "GET", "/openapi.json", "", nil, c.headers...)
			matchesDocument(t, resp, data)
			served := decode[map[string]any](t, data)
			if c.server == "http://" { // nothing is said of it
				c.server += resp.Request.Host
			}
			if got, want := fmt.Sprint(served["servers"]), "[map[url:"+c.server+"]]"; got != want {
				t.Errorf("servers %s, want %s", got, want)
			}
			// The rest is as in the file.
			served["servers"] = at(t, "servers")
			if !bytes.Equal(marshal(t, served), marshal(t, document().object)) {
				t.Error("another document")
			}
			if line := decode[map[string]any](t, []byte(<-g.log)); line["client"] != c.client {
				t.Errorf("client %v, want %s", line["client"], c.client)
			}
		})
	}
}

// TestHeaders: seeds and warnings in the head of an answer, streamed or not.
func TestHeaders(t *testing.T) {
	g := serve(t, newFake())
	for _, stream := range []bool{false, true} {
		resp, data := g.json(t, "/v1/images/generations", fmt.Sprintf(`{"prompt": "long hill", "n": 3, "seed": 4294967294, "stream": %v}`, stream))
		if got := resp.Header.Get("X-Facediffuser-Seeds"); got != "4294967294, 4294967295, 0" {
			t.Errorf("seeds %q", got)
		}
		if got := resp.Header.Get("X-Facediffuser-Warnings"); got != `%"the prompt was cut";param="prompt"` {
			t.Errorf("warnings %q", got)
		}
		if n := bytes.Count(data, []byte(`"revised_prompt":"long hill"`)); n != 3 {
			t.Errorf("%d revised prompts in %s", n, data)
		}
	}
	resp, _ := g.json(t, "/v1/images/generations", `{"prompt": "hill"}`)
	if got, ok := resp.Header["X-Facediffuser-Warnings"]; ok {
		t.Errorf("warnings %q of nothing", got)
	}
}

// TestWarningsHeader: the display string is RFC 9651's example (section 3.3.8); the header is ASCII and bounded.
func TestWarningsHeader(t *testing.T) {
	warning := func(s string) pipeline.Warning { return pipeline.Warning{Param: "prompt", Message: s} }
	for _, c := range []struct {
		warnings []pipeline.Warning
		want     string
	}{
		{nil, ""},
		{[]pipeline.Warning{warning("This is intended for display to üsers.")}, `%"This is intended for display to %c3%bcsers.";param="prompt"`},
		{[]pipeline.Warning{warning("a"), {Param: "size", Message: `"b" 100%` + "\r\n"}}, `%"a";param="prompt", %"%22b%22 100%25%0d%0a";param="size"`},
	} {
		got, err := httpapi.WarningsText(c.warnings)
		if err != nil || got != c.want {
			t.Errorf("%q, %v\nwant %q", got, err, c.want)
		}
	}
	for _, text := range []string{strings.Repeat("x", 5000), strings.Repeat("☃", 5000), strings.Repeat("%", 2030)} {
		got, err := httpapi.WarningsText([]pipeline.Warning{warning("first"), warning(text), warning("third")})
		if err != nil || len(got) > 2048 || len(got) < 1900 || !strings.HasPrefix(got, `%"first";`) || !strings.HasSuffix(got, `%e2%80%a6";param="prompt"`) {
			t.Errorf("%d bytes, %v: %.40q … %q", len(got), err, got, got[max(0, len(got)-60):])
		}
	}
	many := make([]pipeline.Warning, 100)
	for i := range many {
		many[i] = warning("a warning of some length")
	}
	if got, err := httpapi.WarningsText(many); err != nil || len(got) > 2048 || strings.Count(got, "param=") < 40 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
