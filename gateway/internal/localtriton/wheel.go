package localtriton

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// wheel is an installed nvidia-pytriton and the Python it is installed in.
type wheel struct {
	python        string // interpreter
	server        string // tritonserver binary
	backend       string // folder of the Python backend
	stub          string // triton_python_backend_stub of this Python version
	libraries     string // nvidia_pytriton.libs
	environment   string // sys.prefix: the virtual environment
	sharedLibrary string // libpython3.x.so.1.0 of this Python; "" if it has none
}

//go:embed describe.py
var describe string

// findWheel asks the interpreter where its nvidia-pytriton is and checks that the
// wheel holds a stub for its version. Errors say what to do.
func findWheel(ctx context.Context, python string) (wheel, error) {
	const install = "create the serving environment with `make venv`"
	if python == "" {
		return wheel{}, errors.New("no Python interpreter given: " + install)
	}
	path, err := exec.LookPath(python)
	if err != nil {
		return wheel{}, fmt.Errorf("no Python at %s: %s", python, install)
	}
	path, err = filepath.Abs(path) // but not its target: the link names the environment
	if err != nil {
		return wheel{}, err
	}
	var stderr bytes.Buffer
	command := exec.CommandContext(ctx, path, "-I", "-c", describe)
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		return wheel{}, fmt.Errorf("%s does not run: %w: %s", path, err, strings.TrimSpace(stderr.String()))
	}
	var found struct{ Version, Implementation, SitePackages, Prefix, SharedLibrary string }
	if err := json.Unmarshal(output, &found); err != nil {
		return wheel{}, fmt.Errorf("%s does not answer as Python does: %w", path, err)
	}
	if found.Implementation != "cpython" || !supported(found.Version) {
		return wheel{}, fmt.Errorf("%s is %s %s, but Triton's Python backend needs CPython 3.9 to 3.13: %s with one of these",
			path, found.Implementation, found.Version, install)
	}
	if found.SitePackages == "" {
		return wheel{}, fmt.Errorf("%s has no nvidia-pytriton: %s", path, install)
	}
	server := filepath.Join(found.SitePackages, "pytriton", "tritonserver")
	w := wheel{
		python:        path,
		server:        filepath.Join(server, "bin", "tritonserver"),
		backend:       filepath.Join(server, "backends", "python"),
		stub:          filepath.Join(server, "python_backend_stubs", found.Version, "triton_python_backend_stub"),
		libraries:     filepath.Join(found.SitePackages, "nvidia_pytriton.libs"),
		environment:   found.Prefix,
		sharedLibrary: found.SharedLibrary,
	}
	for what, path := range map[string]string{
		"tritonserver binary":                      w.server,
		"Python backend":                           w.backend,
		"shared libraries":                         w.libraries,
		"backend stub of CPython " + found.Version: w.stub,
	} {
		if _, err := os.Stat(path); err != nil {
			return wheel{}, fmt.Errorf("nvidia-pytriton in %s lacks its %s (%s): reinstall it (version 0.7.0), or %s",
				found.Prefix, what, path, install)
		}
	}
	return w, nil
}

func supported(version string) bool {
	switch version {
	case "3.9", "3.10", "3.11", "3.12", "3.13":
		return true
	}
	return false
}
