package keys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// Scope is a thing that a key may do.
type Scope string

const (
	Generate Scope = "generate" // make pictures
	Read     Scope = "read"     // ask for models and capabilities, check a prompt; every key may
	Admin    Scope = "admin"    // use the admin listener
)

// Scopes are all of them.
func Scopes() []Scope { return []Scope{Generate, Read, Admin} }

// Limits are what one key may use. 0 means no limit.
type Limits struct {
	Weight            int `json:"weight,omitempty"`              // share among keys that wait; 0 counts as 1
	Priority          int `json:"priority,omitempty"`            // higher goes first
	Concurrency       int `json:"concurrency,omitempty"`         // requests for pictures at once
	RequestsPerMinute int `json:"requests_per_minute,omitempty"` // for pictures; as many may come at once
	PicturesPerDay    int `json:"pictures_per_day,omitempty"`    // a day of UTC
}

// Key is an entry of the list of keys. It does not hold the secret.
type Key struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"` // unique in its list
	SHA256  digest    `json:"sha256"`
	Scopes  []Scope   `json:"scopes"`
	Created time.Time `json:"created"`
	Limits
}

// list is the form of a file of keys.
type list struct {
	Keys []Key `json:"keys"`
}

var (
	errDigest = errors.New("sha256 must be 64 hexadecimal digits")
	idForm    = regexp.MustCompile(`^key_[a-z2-7]{10}$`)
	// A name goes into the log and into tables.
	nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)
)

// Parse reads a list of keys in JSON: {"keys": [{"id": …, "name": …, "sha256": …, "scopes": […]}]}.
// It joins every fault that it finds.
func Parse(text []byte) ([]Key, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var l list
	if err := decoder.Decode(&l); err != nil {
		return nil, fmt.Errorf("not a list of keys: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not a list of keys: something follows its JSON object")
	}
	var faults []error
	seen := map[string]bool{}
	for i, k := range l.Keys {
		who := fmt.Sprintf("key %d", i)
		if nameForm.MatchString(k.Name) {
			who = k.Name
		}
		for _, f := range k.faults() {
			faults = append(faults, fmt.Errorf("%s: %w", who, f))
		}
		for _, unique := range []string{"id " + k.ID, "name " + k.Name, fmt.Sprintf("sha256 %x", k.SHA256)} {
			if seen[unique] {
				faults = append(faults, fmt.Errorf("%s: another key has the %s", who, unique))
			}
			seen[unique] = true
		}
	}
	return l.Keys, errors.Join(faults...)
}

func (k *Key) faults() (faults []error) {
	if !idForm.MatchString(k.ID) {
		faults = append(faults, fmt.Errorf("id must be key_ and 10 characters of a–z and 2–7, not %q", k.ID))
	}
	if !nameForm.MatchString(k.Name) {
		faults = append(faults, fmt.Errorf("name must be 1 to 64 letters, digits and . _ @ -, not %q", k.Name))
	}
	if k.SHA256 == (digest{}) {
		faults = append(faults, errDigest)
	}
	if len(k.Scopes) == 0 {
		faults = append(faults, errors.New("scopes must name at least one of generate, read and admin"))
	}
	for _, s := range k.Scopes {
		if !slices.Contains(Scopes(), s) {
			faults = append(faults, fmt.Errorf("scopes must be of generate, read and admin, not %q", s))
		}
	}
	for _, f := range []struct {
		name           string
		v, least, most int
	}{
		{"weight", k.Weight, 0, 1000}, {"priority", k.Priority, -100, 100}, {"concurrency", k.Concurrency, 0, 100_000},
		{"requests_per_minute", k.RequestsPerMinute, 0, 1_000_000}, {"pictures_per_day", k.PicturesPerDay, 0, 1_000_000_000},
	} {
		if f.v < f.least || f.v > f.most {
			faults = append(faults, fmt.Errorf("%s must be from %d to %d, not %d", f.name, f.least, f.most, f.v))
		}
	}
	return faults
}

// ReadFile reads a file of keys.
func ReadFile(file string) ([]Key, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	all, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return all, nil
}

// ErrNotEmpty is Create's answer when it was to make the first key of a file that has one.
var ErrNotEmpty = errors.New("the file has a key already")

// Create adds a key to a file, which it makes where there is none, and returns
// it with its secret, which is nowhere else. Of k it takes Name, Scopes and
// Limits. With first it wants the file to be without any key, else ErrNotEmpty.
func Create(file string, k Key, first bool) (created Key, secret string, err error) {
	secret = newSecret()
	k.SHA256, k.Created = digestOf(secret), time.Now().UTC().Truncate(time.Second)
	k.ID = "key_" + encoding.EncodeToString(k.SHA256[:])[:10]
	err = change(file, func(all []Key) ([]Key, error) {
		if first && len(all) > 0 {
			return nil, ErrNotEmpty
		}
		if slices.ContainsFunc(all, func(other Key) bool { return other.Name == k.Name }) {
			return nil, fmt.Errorf("%s has a key named %s already; revoke it first, or choose another name", file, k.Name)
		}
		return append(all, k), errors.Join(k.faults()...)
	})
	return k, secret, err
}

// Revoke removes the key with that id or name from a file.
func Revoke(file, which string) (revoked Key, err error) {
	err = change(file, func(all []Key) ([]Key, error) {
		i := slices.IndexFunc(all, func(k Key) bool { return k.ID == which || k.Name == which })
		if i < 0 {
			return nil, fmt.Errorf("%s has no key %q (`facediffuser keys list` shows them)", file, which)
		}
		revoked = all[i]
		return slices.Delete(all, i, i+1), nil
	})
	return revoked, err
}

// change rewrites a file of keys in one step: a reader sees the old list or the
// new one, and of two writers the second waits for the first. A symbolic link
// stays one, and the file keeps its mode and, where that is permitted, its owner.
func change(file string, edit func([]Key) ([]Key, error)) error {
	if target, err := filepath.EvalSymlinks(file); err == nil {
		file = target
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// A lock on the folder leaves no file behind.
	folder, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", folder.Name(), err)
	}
	all, err := ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if all, err = edit(all); err != nil {
		return err
	}
	text, err := json.MarshalIndent(list{Keys: append([]Key{}, all...)}, "", "  ")
	if err != nil {
		return err
	}
	pending, err := renameio.NewPendingFile(file, renameio.WithPermissions(0o600))
	if err != nil {
		return err
	}
	defer pending.Cleanup() //nolint:errcheck // gone already when all went well
	if err := keepOwner(pending.File, file); err != nil {
		return err
	}
	if _, err := pending.Write(append(text, '\n')); err != nil {
		return err
	}
	return pending.CloseAtomicallyReplace()
}

// ParseScopes reads scopes as the command line has them.
func ParseScopes(names []string) (scopes []Scope, err error) {
	for _, name := range names {
		s := Scope(strings.TrimSpace(name))
		if !slices.Contains(Scopes(), s) {
			return nil, fmt.Errorf("scope %q is none of generate, read and admin", name)
		}
		if !slices.Contains(scopes, s) {
			scopes = append(scopes, s)
		}
	}
	return scopes, nil
}

// keepOwner gives a new file the owner, group and mode of the old one, where there is
// one. Whoever may not do so becomes the owner.
func keepOwner(f *os.File, old string) error {
	info, err := os.Stat(old)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil && !errors.Is(err, os.ErrPermission) {
			return err
		}
	}
	return f.Chmod(info.Mode().Perm())
}
