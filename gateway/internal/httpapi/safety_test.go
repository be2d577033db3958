package httpapi_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
)

// judging has pictures checked; those of the given indices are unsafe.
func judging(safety pipeline.Safety, unsafe ...int) *fake {
	f := newFake()
	f.safety = safety
	f.unsafe = func(image int) bool { return slices.Contains(unsafe, image) }
	return f
}

// asked are the three ways of asking for three pictures.
func asked(t *testing.T, g *gateway, stream bool) map[string]func() (*http.Response, []byte) {
	t.Helper()
	more := fmt.Sprintf(`"n": 3, "stream": %v`, stream)
	return map[string]func() (*http.Response, []byte){
		"json": func() (*http.Response, []byte) {
			return g.json(t, "/v1/images/generations", `{"prompt": "a secret", `+more+`}`)
		},
		"json edit": func() (*http.Response, []byte) {
			return g.json(t, "/v1/images/edits", `{"prompt": "a secret <|image|>", "images": [{"image_url": "data:image/png;base64,`+base64.StdEncoding.EncodeToString(face(t))+`"}], `+more+`}`)
		},
		"multipart": func() (*http.Response, []byte) {
			return g.edit(t, part{"image", string(face(t)), "a.png"}, part{"prompt", "a secret <|image|>", ""}, part{"n", "3", ""}, part{"stream", fmt.Sprint(stream), ""})
		},
	}
}

func TestRefusedPictures(t *testing.T) {
	recorded, err := os.ReadFile("testdata/refused.json") // test/sdk lets OpenAI's SDKs read it
	if err != nil {
		t.Fatal(err)
	}
	g := serve(t, judging(pipeline.SafetyRefuse, 1))
	for name, ask := range asked(t, g, false) {
		resp, data := ask()
		matchesDocument(t, resp, data)
		if e := isError(t, resp, data, 400, "", "moderation_blocked"); e.Type != "image_generation_user_error" || !strings.Contains(e.Message, "change the prompt or the seed") {
			t.Errorf("%s: %+v", name, e)
		}
		if !bytes.Equal(bytes.TrimSpace(data), bytes.TrimSpace(recorded)) {
			t.Errorf("%s: %s, recorded is %s", name, data, recorded)
		}
	}
	var logged strings.Builder
	for len(g.log) > 0 {
		logged.WriteString(<-g.log)
	}
	for _, want := range []string{`"code":"moderation_blocked"`, `"image":1,"verdict":"refused"`} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("the log lacks %s: %s", want, logged.String())
		}
	}
	if strings.Contains(logged.String(), "secret") {
		t.Errorf("the log holds a prompt: %s", logged.String())
	}
	metrics := g.metrics(t)
	for _, want := range []string{
		`facediffuser_safety_checks_total{verdict="refused"} 3`, `facediffuser_safety_checks_total{verdict="passed"} 3`,
		`facediffuser_pictures_total{outcome="refused"} 9`, `facediffuser_errors_total{kind="moderation_blocked"} 3`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	// What passes is delivered, and says that it was checked.
	passing := serve(t, judging(pipeline.SafetyRefuse))
	resp, data := passing.json(t, "/v1/images/generations", `{"prompt": "a"}`)
	matchesDocument(t, resp, data)
	if got := decode[httpapi.ImagesResponse](t, data).Data; len(got) != 1 || got[0].NSFW == nil || *got[0].NSFW {
		t.Errorf("%d %.300s", resp.StatusCode, data)
	}
}

// TestRefusedInAStream: as an ordinary answer before the first event, else as an error event after what was delivered.
func TestRefusedInAStream(t *testing.T) {
	for unsafe, want := range map[int][]string{0: nil, 2: {"completed", "completed", "error"}} {
		g := serve(t, judging(pipeline.SafetyRefuse, unsafe))
		for name, ask := range asked(t, g, true) {
			resp, data := ask()
			if want == nil {
				isError(t, resp, data, 400, "", "moderation_blocked")
				continue
			}
			events := strings.Split(strings.TrimSuffix(string(data), "\n\n"), "\n\n")
			var got []string
			for _, event := range events {
				eventMatchesDocument(t, event)
				kind, _, _ := strings.Cut(strings.TrimPrefix(event, "event: "), "\n")
				got = append(got, kind[strings.LastIndex(kind, ".")+1:])
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: events %v, want %v", name, got, want)
			}
			_, last, _ := strings.Cut(events[len(events)-1], "data: ")
			e := decode[httpapi.ErrorBody](t, []byte(last))
			if e.Type != "error" || e.Error.Type != "image_generation_user_error" || e.Error.Code == nil || *e.Error.Code != "moderation_blocked" || e.Error.Param != nil {
				t.Errorf("%s: %s", name, last)
			}
		}
	}
}

// TestWithheldPreviewsAreNotSent: what the pipeline keeps back makes no event.
func TestWithheldPreviewsAreNotSent(t *testing.T) {
	g := serve(t, judging(pipeline.SafetyRefuse, 0))
	_, data := g.json(t, "/v1/images/generations", `{"prompt": "a", "stream": true, "partial_images": 3, "progress": true}`)
	if bytes.Count(data, []byte("event: image_generation.progress")) != 6 || bytes.Contains(data, []byte("b64_json")) || !bytes.Contains(data, []byte("moderation_blocked")) {
		t.Errorf("the stream is %s", data)
	}
}

func TestFlaggedPictures(t *testing.T) {
	g := serve(t, judging(pipeline.SafetyFlag, 1))
	for name, ask := range asked(t, g, false) {
		resp, data := ask()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s", name, resp.StatusCode, data)
		}
		matchesDocument(t, resp, data)
		for k, image := range decode[httpapi.ImagesResponse](t, data).Data {
			if image.NSFW == nil || *image.NSFW != (k == 1) {
				t.Errorf("%s: picture %d: nsfw %v", name, k, image.NSFW)
			}
			file, err := base64.StdEncoding.DecodeString(image.B64JSON)
			if err != nil {
				t.Fatal(err)
			}
			parameters, err := picture.ReadParameters(bytes.NewReader(file))
			if err != nil || bytes.Contains(parameters, []byte(`"nsfw":true`)) != (k == 1) {
				t.Errorf("%s: picture %d carries %s, %v", name, k, parameters, err)
			}
		}
	}
	metrics := g.metrics(t)
	for _, want := range []string{`facediffuser_safety_checks_total{verdict="flagged"} 3`, `facediffuser_safety_checks_total{verdict="passed"} 6`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	_, data := g.json(t, "/v1/images/generations", `{"prompt": "a", "stream": true, "n": 2, "partial_images": 1}`)
	seen := 0
	for event := range strings.SplitSeq(strings.TrimSuffix(string(data), "\n\n"), "\n\n") {
		eventMatchesDocument(t, event)
		if strings.Contains(event, `"nsfw":true`) != strings.Contains(event, `"image_index":1`) {
			t.Errorf("event %.300s", event)
		}
		seen += strings.Count(event, `"nsfw":`)
	}
	if seen != 2*2+1 { // every event, and the parameters of the flagged picture
		t.Errorf("%d verdicts in %.2000s", seen, data)
	}
}

// TestUncheckedPicturesSayNothing: a missing check is no verdict.
func TestUncheckedPicturesSayNothing(t *testing.T) {
	g := serve(t, newFake())
	for _, stream := range []bool{false, true} {
		_, data := g.json(t, "/v1/images/generations", fmt.Sprintf(`{"prompt": "a", "stream": %v}`, stream))
		if !bytes.Contains(data, []byte("b64_json")) || bytes.Contains(data, []byte("nsfw")) {
			t.Errorf("stream %v: %.500s", stream, data)
		}
	}
}

func TestCapabilitiesTellOfSafety(t *testing.T) {
	for _, safety := range []pipeline.Safety{pipeline.SafetyOff, pipeline.SafetyFlag, pipeline.SafetyRefuse} {
		g := serve(t, judging(safety))
		resp, data := g.do(t, "GET", "/v1/capabilities", "", nil)
		matchesDocument(t, resp, data)
		got := decode[httpapi.Capabilities](t, data)
		if got.Safety != safety || got.Flags["safety_checker"] != (safety != pipeline.SafetyOff) {
			t.Errorf("%s: safety %q, flags %v", safety, got.Safety, got.Flags)
		}
	}
}
