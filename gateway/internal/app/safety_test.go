package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/tritonclient/tritontest"
)

// checkedFamily is mini with the safety checker of testdata, which finds bright pictures not safe for work.
func checkedFamily(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	models, err := filepath.Glob(filepath.Join(mini, "models", "*", "config.pbtxt"))
	if err != nil || len(models) != 6 {
		t.Fatalf("models of mini: %v, %v", models, err)
	}
	links := map[string]string{"tokenizer": filepath.Join(mini, "tokenizer")}
	for _, config := range append(models, "testdata/safety_checker/config.pbtxt") {
		model := filepath.Dir(config)
		links[filepath.Join("models", filepath.Base(model))] = model
	}
	err = os.Mkdir(filepath.Join(dir, "models"), 0o700)
	for name, target := range links {
		if err == nil {
			target, err = filepath.Abs(target)
		}
		if err == nil {
			err = os.Symlink(target, filepath.Join(dir, name))
		}
	}
	var description map[string]any
	if err == nil {
		err = json.Unmarshal(read(t, filepath.Join(mini, "pipeline.json")), &description)
	}
	if err != nil {
		t.Fatal(err)
	}
	description["safety_checker"] = true
	text, err := json.Marshal(description)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "pipeline.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSafety has one Triton with a safety checker, a gateway that flags and one that refuses.
func TestSafety(t *testing.T) {
	env, dir := environment(t), checkedFamily(t)
	start := func(safety string, triton ...string) *gateway {
		settings := config.Default()
		settings.Family, settings.Python, settings.RunDir, settings.Listen = dir, env("FACEDIFFUSER_PYTHON"), t.TempDir(), "127.0.0.1:0"
		settings.Safety, settings.Triton = safety, triton
		log := &lineWriter{want: regexp.MustCompile(`$^`)}
		g, err := startGateway(t.Context(), &settings, streams{env, io.Discard, log})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := g.stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
		if err := g.waitReady(t.Context(), func(string) {}); err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		return g
	}
	flags := start("flag")
	refuses := start("auto", flags.triton.Address())
	if refuses.pipeline.Safety() != pipeline.SafetyRefuse {
		t.Fatalf("auto is %q for a family with a safety checker", refuses.pipeline.Safety())
	}
	generate := func(g *gateway, want int, more ...string) (dir, stdout, stderr string) {
		t.Helper()
		dir = t.TempDir()
		args := append([]string{"generate", "--url", g.url(), "-o", filepath.Join(dir, "out.png"), "--json", "--steps", "4"}, more...)
		code, stdout, stderr := program(t, nil, args...)
		if code != want {
			t.Fatalf("generate %q: exit %d, want %d: %s", more, code, want, stderr)
		}
		return dir, stdout, stderr
	}

	// What is flagged is what is bright.
	found := map[bool][]string{} // by verdict, flags that make such a picture again
	for _, prompt := range []string{"a man in the snow", "a man in the forest at night"} {
		_, stdout, stderr := generate(flags, exitOK, "-n", "4", "--seed", "1", prompt)
		var report struct {
			Pictures []struct {
				File string
				NSFW *bool
			}
		}
		if err := json.Unmarshal([]byte(stdout), &report); err != nil || len(report.Pictures) != 4 {
			t.Fatalf("JSON says %s, %v", stdout, err)
		}
		for _, p := range report.Pictures {
			brightness := meanOfPixelValues(t, p.File)
			if p.NSFW == nil {
				t.Fatalf("%s: no verdict in %s", p.File, stdout)
			}
			if math.Abs(brightness) > 0.03 && *p.NSFW != (brightness > 0) { // nearer to 0, resizing may decide
				t.Errorf("%s: brightness %.3f, nsfw %v", p.File, brightness, *p.NSFW)
			}
			carried := embedded(t, p.File)
			if warned := strings.Contains(stderr, "warning: the safety checker finds "+p.File+" not safe for work"); carried.NSFW != *p.NSFW || warned != *p.NSFW {
				t.Errorf("%s: nsfw %v; it carries %+v; stderr is %s", p.File, *p.NSFW, carried, stderr)
			}
			found[*p.NSFW] = []string{"--seed", fmt.Sprint(carried.Seed), prompt}
		}
	}
	if len(found) != 2 {
		t.Fatalf("all pictures are bright, or none is: %v", found)
	}

	// The same pictures, refused or not.
	previews := t.TempDir()
	dir, stdout, stderr := generate(refuses, exitUsage, append([]string{"--preview-dir", previews}, found[true]...)...)
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	leaked, err := filepath.Glob(filepath.Join(previews, "*"))
	if err != nil || len(left)+len(leaked) > 0 || stdout != "" || !strings.Contains(stderr, "not safe for work") {
		t.Errorf("left %v, previews %v, %v; stdout %q; stderr %s", left, leaked, err, stdout, stderr)
	}
	dir, stdout, _ = generate(refuses, exitOK, found[false]...)
	if embedded(t, filepath.Join(dir, "out.png")).NSFW || !strings.Contains(stdout, `"nsfw":false`) {
		t.Errorf("what passes: %s", stdout)
	}
	response, err := newClient("", "").http.Post(refuses.url()+"/v1/images/generations", "application/json",
		strings.NewReader(fmt.Sprintf(`{"prompt": %q, "seed": %s, "num_inference_steps": 4}`, found[true][2], found[true][1])))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), `"type":"image_generation_user_error","param":null,"code":"moderation_blocked"`) {
		t.Errorf("%s %v: %s", response.Status, err, body)
	}
}

// meanOfPixelValues is what the safety checker of testdata computes of a picture, without the resizing.
func meanOfPixelValues(t *testing.T, file string) float64 {
	t.Helper()
	m, _, err := image.Decode(bytes.NewReader(read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	mean, deviation := [3]float64{0.48145466, 0.4578275, 0.40821073}, [3]float64{0.26862954, 0.26130258, 0.27577711}
	sum, size := 0.0, m.Bounds().Size()
	for i := range size.X * size.Y {
		r, g, b, _ := m.At(i%size.X, i/size.X).RGBA()
		for c, v := range [3]uint32{r, g, b} {
			sum += (float64(v>>8)/255 - mean[c]) / deviation[c]
		}
	}
	return sum / float64(3*size.X*size.Y)
}

// TestASafetyCheckerThatIsMissing: of servers elsewhere readiness tells, a local Triton is not started for nothing.
func TestASafetyCheckerThatIsMissing(t *testing.T) {
	models, err := tritontest.Models()
	if err != nil {
		t.Fatal(err)
	}
	server := tritontest.Start(t, models...)
	for _, safety := range []string{"off", "flag", "refuse"} {
		settings := config.Default()
		settings.Family, settings.Listen, settings.Triton, settings.Safety = mini, "127.0.0.1:0", []string{server.Address()}, safety
		g, err := startGateway(t.Context(), &settings, streams{func(string) string { return "" }, io.Discard, io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		missing := join(g.ask(t.Context()))
		if !strings.Contains(missing, "the model text_encoder: ") || strings.Contains(missing, "the model safety_checker (--safety off would leave pictures unchecked): ") != (safety != "off") {
			t.Errorf("%s: missing %s", safety, missing)
		}
		if err := g.stop(t.Context()); err != nil {
			t.Error(err)
		}
		for _, args := range [][]string{{"serve", "--listen", "127.0.0.1:0"}, {"serve", "--check-config"}} {
			if safety == "off" {
				continue // it would serve
			}
			code, _, stderr := program(t, map[string]string{"FACEDIFFUSER_FAMILY": mini, "FACEDIFFUSER_SAFETY": safety}, args...)
			if code == exitOK || !strings.Contains(stderr, "models/safety_checker: no such file") || !strings.Contains(stderr, "--safety off") {
				t.Errorf("%s %v: exit %d, %s", safety, args, code, stderr)
			}
		}
	}
}

func TestAutomaticSafety(t *testing.T) {
	for setting, want := range map[string][2]pipeline.Safety{
		"auto": {pipeline.SafetyOff, pipeline.SafetyRefuse}, "off": {pipeline.SafetyOff, pipeline.SafetyOff},
		"flag": {pipeline.SafetyFlag, pipeline.SafetyFlag}, "refuse": {pipeline.SafetyRefuse, pipeline.SafetyRefuse},
	} {
		for i, brings := range []bool{false, true} {
			if got := safetyOf(&config.Config{Safety: setting}, &family.Family{SafetyChecker: brings}); got != want[i] {
				t.Errorf("%s, a family with a checker (%v): %q, want %q", setting, brings, got, want[i])
			}
		}
	}
}
