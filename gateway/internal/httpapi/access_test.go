package httpapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/keys"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/telemetry"
	"github.com/facediffuser/facediffuser/gateway/internal/upload"
)

// ring makes a ring with keys of those names and limits, and returns their secrets.
func ring(t testing.TB, wanted ...keys.Key) (*keys.Ring, []string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys.json")
	secrets := make([]string, len(wanted))
	for i, k := range wanted {
		if k.Scopes == nil {
			k.Scopes = []keys.Scope{keys.Generate}
		}
		var err error
		if _, secrets[i], err = keys.Create(file, k, false); err != nil {
			t.Fatal(err)
		}
	}
	r, err := keys.Open(keys.Options{File: file, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r, secrets
}

func withKeys(r *keys.Ring) func(*httpapi.Options, *job.Options) {
	return func(o *httpapi.Options, _ *job.Options) { o.Keys = r }
}

const hill = `{"prompt": "a hill", "num_inference_steps": 1}`

// TestKeys: who gets in, and what the others are told.
func TestKeys(t *testing.T) {
	r, secrets := ring(t, keys.Key{Name: "a"}, keys.Key{Name: "reader", Scopes: []keys.Scope{keys.Read}})
	g := serve(t, newFake(), withKeys(r))
	generate, read := secrets[0], secrets[1]
	mistyped := generate[:10] + "a" + generate[11:]
	if mistyped == generate {
		mistyped = generate[:10] + "b" + generate[11:]
	}
	for _, c := range []struct {
		authorization string
		message       string // of the 401; "" where the key is good
	}{
		{"", "wants an API key"}, {"Bearer", "no API key of this gateway"}, {"Bearer none", "begin with fd_"}, {"Basic dTpw", "holds no API key"},
		{"Bearer " + mistyped, "does not fit its checksum"}, {"Bearer " + generate + " x", "no API key"},
		{"Bearer " + generate, ""}, {"bearer  " + generate, ""},
	} {
		for _, path := range []string{"/v1/images/generations", "/v1/models", "/v1/models/mini", "/v1/capabilities"} {
			method, body := "GET", ""
			if strings.Contains(path, "images") {
				method, body = "POST", hill
			}
			var headers []string
			if c.authorization != "" {
				headers = []string{"Authorization", c.authorization}
			}
			resp, data := g.do(t, method, path, "application/json", strings.NewReader(body), headers...)
			matchesDocument(t, resp, data)
			if c.message == "" {
				if resp.StatusCode != http.StatusOK {
					t.Errorf("%s with a key: %d %s", path, resp.StatusCode, data)
				}
				continue
			}
			if e := isError(t, resp, data, 401, "", "invalid_api_key"); !strings.Contains(e.Message, c.message) || e.Type != "invalid_request_error" {
				t.Errorf("%q: %s", c.authorization, data)
			}
			if got := resp.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer") {
				t.Errorf("WWW-Authenticate is %q", got)
			}
		}
	}
	resp, data := g.json(t, "/v1/images/generations", hill, "Authorization", "Bearer "+read)
	if e := isError(t, resp, data, 403, "", "insufficient_scope"); !strings.Contains(e.Message, "generate") || !strings.Contains(resp.Header.Get("WWW-Authenticate"), `scope="generate"`) {
		t.Errorf("%v: %s", resp.Header, data)
	}
	matchesDocument(t, resp, data)
	if resp, data = g.do(t, "GET", "/v1/models", "", nil, "Authorization", "Bearer "+read); resp.StatusCode != http.StatusOK {
		t.Errorf("a reader reads models: %d %s", resp.StatusCode, data)
	}
	for len(g.log) > 0 {
		if line := <-g.log; strings.Contains(line, generate[3:]) || strings.Contains(line, read[3:]) {
			t.Errorf("the log holds a key: %s", line)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/openapi.json"} {
		if resp, data := g.do(t, "GET", path, "", nil); resp.StatusCode != http.StatusOK {
			t.Errorf("%s without a key: %d %s", path, resp.StatusCode, data)
		}
	}
}

// TestLimits: what is left is told, and what is beyond is refused.
func TestLimits(t *testing.T) {
	r, secrets := ring(t, keys.Key{Name: "a", Limits: keys.Limits{RequestsPerMinute: 4, PicturesPerDay: 5}}, keys.Key{Name: "b"})
	f := newFake()
	g := serve(t, f, withKeys(r))
	ask := func(n int) (*http.Response, []byte) {
		return g.json(t, "/v1/images/generations", fmt.Sprintf(`{"prompt": "a hill", "n": %d}`, n), "Authorization", "Bearer "+secrets[0])
	}
	left := func(resp *http.Response, requests, images string) {
		t.Helper()
		h := resp.Header
		for name, want := range map[string]string{
			"X-Ratelimit-Limit-Requests": "4", "X-Ratelimit-Remaining-Requests": requests, "X-Ratelimit-Limit-Images": "5", "X-Ratelimit-Remaining-Images": images,
		} {
			if h.Get(name) != want {
				t.Errorf("%s is %q, want %s", name, h.Get(name), want)
			}
		}
		for _, name := range []string{"X-Ratelimit-Reset-Requests", "X-Ratelimit-Reset-Images"} {
			if _, err := time.ParseDuration(h.Get(name)); err != nil {
				t.Error(err)
			}
		}
	}
	resp, data := ask(3)
	left(resp, "3", "2")
	matchesDocument(t, resp, data)
	resp, data = ask(3)
	isError(t, resp, data, 429, "", "insufficient_quota")
	if resp.Header.Get("X-Should-Retry") != "false" {
		t.Error("an SDK would try again before midnight")
	}
	matchesDocument(t, resp, data)
	left(resp, "2", "2")
	// What fails by the networks' doing is given back.
	f.step = func(context.Context, int, int) error { return errors.New("broken") }
	resp, data = ask(2)
	isError(t, resp, data, 500, "", "internal_error")
	f.step = nil
	deadline := time.Now().Add(10 * time.Second)
	for p, err := r.Find(secrets[0]); ; time.Sleep(time.Millisecond) {
		if err != nil {
			t.Fatal(err)
		}
		if a, _ := p.Pictures(); a.Remaining == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("pictures that failed were not given back")
		}
	}
	resp, _ = ask(2)
	left(resp, "0", "0")
	resp, data = g.json(t, "/v1/images/generations", hill, "Authorization", "Bearer "+secrets[1])
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Ratelimit-Limit-Requests") != "" {
		t.Errorf("another key: %d %v %s", resp.StatusCode, resp.Header, data)
	}

	r, secrets = ring(t, keys.Key{Name: "a", Limits: keys.Limits{RequestsPerMinute: 1}})
	g = serve(t, newFake(), withKeys(r))
	if resp, data = ask(1); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, data)
	}
	resp, data = ask(1)
	isError(t, resp, data, 429, "", "rate_limit_exceeded")
	if after := resp.Header.Get("Retry-After"); after != "60" && after != "59" {
		t.Errorf("retry-after is %s", after)
	}
	matchesDocument(t, resp, data)
}

func TestConcurrencyLimit(t *testing.T) {
	r, secrets := ring(t, keys.Key{Name: "a", Limits: keys.Limits{Concurrency: 1}}, keys.Key{Name: "b"})
	f := newFake()
	gate := newGate(f)
	g := serve(t, f, withKeys(r))
	first := make(chan int, 1)
	go func() {
		resp, _ := g.json(t, "/v1/images/generations", hill, "Authorization", "Bearer "+secrets[0])
		first <- resp.StatusCode
	}()
	<-gate.arrived
	resp, data := g.json(t, "/v1/images/generations", hill, "Authorization", "Bearer "+secrets[0])
	isError(t, resp, data, 429, "", "concurrency_limit_exceeded")
	gate.pass <- struct{}{}
	gate.pass <- struct{}{}
	if status := <-first; status != http.StatusOK {
		t.Errorf("the first request: %d", status)
	}
	if resp, data := g.json(t, "/v1/images/generations", hill, "Authorization", "Bearer "+secrets[0]); resp.StatusCode != http.StatusOK {
		t.Errorf("after it: %d %s", resp.StatusCode, data)
	}
}

// TestRepeatsNeedNoQuota: pictures that are there, or being made, are had again by a key that may have no more.
func TestRepeatsNeedNoQuota(t *testing.T) {
	r, secrets := ring(t, keys.Key{Name: "a", Limits: keys.Limits{PicturesPerDay: 2, Concurrency: 1}})
	f := newFake()
	gate := newGate(f)
	g := serve(t, f, withKeys(r))
	ask := func(key, prompt string) (*http.Response, []byte) {
		return g.json(t, "/v1/images/generations", fmt.Sprintf(`{"prompt": %q, "n": 2, "num_inference_steps": 1}`, prompt), "Authorization", "Bearer "+secrets[0], "Idempotency-Key", key)
	}
	type result struct {
		status int
		job    string
	}
	results := make(chan result, 2)
	send := func() {
		resp, _ := ask("k", "a hill")
		results <- result{resp.StatusCode, resp.Header.Get("X-Facediffuser-Job-Id")}
	}
	go send()
	<-gate.arrived
	go send() // in parallel, though the key has one place
	gate.pass <- struct{}{}
	<-gate.arrived
	gate.pass <- struct{}{}
	first, second := <-results, <-results
	if first.status != 200 || first != second {
		t.Errorf("in parallel: %v and %v", first, second)
	}
	resp, data := ask("k", "a hill")
	if resp.StatusCode != 200 || resp.Header.Get("X-Facediffuser-Job-Id") != first.job {
		t.Errorf("the repeat: %d %s", resp.StatusCode, data)
	}
	resp, data = ask("k", "a lake")
	isError(t, resp, data, 422, "Idempotency-Key", "idempotency_key_reused")
	resp, data = ask("other", "a hill")
	isError(t, resp, data, 429, "", "insufficient_quota")
}

// TestLeavingGivesBack: pictures that were not begun when the client left do not count.
func TestLeavingGivesBack(t *testing.T) {
	r, secrets := ring(t, keys.Key{Name: "a", Limits: keys.Limits{PicturesPerDay: 5}})
	f := newFake()
	gate := newGate(f)
	g := serve(t, f, withKeys(r))
	p, err := r.Find(secrets[0])
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL+"/v1/images/generations", strings.NewReader(`{"prompt": "a hill", "n": 4}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+secrets[0])
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if resp, err := http.DefaultClient.Do(request); err == nil {
			resp.Body.Close()
		}
	}()
	<-gate.arrived
	if left, _ := p.Pictures(); left.Remaining != 1 {
		t.Errorf("%d are left while four are made", left.Remaining)
	}
	leave()
	<-gone
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if left, _ := p.Pictures(); left.Remaining == 4 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%d are left, want 4: one was begun", left.Remaining)
		}
	}
}

// TestNoAccessAcrossKeys: an Idempotency-Key leads to one's own job alone.
func TestNoAccessAcrossKeys(t *testing.T) {
	r, secrets := ring(t, keys.Key{Name: "a"}, keys.Key{Name: "b"})
	g := serve(t, newFake(), withKeys(r))
	jobs := map[string]bool{}
	for _, secret := range secrets {
		for range 2 {
			resp, data := g.json(t, "/v1/images/generations", hill, "Authorization", "Bearer "+secret, "Idempotency-Key", "same")
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", resp.StatusCode, data)
			}
			jobs[resp.Header.Get("X-Facediffuser-Job-Id")] = true
		}
	}
	if len(jobs) != 2 {
		t.Errorf("two keys with one Idempotency-Key got %d jobs", len(jobs))
	}
	// Nor does another's key tell that it was used, by a 422.
	if resp, data := g.json(t, "/v1/images/generations", `{"prompt": "a lake"}`, "Authorization", "Bearer "+secrets[0], "Idempotency-Key", "mine"); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s", data)
	}
	if resp, data := g.json(t, "/v1/images/generations", hill, "Authorization", "Bearer "+secrets[1], "Idempotency-Key", "mine"); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, data)
	}
}

// promise sends a request's head, and none of the body that it promises.
func promise(t testing.TB, g *gateway, path string, length int, headers string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_, err = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n", path, length, headers)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRefusedBeforeTheUpload: whoever is not let in is told so before the body has come.
func TestRefusedBeforeTheUpload(t *testing.T) {
	r, secrets := ring(t, keys.Key{Name: "a"}, keys.Key{Name: "spent", Limits: keys.Limits{PicturesPerDay: 1}})
	f := newFake()
	gate := newGate(f)
	g := serve(t, f, withKeys(r), func(_ *httpapi.Options, j *job.Options) { j.MaxQueue = 0 })
	refused := func(name string, want int, headers string) {
		t.Helper()
		for _, length := range []int{1000, 10 << 20} {
			c := promise(t, g, "/v1/images/edits", length, headers)
			if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
				t.Fatal(err)
			}
			head := make([]byte, 12)
			if _, err := io.ReadFull(c, head); err != nil || string(head) != fmt.Sprint("HTTP/1.1 ", want) {
				t.Errorf("%s: %q, %v", name, head, err)
			}
		}
	}
	good := "Authorization: Bearer " + secrets[0] + "\r\n"
	refused("no key", 401, "")
	refused("no key, waiting to be asked on", 401, "Expect: 100-continue\r\n")
	refused("another origin", 403, good+"Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n")
	spent := make(chan int, 1)
	go func() {
		resp, _ := g.json(t, "/v1/images/generations", `{"prompt": "a hill", "num_inference_steps": 1, "n": 1}`, "Authorization", "Bearer "+secrets[1])
		spent <- resp.StatusCode
	}()
	<-gate.arrived
	gate.pass <- struct{}{}
	<-spent
	refused("no quota", 429, "Authorization: Bearer "+secrets[1]+"\r\n")

	running := make(chan int, 1)
	go func() {
		resp, _ := g.json(t, "/v1/images/generations", `{"prompt": "a hill", "num_inference_steps": 1, "n": 2}`, "Authorization", "Bearer "+secrets[0])
		running <- resp.StatusCode
	}()
	<-gate.arrived
	refused("a full queue", 429, good)
	g.runner.StopAdmitting()
	refused("draining", 503, good)
	gate.pass <- struct{}{}
	gate.pass <- struct{}{}
	<-running
}

// TestRefusedUploadIsReadToTheEnd: a client that sends all before it reads gets the answer, not a reset.
func TestRefusedUploadIsReadToTheEnd(t *testing.T) {
	r, _ := ring(t, keys.Key{Name: "a"})
	g := serve(t, newFake(), withKeys(r))
	c := promise(t, g, "/v1/images/edits", 8<<20, "")
	if _, err := c.Write(make([]byte, 8<<20)); err != nil {
		t.Fatalf("the upload was cut off: %v", err)
	}
	answer, err := io.ReadAll(c)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 401")) || !bytes.Contains(answer, []byte("invalid_api_key")) {
		t.Errorf("%v: %.300q", err, answer)
	}
}

// offline is the API without a listener, for synthetic time.
type offline struct {
	handler http.Handler
	runner  *job.Runner
	metrics *telemetry.Metrics
}

func handler(t *testing.T, f *fake) *offline {
	t.Helper()
	o := &offline{metrics: telemetry.NewMetrics(prometheus.NewRegistry(), telemetry.Build{})}
	log := slog.New(slog.DiscardHandler)
	o.runner = job.NewRunner(f, job.Options{MaxQueue: 8, Metrics: o.metrics, Log: log})
	o.handler = httpapi.New(httpapi.Options{
		Pipeline: f, Runner: o.runner, Intake: upload.NewIntake(picture.NewDecoder(picture.Limits{MaxPixels: 1 << 20}, 32), upload.Limits{MaxFileBytes: 1 << 20}),
		Ready: func() []string { return nil }, Metrics: o.metrics, Log: log,
	})
	return o
}

func (o *offline) ask(ctx context.Context, key, body string) (status int, jobID string) {
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/images/generations", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Idempotency-Key", key)
	w := httptest.NewRecorder()
	o.handler.ServeHTTP(w, r)
	return w.Code, w.Header().Get("X-Facediffuser-Job-Id")
}

func (o *offline) kept() (jobs, bytes int) {
	synctest.Wait() // settling comes after the answer
	return int(testutil.ToFloat64(o.metrics.KeptRequests)), int(testutil.ToFloat64(o.metrics.KeptBytes))
}

// TestKeptIsCounted: prompts count, failures are not kept, and nothing outlives its time although nobody asks again.
func TestKeptIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		o := handler(t, f)
		prompt := strings.Repeat("🏔", 31_990) // 125 KiB: the longest that is taken
		for i := range 300 {
			if status, _ := o.ask(t.Context(), fmt.Sprint("k", i), fmt.Sprintf(`{"prompt": "%d %s"}`, i, prompt)); status != http.StatusOK {
				t.Fatal(status)
			}
			time.Sleep(time.Second)
		}
		jobs, bytes := o.kept()
		// At least the prompt of each; at most the budget of 32 MiB.
		if bytes > 32<<20 || bytes < jobs*len(prompt) || jobs < 120 || jobs > 256 {
			t.Errorf("%d requests of %d bytes are counted as %d", jobs, len(prompt), bytes)
		}
		time.Sleep(5 * time.Minute)
		if later, _ := o.kept(); later != jobs {
			t.Errorf("after five minutes %d of %d are kept", later, jobs)
		}
		f.step = func(context.Context, int, int) error { return errors.New("broken") }
		if status, _ := o.ask(t.Context(), "failed", hill); status != http.StatusInternalServerError {
			t.Error(status)
		}
		if later, _ := o.kept(); later != jobs {
			t.Errorf("a failure is kept: %d, were %d", later, jobs)
		}
		time.Sleep(5 * time.Minute)
		if jobs, bytes := o.kept(); jobs != 0 || bytes != 0 {
			t.Errorf("after ten minutes %d requests, %d bytes are kept", jobs, bytes)
		}
	})
}

// TestKeyOfACanceledJob: whoever comes while a job is being canceled gets a new one.
func TestKeyOfACanceledJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var slow atomic.Bool
		slow.Store(true)
		f.step = func(context.Context, int, int) error {
			if slow.Load() {
				time.Sleep(10 * time.Second) // a network does not stop for a client that left
			}
			return nil
		}
		o := handler(t, f)
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan string)
		go func() { _, id := o.ask(ctx, "k", hill); gone <- id }()
		time.Sleep(time.Second)
		leave()
		first := <-gone
		slow.Store(false)
		status, id := o.ask(t.Context(), "k", hill)
		if status != http.StatusOK || id == first {
			t.Errorf("%d, job %s after %s", status, id, first)
		}
		if err := o.runner.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if jobs, _ := o.kept(); jobs != 1 {
			t.Errorf("%d requests are kept, want the one that was answered", jobs)
		}
		time.Sleep(time.Hour)
	})
}

// TestAdminRoutes: what operators see, and that a web page does not.
func TestAdminRoutes(t *testing.T) {
	g := serve(t, newFake())
	ask := func(method, path string, headers ...string) (int, string) {
		r := httptest.NewRequest(method, "http://localhost"+path, nil)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
			if headers[i] == "Host" {
				r.Host = headers[i+1]
			}
		}
		w := httptest.NewRecorder()
		g.admin.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	const want = `{"replicas":[{"address":"10.0.0.7:8001","ready":false,"breaker":"half-open","calls":3,"reason":"connection refused"}],` +
		`"missing":["the model unet_sdm: 10.0.0.7:8001 is away"],"draining":false,"waiting":false}` + "\n"
	if status, body := ask("GET", "/replicas"); status != 200 || body != want {
		t.Errorf("%d %s", status, body)
	}
	for _, headers := range [][]string{{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}, {"Host", "evil.example"}} {
		if status, body := ask("POST", "/drain", headers...); status != 403 || g.runner.Draining() {
			t.Errorf("drained by %v: %d %s", headers, status, body)
		}
	}
	server := httptest.NewServer(g.admin) // the server leaves out the body of an answer to HEAD
	defer server.Close()
	for _, path := range []string{"/metrics", "/replicas", "/debug/pprof/", "/debug/pprof/heap"} {
		resp, err := server.Client().Head(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") == "" {
			t.Errorf("HEAD %s: %d %v", path, resp.StatusCode, resp.Header)
		}
	}
	if status, _ := ask("GET", "/v1/models"); status != 404 {
		t.Errorf("the API on the admin listener: %d", status)
	}
	if status, body := ask("POST", "/drain"); status != 202 || !g.runner.Draining() {
		t.Errorf("%d %s", status, body)
	}
}

// TestAdminRefusesForeignPages: also what changes nothing, since it costs.
func TestAdminRefusesForeignPages(t *testing.T) {
	g := serve(t, newFake())
	for _, c := range []struct {
		header, value, path string
		want                int
	}{
		{"Sec-Fetch-Site", "cross-site", "/debug/pprof/heap", 403}, {"Sec-Fetch-Site", "same-site", "/metrics", 403}, {"Origin", "http://evil.example", "/replicas", 403}, {"Origin", "null", "/replicas", 403},
		{"Sec-Fetch-Site", "same-origin", "/replicas", 200}, {"Sec-Fetch-Site", "none", "/replicas", 200}, {"Origin", "http://localhost", "/replicas", 200}, {"Accept", "*/*", "/replicas", 200},
		{"Accept", "*/*", "/debug/pprof/profile?seconds=61", 400}, {"Accept", "*/*", "/debug/pprof/heap?seconds=1e9", 400},
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "http://localhost"+c.path, nil)
		r.Header.Set(c.header, c.value)
		if g.admin.ServeHTTP(w, r); w.Code != c.want {
			t.Errorf("%s with %s: %s got %d, want %d: %s", c.path, c.header, c.value, w.Code, c.want, w.Body)
		}
	}
}
