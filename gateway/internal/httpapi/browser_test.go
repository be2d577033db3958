package httpapi_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/keys"
)

// chromium is the browser's program.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{cmp.Or(os.Getenv("CHROMIUM"), "chromium"), "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("this test needs Chromium: apt-get install chromium, or name the program by CHROMIUM")
	return ""
}

// site is a web site that is not the gateway's, on a port of its own. Its page
// runs a script and reports what that learned.
type site struct {
	*httptest.Server
	reports chan map[string]string

	mu      sync.Mutex
	script  string
	rebound func() // runs when the script asks for /rebound
}

// run sets what the page does.
func (s *site) run(script string, rebound func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script, s.rebound = script, rebound
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{reports: make(chan map[string]string, 1)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/report":
			var got map[string]string
			if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
				t.Error(err)
			}
			s.reports <- got
		case "/rebound":
			s.mu.Lock()
			rebound := s.rebound
			s.mu.Unlock()
			rebound()
		case "/":
			s.page(w)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// page is what a visitor gets. attempt notes under a name what a script may
// know of a request: status, whether it sees the request's id, and the
// beginning of the body; "opaque" where the browser tells nothing; "failed".
func (s *site) page(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Connection", "close")
	fmt.Fprintf(w, `<!doctype html><iframe name="frame"></iframe><script type="module">
const report = {};
async function attempt(name, url, options) {
  try {
    const r = await fetch(url, options);
    report[name] = r.type === 'opaque' ? 'opaque' : [r.status, r.headers.get('x-request-id') ? 'id' : 'no id', (await r.text()).slice(0, 100)].join(' ');
  } catch (e) { report[name] = 'failed'; }
}
%s
await fetch(%q + '/report', {method: 'POST', mode: 'no-cors', body: JSON.stringify(report)});
</script>`, s.script, s.URL)
}

// visit opens a page in a browser of its own, which ends with the test, and returns the page's report.
func (s *site) visit(t *testing.T, url string, flags ...string) map[string]string {
	t.Helper()
	c := exec.Command(chromium(t), append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir=" + t.TempDir(), "--remote-debugging-port=0",
	}, append(flags, url)...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its helpers end with it
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		_ = c.Wait()
	}()
	select {
	case report := <-s.reports:
		return report
	case <-time.After(time.Minute):
		t.Fatal("the page reported nothing")
		return nil
	}
}

// codes are the codes of the requests that a gateway has logged, "" for those that it served.
func codes(t *testing.T, g *gateway) (all []string) {
	t.Helper()
	for len(g.log) > 0 {
		line := decode[map[string]any](t, []byte(<-g.log))
		if line["msg"] == "request" {
			code, _ := line["code"].(string)
			all = append(all, code)
		}
	}
	return all
}

// admitted says whether a gateway was asked for a picture and took the request.
func admitted(t *testing.T, g *gateway) bool {
	t.Helper()
	for line := range strings.Lines(g.metrics(t)) {
		if strings.HasPrefix(line, "facediffuser_pictures_total{") && !strings.HasSuffix(line, " 0\n") {
			return true
		}
	}
	return false
}

// TestForeignPage is a page on another port that tries all a page can.
func TestForeignPage(t *testing.T) {
	g, s := serve(t, newFake()), newSite(t)
	s.run(fmt.Sprintf(`
const gateway = %q;
const json = JSON.stringify({prompt: 'a hill', num_inference_steps: 1});
await attempt('preflighted', gateway + '/v1/images/generations', {method: 'POST', headers: {'content-type': 'application/json'}, body: json});
await attempt('read', gateway + '/v1/models');
report.image = await new Promise((done) => { const i = new Image(); i.onload = () => done('loaded'); i.onerror = () => done('failed'); i.src = gateway + '/v1/images/generations'; });
// What a browser sends without asking: a simple request, a form by fetch, and a form that a page sends by itself, into a frame.
await attempt('simple', gateway + '/v1/images/generations', {method: 'POST', mode: 'no-cors', headers: {'content-type': 'text/plain'}, body: json});
const data = new FormData();
data.append('prompt', 'a hill');
await attempt('form', gateway + '/v1/images/edits', {method: 'POST', mode: 'no-cors', body: data});
const form = document.createElement('form');
Object.assign(form, {method: 'POST', action: gateway + '/v1/images/edits', enctype: 'multipart/form-data', target: 'frame'});
form.append(Object.assign(document.createElement('input'), {name: 'prompt', value: 'a hill'}));
document.body.append(form);
await new Promise((done) => { document.querySelector('iframe').onload = done; form.submit(); setTimeout(done, 10000); });
`, g.URL), nil)
	got := s.visit(t, s.URL)
	for _, name := range []string{"preflighted", "read", "image"} {
		if got[name] != "failed" {
			t.Errorf("%s: the page sees %q", name, got[name])
		}
	}
	for _, name := range []string{"simple", "form"} {
		if got[name] != "opaque" && got[name] != "failed" {
			t.Errorf("%s: the page sees %q", name, got[name])
		}
	}
	refused := 0
	for _, code := range codes(t, g) {
		if code == "cross_origin_request" {
			refused++
		}
	}
	if refused != 3 || admitted(t, g) {
		t.Errorf("%d requests were refused as another origin's, want the simple one and two forms; a picture was made: %v", refused, admitted(t, g))
	}
}

// TestRebinding is a page whose name and port lead to the gateway once it runs, so that the browser takes both for one origin.
func TestRebinding(t *testing.T) {
	for _, loopback := range []bool{true, false} {
		t.Run(fmt.Sprint("loopback=", loopback), func(t *testing.T) {
			s := newSite(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			_, port, err := net.SplitHostPort(l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			attacker := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.page(w) }), ReadHeaderTimeout: time.Minute}
			go func() { _ = attacker.Serve(l) }()
			gateways := make(chan *gateway, 1)
			s.run(fmt.Sprintf(`
await fetch(%q + '/rebound', {mode: 'no-cors'});
await attempt('read', '/v1/models');
await attempt('make', '/v1/images/generations', {method: 'POST', headers: {'content-type': 'application/json'}, body: '{"prompt": "a hill", "num_inference_steps": 1}'});
`, s.URL), func() {
				// The name leads elsewhere from now on.
				if err := attacker.Close(); err != nil {
					t.Error(err)
				}
				f := newFake()
				if f.listener, err = net.Listen("tcp", "127.0.0.1:"+port); err != nil {
					t.Error(err)
					return
				}
				gateways <- serve(t, f, func(o *httpapi.Options, _ *job.Options) { o.Browser.Loopback = loopback })
			})
			got := s.visit(t, "http://evil.test:"+port, "--host-resolver-rules=MAP evil.test 127.0.0.1")
			g := <-gateways
			want := "403 id {\"error\":{\"message\":\"this gateway does not answer for the host \\\"evil.test\\\""
			if !loopback {
				want = "200 id " // so the attempt is one that works where nothing is in its way
			}
			if !strings.HasPrefix(got["read"], want) || !strings.HasPrefix(got["make"], want) || admitted(t, g) == loopback {
				t.Errorf("the page sees %v; a picture was made: %v", got, admitted(t, g))
			}
		})
	}
}

// TestAllowedPage is a page that the operator lets use the gateway: it sends what the JavaScript SDK sends.
func TestAllowedPage(t *testing.T) {
	s := newSite(t)
	r, secrets := ring(t, keys.Key{Name: "page"})
	g := serve(t, newFake(), withKeys(r), func(o *httpapi.Options, _ *job.Options) { o.Browser.CORSOrigins = []string{s.URL} })
	script := fmt.Sprintf(`
const gateway = %q;
const headers = {
  'content-type': 'application/json', accept: 'application/json', authorization: 'Bearer ' + %q, 'idempotency-key': 'k', 'openai-organization': 'o',
  'x-stainless-lang': 'js', 'x-stainless-package-version': '7.57.0', 'x-stainless-retry-count': '0', 'x-stainless-timeout': '600', 'x-stainless-helper-method': 'stream',
};
await attempt('make', gateway + '/v1/images/generations', {method: 'POST', headers, body: '{"prompt": "a hill", "num_inference_steps": 1}'});
await attempt('read', gateway + '/v1/models', {headers});
await attempt('without a key', gateway + '/v1/models');
await attempt('remove', gateway + '/v1/models/mini', {method: 'DELETE', headers});
`, g.URL, secrets[0])
	s.run(script, nil)
	got := s.visit(t, s.URL)
	for name, want := range map[string]string{"make": "200 id {\"created\"", "read": "200 id {", "without a key": "401 id {\"error\"", "remove": "failed"} {
		if !strings.HasPrefix(got[name], want) {
			t.Errorf("%s: the page sees %q, want %q", name, got[name], want)
		}
	}
	// Another page is as foreign as without the setting.
	other := newSite(t)
	other.run(strings.Replace(script, "'k'", "'l'", 1), nil)
	for name, seen := range other.visit(t, other.URL) {
		if seen != "failed" {
			t.Errorf("another page, %s: it sees %q", name, seen)
		}
	}
}

// TestHosts: names that a gateway on loopback answers for, and programs that notice nothing.
func TestHosts(t *testing.T) {
	loopback := serve(t, newFake(), func(o *httpapi.Options, _ *job.Options) { o.Browser.AllowedHosts = []string{"Pictures.example"} })
	open := serve(t, newFake(), func(o *httpapi.Options, _ *job.Options) { o.Browser.Loopback = false })
	behind := serve(t, newFake(), func(o *httpapi.Options, _ *job.Options) {
		o.Browser = httpapi.Browser{AllowedHosts: []string{"pictures.example"}}
	})
	for _, c := range []struct {
		host                   string
		loopback, open, behind int
	}{
		{"localhost", 200, 200, 200}, {"LOCALHOST:8080", 200, 200, 200}, {"localhost.", 200, 200, 200}, {"127.0.0.1:1", 200, 200, 200}, {"127.3.2.1", 200, 200, 200},
		{"[::1]:8080", 200, 200, 200}, {"[::1]", 200, 200, 200}, {"pictures.example", 200, 200, 200}, {"pictures.EXAMPLE:443", 200, 200, 200},
		{"evil.test", 403, 200, 403}, {"localhost.evil.test", 403, 200, 403}, {"127.0.0.1.evil.test", 403, 200, 403}, {"evil.test:8080", 403, 200, 403},
		{"192.168.1.7:8080", 403, 200, 200}, {"0.0.0.0:8080", 403, 200, 200}, {"[::ffff:7f00:1]:1", 200, 200, 200}, {"sub.pictures.example", 403, 200, 403},
	} {
		for name, x := range map[string]struct {
			g    *gateway
			want int
		}{"loopback": {loopback, c.loopback}, "open": {open, c.open}, "behind": {behind, c.behind}} {
			conn := raw(t, x.g, "GET /v1/models HTTP/1.1\r\nHost: "+c.host+"\r\nConnection: close\r\n\r\n")
			answer, err := io.ReadAll(conn)
			if err != nil || !strings.HasPrefix(string(answer), fmt.Sprint("HTTP/1.1 ", x.want)) {
				t.Errorf("%s, %s: %v %.60q, want %d", name, c.host, err, answer, x.want)
			}
		}
	}
	conn := raw(t, loopback, "GET /healthz HTTP/1.0\r\n\r\n")
	if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.0 200") {
		t.Errorf("a program without a Host header: %v, %.60q", err, answer)
	}
}
