package config_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
)

// load runs one configuration through all sources, as a command does.
func load(t *testing.T, file string, env map[string]string, args ...string) (config.Config, error) {
	t.Helper()
	if file != "" {
		name := filepath.Join(t.TempDir(), "gateway.yaml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", name)
	}
	c := config.Default()
	flags := c.Flags()
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	return c, c.Load(flags, func(k string) string { return env[k] })
}

func TestDefaultIsValid(t *testing.T) {
	c := config.Default()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if !c.Loopback() {
		t.Errorf("the default listens on %s, which others can reach", c.Listen)
	}
}

func TestPrecedence(t *testing.T) {
	file := "max_queue: 1\nmax_running: 1\nlisten: 127.0.0.1:1\nlog_level: debug\nstep_timeout: 3s\n"
	env := map[string]string{"FACEDIFFUSER_MAX_QUEUE": "2", "FACEDIFFUSER_MAX_RUNNING": "2", "FACEDIFFUSER_TRITON": "a:1,b:2"}
	got, err := load(t, file, env, "--max-queue=3")
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.File, want.MaxQueue, want.MaxRunning, want.Listen, want.LogLevel = got.File, 3, 2, "127.0.0.1:1", "debug"
	want.StepTimeout, want.Triton = 3*time.Second, []string{"a:1", "b:2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestJSONIsYAML(t *testing.T) {
	got, err := load(t, `{"triton": ["a:1", "b:2"], "max_image_bytes": "3 MiB", "embed_xmp": false, "memory_limit": 0}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Triton) != 2 || got.MaxImageBytes != 3<<20 || got.EmbedXMP || got.MemoryLimit != 0 {
		t.Errorf("read %+v", got)
	}
}

func TestFaults(t *testing.T) {
	const open = "can be reached from other machines, and without keys whoever reaches it can use it: name a file of keys by keys-file (`facediffuser keys create` makes one), listen on 127.0.0.1, or set insecure-listen"
	noOrigin := func(o string) string {
		return fmt.Sprintf("cors-origins: must be origins such as https://app.example or http://localhost:5173, each by itself, not %q", o)
	}
	for name, c := range map[string]struct {
		file string
		env  map[string]string
		args []string
		want []string // one entry per line of the error, FILE for the file's name
	}{
		"unknown key":      {file: "max_quue: 3\n", want: []string{"FILE:1: max_quue: is not a setting (is max_queue meant?)"}},
		"far-off key":      {file: "colour: red\n", want: []string{"FILE:1: colour: is not a setting"}},
		"dashed key":       {file: "max-queue: 3\n", want: []string{"FILE:1: max-queue: is not a setting (is max_queue meant?)"}},
		"wrong type":       {file: "listen: 127.0.0.1:1\nmax_queue: many\n", want: []string{`FILE:2: max_queue: must be a whole number, not "many"`}},
		"wrong size":       {file: "max_image_bytes: big\n", want: []string{`FILE:1: max_image_bytes: must be a size such as 20MiB, not "big"`}},
		"wrong time":       {file: "step_timeout: 30\n", want: []string{`FILE:1: step_timeout: must be a duration such as 20s, not "30"`}},
		"wrong flag":       {file: "embed_xmp: perhaps\n", want: []string{`FILE:1: embed_xmp: must be true or false, not "perhaps"`}},
		"nested value":     {file: "listen:\n  host: a\n", want: []string{"FILE:1: listen: must be one value or a list of values"}},
		"no value":         {file: "listen:\n", want: []string{"FILE:1: listen: must be one value or a list of values"}},
		"not a mapping":    {file: "- a\n- b\n", want: []string{"FILE:1: must be a mapping of settings"}},
		"file in file":     {file: "config: other.yaml\n", want: []string{"FILE:1: config: is not a setting"}},
		"no such file":     {args: []string{"--config", "nowhere.yaml"}, want: []string{"config: open nowhere.yaml: no such file or directory"}},
		"variable":         {env: map[string]string{"FACEDIFFUSER_MAX_QUEUE": "x"}, want: []string{`FACEDIFFUSER_MAX_QUEUE: must be a whole number, not "x"`}},
		"port":             {args: []string{"--listen", "localhost"}, want: []string{`listen: must be host:port, not "localhost"`}},
		"port range":       {args: []string{"--listen", ":70000"}, want: []string{`listen: port must be a number up to 65535, not "70000"`}},
		"public URL":       {args: []string{"--public-url", "faces.example.org"}, want: []string{`public-url: must be like https://faces.example.org, not "faces.example.org"`}},
		"base URL":         {args: []string{"--public-url", "https://faces.example.org/v1/"}, want: []string{`public-url: must be the address without /v1, not "https://faces.example.org/v1/"`}},
		"URL and query":    {args: []string{"--public-url", "https://faces.example.org/?a=b"}, want: []string{`public-url: must have no user, query or fragment: "https://faces.example.org/?a=b"`}},
		"proxy":            {args: []string{"--trusted-proxies", "10.0.0.1,proxy.example.org"}, want: []string{`trusted-proxies: must be addresses or networks such as 10.0.0.0/8, not "proxy.example.org"`}},
		"proxy network":    {args: []string{"--trusted-proxies", "10.0.0.0/33"}, want: []string{`trusted-proxies: must be addresses or networks such as 10.0.0.0/8, not "10.0.0.0/33"`}},
		"alias":            {args: []string{"--model-aliases", "openai/gpt-image-1,a//b,c,c"}, want: []string{`model-aliases: must be letters, digits and any of . _ : - in parts between slashes, at most 128 characters, not "a//b"`, `model-aliases: has "c" twice`}},
		"fallback":         {args: []string{"--size-fallback", "largest"}, want: []string{`size-fallback: must be none or nearest, not "largest"`}},
		"replica":          {args: []string{"--triton", "a:1,:2"}, want: []string{`triton: must name a host, not ":2"`}},
		"replica port":     {args: []string{"--triton", "a:0"}, want: []string{`triton: port must be a number up to 65535, not "0"`}},
		"open to others":   {args: []string{"--listen", ":8080"}, want: []string{"listen: :8080 " + open}},
		"admin open":       {args: []string{"--admin-listen", "0.0.0.0:9080"}, want: []string{"admin-listen: 0.0.0.0:9080 " + open}},
		"admin address":    {args: []string{"--admin-listen", "on"}, want: []string{`admin-listen: must be host:port, not "on", auto or off`}},
		"no such keys":     {args: []string{"--listen", ":8080", "--keys-file", "none.json"}, want: []string{"keys-file: none.json does not exist; `facediffuser keys create --keys-file none.json` makes it and a first key"}},
		"keys are no list": {env: map[string]string{"FACEDIFFUSER_KEYS": "fd_x"}, want: []string{"keys: not a list of keys: invalid character 'd' in literal false (expecting 'a')"}},
		"host with a port": {args: []string{"--allowed-hosts", "a.example:80,http://b.example"}, want: []string{`allowed-hosts: must be names without scheme and port, such as pictures.example, not "a.example:80"`, `allowed-hosts: must be names without scheme and port, such as pictures.example, not "http://b.example"`}},
		"no origin":        {args: []string{"--cors-origins", "a.example,*,https://a.example/x,https://*.a.example"}, want: []string{noOrigin("a.example"), noOrigin("*"), noOrigin("https://a.example/x"), noOrigin("https://*.a.example")}},
		"all at once": {
			file: "upload_memory: 1MiB\ncolor: 1\n", env: map[string]string{"FACEDIFFUSER_LOG_LEVEL": "loud"},
			args: []string{"--family=", "--safety=on", "--memory-limit=1MiB", "--shutdown-grace=0s", "--log-format=xml", "--max-queue=-1"},
			want: []string{
				"FILE:2: color: is not a setting", "family: must name a directory", "max-queue: must be from 0 to 100000, not -1",
				"upload-memory: must hold one image of max-image-bytes (32MiB), not 1.0MiB", "memory-limit: must be 0 or at least 64 MiB, not 1.0MiB",
				"shutdown-grace: must be from 100ms to 1h, not 0s", `safety: must be auto or off or flag or refuse, not "on"`, `log-format: must be text or json, not "xml"`,
				`log-level: must be debug or info or warn or error, not "loud"`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := load(t, c.file, c.env, c.args...)
			if err == nil {
				t.Fatalf("accepted %+v", got)
			}
			text := err.Error()
			if c.file != "" {
				text = strings.ReplaceAll(text, got.File, "FILE")
			}
			if diff := cmp.Diff(c.want, strings.Split(text, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSyntaxErrorShowsThePlace(t *testing.T) {
	_, err := load(t, "listen: [a\n", nil)
	if err == nil || !strings.Contains(err.Error(), "[1:9]") {
		t.Errorf("want line and column, got %v", err)
	}
}

func TestProxies(t *testing.T) {
	c := config.Config{TrustedProxies: []string{"10.1.2.3/8", "192.0.2.7", "::1", "fd00::/8"}}
	got, err := c.Proxies()
	if want := "[10.0.0.0/8 192.0.2.7/32 ::1/128 fd00::/8]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v, want %s", got, err, want)
	}
}

func TestLoopback(t *testing.T) {
	for listen, want := range map[string]bool{"127.0.0.1:1": true, "127.9.0.1:1": true, "[::1]:1": true, "localhost:1": true, ":1": false, "0.0.0.0:1": false, "10.0.0.1:1": false} {
		c := config.Config{Listen: listen}
		if c.Loopback() != want {
			t.Errorf("%s: loopback is %v", listen, c.Loopback())
		}
	}
}

func TestAdminAddress(t *testing.T) {
	for _, c := range []struct{ listen, admin, want string }{
		{"127.0.0.1:8080", "auto", "127.0.0.1:9080"}, {"0.0.0.0:8081", "auto", "127.0.0.1:9081"}, {"127.0.0.1:0", "auto", "127.0.0.1:0"},
		{":65000", "auto", "127.0.0.1:0"}, {"127.0.0.1:8080", "off", ""}, {"127.0.0.1:8080", "[::1]:1", "[::1]:1"},
	} {
		cfg := config.Config{Listen: c.listen, AdminListen: c.admin}
		if got := cfg.AdminAddress(); got != c.want {
			t.Errorf("%s and %s: %q, want %q", c.listen, c.admin, got, c.want)
		}
	}
}

// TestBeyondLoopback: what makes it allowed.
func TestBeyondLoopback(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, []byte(`{"keys": []}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--insecure-listen"}, {"--keys-file", file}, {"--keys", `{"keys": []}`}} {
		if _, err := load(t, "", nil, append(args, "--listen=0.0.0.0:1", "--admin-listen=:2")...); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}

var update = flag.Bool("update", false, "rewrite the settings table of the documentation")

// TestDocumentation holds docs/configuration.md to the flags: every setting with its three names, its default and its help.
func TestDocumentation(t *testing.T) {
	const file, begin, end = "../../../docs/configuration.md", "<!-- settings -->\n", "<!-- /settings -->\n"
	c := config.Default()
	var b strings.Builder
	b.WriteString("| flag | variable | key in the file | default | |\n|---|---|---|---|---|\n")
	c.Flags().VisitAll(func(f *pflag.Flag) {
		_, help := pflag.UnquoteUsage(f)
		key := "`" + config.Key(f.Name) + "`"
		if f.Name == "config" {
			key = "–"
		}
		value := "–"
		if d := strings.Trim(f.DefValue, "[]"); d != "" {
			value = "`" + d + "`"
		}
		fmt.Fprintf(&b, "| `--%s` | `%s` | %s | %s | %s |\n", f.Name, config.Variable(f.Name), key, value, help)
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
		t.Errorf("settings table differs (go test -update rewrites it):\n%s", diff)
	}
}
