package app

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
	"github.com/facediffuser/facediffuser/gateway/internal/doctor"
	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(mainProgram())
	}
	goleak.VerifyTestMain(m)
}

// program runs the program as main does, without a process.
func program(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	ctx := t.Context()
	err := Run(ctx, args, func(k string) string { return env[k] }, &out, &errOut)
	return ExitCode(ctx, err), out.String(), errOut.String()
}

func TestUsageFaults(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("there.png", "not a picture")
	write("made-fusion.png", "a map")
	for _, c := range []struct {
		args []string
		want string // in stderr
	}{
		{[]string{"sevre"}, `unknown command "sevre" for "facediffuser"`},
		{[]string{"serve", "now"}, `unknown command "now" for "facediffuser serve"`},
		{[]string{"serve", "--lisen", "x"}, "unknown flag: --lisen\nTry 'facediffuser serve --help'."},
		{[]string{"serve", "--max-queue", "many"}, `invalid argument "many" for "--max-queue"`},
		{[]string{"serve", "--listen", "nowhere", "--log-level=loud"}, "the configuration is wrong:\nlisten: must be host:port, not \"nowhere\"\nlog-level: must be"},
		{[]string{"serve", "--check-config", "--family", "nowhere"}, "family: open nowhere/pipeline.json: no such file or directory"},
		{[]string{"doctor", "now"}, `unknown command "now" for "facediffuser doctor"`},
		{[]string{"doctor", "--triton", "gpu-0", "--step-timeout", "0s"}, "the configuration is wrong:\ntriton: must be host:port, not \"gpu-0\"\nstep-timeout: must be"},
		{[]string{"doctor", "--triton", "gpu-0:8001", "--family", "nowhere"}, "--family: stat nowhere: no such file or directory"},
		{[]string{"keys"}, "say what to do: create, list or revoke"},
		{[]string{"keys", "list"}, "--keys-file (or FACEDIFFUSER_KEYS_FILE) must name the file of keys"},
		{[]string{"keys", "list", "--keys-file", "gone.json"}, "open gone.json: no such file or directory; `facediffuser keys create` makes it"},
		{[]string{"keys", "create", "--keys-file", "k.json"}, `name must be 1 to 64 letters, digits and . _ @ -, not ""`},
		{[]string{"keys", "create", "--keys-file", "k.json", "--name", "a", "--scopes", "write"}, `scope "write" is none of generate, read and admin`},
		{[]string{"keys", "create", "--keys-file", "no/k.json", "--name", "a"}, "open no: no such file or directory"},
		{[]string{"keys", "revoke", "--keys-file", "k.json", "bob"}, `k.json has no key "bob"`},
		{[]string{"keys", "revoke"}, "accepts 1 arg(s), received 0"},
		{[]string{"serve", "--listen", "0.0.0.0:8080"}, "listen: 0.0.0.0:8080 can be reached from other machines, and without keys"},
		{[]string{"generate"}, "a prompt is missing"},
		{[]string{"generate", "a", "woman"}, `2 prompts; quote the prompt: "a woman"`},
		{[]string{"generate", "--subject", "nobody.png", "a woman <|image|>"}, "open nobody.png: no such file or directory"},
		{[]string{"generate", "-o", "there.png", "a woman"}, "there.png exists; --force overwrites it"},
		{[]string{"generate", "-o", "out.bmp", "a woman"}, "out.bmp: the extension says no format; use .png, .jpg or .webp, or --format"},
		{[]string{"generate", "-o", "no/out.png", "a woman"}, "no: no such directory"},
		{[]string{"generate", "--fusion-map", "a woman"}, "--fusion-map needs at least one --subject"},
		{[]string{"generate", "--input-fidelity", "high", "a woman"}, "--input-fidelity needs at least one --subject"},
		{[]string{"generate", "--start-merge-step", "3", "a woman"}, "--start-merge-step needs at least one --subject"},
		{[]string{"generate", "--final-step", "3", "a woman"}, "--final-step needs at least one --subject"},
		{[]string{"generate", "a woman <|image|>"}, "the prompt has the marker <|image|> of a subject, but there is no --subject"},
		{[]string{"generate", "--previews", "2", "a woman"}, "--previews needs --preview-dir"},
		{[]string{"generate", "--preview-dir", ".", "--previews", "1_0", "a woman"}, "--previews must be an integer from 1 to 3, not 1_0"},
		{[]string{"generate", "-n", "1.5", "a woman"}, "-n must be an integer from 1 to 10, not 1.5"},
		{[]string{"generate", "-n", "2.0", "-o", "-", "a woman"}, "standard output takes one picture"},
		{[]string{"generate", "-n", "11", "a woman"}, "-n must be an integer from 1 to 10, not 11"},
		{[]string{"generate", "-n", "2", "-o", "-", "a woman"}, "standard output takes one picture"},
		{[]string{"generate", "--preview-dir", ".", "--previews", "9", "a woman"}, "--previews must be an integer from 1 to 3, not 9"},
		{[]string{"generate", "--fusion-map", "-s", "there.png", "-o", "-", "a woman"}, "--fusion-map writes a file beside the picture's"},
		{[]string{"generate", "--fusion-map", "-s", "there.png", "-o", "made.png", "a woman"}, "made-fusion.png exists; --force overwrites it"},
		{[]string{"generate", "--from", "there.png"}, "there.png: "},
		{[]string{"generate", "--from", "gone.png"}, "open gone.png: no such file or directory"},
	} {
		code, out, errOut := program(t, nil, c.args...)
		if code != exitUsage || !strings.HasPrefix(errOut, "facediffuser: ") || !strings.Contains(errOut, c.want) || out != "" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q; want %d and %q", c.args, code, out, errOut, exitUsage, c.want)
		}
	}
	if left, err := filepath.Glob("*"); err != nil || len(left) != 2 {
		t.Errorf("files after commands that did nothing: %v, %v", left, err)
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"serve", "--help"}, {"generate", "--help"}, {"doctor", "--help"}, {"healthcheck", "--help"}, {"keys", "--help"}, {"version"}, {"completion", "bash"}} {
		code, out, errOut := program(t, nil, args...)
		if code != exitOK || !strings.Contains(out, "facediffuser") || errOut != "" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, code, out, errOut)
		}
		before, examples, _ := strings.Cut(out, "\nExamples:\n") // they are to be copied
		_, after, _ := strings.Cut(examples, "\n\nFlags:\n")
		for line := range strings.Lines(before + after) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); args[len(args)-1] == "--help" && n > 80 {
				t.Errorf("%q: a line of %d columns: %s", args, n, line)
			}
		}
		if args[len(args)-1] == "--help" && !strings.Contains(out, "Usage:") {
			t.Errorf("%q: no usage in %q", args, out)
		}
	}
}

func TestGatewayThatIsNone(t *testing.T) {
	t.Chdir(t.TempDir())
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/replicas" {
			http.NotFound(w, r)
		} else if err := json.NewEncoder(w).Encode(httpapi.Replicas{}); err != nil {
			t.Error(err)
		}
	}))
	defer admin.Close()
	for url, want := range map[string]string{
		admin.URL:            "404 Not Found), but the admin listener of one: give --url the address of its API",
		other.URL:            other.URL + " is not a Face-Diffuser gateway (404 Not Found)",
		"http://127.0.0.1:1": "connection refused",
	} {
		code, _, errOut := program(t, map[string]string{"FACEDIFFUSER_URL": url}, "generate", "a woman")
		if code != exitFailure || !strings.Contains(errOut, want) {
			t.Errorf("%s: exit %d, stderr %q; want %q", url, code, errOut, want)
		}
	}
}

func TestHealthcheck(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	env := map[string]string{"FACEDIFFUSER_LISTEN": strings.Replace(server.Listener.Addr().String(), "127.0.0.1", "0.0.0.0", 1)}
	if code, _, errOut := program(t, env, "healthcheck"); code != exitOK {
		t.Errorf("alive: exit %d, %s", code, errOut)
	}
	if code, _, errOut := program(t, env, "healthcheck", "--ready"); code != exitFailure || !strings.Contains(errOut, "503") {
		t.Errorf("not ready: exit %d, %s", code, errOut)
	}
}

// freeAddress is one on which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestAddressInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	code, _, errOut := program(t, map[string]string{"FACEDIFFUSER_FAMILY": mini}, "serve", "--listen", taken.Addr().String())
	if code != exitFailure || !strings.Contains(errOut, "address already in use (--listen takes another address)") {
		t.Errorf("exit %d, stderr %q", code, errOut)
	}
}

// TestAdminAddressInUse: a second gateway is told what to do.
func TestAdminAddressInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	code, _, errOut := program(t, map[string]string{"FACEDIFFUSER_FAMILY": mini}, "serve", "--listen", "127.0.0.1:0", "--admin-listen", taken.Addr().String())
	if code != exitFailure || !strings.Contains(errOut, "address already in use (is another gateway running? --admin-listen takes another address, or off)") {
		t.Errorf("exit %d, stderr %q", code, errOut)
	}
}

func TestNoEnvironment(t *testing.T) {
	env := map[string]string{"FACEDIFFUSER_FAMILY": mini, "FACEDIFFUSER_PYTHON": "/nowhere/python", "FACEDIFFUSER_RUN_DIR": t.TempDir()}
	code, _, errOut := program(t, env, "serve", "--listen", "127.0.0.1:0")
	if code != exitFailure || !strings.Contains(errOut, "/nowhere/python") || !strings.Contains(errOut, "make venv") {
		t.Errorf("exit %d, stderr %q", code, errOut)
	}
}

// TestDoctorUnreachable: no server there is not the command line's fault. Standard output is the report, and nothing else.
func TestDoctorUnreachable(t *testing.T) {
	address := freeAddress(t)
	env := map[string]string{"FACEDIFFUSER_FAMILY": mini, "FACEDIFFUSER_TRITON": address}
	code, out, errOut := program(t, env, "doctor")
	want := "FAULT [unreachable] " + address + ": found dial tcp " + address + ": connect: connection refused, want a Triton server. Start it"
	if code != exitFailure || !strings.Contains(out, "Replica "+address+": does not answer") || !strings.Contains(out, want) {
		t.Errorf("exit %d, stdout %q", code, out)
	}
	if errOut != address+": reading the configurations\nfacediffuser: not everything fits\n" {
		t.Errorf("stderr %q", errOut)
	}
	code, out, errOut = program(t, env, "doctor", "--json", "-q")
	var report doctor.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	if code != exitFailure || errOut != "facediffuser: not everything fits\n" || report.Fits || len(report.Findings) != 1 || report.Findings[0].Code != doctor.Unreachable {
		t.Errorf("exit %d, stderr %q, report %+v", code, errOut, report)
	}
}

func TestDoctorWithoutEnvironment(t *testing.T) {
	env := map[string]string{"FACEDIFFUSER_FAMILY": mini, "FACEDIFFUSER_PYTHON": "/nowhere/python", "FACEDIFFUSER_RUN_DIR": t.TempDir()}
	code, out, errOut := program(t, env, "doctor")
	if code != exitFailure || out != "" || !strings.Contains(errOut, "/nowhere/python") || !strings.Contains(errOut, "make venv") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errOut)
	}
}

func TestExitCode(t *testing.T) {
	live := t.Context()
	ended, cancel := context.WithCancel(live)
	cancel()
	for _, c := range []struct {
		ctx  context.Context
		err  error
		want int
	}{
		{live, nil, 0}, {ended, nil, 0}, {live, fmt.Errorf("x"), 1}, {live, usagef("x"), 2},
		{live, fmt.Errorf("y: %w", usagef("x")), 2}, {ended, fmt.Errorf("x"), 130},
	} {
		if got := ExitCode(c.ctx, c.err); got != c.want {
			t.Errorf("ExitCode(%v, %v) is %d, want %d", c.ctx.Err(), c.err, got, c.want)
		}
	}
}

var update = flag.Bool("update", false, "rewrite the table of flags in the documentation")

// TestDocumentation holds docs/command-line.md to the flags of generate, doctor and keys create.
func TestDocumentation(t *testing.T) {
	const file = "../../../docs/command-line.md"
	commands := []*cobra.Command{generateCommand(streams{}), doctorCommand(streams{})}
	for _, c := range keysCommand(streams{}).Commands() {
		if c.Name() == "create" {
			commands = append(commands, c)
		}
	}
	for _, c := range commands {
		begin, end := "<!-- flags of "+c.Name()+" -->\n", "<!-- /flags of "+c.Name()+" -->\n"
		var b strings.Builder
		b.WriteString("| flag | default | |\n|---|---|---|\n")
		c.Flags().VisitAll(func(f *pflag.Flag) {
			name, help := pflag.UnquoteUsage(f)
			spelling := "--" + f.Name
			if f.Shorthand != "" {
				spelling = "-" + f.Shorthand + ", " + spelling
			}
			if name != "" {
				spelling += " " + name
			}
			value := strings.Trim(f.DefValue, "[]")
			if value != "" {
				value = "`" + value + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", spelling, value, help)
		})
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		head, rest, ok := strings.Cut(string(text), begin)
		table, tail, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("%s has no %q … %q", file, begin, end)
		}
		if diff := cmp.Diff(b.String(), table); diff != "" {
			if *update && os.Getenv("CI") == "" {
				if err := os.WriteFile(file, []byte(head+begin+b.String()+end+tail), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			t.Errorf("table of flags differs (go test -update rewrites it):\n%s", diff)
		}
	}
}

// TestGreeting: what a user is to copy works from where the user is.
func TestGreeting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for public, want := range map[string]string{
		"":                                 "http://" + l.Addr().String(),
		"https://faces.example.org/faces/": "https://faces.example.org/faces",
	} {
		settings := config.Default()
		settings.Family, settings.PublicURL = mini, public
		served, err := family.Load(mini)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		(&gateway{settings: &settings, family: served, public: &front{listener: l}}).greet(&out)
		if text := out.String(); !strings.Contains(text, "ready on "+want+" (") || !strings.Contains(text, "curl -s "+want+"/v1/images/") {
			t.Errorf("%q lacks %s", text, want)
		}
	}
}
