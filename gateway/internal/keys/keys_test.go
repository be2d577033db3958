package keys_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/facediffuser/facediffuser/gateway/internal/keys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A secret and its hash that Python made: base64.b32encode(bytes(range(20))), zlib.crc32 and hashlib.sha256.
const (
	pythonSecret = "fd_aaaqeayeaudaocajbifqydiob4ibceqttgjsroa"
	pythonSHA256 = "1fc5cc9cb15787943ef2cfddd9f3b7ebce6374ba5accd1c391167cfc1a9cfb03"
)

// entry is a valid key in JSON; more replaces or adds members.
func entry(more string) string {
	members := map[string]any{"id": "key_abcdefgh23", "name": "a", "sha256": pythonSHA256, "scopes": []string{"generate"}, "created": "2026-01-02T03:04:05Z"}
	if err := json.Unmarshal([]byte(more), &members); err != nil {
		panic(err)
	}
	text, err := json.Marshal(members)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func ring(t *testing.T, more string) *keys.Ring {
	t.Helper()
	r, err := keys.Open(keys.Options{Text: `{"keys": [` + entry(more) + `]}`, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func holder(t *testing.T, more string) *keys.Principal {
	t.Helper()
	p, err := ring(t, more).Find(pythonSecret)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFind(t *testing.T) {
	r := ring(t, `{}`)
	p, err := r.Find(pythonSecret)
	if err != nil || p.ID() != "key_abcdefgh23" || p.Key().Name != "a" {
		t.Errorf("%v, %v", p, err)
	}
	_, other, err := keys.Create(filepath.Join(t.TempDir(), "keys.json"), keys.Key{Name: "b", Scopes: []keys.Scope{keys.Read}}, false)
	if err != nil {
		t.Fatal(err)
	}
	for secret, want := range map[string]error{
		"": keys.ErrMalformed, "none": keys.ErrMalformed, "sk-proj-x": keys.ErrMalformed, "fd_": keys.ErrMalformed,
		pythonSecret[:len(pythonSecret)-1]: keys.ErrMalformed, pythonSecret + "a": keys.ErrMalformed,
		strings.ToUpper(pythonSecret): keys.ErrMalformed, strings.Replace(pythonSecret, "y", "x", 1): keys.ErrMalformed,
		other: keys.ErrUnknown,
	} {
		if p, err := r.Find(secret); !errors.Is(err, want) || p != nil {
			t.Errorf("%q: %v, %v; want %v", secret, p, err, want)
		}
	}
}

func TestScopes(t *testing.T) {
	for scopes, want := range map[string][]keys.Scope{
		`["generate"]`: {keys.Generate, keys.Read}, `["read"]`: {keys.Read}, `["admin"]`: {keys.Read, keys.Admin},
		`["admin", "generate"]`: {keys.Generate, keys.Read, keys.Admin},
	} {
		p := holder(t, `{"scopes": `+scopes+`}`)
		var got []keys.Scope
		for _, s := range keys.Scopes() {
			if p.May(s) {
				got = append(got, s)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s may %v, want %v", scopes, got, want)
		}
	}
}

func TestFaults(t *testing.T) {
	for text, want := range map[string]string{
		``:                      "not a list of keys: EOF",
		`[]`:                    "not a list of keys: ",
		`{"keys": []} x`:        "something follows",
		`{"keys": [], "x": 1}`:  `unknown field "x"`,
		`{"keys": [{"id": 1}]}`: "not a list of keys: ",
		`{"keys": [{}]}`:        "key 0: id must be key_ and 10 characters",
		`{"keys": [` + entry(`{"name": "a b\n"}`) + `]}`:                             `key 0: name must be 1 to 64 letters, digits and . _ @ -, not "a b\n"`,
		`{"keys": [` + entry(`{"sha256": "1f"}`) + `]}`:                              "sha256 must be 64 hexadecimal digits",
		`{"keys": [` + entry(`{"sha256": "`+strings.Repeat("0", 64)+`"}`) + `]}`:     "a: sha256 must be 64 hexadecimal digits",
		`{"keys": [` + entry(`{"scopes": []}`) + `]}`:                                "a: scopes must name at least one of",
		`{"keys": [` + entry(`{"scopes": ["write"]}`) + `]}`:                         `not "write"`,
		`{"keys": [` + entry(`{"concurrency": -1}`) + `]}`:                           "a: concurrency must be from 0 to 100000, not -1",
		`{"keys": [` + entry(`{"burst": 1}`) + `]}`:                                  `unknown field "burst"`,
		`{"keys": [` + entry(`{}`) + `, ` + entry(`{"id": "key_bbbbbbbbbb"}`) + `]}`: "a: another key has the name a\na: another key has the sha256",
	} {
		if all, err := keys.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", text, all, err, want)
		}
	}
}

func TestCreateListRevoke(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.json")
	limits := keys.Limits{Weight: 2, Priority: -1, Concurrency: 3, RequestsPerMinute: 4, PicturesPerDay: 5}
	made, secret, err := keys.Create(file, keys.Key{Name: "alice", Scopes: []keys.Scope{keys.Generate}, Limits: limits}, true)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(text), secret) || strings.Contains(string(text), secret[3:20]) {
		t.Errorf("the file holds the secret: %s (%v)", text, err)
	}
	all, err := keys.ReadFile(file)
	if err != nil || len(all) != 1 || all[0].ID != made.ID || all[0].Limits != limits || time.Since(all[0].Created) > time.Minute {
		t.Errorf("%+v, %v", all, err)
	}
	if _, _, err := keys.Create(file, keys.Key{Name: "bob", Scopes: []keys.Scope{keys.Read}}, true); !errors.Is(err, keys.ErrNotEmpty) {
		t.Errorf("a first key beside another: %v", err)
	}
	if _, _, err := keys.Create(file, keys.Key{Name: "alice", Scopes: []keys.Scope{keys.Read}}, false); err == nil || !strings.Contains(err.Error(), "has a key named alice already") {
		t.Errorf("the same name: %v", err)
	}
	if _, _, err := keys.Create(file, keys.Key{Name: "b b", Scopes: nil}, false); err == nil {
		t.Error("a bad name and no scopes were taken")
	}
	if _, err := keys.Revoke(file, "carol"); err == nil || !strings.Contains(err.Error(), `no key "carol"`) {
		t.Errorf("revoke nobody: %v", err)
	}
	if gone, err := keys.Revoke(file, made.ID); err != nil || gone.Name != "alice" {
		t.Errorf("%+v, %v", gone, err)
	}
	if all, err := keys.ReadFile(file); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v", left, err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := keys.Create(file, keys.Key{Name: "bob", Scopes: []keys.Scope{keys.Read}}, false); err == nil {
		t.Error("a broken file was written over")
	}
}

// TestConcurrentWriters: none loses what another wrote.
func TestConcurrentWriters(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.json")
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			if _, _, err := keys.Create(file, keys.Key{Name: fmt.Sprint("k", i), Scopes: []keys.Scope{keys.Read}}, false); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if listed, err := keys.ReadFile(file); err != nil || len(listed) != 12 {
		t.Errorf("%d keys, %v", len(listed), err)
	}
}

// TestReload changes the file under a ring: a new key works, a revoked one does not, a broken file changes nothing and is said once.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "keys.json")
		create := func(name string, limits keys.Limits) string {
			_, secret, err := keys.Create(file, keys.Key{Name: name, Scopes: []keys.Scope{keys.Generate}, Limits: limits}, false)
			if err != nil {
				t.Fatal(err)
			}
			return secret
		}
		alice := create("alice", keys.Limits{PicturesPerDay: 10})
		if _, err := keys.Open(keys.Options{File: file + ".gone"}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("no file: %v", err)
		}
		var mu sync.Mutex
		var said []string
		r, err := keys.Open(keys.Options{File: file, Log: slog.New(slog.DiscardHandler), Reloaded: func(n int, err error) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, fmt.Sprint(n, err != nil))
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Watch(ctx) }()
		seen := func(want string) {
			t.Helper()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(said, ", "); got != want {
				t.Errorf("reloads: %s, want %s", got, want)
			}
			said = nil
		}
		knows := func(secret string, want bool) {
			t.Helper()
			if _, err := r.Find(secret); (err == nil) != want {
				t.Errorf("find: %v, want known: %v", err, want)
			}
		}
		p, err := r.Find(alice)
		if err != nil {
			t.Fatal(err)
		}
		a, err := p.Admit()
		if err == nil {
			err = a.Spend(4)
		}
		if err != nil {
			t.Fatal(err)
		}
		seen("")
		bob := create("bob", keys.Limits{})
		seen("2 false")
		knows(bob, true)
		if again, err := r.Find(alice); err != nil || again != p {
			t.Error("a reload made another principal of an unchanged key")
		}
		if left, _ := p.Pictures(); left.Remaining != 6 {
			t.Errorf("after a reload %d pictures are left", left.Remaining)
		}
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for name, broken := range map[string]func() error{
			"cut":  func() error { return os.WriteFile(file, good[:len(good)/2], 0o600) },
			"gone": func() error { return os.Remove(file) },
		} {
			if err := broken(); err != nil {
				t.Fatal(err)
			}
			seen("2 true")
			knows(bob, true)
			if err := os.WriteFile(file, good, 0o600); err != nil {
				t.Fatal(name, err)
			}
			seen("2 false")
		}
		if _, err := keys.Revoke(file, "bob"); err != nil {
			t.Fatal(err)
		}
		seen("1 false")
		knows(bob, false)
		if _, err := keys.Revoke(file, "alice"); err != nil {
			t.Fatal(err)
		}
		seen("0 false")
		knows(alice, false)
		a.Done()
		stop()
		<-done
	})
}

func limitError(t *testing.T, err error) keys.LimitError {
	t.Helper()
	var limit *keys.LimitError
	if !errors.As(err, &limit) {
		t.Fatalf("%v is no limit", err)
	}
	return *limit
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := holder(t, `{"requests_per_minute": 6}`)
		for i := range 6 {
			if a, ok := p.Requests(); !ok || a != (keys.Allowance{6, 6 - i, time.Duration(i) * 10 * time.Second}) {
				t.Errorf("before request %d: %+v", i, a)
			}
			if _, err := p.Admit(); err != nil {
				t.Fatal(err)
			}
		}
		_, err := p.Admit()
		if got := limitError(t, err); got != (keys.LimitError{keys.Rate, 6, 10 * time.Second}) {
			t.Errorf("%+v", got)
		}
		time.Sleep(9 * time.Second)
		_, err = p.Admit()
		if got := limitError(t, err); got != (keys.LimitError{keys.Rate, 6, time.Second}) {
			t.Errorf("%+v", got)
		}
		time.Sleep(time.Second)
		if _, err := p.Admit(); err != nil {
			t.Error(err)
		}
		if _, err := p.Admit(); err == nil {
			t.Error("two requests at once after one's time")
		}
	})
}

func TestConcurrency(t *testing.T) {
	p := holder(t, `{"concurrency": 2}`)
	first, err := p.Admit()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Admit(); err != nil {
		t.Fatal(err)
	}
	_, err = p.Admit()
	if got := limitError(t, err); got != (keys.LimitError{keys.Concurrency, 2, 0}) {
		t.Errorf("%+v", got)
	}
	first.Done()
	if _, err := p.Admit(); err != nil {
		t.Error(err)
	}
	if _, ok := p.Requests(); ok {
		t.Error("a rate that nobody set")
	}
}

// TestQuota: the fake clock of a bubble begins at midnight UTC, 2000-01-01.
// TestAdmitRepeat: what may be a repeat takes no place until it spends.
func TestAdmitRepeat(t *testing.T) {
	p := holder(t, `{"pictures_per_day": 2, "concurrency": 1}`)
	first, err := p.Admit()
	if err == nil {
		err = first.Spend(2)
	}
	if err != nil {
		t.Fatal(err)
	}
	repeat, err := p.AdmitRepeat()
	if err != nil {
		t.Fatal(err)
	}
	if got := limitError(t, repeat.Spend(1)); got.Kind != keys.Quota {
		t.Errorf("%+v", got)
	}
	first.Refund(1)
	if got := limitError(t, repeat.Spend(1)); got.Kind != keys.Concurrency {
		t.Errorf("%+v", got)
	}
	first.Done()
	if err := repeat.Spend(1); err != nil {
		t.Error(err)
	}
	repeat.Done()
	never, err := p.AdmitRepeat()
	if err != nil {
		t.Fatal(err)
	}
	never.Done() // without a place to give back
	first.Refund(1)
	last, err := p.Admit()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Admit(); limitError(t, err).Kind != keys.Concurrency {
		t.Error(err)
	}
	last.Done()
}

func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := holder(t, `{"pictures_per_day": 5}`)
		time.Sleep(23 * time.Hour)
		a, err := p.Admit()
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Spend(3); err != nil {
			t.Fatal(err)
		}
		if got := limitError(t, a.Spend(3)); got != (keys.LimitError{keys.Quota, 5, time.Hour}) {
			t.Errorf("%+v", got)
		}
		if left, _ := p.Pictures(); left != (keys.Allowance{5, 2, time.Hour}) {
			t.Errorf("%+v", left)
		}
		a.Refund(1)
		if left, _ := p.Pictures(); left != (keys.Allowance{5, 3, time.Hour}) {
			t.Errorf("after a refund of one %+v", left)
		}
		a.Refund(3)
		a.Refund(3)
		if left, _ := p.Pictures(); left != (keys.Allowance{5, 5, 0}) {
			t.Errorf("after a refund %+v", left)
		}
		if err := a.Spend(5); err != nil {
			t.Fatal(err)
		}
		if _, err = p.Admit(); limitError(t, err).Kind != keys.Quota {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		b, err := p.Admit()
		if err == nil {
			err = b.Spend(1)
		}
		if err != nil {
			t.Error(err)
		}
		a.Refund(5) // of yesterday
		if left, _ := p.Pictures(); left != (keys.Allowance{5, 4, 24 * time.Hour}) {
			t.Errorf("the next day %+v", left)
		}
	})
}

func TestAnonymous(t *testing.T) {
	for range 100 {
		a, err := keys.Anonymous.Admit()
		if err == nil {
			err = a.Spend(1000)
		}
		if err != nil {
			t.Fatal(err)
		}
		a.Done()
	}
	if keys.Anonymous.ID() != "" || !keys.Anonymous.May(keys.Admin) {
		t.Error("anonymous is somebody")
	}
}

// TestFileKeepsItsPlace: its mode, its owner, and the link that leads to it.
func TestFileKeepsItsPlace(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "real.json"), filepath.Join(dir, "keys.json")
	if _, _, err := keys.Create(target, keys.Key{Name: "a", Scopes: []keys.Scope{keys.Read}}, false); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(target); err != nil || info.Mode() != 0o600 {
		t.Fatalf("a new file: %v, %v", info.Mode(), err)
	}
	if err := os.Symlink("real.json", link); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(target, 0o640); err != nil {
		t.Fatal(err)
	}
	owner := uint32(os.Getuid())
	if owner == 0 {
		owner = 65534
		if err := os.Chown(target, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	for _, change := range []func() error{
		func() error {
			_, _, err := keys.Create(link, keys.Key{Name: "b", Scopes: []keys.Scope{keys.Read}}, false)
			return err
		},
		func() error { _, err := keys.Revoke(link, "a"); return err },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink(link); err != nil || to != "real.json" {
			t.Errorf("the link leads to %q, %v", to, err)
		}
		info, err := os.Stat(target)
		if err != nil {
			t.Fatal(err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); !ok || info.Mode() != 0o640 || stat.Uid != owner {
			t.Errorf("mode %v, owner %v", info.Mode(), stat)
		}
	}
	if all, err := keys.ReadFile(target); err != nil || len(all) != 1 || all[0].Name != "b" {
		t.Errorf("%v, %v", all, err)
	}
}
