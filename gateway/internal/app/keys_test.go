package app

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
	"github.com/facediffuser/facediffuser/tritonclient/tritontest"
)

// waiting is a gateway whose Triton serves no model: it answers everything but requests for pictures.
func waiting(t *testing.T, change func(*config.Config)) *gateway {
	t.Helper()
	g := started(t, change)
	t.Cleanup(func() {
		if err := g.stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return g
}

// started is the same for a test that stops it.
func started(t *testing.T, change func(*config.Config)) *gateway {
	t.Helper()
	settings := config.Default()
	settings.Family, settings.Listen, settings.Triton = mini, "127.0.0.1:0", []string{tritontest.Start(t).Address()}
	change(&settings)
	g, err := startGateway(t.Context(), &settings, streams{func(string) string { return "" }, io.Discard, t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gateway) adminURL() string { return localURL(g.admin.listener.Addr().String()) }

func request(t *testing.T, method, url, key string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := newClient("", "").http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// eventually asks until a status comes.
func eventually(t *testing.T, want int, url, key string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got, body := request(t, "GET", url, key)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d %s, want %d", url, got, body, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestKeys makes, uses and revokes keys from the command line while a gateway runs.
func TestKeys(t *testing.T) {
	env := map[string]string{"FACEDIFFUSER_KEYS_FILE": filepath.Join(t.TempDir(), "keys.json")}
	keysCommand := func(args ...string) string {
		t.Helper()
		code, out, errOut := program(t, env, append([]string{"keys"}, args...)...)
		if code != exitOK {
			t.Fatalf("keys %q: exit %d, %s", args, code, errOut)
		}
		return strings.TrimSpace(out)
	}
	alice := keysCommand("create", "--name", "alice", "--first", "--requests-per-minute", "60")
	if !strings.HasPrefix(alice, "fd_") || strings.ContainsAny(alice, " \n") {
		t.Fatalf("standard output is %q, want the key alone", alice)
	}
	if again := keysCommand("create", "--name", "bob", "--first"); again != "" {
		t.Errorf("--first made a second key: %q", again)
	}
	g := waiting(t, func(c *config.Config) { c.KeysFile, c.AdminListen = env["FACEDIFFUSER_KEYS_FILE"], "0.0.0.0:0" })
	for path, want := range map[string]int{"/v1/capabilities": 401, "/v1/models": 401, "/healthz": 200, "/readyz": 503, "/openapi.json": 200} {
		if got, body := request(t, "GET", g.url()+path, ""); got != want {
			t.Errorf("%s without a key: %d %s, want %d", path, got, body, want)
		}
	}
	if got, body := request(t, "GET", g.url()+"/v1/capabilities", alice); got != 200 {
		t.Errorf("with a key: %d %s", got, body)
	}
	root := keysCommand("create", "--name", "root", "--scopes", "admin")
	eventually(t, 200, g.adminURL()+"/metrics", root)
	if got, _ := request(t, "GET", g.adminURL()+"/metrics", alice); got != 403 {
		t.Errorf("/metrics with a key for pictures: %d", got)
	}
	if got, _ := request(t, "GET", g.adminURL()+"/metrics", ""); got != 401 {
		t.Errorf("/metrics without a key: %d", got)
	}
	if got, _ := request(t, "POST", g.url()+"/v1/images/generations", root); got != 403 {
		t.Errorf("a picture with an admin's key: %d", got)
	}

	// The client says what is wrong with a key, and sends a good one.
	for key, want := range map[string]struct {
		exit int
		text string
	}{
		"":    {exitUsage, "wants an API key"},
		"x":   {exitUsage, "no API key of this gateway"},
		alice: {exitFailure, "try again in"},
	} {
		code, _, errOut := program(t, map[string]string{"FACEDIFFUSER_URL": g.url(), "FACEDIFFUSER_API_KEY": key}, "generate", "-o", filepath.Join(t.TempDir(), "x.png"), "a man")
		if code != want.exit || !strings.Contains(errOut, want.text) {
			t.Errorf("generate with %q: exit %d, %q", key, code, errOut)
		}
	}

	var listed struct{ Keys []map[string]any }
	if err := json.Unmarshal([]byte(keysCommand("list", "--json")), &listed); err != nil || len(listed.Keys) != 2 || listed.Keys[0]["requests_per_minute"] != 60.0 {
		t.Errorf("%v, %v", listed, err)
	}
	if table := keysCommand("list"); !strings.Contains(table, "alice  generate  60") || strings.Contains(table, alice) {
		t.Errorf("the table is\n%s", table)
	}
	keysCommand("revoke", "alice")
	eventually(t, 401, g.url()+"/v1/models", alice)
}

// TestAdmin: what the public listener does not tell.
func TestAdmin(t *testing.T) {
	g := waiting(t, func(*config.Config) {})
	eventually(t, 503, g.url()+"/readyz", "")
	if got, body := request(t, "GET", g.url()+"/metrics", ""); got != 404 {
		t.Errorf("/metrics in public: %d %s", got, body)
	}
	address := g.settings.Triton[0]
	got, body := request(t, "GET", g.adminURL()+"/replicas", "")
	var fleet struct {
		Replicas []struct{ Address, Breaker string }
		Missing  []string
		Draining bool
	}
	if err := json.Unmarshal([]byte(body), &fleet); err != nil || got != 200 || len(fleet.Replicas) != 1 || fleet.Replicas[0].Address != address || fleet.Draining {
		t.Errorf("/replicas: %d %s (%v)", got, body, err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, body := request(t, "GET", g.url()+"/readyz", "")
		if strings.Contains(body, address) {
			t.Fatalf("/readyz names an address: %s", body)
		}
		if strings.Contains(body, `"the model text_encoder"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz: %s", body)
		}
	}
	if _, body := request(t, "GET", g.adminURL()+"/replicas", ""); !strings.Contains(body, "the model text_encoder: ") {
		t.Errorf("/replicas gives no reason: %s", body)
	}
	if got, body := request(t, "GET", g.adminURL()+"/metrics", ""); got != 200 || !strings.Contains(body, `facediffuser_replica_ready{replica="`+address+`"}`) {
		t.Errorf("/metrics: %d", got)
	}
	if got, body := request(t, "GET", g.adminURL()+"/debug/pprof/heap", ""); got != 200 || !strings.HasPrefix(body, "\x1f\x8b") {
		t.Errorf("a heap profile: %d %.20q", got, body)
	}
	if got, body := request(t, "GET", g.adminURL()+"/debug/pprof/cmdline", ""); got != 404 {
		t.Errorf("the command line: %d %s", got, body)
	}
	if got, body := request(t, "POST", g.adminURL()+"/drain", ""); got != 202 || body != "{\"draining\":true,\"waiting\":false}\n" {
		t.Errorf("/drain: %d %s", got, body)
	}
	if got, body := request(t, "GET", g.url()+"/readyz", ""); got != 503 || !strings.Contains(body, "shutting down") {
		t.Errorf("/readyz after /drain: %d %s", got, body)
	}
	if got, body := request(t, "POST", g.url()+"/v1/images/generations", ""); got != 503 || !strings.Contains(body, "shutting_down") {
		t.Errorf("a request after /drain: %d %s", got, body)
	}
}

// TestHostOfThePublicURL: a proxy on the same machine passes the name on that clients use.
func TestHostOfThePublicURL(t *testing.T) {
	g := waiting(t, func(c *config.Config) { c.PublicURL = "https://faces.example.org:8443/faces" })
	for host, want := range map[string]int{"faces.example.org:8443": 200, "faces.example.org": 200, "localhost": 200, "evil.test": 403} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url()+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		response, err := newClient("", "").http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s, want %d", host, response.Status, want)
		}
	}
}

// TestStopLetsAnswersOut: an answer that is being written when the gateway is told to end has the rest of the grace.
func TestStopLetsAnswersOut(t *testing.T) {
	g := started(t, func(c *config.Config) { c.ShutdownGrace = time.Minute })
	begun, written := make(chan struct{}), make(chan struct{})
	g.public.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		close(begun)
		time.Sleep(3 * time.Second) // more than what is left to answers that were cut off
		_, _ = io.WriteString(w, "the end")
		close(written)
	})
	answer := make(chan []byte, 1)
	go func() {
		response, err := newClient("", "").http.Get(g.url())
		if err != nil {
			t.Error(err)
			answer <- nil
			return
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Error(err)
		}
		answer <- body
	}()
	<-begun
	if err := g.stop(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case <-written:
	default:
		t.Error("stop did not wait")
	}
	if body := <-answer; !bytes.Equal(body, []byte("the end")) {
		t.Errorf("the client got %q", body)
	}
}
