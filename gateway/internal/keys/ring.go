package keys

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Why a secret was refused.
var (
	ErrMalformed = errors.New("keys: not a key of this program: it is cut short or mistyped")
	ErrUnknown   = errors.New("keys: no such key, or it was revoked")
)

// Options of a Ring. File or Text must be set.
type Options struct {
	File string // of keys; followed while the gateway runs
	Text string // a list of keys, as in a file
	Log  *slog.Logger
	// Reloaded, if set, is told of every change of the file: the number of keys
	// in force now, and why a new list was not taken (nil: it was).
	Reloaded func(keys int, err error)
}

// Ring holds the keys in force. It is safe for concurrent use.
type Ring struct {
	o     Options
	fixed []Key // of Text

	mu         sync.RWMutex
	principals []*Principal
	content    []byte // of the file, as it was last read
	unreadable string // why the file could not be read the last time
}

// Open reads the keys. A ring without any key is valid: it lets nobody in.
func Open(o Options) (*Ring, error) {
	r := &Ring{o: o}
	var err error
	if o.Text != "" {
		if r.fixed, err = Parse([]byte(o.Text)); err != nil {
			return nil, err
		}
	}
	if o.File != "" {
		if r.content, err = os.ReadFile(o.File); err != nil {
			return nil, err
		}
	}
	return r, r.take(r.content)
}

// take makes a file's content the keys in force, together with those of Text.
func (r *Ring) take(content []byte) error {
	all := r.fixed
	if r.o.File != "" {
		listed, err := Parse(content)
		if err != nil {
			return fmt.Errorf("%s: %w", r.o.File, err)
		}
		for _, k := range listed {
			for _, f := range r.fixed {
				if k.ID == f.ID || k.Name == f.Name || k.SHA256 == f.SHA256 {
					return fmt.Errorf("%s: the key %s stands in the setting `keys` too", r.o.File, k.Name)
				}
			}
		}
		all = append(listed, all...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	known := map[string]*Principal{}
	for _, p := range r.principals {
		known[p.ID()] = p
	}
	next := make([]*Principal, len(all))
	for i, k := range all {
		if p, ok := known[k.ID]; ok {
			p.become(k)
			next[i] = p
		} else {
			next[i] = newPrincipal(k)
		}
	}
	r.principals = next
	return nil
}

// Len is the number of keys in force.
func (r *Ring) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.principals)
}

// Find returns the holder of a secret, or ErrMalformed or ErrUnknown. Its time
// does not depend on which key it is, nor on how much of one is right.
func (r *Ring) Find(secret string) (*Principal, error) {
	if !wellFormed(secret) {
		return nil, ErrMalformed
	}
	d := digestOf(secret)
	r.mu.RLock()
	defer r.mu.RUnlock()
	found := -1
	for i, p := range r.principals {
		p.mu.Lock()
		same := subtle.ConstantTimeCompare(d[:], p.key.SHA256[:])
		p.mu.Unlock()
		found = subtle.ConstantTimeSelect(same, i, found)
	}
	if found < 0 {
		return nil, ErrUnknown
	}
	return r.principals[found], nil
}

// watchEvery is how late a change of the file may be seen.
const watchEvery = 2 * time.Second

// Watch follows the file until ctx ends. It reads the whole file every time:
// it is small, times of files can lie (two changes within one tick, a file
// put back), and a mounted secret changes by a link.
func (r *Ring) Watch(ctx context.Context) {
	if r.o.File == "" {
		return
	}
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.reload()
		case <-ctx.Done():
			return
		}
	}
}

// reload takes the file's content if it has changed. A list that cannot be
// used changes nothing, and is complained about once.
func (r *Ring) reload() {
	content, err := os.ReadFile(r.o.File)
	switch {
	case err != nil && err.Error() == r.unreadable, err == nil && r.unreadable == "" && bytes.Equal(content, r.content):
		return
	case err != nil:
		r.unreadable = err.Error()
	default:
		r.unreadable, r.content = "", content
		err = r.take(content)
	}
	if err != nil {
		r.o.Log.Error("the keys were not reloaded: those of before stay in force", "error", err, "keys", r.Len())
	} else {
		r.o.Log.Info("the keys were reloaded", "file", r.o.File, "keys", r.Len())
	}
	if r.o.Reloaded != nil {
		r.o.Reloaded(r.Len(), err)
	}
}
