package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	_ "image/png"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
	"github.com/facediffuser/facediffuser/gateway/internal/doctor"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
)

const (
	mini  = "../../../model_repository/mini"
	alice = "../../../examples/alice.png"
	bob   = "../../../examples/bob.png"
)

// environment is what `make test` gives the program: where the local Triton is.
func environment(t *testing.T) func(string) string {
	t.Helper()
	python := os.Getenv("FACEDIFFUSER_PYTHON")
	if python == "" {
		t.Fatal("FACEDIFFUSER_PYTHON must name the interpreter of .venv: `make test` sets it, after `make venv`")
	}
	return func(k string) string {
		switch k {
		case "FACEDIFFUSER_PYTHON":
			return python
		case "FACEDIFFUSER_FAMILY":
			return mini
		}
		return ""
	}
}

// lineWriter gives the first match of a pattern in what is written to it.
type lineWriter struct {
	mu    sync.Mutex
	text  bytes.Buffer
	want  *regexp.Regexp
	found chan string
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	if m := w.want.FindString(w.text.String()); m != "" && w.found != nil {
		w.found <- m
		w.found = nil
	}
	return len(p), nil
}

func (w *lineWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// serving boots the whole program on a real Triton and returns its address. end stops it as SIGTERM would and returns its error.
func serving(t *testing.T, args ...string) (url string, log *lineWriter, end func() error) {
	t.Helper()
	ctx, terminate := context.WithCancel(t.Context())
	out := &lineWriter{want: regexp.MustCompile(`http://127\.0\.0\.1:\d+`), found: make(chan string, 1)}
	log = &lineWriter{want: regexp.MustCompile(`$^`)}
	ready, env := out.found, environment(t)
	var result error
	done := make(chan struct{})
	args = append([]string{"serve", "--listen", "127.0.0.1:0", "--run-dir", t.TempDir()}, args...)
	go func() { defer close(done); result = Run(ctx, args, env, out, log) }()
	end = func() error { terminate(); <-done; return result }
	t.Cleanup(func() { _ = end() }) // a test that cares has asked before
	select {
	case url = <-ready:
	case <-done:
		t.Fatalf("ended before it was ready: %v\n%s", result, log)
	case <-time.After(3 * time.Minute):
		t.Fatalf("not ready in time\n%s", log)
	}
	return url, log, end
}

// embedded reads what a picture carries.
func embedded(t *testing.T, name string) (p pipeline.Parameters) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw, err := picture.ReadParameters(f)
	if err == nil {
		err = json.Unmarshal(raw, &p)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return p
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestWholeProgram serves on a real Triton and uses it from the command line.
func TestWholeProgram(t *testing.T) {
	url, log, end := serving(t, "--size-fallback", "nearest", "--model-aliases", "gpt-image-1,face-diffuser")
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	env := map[string]string{"FACEDIFFUSER_URL": url}
	generate := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		code, stdout, stderr := program(t, env, append([]string{"generate"}, args...)...)
		if code != want {
			t.Fatalf("generate %q: exit %d, want %d: %s", args, code, want, stderr)
		}
		return stdout, stderr
	}

	t.Run("one subject, previews and JSON", func(t *testing.T) {
		stdout, stderr := generate(0, "-s", alice, "-o", in("out.png"), "--steps", "6", "--start-merge-step", "1", "--final-step", "3", "--preview-dir", in("previews"), "--previews", "2", "--json",
			"a woman <|image|> reading in the snow at night")
		var report struct {
			Pictures []struct {
				File    string
				Seed    uint32
				Details struct {
					Parameters pipeline.Parameters
				} `json:"facediffuser"`
			}
		}
		if err := json.Unmarshal([]byte(stdout), &report); err != nil || len(report.Pictures) != 1 {
			t.Fatalf("stdout is %q: %v", stdout, err)
		}
		p := embedded(t, in("out.png"))
		if got := report.Pictures[0]; got.File != in("out.png") || got.Seed != p.Seed || got.Details.Parameters != p {
			t.Errorf("JSON says %+v, the picture carries %+v", got, p)
		}
		if p.Steps != 6 || p.Subjects != 1 {
			t.Errorf("the picture carries %+v", p)
		}
		if !strings.Contains(stderr, "step 6 of 6 (subject enhancement)") || !strings.Contains(stderr, "(scene construction)") {
			t.Errorf("progress is %q", stderr)
		}
		previews, err := filepath.Glob(in("previews/out-preview-[01].png"))
		if err != nil || len(previews) != 2 {
			t.Errorf("previews: %v, %v", previews, err)
		}
		for _, name := range append(previews, in("out.png")) {
			config, format, err := image.DecodeConfig(bytes.NewReader(read(t, name)))
			if err != nil || format != "png" || config.Width != p.Width || config.Height != p.Height {
				t.Errorf("%s: %s %+v, %v", name, format, config, err)
			}
		}
	})

	t.Run("repeat", func(t *testing.T) {
		generate(0, "--from", in("out.png"), "-s", alice, "-o", in("again.png"), "-q")
		if !bytes.Equal(read(t, in("out.png")), read(t, in("again.png"))) {
			t.Error("--from made another picture")
		}
		generate(0, "--from", in("out.png"), "-s", alice, "-o", in("other.png"), "--seed", "7", "--steps", "4")
		first, other := embedded(t, in("out.png")), embedded(t, in("other.png"))
		if other.Seed != 7 || other.Steps != 4 || other.Prompt != first.Prompt {
			t.Errorf("--from with other flags made %+v of %+v", other, first)
		}
		generate(0, "--from", in("out.png"), "-o", in("nobody.png"), "-q", "a man at the beach")
		if p := embedded(t, in("nobody.png")); p.Subjects != 0 || p.Seed != first.Seed {
			t.Errorf("--from without subjects carries %+v of %+v", p, first)
		}
		if _, stderr := generate(exitUsage, "--from", in("out.png"), "-o", in("alone.png")); !strings.Contains(stderr, "was made with 1 reference image,") {
			t.Errorf("without the subject: %s", stderr)
		}
	})

	t.Run("schedulers", func(t *testing.T) {
		args := []string{"-s", alice, "--steps", "4", "--seed", "5", "a woman <|image|> on the beach"}
		made := map[string][]byte{}
		for scheduler, c := range map[string]struct {
			file string
			last string // line of progress
		}{
			"ddim": {"ddim.png", "step 4 of 4 "}, "pndm": {"pndm.jpg", "step 5 of 5 "}, "dpmpp_2m": {"dpmpp_2m.webp", "step 4 of 4 "},
		} {
			_, stderr := generate(0, append([]string{"--scheduler", scheduler, "-o", in(c.file)}, args...)...)
			if !strings.Contains(stderr, c.last) {
				t.Errorf("%s: progress is %q, want %q", scheduler, stderr, c.last)
			}
			p := embedded(t, in(c.file))
			if p.Scheduler != scheduler || p.Steps != 4 {
				t.Errorf("%s carries %+v", c.file, p)
			}
			again := "again-" + c.file
			generate(0, "--from", in(c.file), "-s", alice, "-o", in(again), "-q")
			if !bytes.Equal(read(t, in(c.file)), read(t, in(again))) {
				t.Errorf("--from made another picture of %s", c.file)
			}
			generate(0, "--from", in(c.file), "-s", alice, "-o", in(scheduler+".png"), "-q", "-f")
			made[scheduler] = read(t, in(scheduler+".png"))
		}
		if bytes.Equal(made["ddim"], made["pndm"]) || bytes.Equal(made["ddim"], made["dpmpp_2m"]) {
			t.Error("two schedulers made one picture")
		}
		// From PNDM's 5 iterations to another scheduler's 4: the stage bounds go, or they might lie past the end.
		generate(0, "--from", in("pndm.jpg"), "-s", alice, "-o", in("other-scheduler.png"), "--scheduler", "dpmpp_2m")
		if p := embedded(t, in("other-scheduler.png")); p.Scheduler != "dpmpp_2m" || p.Steps != 4 || p.Seed != 5 {
			t.Errorf("--from with another scheduler carries %+v", p)
		}
	})

	t.Run("several", func(t *testing.T) {
		_, stderr := generate(0, "-s", alice, "-s", bob, "-n", "2", "-o", in("pair.webp"), "--steps", "4", "--seed", "4294967295", "a woman <|image|> and a man <|image|> on the beach")
		for _, want := range []string{in("pair-0.webp") + " (seed 4294967295)", in("pair-1.webp") + " (seed 0)"} {
			if !strings.Contains(stderr, want) {
				t.Errorf("%q is not in %q", want, stderr)
			}
		}
		if bytes.Equal(read(t, in("pair-0.webp")), read(t, in("pair-1.webp"))) {
			t.Error("two seeds made one picture")
		}
	})

	t.Run("standard output", func(t *testing.T) {
		stdout, _ := generate(0, "-o", "-", "--steps", "2", "a man in the desert")
		if _, format, err := image.DecodeConfig(strings.NewReader(stdout)); err != nil || format != "png" {
			t.Errorf("standard output holds %s, %v", format, err)
		}
	})

	t.Run("a size and a name that others have", func(t *testing.T) {
		_, stderr := generate(0, "-o", in("small.png"), "--steps", "2", "--size", "512x512", "a man on the beach")
		p := embedded(t, in("small.png"))
		if want := fmt.Sprintf("warning: --size 512x512 is not served by this family; the pictures are %dx%d", p.Width, p.Height); !strings.Contains(stderr, want) || p.Width == 512 {
			t.Errorf("%q lacks %q", stderr, want)
		}
		resp, err := http.Post(url+"/v1/images/generations", "application/json", strings.NewReader(`{"prompt": "a man", "model": "gpt-image-1", "size": "1024x1024", "num_inference_steps": 1}`))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if warnings := resp.Header.Get("X-Facediffuser-Warnings"); resp.StatusCode != http.StatusOK || !strings.Contains(warnings, `;param="size"`) {
			t.Errorf("%s with the warnings %s", resp.Status, warnings)
		}
	})

	t.Run("parameters by flags", func(t *testing.T) {
		stdout, _ := generate(0, "-s", alice, "-o", in("mapped.jpg"), "--steps", "6", "--seed", "5.0", "--scheduler", "ddim", "--eta", "0.5",
			"--start-merge-step", "1", "--final-step", "3", "--fusion-map", "--output-compression", "40", "--negative-prompt", "snow", "--json", "a woman <|image|> on the beach")
		if p := embedded(t, in("mapped.jpg")); p.Eta != 0.5 || p.Seed != 5 || p.NegativePrompt != "snow" || p.FinalStep != 3 {
			t.Errorf("the picture carries %+v", p)
		}
		p := embedded(t, in("mapped.jpg"))
		config, format, err := image.DecodeConfig(bytes.NewReader(read(t, in("mapped-fusion.png"))))
		if err != nil || format != "png" || config.Width != p.Width || config.Height != p.Height || !strings.Contains(stdout, "mapped-fusion.png") {
			t.Errorf("the map: %s %+v, %v; stdout %q", format, config, err, stdout)
		}
		// The same picture in better quality takes more bytes.
		generate(0, "--from", in("mapped.jpg"), "-s", alice, "-o", in("better.jpg"), "--output-compression", "95", "-q")
		if poor, better := len(read(t, in("mapped.jpg"))), len(read(t, in("better.jpg"))); poor >= better || embedded(t, in("better.jpg")) != p {
			t.Errorf("%d bytes at 40, %d at 95, which carries %+v", poor, better, embedded(t, in("better.jpg")))
		}
	})

	t.Run("refused", func(t *testing.T) {
		for want, args := range map[string][]string{
			"1 marker <|image|>, but there are 2":                    {"-s", alice, "-s", bob, "a woman <|image|> in the city"},
			"--steps must be an int":                                 {"--steps", "0", "a woman"},
			"--steps must be an integer from 1 to 200, not \"many\"": {"--steps", "many", "a woman"},
			"must be ddim, pndm or dpmpp_2m":                         {"--scheduler", "euler", "a woman"},
			"size must be auto or WIDTHxHEIGHT":                      {"--size", "large", "a woman"},
			"--start-merge-step needs at least one --subject":        {"--start-merge-step", "2", "a woman"},
		} {
			if _, stderr := generate(exitUsage, append([]string{"-o", in("no.png")}, args...)...); !strings.Contains(stderr, want) {
				t.Errorf("%q: %q is not in %q", args, want, stderr)
			}
		}
		if _, err := os.Stat(in("no.png")); err == nil {
			t.Error("a refused request wrote a picture")
		}
	})

	t.Run("interrupted", func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		seen := &lineWriter{want: regexp.MustCompile(`step \d+ of 200`), found: make(chan string, 1)}
		step, result := seen.found, make(chan error, 1)
		args := []string{"generate", "-o", in("long.png"), "--steps", "200", "--url", url, "a man in the forest"}
		go func() { result <- Run(ctx, args, func(string) string { return "" }, io.Discard, seen) }()
		<-step
		interrupt()
		if code := ExitCode(ctx, <-result); code != exitInterrupted || !strings.Contains(seen.String(), "facediffuser: interrupted") {
			t.Errorf("exit %d, stderr %q", code, seen)
		}
		if files, err := filepath.Glob(in("*long*")); err != nil || len(files) > 0 {
			t.Errorf("left behind: %v, %v", files, err)
		}
	})

	t.Run("SIGTERM finishes what is in flight", func(t *testing.T) {
		seen := &lineWriter{want: regexp.MustCompile(`step \d+ of 30`), found: make(chan string, 1)}
		step, result := seen.found, make(chan error, 1)
		args := []string{"generate", "-o", in("last.png"), "--steps", "30", "--url", url, "a man in the forest"}
		go func() { result <- Run(t.Context(), args, func(string) string { return "" }, io.Discard, seen) }()
		<-step
		if err := end(); err != nil {
			t.Errorf("serve ended with %v", err)
		}
		if err := <-result; err != nil || embedded(t, in("last.png")).Steps != 30 {
			t.Errorf("the request in flight: %v\n%s", err, log)
		}
		if _, err := newClient(url, "").identify(t.Context()); err == nil {
			t.Error("still listening")
		}
	})
}

// likeMini is a folder whose files are mini's. Each is a link of its own, so that a test can put another in its place.
func likeMini(t *testing.T) (in func(name string) string) {
	t.Helper()
	dir := t.TempDir()
	in = func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"models", "tokenizer"} {
		entries, err := os.ReadDir(filepath.Join(mini, name))
		if err == nil {
			err = os.Mkdir(in(name), 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			link(t, filepath.Join(mini, name, e.Name()), in(filepath.Join(name, e.Name())))
		}
	}
	link(t, filepath.Join(mini, "pipeline.json"), in("pipeline.json"))
	return in
}

func link(t *testing.T, to, name string) {
	t.Helper()
	target, err := filepath.Abs(to)
	if err == nil {
		err = os.Symlink(target, name)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// replace puts text in the place of a link.
func replace(t *testing.T, name string, text []byte) {
	t.Helper()
	err := os.Remove(name)
	if err == nil {
		err = os.WriteFile(name, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// smallFamily is mini with a vocabulary of a few words.
func smallFamily(t *testing.T) string {
	t.Helper()
	in := likeMini(t)
	var description map[string]any
	if err := json.Unmarshal(read(t, in("pipeline.json")), &description); err != nil {
		t.Fatal(err)
	}
	description["vocabulary"] = map[string][]string{"places": {"in a room"}, "other words": {"with", "the"}}
	text, err := json.Marshal(description)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, in("pipeline.json"), text)
	return in(".")
}

// TestGenerateByItself makes a picture without any gateway running: the command brings its own. It passes the warning on of a word that
// the family was not taught.
func TestGenerateByItself(t *testing.T) {
	env := environment(t)
	out := filepath.Join(t.TempDir(), "out.jpg")
	var stderr bytes.Buffer
	args := []string{"generate", "--family", smallFamily(t), "--run-dir", t.TempDir(), "-s", alice, "-o", out, "--steps", "4", "a woman <|image|> with a zebra in the room"}
	if err := Run(t.Context(), args, env, io.Discard, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	if !strings.Contains(stderr.String(), "starting a local Triton") || embedded(t, out).Subjects != 1 {
		t.Errorf("stderr: %s", &stderr)
	}
	if !regexp.MustCompile(`facediffuser: warning: mini .*: "zebra"\.`).MatchString(stderr.String()) {
		t.Errorf("no warning of the zebra, and of nothing else: %s", &stderr)
	}
}

// diagnose runs doctor on a local Triton.
func diagnose(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	env := environment(t)
	var out, errOut bytes.Buffer
	err := Run(t.Context(), append([]string{"doctor", "--run-dir", t.TempDir()}, args...), env, &out, &errOut)
	return ExitCode(t.Context(), err), out.String(), errOut.String()
}

// TestDoctor: mini fits on a real Triton, and is measured.
func TestDoctor(t *testing.T) {
	code, out, errOut := diagnose(t, "--json")
	var report doctor.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	if code != exitOK || !report.Fits || len(report.Findings) != 0 || report.Family.Name != "mini" || len(report.Replicas) != 1 {
		t.Fatalf("exit %d, %+v\n%s", code, report, errOut)
	}
	r := report.Replicas[0]
	if !r.Ready || r.Triton != "2.51.0" || r.RoundTrip <= 0 || len(r.Models) != 6 || *r.Sizes != (doctor.Sizes{
		Tokens: 77, Width: 128, Subjects: 4, Reference: 64, Latents: [3]int{4, 16, 16}, Picture: [2]int{128, 128}}) {
		t.Errorf("replica %+v, sizes %+v", r, r.Sizes)
	}
	for _, m := range r.Models {
		if len(m.Versions) != 1 || m.Versions[0] != "1" || m.Backend != "python" || m.MaxBatchSize != 8 || !m.DynamicBatching || m.Instances != "1 on CPU" {
			t.Errorf("model %+v", m)
		}
	}
	if m := r.Measured; m == nil || len(m.TDM) != 3 || len(m.SDM) != 3 || m.TDM[2].Rows != 8 || m.VAEDecoder <= 0 || m.Both <= 0 {
		t.Errorf("measured %+v", m)
	}
	for i, p := range r.Predicted {
		if p.Seconds <= 0 || p.PerHour <= 0 || p.PerHour != report.Fleet.Predicted[i].PerHour {
			t.Errorf("prediction %+v", p)
		}
	}
	for _, want := range []string{"starting a local Triton", "6 of 6 models are loaded\n", "measuring unet_sdm, 8 rows\n"} {
		if !strings.Contains(errOut, want) {
			t.Errorf("progress lacks %q: %s", want, errOut)
		}
	}
}

// TestDoctorOfAnotherTokenizer: a real text_encoder refuses an id that it has no embedding of.
func TestDoctorOfAnotherTokenizer(t *testing.T) {
	in := likeMini(t)
	vocabulary := read(t, in("tokenizer/vocab.json"))
	replace(t, in("tokenizer/vocab.json"), append(bytes.TrimSuffix(bytes.TrimSpace(vocabulary), []byte("}")), `, "one more</w>": 49408}`...))
	code, out, errOut := diagnose(t, "--family", in("."), "-q")
	if code != exitFailure || errOut != "facediffuser: not everything fits\n" {
		t.Errorf("exit %d, stderr %q", code, errOut)
	}
	for _, want := range []string{`FAULT \[token_ids\] unix:///\S+/grpc:8001 text_encoder input input_ids: found .*idx=49408.*, want ids up to 49408, `, "  1 fault  text_encoder ", "  ok       unet_tdm "} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %q in %s", want, out)
		}
	}
}

// TestDoctorOfModelThatDoesNotLoad: the local Triton ends, and the report says why.
func TestDoctorOfModelThatDoesNotLoad(t *testing.T) {
	in := likeMini(t)
	config := read(t, in("models/unet_sdm/config.pbtxt"))
	err := os.RemoveAll(in("models")) // a link each; no other model has to load for this
	if err == nil {
		err = os.MkdirAll(in("models/unet_sdm"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(in("models/unet_sdm/config.pbtxt"), append(config, "max_batch_sise: 8\n"...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	code, out, errOut := diagnose(t, "--family", in("."), "--no-measure")
	if code != exitFailure || strings.Contains(errOut, "level=") || !regexp.MustCompile(`FAULT \[local_triton\] the local Triton: found it does not start: .*max_batch_sise.* Mend that model; the whole log is .*triton\.log\.\n1 fault, `).MatchString(out) {
		t.Errorf("exit %d, stdout %s, stderr %s", code, out, errOut)
	}
}

// TestWaitsForTriton starts a gateway whose Triton is not there: it is alive, says what is missing, refuses requests for now, and ends
// when told.
func TestWaitsForTriton(t *testing.T) {
	ctx, terminate := context.WithCancel(t.Context())
	defer terminate()
	log := &lineWriter{want: regexp.MustCompile(`msg="not ready yet".*`), found: make(chan string, 1)}
	waiting, done := log.found, make(chan error, 1)
	address, env := freeAddress(t), environment(t)
	go func() {
		done <- Run(ctx, []string{"serve", "--listen", address, "--admin-listen", "off", "--triton", "127.0.0.1:1"}, env, io.Discard, log)
	}()
	select {
	case line := <-waiting:
		if !strings.Contains(line, "127.0.0.1:1") {
			t.Errorf("it says %q", line)
		}
	case err := <-done:
		t.Fatalf("ended: %v\n%s", err, log)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/v1/capabilities": 200} {
		response, err := newClient("", "").http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != want {
			t.Errorf("%s: %s, %v: %s", path, response.Status, err, body)
		}
		if path == "/readyz" && (!strings.Contains(string(body), "no Triton server is ready") || strings.Contains(string(body), "127.0.0.1:1")) {
			t.Errorf("/readyz must say what is missing, and no address: %s", body)
		}
	}
	code, _, stderr := program(t, map[string]string{"FACEDIFFUSER_URL": "http://" + address}, "generate", "-o", filepath.Join(t.TempDir(), "x.png"), "a man")
	if code != exitFailure || !strings.Contains(stderr, "try again in") {
		t.Errorf("generate: exit %d, %q", code, stderr)
	}
	terminate()
	if err := <-done; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestTritonDies kills the Triton process under two requests: both fail in a way that says try again, and when the supervisor has
// brought it back, the next one works.
func TestTritonDies(t *testing.T) {
	env := environment(t)
	settings := config.Default()
	settings.Family, settings.Python, settings.RunDir, settings.Listen = mini, env("FACEDIFFUSER_PYTHON"), t.TempDir(), "127.0.0.1:0"
	log := &lineWriter{want: regexp.MustCompile(`$^`)}
	g, err := startGateway(t.Context(), &settings, streams{env, io.Discard, log})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if err := g.waitReady(t.Context(), func(string) {}); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	long := order{fields: map[string]string{"prompt": "a man in the city", "num_inference_steps": "200"}}
	request, err := newClient(g.url(), "").request(t.Context(), long)
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		response *http.Response
		err      error
	}
	plain := make(chan answer, 1)
	go func() {
		response, err := newClient("", "").http.Do(request)
		plain <- answer{response, err}
	}()
	long.fields["stream"], long.fields["progress"] = "true", "true"
	killed := false
	streamed := newClient(g.url(), "").stream(t.Context(), long, func(n notice) error {
		if n.is("progress") && n.Step >= 10 && !killed {
			killed = true
			return syscall.Kill(g.triton.Status().PID, syscall.SIGKILL)
		}
		return nil
	})
	if !killed || streamed == nil {
		t.Errorf("the stream ended with %v (killed: %v)", streamed, killed)
	}
	a := <-plain
	if a.err != nil {
		t.Fatal(a.err)
	}
	defer a.response.Body.Close()
	if a.response.StatusCode != http.StatusServiceUnavailable || a.response.Header.Get("Retry-After") == "" {
		t.Errorf("the other request: %s, retry-after %q", a.response.Status, a.response.Header.Get("Retry-After"))
	}
	if err := g.waitReady(t.Context(), func(string) {}); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	out := filepath.Join(t.TempDir(), "out.png")
	if code, _, stderr := program(t, map[string]string{"FACEDIFFUSER_URL": g.url()}, "generate", "-o", out, "--steps", "2", "a man in the city"); code != exitOK {
		t.Errorf("after it is back: exit %d, %s\n%s", code, stderr, log)
	}
}
