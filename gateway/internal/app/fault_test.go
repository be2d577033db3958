package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
)

// TestFamilyIsNotWhole: what the family lacks, or has damaged, is said before Triton is started, with what to do.
func TestFamilyIsNotWhole(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, in func(string) string)
		want   []string
	}{
		"a flipped bit": {func(t *testing.T, in func(string) string) {
			weights := read(t, filepath.Join(mini, "models/vae_decoder/1/model.onnx"))
			weights[len(weights)/2] ^= 4
			own(t, in, "vae_decoder/1")
			replace(t, in("models/vae_decoder/1/model.onnx"), weights)
		}, []string{"models/vae_decoder/1/model.onnx are damaged", "copy the file again"}},
		"a flipped bit without a list": {func(t *testing.T, in func(string) string) {
			weights := read(t, filepath.Join(mini, "models/vae_decoder/1/model.onnx"))
			weights[len(weights)/2] ^= 4
			own(t, in, "vae_decoder/1")
			replace(t, in("models/vae_decoder/1/model.onnx"), weights)
			remove(t, in("models/SHA256SUMS"))
		}, []string{"a file is damaged, or of another export", "copy the family's folder again"}},
		"no weights": {func(t *testing.T, in func(string) string) {
			own(t, in, "unet_sdm/1")
			remove(t, in("models/unet_sdm/1/model.onnx"))
		}, []string{"models/unet_sdm/1/model.onnx are missing"}},
		"no configuration": {func(t *testing.T, in func(string) string) {
			own(t, in, "unet_tdm/1")
			remove(t, in("models/unet_tdm/config.pbtxt"))
		}, []string{"lacks unet_tdm (unet_tdm/config.pbtxt is not there)", "--family"}},
		"no model": {func(t *testing.T, in func(string) string) { remove(t, in("models/unet_tdm")) },
			[]string{"models/unet_tdm/1/model.onnx are missing", "copy the file again"}},
	} {
		t.Run(name, func(t *testing.T) {
			in := likeMini(t)
			c.damage(t, in)
			code, _, stderr := program(t, map[string]string{"FACEDIFFUSER_PYTHON": "/nowhere/python"},
				"serve", "--listen", "127.0.0.1:0", "--run-dir", t.TempDir(), "--family", in("."))
			for _, want := range c.want {
				if code != exitFailure || !strings.Contains(stderr, want) {
					t.Errorf("exit %d, %q does not say %q", code, stderr, want)
				}
			}
			if strings.Contains(stderr, "make venv") {
				t.Errorf("advice that does not fit: %s", stderr)
			}
		})
	}
}

// own makes links of a folder's files, in the place of a link to the folder.
func own(t *testing.T, in func(string) string, folder string) {
	t.Helper()
	model := filepath.Dir(folder)
	remove(t, in(filepath.Join("models", model)))
	if err := os.MkdirAll(in(filepath.Join("models", folder)), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{model + "/config.pbtxt", folder + "/model.onnx", folder + "/model.py"} {
		link(t, filepath.Join(mini, "models", name), in(filepath.Join("models", name)))
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

// modelProcess is the process of a model of the tritonserver with that number.
func modelProcess(t *testing.T, server int, model string) int {
	t.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", server))
	all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", server))
	for _, path := range all {
		more, _ := os.ReadFile(path) // a thread that is gone has none
		children = append(append(children, ' '), more...)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.Fields(string(children)) {
		line, err := os.ReadFile("/proc/" + word + "/cmdline")
		if err == nil && bytes.Contains(line, []byte("/"+model+"/")) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("the model %s has no process", model)
	return 0
}

// TestModelHangs stops a model's process. Triton goes on to say that all is ready; the gateway answers with 503 and a
// retry-after, is not ready, and has Triton started again. Requests that wait as long as they are told meet it working.
func TestModelHangs(t *testing.T) {
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
	ask := func() *http.Response {
		t.Helper()
		request, err := newClient(g.url(), "").request(t.Context(), order{fields: map[string]string{"prompt": "a man in the city", "num_inference_steps": "2"}})
		if err != nil {
			t.Fatal(err)
		}
		response, err := newClient("", "").http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response
	}
	if r := ask(); r.StatusCode != http.StatusOK {
		t.Fatal(r.Status)
	}
	if err := syscall.Kill(modelProcess(t, g.triton.Status().PID, "unet_tdm"), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped, waits := time.Now(), 0
	for {
		r := ask()
		if r.StatusCode == http.StatusOK {
			break
		}
		after, err := strconv.Atoi(r.Header.Get("Retry-After"))
		if r.StatusCode != http.StatusServiceUnavailable || err != nil || after < 1 || after > 60 {
			t.Fatalf("%s, retry-after %q", r.Status, r.Header.Get("Retry-After"))
		}
		if waits++; waits > 10 || time.Since(stopped) > 3*time.Minute {
			t.Fatalf("not back after %v, having waited %d times as it said\n%s", time.Since(stopped), waits, log)
		}
		if waits == 1 { // while the first one waits
			unready := time.Now()
			for len(g.missing()) == 0 {
				if time.Since(unready) > 10*time.Second {
					t.Fatalf("/readyz says that all is ready\n%s", log)
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Logf("not ready after %v: %v", time.Since(stopped), g.missing())
		}
		time.Sleep(time.Duration(after) * time.Second)
	}
	t.Logf("back after %v, %d waits", time.Since(stopped), waits)
	if s := g.triton.Status(); s.Restarts != 1 || !strings.Contains(fmt.Sprint(s.LastExit), "calls of its model unet_tdm failed in a row") {
		t.Errorf("the local Triton: %+v", s)
	}
}

// misbehaving is mini, two of whose models do wrong while a file is there: vae_decoder answers with NaN while odd is,
// unet_tdm answers nothing while stuck is.
func misbehaving(t *testing.T) (family, odd, stuck string) {
	t.Helper()
	in := likeMini(t)
	code := string(read(t, filepath.Join(mini, "models/onnx_model.py")))
	odd, stuck = in("odd"), in("stuck")
	for model, wrong := range map[string]string{
		"vae_decoder": fmt.Sprintf(`
    if os.path.exists(%q):
        return [pb_utils.InferenceResponse([_tensor("image", np.full((1, 3, 128, 128), np.nan, np.float32))]) for _ in requests]
`, odd),
		"unet_tdm": fmt.Sprintf(`
    while os.path.exists(%q):
        time.sleep(0.05)
`, stuck),
	} {
		own(t, in, model+"/1")
		replace(t, in("models/"+model+"/1/model.py"), []byte(code+`

import time

_right = TritonPythonModel.execute


def _wrong(self, requests):`+wrong+`    return _right(self, requests)


TritonPythonModel.execute = _wrong
`))
	}
	return in("."), odd, stuck
}

// TestModelsMisbehave: on a real Triton, NaN is an error of the picture alone, and a model that waits for ever in its own
// code is found by calls and canaries that use up their time.
func TestModelsMisbehave(t *testing.T) {
	env := environment(t)
	settings := config.Default()
	family, odd, stuck := misbehaving(t)
	settings.Family, settings.Python, settings.RunDir, settings.Listen = family, env("FACEDIFFUSER_PYTHON"), t.TempDir(), "127.0.0.1:0"
	settings.StepTimeout = 5 * time.Second
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
	ask := func() (*http.Response, string) {
		t.Helper()
		request, err := newClient(g.url(), "").request(t.Context(), order{fields: map[string]string{"prompt": "a man in the city", "num_inference_steps": "2"}})
		if err != nil {
			t.Fatal(err)
		}
		response, err := newClient("", "").http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response, string(body)
	}
	exist := func(name string) {
		t.Helper()
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	exist(odd)
	for range 5 { // more than would open a breaker
		r, body := ask()
		if r.StatusCode != http.StatusInternalServerError || !strings.Contains(body, `"code":"not_finite"`) || r.Header.Get("X-Should-Retry") != "false" || r.Header.Get("Retry-After") != "" {
			t.Fatalf("%s: %s, %v", r.Status, body, r.Header)
		}
		if missing := g.missing(); missing != nil {
			t.Fatalf("not ready: %v", missing)
		}
	}
	remove(t, odd)
	if r, body := ask(); r.StatusCode != http.StatusOK {
		t.Fatalf("after NaN: %s: %s", r.Status, body)
	}
	if s := g.triton.Status(); s.Restarts != 0 {
		t.Errorf("NaN had Triton started again: %+v", s)
	}

	exist(stuck)
	if r, body := ask(); r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
		t.Fatalf("%s: %s, %v", r.Status, body, r.Header)
	}
	for began := time.Now(); g.triton.Status().Restarts == 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("it is not started again\n%s", log)
		}
	}
	if s := g.triton.Status(); !strings.Contains(fmt.Sprint(s.LastExit), "calls of its model unet_tdm failed in a row") {
		t.Errorf("started again because %v", s.LastExit)
	}
	remove(t, stuck)
	if err := g.waitReady(t.Context(), func(string) {}); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if r, body := ask(); r.StatusCode != http.StatusOK {
		t.Fatalf("after the restart: %s: %s", r.Status, body)
	}
}

// TestKilledProgramLeavesNothing kills the program itself while one of its models hangs.
func TestKilledProgramLeavesNothing(t *testing.T) {
	env := environment(t)
	dir := t.TempDir()
	binary := filepath.Join(dir, "facediffuser")
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../..").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, binary, "serve", "--listen", "127.0.0.1:0", "--family", mini, "--run-dir", filepath.Join(dir, "run"), "--python", env("FACEDIFFUSER_PYTHON"))
	out := &lineWriter{want: regexp.MustCompile(`http://127\.0\.0\.1:\d+`), found: make(chan string, 1)}
	ready := out.found
	command.Stdout, command.Stderr = out, t.Output()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal("ended before it was ready:", err)
	}
	// Everything that the program has started says where it runs, by its folder or by its arguments.
	ours := func() (pids []string) {
		paths, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			folder, _ := os.Readlink(filepath.Join(path, "cwd")) // others' cannot be read
			if strings.HasPrefix(folder, dir) {
				pids = append(pids, filepath.Base(path))
			}
		}
		return pids
	}
	started := ours()
	if len(started) != 8 { // the server, six models, the guard
		t.Fatalf("processes %v, want 8", started)
	}
	for _, pid := range started {
		line, err := os.ReadFile("/proc/" + pid + "/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		if number, err := strconv.Atoi(pid); err != nil || bytes.Contains(line, []byte("/unet_sdm/")) && syscall.Kill(number, syscall.SIGSTOP) != nil {
			t.Fatal("not stopped", err)
		}
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	<-ended
	for left := ours(); len(left) > 0; left = ours() {
		if time.Since(killed) > 5*time.Second {
			t.Fatalf("processes %v are left after %v", left, time.Since(killed))
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("gone after %v", time.Since(killed))
}
