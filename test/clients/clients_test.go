// Package clients_test runs the programs of docs/clients.md, as they are
// printed there, against the gateway at FACEDIFFUSER_URL. Their clients are
// pinned, and those that are generated are made of this gateway's
// /openapi.json.
package clients_test

import (
	"bytes"
	"image/png"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// printed is the gateway's address in the documentation.
const printed = "http://127.0.0.1:8080"

func TestClients(t *testing.T) {
	gateway := os.Getenv("FACEDIFFUSER_URL")
	if gateway == "" {
		t.Fatal("FACEDIFFUSER_URL must name a gateway; `make test-clients` starts one")
	}
	python := environment(t)
	for name, c := range map[string]struct {
		command  []string
		pictures map[string]string // a file and how many subjects it shows
		prints   string            // part of it
	}{
		"curl":                          {[]string{"bash", "-eu", "curl.sh"}, two, ""},
		"OpenAI Python":                 {[]string{"python", "openai_sdk.py"}, two, "7 []"},
		"OpenAI JavaScript":             {[]string{"node", "openai-sdk.mjs"}, two, "7 []"},
		"OpenAI Go":                     {[]string{"go", "run", "./openai-go"}, two, `7 {"job_id":`},
		"AI SDK":                        {[]string{"node", "ai-sdk.mjs"}, two, "a woman <|image|> and a man <|image|> at the beach at sunset"},
		"AI SDK, compatible":            {[]string{"node", "ai-sdk-compatible.mjs"}, map[string]string{"out.png": `"seed":7,`}, ""},
		"openapi-python-client":         {[]string{"bash", "-eu", "openapi-python-client.sh"}, all, refused},
		"openapi-generator, Python":     {[]string{"bash", "-eu", "python.sh"}, all, refused},
		"openapi-generator, TypeScript": {[]string{"bash", "-eu", "typescript.sh"}, all, refused},
		"openapi-generator, Go":         {[]string{"bash", "-eu", "go.sh"}, all, refused},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, gateway)
			run := exec.CommandContext(t.Context(), c.command[0], c.command[1:]...)
			if c.command[0] == "python" {
				run = exec.CommandContext(t.Context(), filepath.Join(python, "python"), c.command[1:]...)
			}
			run.Dir = dir
			run.Env = append(os.Environ(), "PATH="+python+":"+os.Getenv("PATH"), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
			output, err := run.CombinedOutput()
			if err != nil || !strings.Contains(string(output), c.prints) {
				t.Fatalf("%v\n%s\nwant %q", err, output, c.prints)
			}
			for file, subjects := range c.pictures {
				isPicture(t, filepath.Join(dir, file), subjects)
			}
		})
	}
}

var (
	two = map[string]string{"out.png": `"subjects":2`}
	all = map[string]string{"one.png": `"subjects":1`, "out.png": `"subjects":2`, "scene.png": `"subjects":0`}
)

// refused is what a generated client reads of an error.
const refused = "prompt the prompt has 2 markers <|image|>, but there is 1 reference image"

// isPicture reads a file as a PNG that carries this parameter.
func isPicture(t *testing.T, path, parameter string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := png.Decode(bytes.NewReader(data)); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	if !bytes.Contains(data, []byte(parameter)) {
		t.Errorf("%s has no %s among its parameters", path, parameter)
	}
}

// folder is a new one with the programs, the examples and npm's packages, in
// which the gateway has its address.
func folder(t *testing.T, gateway string) string {
	t.Helper()
	dir := t.TempDir()
	for _, link := range []struct{ from, to string }{{"../../examples", "examples"}, {"node_modules", "node_modules"}} {
		from, err := filepath.Abs(link.from)
		if err == nil {
			err = os.Symlink(from, filepath.Join(dir, link.to))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, source := range []string{".", "generated"} {
		err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				if source == "." && (entry.Name() == "node_modules" || entry.Name() == "generated") {
					return fs.SkipDir
				}
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			inside, err := filepath.Rel(source, path)
			if err != nil {
				return err
			}
			to := filepath.Join(dir, inside)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			return os.WriteFile(to, bytes.ReplaceAll(text, []byte(printed), []byte(gateway)), 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// environment installs the clients that are not installed yet, and returns the
// folder of Python's programs.
func environment(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	venv := filepath.Join(root, "bin", "clients-venv")
	for _, install := range []struct {
		made, source string
		command      []string
	}{
		{filepath.Join(venv, ".ready"), "requirements.txt", []string{filepath.Join(root, "scripts", "venv.sh"), venv, "test/clients/requirements.txt"}},
		{"node_modules/.package-lock.json", "package-lock.json", []string{"npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"}},
	} {
		made, err := os.Stat(install.made)
		source, missing := os.Stat(install.source)
		if missing != nil {
			t.Fatal(missing)
		}
		if err == nil && made.ModTime().After(source.ModTime()) {
			continue
		}
		run := exec.CommandContext(t.Context(), install.command[0], install.command[1:]...)
		run.Env = append(os.Environ(), "MINOR=11")
		if output, err := run.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", run, err, output)
		}
	}
	return filepath.Join(venv, "bin")
}
