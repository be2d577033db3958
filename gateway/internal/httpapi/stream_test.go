package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/job"
)

var update = flag.Bool("update", false, "rewrite testdata/*.sse")

// changing are the values of a stream that differ from run to run.
var changing = regexp.MustCompile(`"(created_at|job_id)":("[^"]*"|\d+)`)

var pictures = regexp.MustCompile(`"b64_json":"([^"]*)"`)

// TestStreams compares whole streams, byte by byte, with those in testdata;
// pictures are replaced by their first bytes.
func TestStreams(t *testing.T) {
	for name, c := range map[string]struct {
		parts []part
		fail  int // picture whose third step fails
	}{
		"edit":     {[]part{{"partial_images", "2", ""}}, -1},
		"progress": {[]part{{"progress", "true", ""}, {"n", "2", ""}, {"num_inference_steps", "3", ""}, {"output_format", "jpeg", ""}, {"user", "u1", ""}}, -1},
		"error":    {[]part{{"partial_images", "1", ""}, {"n", "2", ""}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.step = func(_ context.Context, image, step int) error {
				if image == c.fail && step == 2 {
					return errors.New("secret detail")
				}
				return nil
			}
			g := serve(t, f)
			resp, data := g.edit(t, append(c.parts, part{"image", string(face(t)), "a.png"}, part{"prompt", "a man <|image|>", ""}, part{"stream", "true", ""})...)
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" || resp.Header.Get("X-Facediffuser-Job-Id") == "" {
				t.Fatalf("%d %v: %s", resp.StatusCode, resp.Header, data)
			}
			for event := range strings.SplitSeq(strings.TrimSuffix(string(data), "\n\n"), "\n\n") {
				eventMatchesDocument(t, event)
			}
			got := changing.ReplaceAllString(string(data), `"$1":0`)
			got = pictures.ReplaceAllStringFunc(got, func(s string) string {
				file, err := base64.StdEncoding.DecodeString(s[len(`"b64_json":"`) : len(s)-1])
				if err != nil || len(file) < 40 {
					t.Fatalf("%v in %s", err, s)
				}
				if !bytes.Contains(file, []byte("trainedAlgorithmicMedia")) {
					t.Error("a picture is not marked as synthetic")
				}
				return fmt.Sprintf(`"b64_json":%q`, file[:4])
			})
			golden := filepath.Join("testdata", name+".sse")
			if *update {
				if os.Getenv("CI") != "" {
					t.Fatal("-update does not run in CI")
				}
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s: want -, got +\n%s", golden, diff)
			}
		})
	}
}

// TestKeepAlive: a silent stream sends comments, which clients ignore.
func TestKeepAlive(t *testing.T) {
	f := newFake()
	gate := newGate(f)
	g := serve(t, f, func(o *httpapi.Options, _ *job.Options) { o.Limits.KeepAlive = 10 * time.Millisecond })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.URL+"/v1/images/generations", strings.NewReader(`{"prompt": "a", "stream": true}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for range 2 {
		if !lines.Scan() || lines.Text() != ": keepalive" || !lines.Scan() || lines.Text() != "" {
			t.Fatalf("%q, %v", lines.Text(), lines.Err())
		}
	}
	close(gate.pass)
	var last string
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			last = text
		}
	}
	var event httpapi.CompletedEvent
	if err := json.Unmarshal([]byte(last), &event); err != nil || event.Type != "image_generation.completed" || event.Seed != 3407 {
		t.Errorf("%v: %.200s", err, last)
	}
}

// TestKeepAliveBetweenSteps: a step without an event is silence too.
func TestKeepAliveBetweenSteps(t *testing.T) {
	f := newFake()
	f.step = func(context.Context, int, int) error {
		time.Sleep(2 * time.Millisecond) // far shorter than the silence below, all steps far longer
		return nil
	}
	g := serve(t, f, func(o *httpapi.Options, _ *job.Options) { o.Limits.KeepAlive = 20 * time.Millisecond })
	_, data := g.json(t, "/v1/images/generations", `{"prompt": "a", "stream": true, "num_inference_steps": 100}`)
	if !bytes.HasPrefix(data, []byte(": keepalive\n\n")) {
		t.Errorf("the stream begins %.100q", data)
	}
}

// TestLateReader: what a job did before anyone read is sent all the same.
func TestLateReader(t *testing.T) {
	g := serve(t, newFake())
	var ids [2]string
	var bodies [2][]byte
	for i := range ids {
		resp, data := g.json(t, "/v1/images/generations", `{"prompt": "a", "stream": true, "progress": true, "partial_images": 3}`, "Idempotency-Key", "k")
		ids[i], bodies[i] = resp.Header.Get("X-Facediffuser-Job-Id"), data
	}
	if ids[0] != ids[1] || !bytes.Equal(bodies[0], bodies[1]) || bytes.Count(bodies[0], []byte("event: ")) != 6+3+1 {
		t.Errorf("jobs %v, streams\n%.300s\n%.300s", ids, bodies[0], bodies[1])
	}
}
