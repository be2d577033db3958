// Package sdk_test runs OpenAI's SDKs for Python and JavaScript, unchanged and
// pinned by hash, against a gateway with a real Triton.
package sdk_test

import (
	"bufio"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSDKs uses the gateway at FACEDIFFUSER_URL, whose admin listener is at
// FACEDIFFUSER_ADMIN_URL, if that is set, else one of its own.
func TestSDKs(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	python := pythonSDK(t, root)
	javaScriptSDK(t)
	url, admin := gateway(t, root)
	env := append(os.Environ(), "FACEDIFFUSER_URL="+url, "FACEDIFFUSER_ADMIN_URL="+admin,
		"FACEDIFFUSER_REFUSING_URL="+refusing(t, root), "FACEDIFFUSER_BROKEN_URL="+broken(t, root), "FACEDIFFUSER_EXAMPLES="+filepath.Join(root, "examples"))
	t.Run("python", func(t *testing.T) { run(t, env, python, "test_sdk.py") })
	t.Run("javascript", func(t *testing.T) { run(t, env, "node", "--test", "sdk.test.js") })
}

func run(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, args...)
	c.Env = env
	out, err := c.CombinedOutput()
	t.Logf("%s\n%s", c, out)
	if err != nil {
		t.Error(err)
	}
}

// newer says whether a file was made after its source.
func newer(file, source string) bool {
	f, err := os.Stat(file)
	s, err2 := os.Stat(source)
	return err == nil && err2 == nil && f.ModTime().After(s.ModTime())
}

// pythonSDK returns the interpreter of an environment with the SDK.
func pythonSDK(t *testing.T, root string) string {
	t.Helper()
	venv := filepath.Join(root, "bin", "sdk-venv")
	if !newer(filepath.Join(venv, ".ready"), "requirements.txt") {
		run(t, append(os.Environ(), "MINOR=10"), filepath.Join(root, "scripts", "venv.sh"), venv, "test/sdk/requirements.txt")
	}
	return filepath.Join(venv, "bin", "python")
}

func javaScriptSDK(t *testing.T) {
	t.Helper()
	if !newer("node_modules/.package-lock.json", "package-lock.json") {
		run(t, os.Environ(), "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	}
}

// gateway starts this checkout's gateway and returns its addresses.
func gateway(t *testing.T, root string) (url, admin string) {
	t.Helper()
	if url := os.Getenv("FACEDIFFUSER_URL"); url != "" {
		return url, os.Getenv("FACEDIFFUSER_ADMIN_URL")
	}
	program := filepath.Join(t.TempDir(), "facediffuser")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./gateway")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0") // as `make build` has it, which has been built before
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	log, err := os.Create(filepath.Join(t.TempDir(), "gateway.log"))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "serve", "--listen", "127.0.0.1:0", "--run-dir", t.TempDir())
	c.Dir, c.Stderr = root, log
	stdout, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// It ends by itself, in good order, when asked to.
		err := c.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(time.Minute, func() { _ = c.Process.Kill() })
		defer late.Stop()
		if err = errors.Join(err, c.Wait()); err != nil || t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Errorf("the gateway: %v\n%s", err, text)
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	address := regexp.MustCompile(`http://[0-9.]+:[0-9]+`)
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		found := address.FindString(lines.Text())
		if url == "" {
			url = found
		}
		if strings.HasPrefix(lines.Text(), "For operators") {
			go func() { _, _ = io.Copy(io.Discard, stdout) }()
			return url, found
		}
	}
	t.Fatalf("the gateway ended before it was ready (%v)", lines.Err())
	return "", ""
}

// refusing answers every request as the gateway does whose safety checker refuses
// the picture, which its own tests hold to these bytes.
func refusing(t *testing.T, root string) string {
	t.Helper()
	refusal, err := os.ReadFile(filepath.Join(root, "gateway/internal/httpapi/testdata/refused.json"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(refusal)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// broken answers every request with a stream of the gateway's that fails in
// the middle, as its own tests have recorded it.
func broken(t *testing.T, root string) string {
	t.Helper()
	recorded, err := os.ReadFile(filepath.Join(root, "gateway/internal/httpapi/testdata/error.sse"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(recorded), "event: error\n") {
		t.Fatal("the recorded stream has no error")
	}
	// Pictures are cut short in the recording, and not base64.
	picture := base64.StdEncoding.EncodeToString([]byte("picture"))
	stream := regexp.MustCompile(`"b64_json":"(\\.|[^"\\])*"`).ReplaceAllString(string(recorded), `"b64_json":"`+picture+`"`)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, stream)
	}))
	t.Cleanup(s.Close)
	return s.URL
}
