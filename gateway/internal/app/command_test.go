package app

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/hinshun/vt10x"
	"golang.org/x/sys/unix"
)

// asProgram makes this test binary the program.
const asProgram = "FACEDIFFUSER_TEST_MAIN"

// mainProgram is what main does.
func mainProgram() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return ExitCode(ctx, Run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// process is the program as a process of its own, with files, a terminal and a umask that are its own.
func process(t *testing.T, url string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], append([]string{"generate"}, args...)...)
	c.Env = append(os.Environ(), asProgram+"=1", "FACEDIFFUSER_URL="+url, "TERM=xterm")
	return c
}

// finish runs a command to its end.
func finish(t *testing.T, c *exec.Cmd) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	if c.Stdout == nil {
		c.Stdout = &out
	}
	c.Stderr = &errOut
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), out.String(), errOut.String()
}

func isPNG(data []byte) bool {
	_, format, err := image.Decode(bytes.NewReader(data))
	return err == nil && format == "png"
}

// nobodyAsks is a URL where a request is a fault of the test.
func nobodyAsks(t *testing.T) string {
	t.Helper()
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked.Add(1) }))
	t.Cleanup(func() {
		s.Close()
		if n := asked.Load(); n > 0 {
			t.Errorf("%d requests before the output was found wrong", n)
		}
	})
	return s.URL
}

// TestOutputIsCheckedFirst: what cannot be written is refused before anybody is asked for a picture.
func TestOutputIsCheckedFirst(t *testing.T) {
	url := nobodyAsks(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	long := func(n int) string { return in(strings.Repeat("x", n-len(".png")) + ".png") }
	write := func(name string) {
		if err := os.WriteFile(in(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("there.png")
	write("file")
	write("out-3.png")
	if err := os.Mkdir(in("pictures.png"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"loop.png": "loop.png", "link.png": "there.png", "lost.png": "gone/away.png"} {
		if err := os.Symlink(target, in(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(in("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", in("socket.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for _, c := range []struct {
		want string
		args []string
	}{
		{"there.png exists; --force overwrites it", []string{"-o", in("there.png")}},
		{"link.png exists; --force overwrites it", []string{"-o", in("link.png")}},
		{"out-3.png exists; --force overwrites it", []string{"-o", in("out.png"), "-n", "4"}},
		{"pictures.png is a directory; name a file in it", []string{"-o", in("pictures.png"), "-f"}},
		{dir + " is a directory; name a file in it", []string{"-o", dir}},
		{"names no file", []string{"-o", in("new") + "/"}},
		{"names no file", []string{"-o", ""}},
		{in("no") + ": no such directory", []string{"-o", in("no/out.png")}},
		{in("gone") + ": no such directory", []string{"-o", in("lost.png")}},
		{in("file/out.png") + ": not a directory", []string{"-o", in("file/out.png")}},
		{"too many levels of symbolic links", []string{"-o", in("loop.png"), "-f"}},
		{"the extension says no format", []string{"-o", in("out")}},
		{"file name too long", []string{"-o", long(256)}},
		{"file name too long", []string{"-o", long(254), "-n", "2"}},
		{"file name too long", []string{"-o", long(246), "--preview-dir", dir}},
		{"not a directory", []string{"-o", in("out.png"), "--preview-dir", in("file")}},
		{"no file can be made in the directory /sys/kernel: ", []string{"-o", "/sys/kernel/out.png"}},
		{"socket.png is a socket", []string{"-o", in("socket.png"), "-f"}},
		{"is no ordinary file and takes one picture", []string{"-o", in("pipe"), "-n", "2"}},
		{"is no ordinary file and takes one picture", []string{"-o", "/dev/null", "-n", "2"}},
		{"--fusion-map writes a file beside", []string{"-o", "/dev/null", "--fusion-map", "-s", alice}},
		{"file name too long", []string{"-o", long(250), "--fusion-map", "-s", alice}},
	} {
		code, out, errOut := finish(t, process(t, url, append(c.args, "a man")...))
		if code != exitUsage || out != "" || !strings.Contains(errOut, c.want) {
			t.Errorf("%q: exit %d, stdout %q, stderr %q, want %q", c.args, code, out, errOut, c.want)
		}
	}
	if left, err := filepath.Glob(in(".facediffuser*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestFileThatComesMeanwhile: a file that was not there when the command began is not lost without --force.
func TestFileThatComesMeanwhile(t *testing.T) {
	for _, force := range []bool{false, true} {
		dir := t.TempDir()
		name := filepath.Join(dir, "out.png")
		o, err := findOutput(name, force)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("theirs"), 0o600); err != nil {
			t.Fatal(err)
		}
		err = o.write(t.Context(), []byte("ours"), io.Discard)
		want := "theirs"
		if force {
			want = "ours"
		}
		if got := string(read(t, name)); got != want || (err == nil) != force {
			t.Errorf("force %v: %q, %v, want %q", force, got, err, want)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestOutputPermissions runs the program as somebody whom permissions bind.
func TestOutputPermissions(t *testing.T) {
	url := nobodyAsks(t)
	dir := t.TempDir()
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.WriteFile(in("program"), binary, 0o755), os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o777), // for another user
		os.Mkdir(in("closed"), 0o555), os.WriteFile(in("kept.png"), nil, 0o444), os.Mkdir(in("shut"), 0o000),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for want, name := range map[string]string{
		"no file can be made in the directory " + in("closed") + ": permission denied": in("closed/out.png"),
		in("kept.png") + ": permission denied":                                         in("kept.png"),
		in("shut/out.png") + ": permission denied":                                     in("shut/out.png"),
	} {
		c := process(t, url, "-f", "-o", name, "a man")
		c.Path, c.Dir = in("program"), dir
		if os.Geteuid() == 0 {
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		if code, _, errOut := finish(t, c); code != exitUsage || !strings.Contains(errOut, want) {
			t.Errorf("%s: exit %d, stderr %q, want %q", name, code, errOut, want)
		}
	}
}

// TestSubjectsAreCheckedFirst: what the gateway would refuse is refused by the name of its file, before it is sent.
func TestSubjectsAreCheckedFirst(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) {
		if err := os.WriteFile(in(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("bob.heic", "\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic")
	write("empty.png", "")
	write("text.png", "dear Bob")
	// A PNG's header that says 40000 × 30000 pixels, 8-bit RGB.
	write("wall.png", "\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\x9c\x40\x00\x00\x75\x30\x08\x02\x00\x00\x00\x84\x3a\x5a\x0c")
	write("huge.png", "\x89PNG\r\n\x1a\n")
	if err := os.Truncate(in("huge.png"), 300<<20); err != nil {
		t.Fatal(err)
	}
	var uploads atomic.Int64
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/capabilities" {
			uploads.Add(1)
		}
		fmt.Fprint(w, `{"families": [{"name": "mini"}], "limits": {"max_image_bytes": 1048576, "max_image_pixels": 50000000}}`)
	}))
	defer gateway.Close()
	for name, want := range map[string]string{
		"bob.heic":  "bob.heic: the file is HEIC",
		"empty.png": "empty.png: the file is empty",
		"text.png":  "text.png: the file is not an image",
		"wall.png":  "wall.png: the ",
		"huge.png":  "huge.png: the file has 300 MiB, and at most 1.0 MiB are accepted",
		".":         "is a directory; --subject takes one image",
		"gone.png":  "gone.png: no such file or directory",
		"/dev/zero": "/dev/zero: the file has more than 1.0 MiB",
		"/dev/null": "/dev/null: the file is empty",
	} {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		code, _, errOut := finish(t, process(t, gateway.URL, "-o", in("out.png"), "-s", alice, "-s", name, "a woman <|image|> and a man <|image|>"))
		if code != exitUsage || !strings.Contains(errOut, want) {
			t.Errorf("%s: exit %d, stderr %q, want %q", name, code, errOut, want)
		}
	}
	if n := uploads.Load(); n > 0 {
		t.Errorf("%d pictures were sent", n)
	}
	// Without a gateway, the settings of the one that would be started count, before Triton is.
	c := process(t, "", "--python", "/nowhere/python", "--family", mini, "-o", in("out.png"), "-s", in("huge.png"), "a man <|image|>")
	if code, _, errOut := finish(t, c); code != exitUsage || !strings.Contains(errOut, "huge.png: the file has 300 MiB, and at most 32 MiB are accepted") {
		t.Errorf("without a gateway: exit %d, stderr %q", code, errOut)
	}
}

// TestUploadIsNotHeld: a body is as long as it says, can be read twice, and no copy of its files is made.
func TestUploadIsNotHeld(t *testing.T) {
	const size = 64 << 20
	name := filepath.Join(t.TempDir(), "large.png")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	s, err := openSubject(t.Context(), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := order{subjects: []*subject{s, s}, fields: map[string]string{"prompt": "two men"}}
	defer s.file.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	request, err := newClient("http://127.0.0.1", "").request(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n, err := io.Copy(io.Discard, request.Body)
		if err != nil || n != request.ContentLength || n < 2*size {
			t.Errorf("%d bytes of %d, %v", n, request.ContentLength, err)
		}
		if request.Body, err = request.GetBody(); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if held := after.TotalAlloc - before.TotalAlloc; held > 1<<20 {
		t.Errorf("%d bytes were allocated to send %d", held, 2*size)
	}
	if err := request.ParseMultipartForm(size / 4); err != nil || len(request.MultipartForm.File["image[]"]) != 2 || request.FormValue("prompt") != "two men" {
		t.Errorf("the form: %v", err)
	}
}

// TestInterruptedWaiting: who waits for a prompt or the other end of a pipe can be interrupted.
func TestInterruptedWaiting(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	defer ours.Close()
	if _, err := ours.WriteString("a man, and"); err != nil {
		t.Fatal(err)
	}
	url := nobodyAsks(t)
	for _, c := range []struct {
		args    []string
		waiting func() bool // the program has come to the pipe
	}{
		{[]string{"-"}, func() bool {
			unread, err := unix.IoctlGetInt(int(theirs.Fd()), unix.TIOCINQ)
			return err == nil && unread == 0
		}},
		{[]string{"-s", pipe, "a man <|image|>"}, func() bool {
			other, err := os.OpenFile(pipe, os.O_WRONLY|unix.O_NONBLOCK, 0)
			if err == nil {
				t.Cleanup(func() { other.Close() })
			}
			return err == nil
		}},
	} {
		command := process(t, url, append([]string{"-o", filepath.Join(dir, "out.png")}, c.args...)...)
		command.Stdin = theirs
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		again := time.NewTicker(10 * time.Millisecond)
		for left := 6000; !c.waiting(); left-- {
			if left == 0 {
				t.Fatalf("%q does not come to its pipe", c.args)
			}
			<-again.C
		}
		again.Stop()
		if err := command.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		stuck := time.AfterFunc(time.Minute, func() { _ = command.Process.Kill() })
		_ = command.Wait() // its code tells
		stuck.Stop()
		if code := command.ProcessState.ExitCode(); code != exitInterrupted {
			t.Errorf("%q: exit %d, want %d", c.args, code, exitInterrupted)
		}
	}
}

// TestURL: what users write for a gateway, and what is said of what answers there.
func TestURL(t *testing.T) {
	for text, want := range map[string]string{
		"localhost:8080": "http://localhost:8080", "http://h:1/": "http://h:1", "http://h:1/v1": "http://h:1", "https://h/v1/": "https://h",
		"h:1/v1": "http://h:1", "http://h/images/v1/": "http://h/images", "127.0.0.1:9": "http://127.0.0.1:9", "http://[::1]:9/": "http://[::1]:9",
		"gateway": "http://gateway", "http://h/v1beta": "http://h/v1beta",
	} {
		if got, err := baseURL(text); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"ftp://h", "http://", "http://h?x=1", "http://h:port", "://"} {
		if got, err := baseURL(text); err == nil {
			t.Errorf("%s: %q, want an error", text, got)
		}
	}
	answer := func(status int, media, body string, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", media)
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	openAI := http.NewServeMux()
	openAI.HandleFunc("/v1/models", answer(200, "application/json", `{"object": "list", "data": [{"id": "dall-e-3"}]}`))
	servers := map[string]struct {
		handler http.Handler
		want    string
	}{
		"page":     {answer(200, "text/html; charset=utf-8", "<!doctype html>"), "(200 OK): it answers with a web page"},
		"login":    {answer(401, "text/plain", "who?", "Www-Authenticate", "Basic"), "(401 Unauthorized), or one behind a proxy that wants credentials"},
		"moved":    {answer(301, "text/html", "", "Location", "https://other.example/v1/capabilities"), "; it redirects to https://other.example: use that"},
		"other":    {openAI, "(404 Not Found), but another server with an OpenAI-compatible API"},
		"proxy":    {answer(502, "text/html", "<h1>502</h1>"), "(502 Bad Gateway): it answers with a web page"},
		"upstream": {answer(503, "text/plain", "no healthy upstream"), "that cannot be reached through what answers: no healthy upstream"},
		"empty":    {answer(200, "application/json", "{}"), "is not a Face-Diffuser gateway (200 OK)"},
	}
	ask := func(url, want string) {
		t.Helper()
		code, _, errOut := program(t, map[string]string{"FACEDIFFUSER_URL": url}, "generate", "-o", filepath.Join(t.TempDir(), "x.png"), "a man")
		if code != exitFailure || !strings.Contains(errOut, want) {
			t.Errorf("%s: exit %d, stderr %q, want %q", url, code, errOut, want)
		}
	}
	for _, s := range servers {
		server := httptest.NewServer(s.handler)
		ask(server.URL, s.want)
		server.Close()
	}
	secure := httptest.NewUnstartedServer(openAI)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshakes that fail
	secure.StartTLS()
	defer secure.Close()
	ask(secure.URL, "; SSL_CERT_FILE names a file of certificates to trust")
	ask(strings.Replace(secure.URL, "https:", "http:", 1), "; the server there speaks TLS: use https://")
	plain := httptest.NewServer(openAI)
	defer plain.Close()
	ask(strings.Replace(plain.URL, "http:", "https:", 1), "does not speak TLS: use http://")
	ask(freeAddress(t), "connection refused; nothing listens there: is the gateway running")
}

// TestCommand uses a gateway on a real Triton as a careless user of a shell does.
func TestCommand(t *testing.T) {
	url, _, _ := serving(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	// generate runs the program; the pictures have two steps.
	generate := func(args ...string) *exec.Cmd {
		return process(t, url, append(append([]string{"--steps", "2", "--seed", "7"}, args...), "a man in the snow")...)
	}
	must := func(c *exec.Cmd) (stdout, stderr string) {
		t.Helper()
		code, stdout, stderr := finish(t, c)
		if code != exitOK {
			t.Fatalf("%q: exit %d, %s", c.Args, code, stderr)
		}
		return stdout, stderr
	}
	mode := func(name string) fs.FileMode {
		t.Helper()
		info, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode()
	}

	t.Run("pipes and devices are written to", func(t *testing.T) {
		if err := unix.Mkfifo(in("fifo.png"), 0o600); err != nil {
			t.Fatal(err)
		}
		received := make(chan []byte, 1)
		go func() {
			data, err := os.ReadFile(in("fifo.png"))
			if err != nil {
				t.Error(err)
			}
			received <- data
		}()
		must(generate("-o", in("fifo.png")))
		if !isPNG(<-received) || mode(in("fifo.png")).Type() != fs.ModeNamedPipe {
			t.Errorf("the pipe is %v, or got no picture", mode(in("fifo.png")))
		}
		must(generate("-o", "/dev/null", "-f"))
		if mode("/dev/null").Type() != fs.ModeDevice|fs.ModeCharDevice {
			t.Fatalf("/dev/null is %v", mode("/dev/null"))
		}
		if out, _ := must(generate("-o", "/dev/stdout")); !isPNG([]byte(out)) {
			t.Errorf("/dev/stdout got %d bytes", len(out))
		}
		shell := exec.CommandContext(t.Context(), "bash", "-c", `printf before > log; "$0" generate --steps 2 -o /dev/stdout "a man" >> log; "$0" generate --steps 2 -o >(cat > substituted) "a man"; wait $!`, os.Args[0])
		shell.Env, shell.Dir = generate().Env, dir
		must(shell)
		if data := read(t, in("log")); !bytes.HasPrefix(data, []byte("before")) || !isPNG(bytes.TrimPrefix(data, []byte("before"))) {
			t.Errorf("appended to standard output: %d bytes, %.20q", len(data), data)
		}
		if !isPNG(read(t, in("substituted"))) {
			t.Error("process substitution got no picture")
		}
	})

	t.Run("a pipe that nobody reads can be interrupted", func(t *testing.T) {
		if err := unix.Mkfifo(in("lonely"), 0o600); err != nil {
			t.Fatal(err)
		}
		c := generate("-o", in("lonely"))
		var errOut bytes.Buffer
		steps := &lineWriter{want: regexp.MustCompile(`step 2 of 2`), found: make(chan string, 1)}
		seen := steps.found
		c.Stderr = io.MultiWriter(&errOut, steps)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		<-seen
		if err := c.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait() // its code tells
		if code := c.ProcessState.ExitCode(); code != exitInterrupted {
			t.Errorf("exit %d: %s", code, &errOut)
		}
		before, _, _ := strings.Cut(errOut.String(), "step ")
		if want := in("lonely") + " is a named pipe; the picture is written once somebody reads it"; !strings.Contains(before, want) {
			t.Errorf("before the first step: %q, want %q", before, want)
		}
	})

	t.Run("links stay", func(t *testing.T) {
		for name, target := range map[string]string{"existing.png": "target.png", "dangling.png": "new.png"} {
			if err := os.Symlink(target, in(name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(in("target.png"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		must(generate("-o", in("existing.png"), "-f"))
		must(generate("-o", in("dangling.png")))
		for name, target := range map[string]string{"existing.png": "target.png", "dangling.png": "new.png"} {
			if mode(in(name)).Type() != fs.ModeSymlink || !mode(in(target)).IsRegular() || !isPNG(read(t, in(target))) {
				t.Errorf("%s is %v, %s %v", name, mode(in(name)), target, mode(in(target)))
			}
		}
	})

	t.Run("permissions", func(t *testing.T) {
		for umask, want := range map[string]fs.FileMode{"077": 0o600, "022": 0o644, "002": 0o664} {
			c := exec.CommandContext(t.Context(), "sh", "-c", `umask `+umask+`; exec "$0" generate --steps 2 -o `+umask+`.png "a man"`, os.Args[0])
			c.Env, c.Dir = generate().Env, dir
			must(c)
			if got := mode(in(umask + ".png")).Perm(); got != want {
				t.Errorf("umask %s: %v, want %v", umask, got, want)
			}
		}
		if err := os.Chmod(in("077.png"), 0o640); err != nil {
			t.Fatal(err)
		}
		must(generate("-f", "-o", in("077.png")))
		if got := mode(in("077.png")).Perm(); got != 0o640 {
			t.Errorf("overwritten: %v, want 0640 as before", got)
		}
	})

	t.Run("names as long as the file system takes", func(t *testing.T) {
		must(generate("-o", in(strings.Repeat("y", 251)+".png")))
		must(generate("-n", "2", "-o", in(strings.Repeat("z", 249)+".png")))
	})

	t.Run("a prompt on standard input", func(t *testing.T) {
		c := process(t, url, "--steps", "2", "-o", in("stdin.png"), "-")
		c.Stdin = strings.NewReader("a man in the snow\r\n")
		must(c)
		if p := embedded(t, in("stdin.png")); p.Prompt != "a man in the snow" {
			t.Errorf("the prompt is %q", p.Prompt)
		}
		for text, args := range map[string][]string{"\n": {"-"}, "": {"-"}, "a man": {"-s", "-", "-"}} {
			c := process(t, url, append([]string{"-o", in("none.png")}, args...)...)
			c.Stdin = strings.NewReader(text)
			if code, _, errOut := finish(t, c); code != exitUsage || !strings.Contains(errOut, "standard input holds") {
				t.Errorf("%q from standard input: exit %d, %s", text, code, errOut)
			}
		}
		c = process(t, url, "--steps", "2", "-s", "-", "-o", in("face.png"), "a man <|image|>")
		c.Stdin = bytes.NewReader(read(t, bob))
		must(c)
		if p := embedded(t, in("face.png")); p.Subjects != 1 {
			t.Errorf("a subject from standard input: %+v", p)
		}
	})

	t.Run("errors name the file", func(t *testing.T) {
		data := read(t, bob)
		if err := os.WriteFile(in("half.png"), data[:len(data)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		code, _, errOut := finish(t, process(t, url, "-s", alice, "-s", in("half.png"), "-o", in("none.png"), "a woman <|image|> and a man <|image|>"))
		if want := "facediffuser: " + in("half.png") + ": the PNG is damaged"; code != exitUsage || !strings.HasPrefix(errOut, want) {
			t.Errorf("exit %d, stderr %q, want %q", code, errOut, want)
		}
	})

	t.Run("quiet keeps warnings", func(t *testing.T) {
		_, errOut := must(process(t, url, "-q", "--steps", "2", "-o", in("quiet.png"), "a man with a zebra"))
		if !regexp.MustCompile(`^facediffuser: warning: .*zebra.*\n$`).MatchString(errOut) {
			t.Errorf("stderr %q, want the warning alone", errOut)
		}
	})

	t.Run("no control characters but for a terminal", func(t *testing.T) {
		_, errOut := must(generate("-n", "2", "-o", in("plain.png")))
		if strings.ContainsAny(errOut, "\r\x1b") || !strings.Contains(errOut, "picture 1: step 2 of 2 (") {
			t.Errorf("stderr %q", errOut)
		}
		c := generate("-o", in("dumb.png"))
		c.Env = append(c.Env, "TERM=dumb")
		if text, _ := onTerminal(t, c, 80); strings.Contains(text, "\x1b") || strings.Contains(strings.ReplaceAll(text, "\r\n", "\n"), "\r") {
			t.Errorf("a dumb terminal got %q", text)
		}
	})

	t.Run("a terminal gets no picture", func(t *testing.T) {
		for _, name := range []string{"-", "/dev/stdout", "/dev/tty"} {
			c := generate("-o", name)
			text, _ := onTerminal(t, c, 80)
			if code := c.ProcessState.ExitCode(); code != exitUsage || !strings.Contains(text, "a terminal shows no pictures; redirect standard output (> out.png), or name a file with -o") {
				t.Errorf("-o %s: exit %d, %.200q", name, code, text)
			}
		}
	})

	t.Run("the bar follows the terminal", func(t *testing.T) {
		c := process(t, url, "--steps", "40", "-o", "shrunk.png", "a man in the snow")
		c.Dir = dir
		shrinks(t, c)
	})

	t.Run("the bar fits the terminal", func(t *testing.T) {
		for _, columns := range []int{80, 42, 24} {
			dir := t.TempDir()
			c := process(t, url, "--steps", "12", "--seed", "7", "-n", "3", "-s", bob, "a man <|image|> in the snow")
			c.Dir = dir
			face, err := filepath.Abs(bob)
			if err != nil {
				t.Fatal(err)
			}
			for i, arg := range c.Args {
				if arg == bob {
					c.Args[i] = face
				}
			}
			text, screen := onTerminal(t, c, columns)
			// What the terminal shows in the end: a line for every picture.
			var shown []string
			for line := range strings.Lines(screen.String()) {
				if line = strings.TrimSpace(line); line != "" {
					shown = append(shown, line)
				}
			}
			seeds := map[string]bool{"out-0.png (seed 7)": true, "out-1.png (seed 8)": true, "out-2.png (seed 9)": true}
			for _, line := range shown {
				delete(seeds, line)
			}
			if len(shown) != 3 || len(seeds) != 0 {
				t.Errorf("%d columns: the screen shows %q", columns, shown)
			}
			// What it was sent for one line fits in one.
			for line := range strings.SplitSeq(regexp.MustCompile(`\x1b\[\d*[A-Za-z]`).ReplaceAllString(text, "\n"), "\n") {
				if n := len([]rune(strings.TrimRight(line, "\r"))); n > columns {
					t.Errorf("%d columns: a line of %d: %q", columns, n, line)
				}
			}
			if !regexp.MustCompile(`[012] +\d+/12 [a-z]+`).MatchString(text) {
				t.Errorf("%d columns: no progress in %q", columns, text)
			}
		}
	})
}

// shrinks runs a command of 40 steps on a terminal that gets narrower, and wants the lines to follow.
func shrinks(t *testing.T, c *exec.Cmd) {
	terminal, err := pty.StartWithSize(c, &pty.Winsize{Rows: 40, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	var text bytes.Buffer
	shrunk := 0 // length of text then
	for buf := make([]byte, 1<<12); ; {
		n, err := terminal.Read(buf)
		text.Write(buf[:n])
		if shrunk == 0 && strings.Contains(text.String(), "/40 ") {
			if err := pty.Setsize(terminal, &pty.Winsize{Rows: 40, Cols: 42}); err != nil {
				t.Fatal(err)
			}
			shrunk = text.Len()
		}
		if err != nil {
			break
		}
	}
	_ = c.Wait() // its code is in c
	frames := strings.Split(text.String()[shrunk:], "\x1b[J")
	if c.ProcessState.ExitCode() != exitOK || len(frames) < 4 {
		t.Fatalf("exit %d, %d frames after the change: %q", c.ProcessState.ExitCode(), len(frames), text.String())
	}
	for _, frame := range frames[2:] { // one may have been on its way
		for line := range strings.Lines(frame) {
			if line = strings.TrimRight(line, "\r\n"); len([]rune(regexp.MustCompile(`\x1b\[\d*[A-Za-z]`).ReplaceAllString(line, ""))) > 42 {
				t.Errorf("after the change: %q", line)
			}
		}
	}
}

// onTerminal runs a command on a terminal of its own and returns what was written to it, and its screen in the end.
func onTerminal(t *testing.T, c *exec.Cmd, columns int) (string, vt10x.Terminal) {
	t.Helper()
	terminal, err := pty.StartWithSize(c, &pty.Winsize{Rows: 40, Cols: uint16(columns)})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	var text bytes.Buffer
	screen := vt10x.New(vt10x.WithSize(columns, 40))
	_, err = io.Copy(io.MultiWriter(&text, screen), terminal)
	if err != nil && !strings.Contains(err.Error(), "input/output error") { // how Linux says that the other side is closed
		t.Fatal(err)
	}
	done := time.AfterFunc(time.Minute, func() { _ = c.Process.Kill() })
	defer done.Stop()
	_ = c.Wait() // its code is in c
	return text.String(), screen
}
