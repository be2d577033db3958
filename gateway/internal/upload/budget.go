package upload

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"
)

// budget is memory that the bodies of all requests share. A picture is kept
// whole until it is decoded, and text until it is understood, so the budget, not
// the number of requests, decides how much memory bodies take. The rules:
//
//   - A request takes memory chunk by chunk, for bytes about to arrive: a slow
//     client holds little more than it has sent.
//   - Where the budget is used up, requests wait, which slows their senders down
//     (TCP flow control), and those with the shortest bodies come first. A part
//     of the budget is kept for short bodies alone.
//   - The oldest request may exceed the budget, so that one can always finish and
//     return what it holds: no deadlock. It does so only while none of its
//     pictures is being decoded, for that will return memory anyway. The total
//     is thus at most the budget, one file and one request's text.
//   - While one waits, a request that is silent for some time, or does not bring
//     a chunk within patience, is cut off, so that slow clients cannot hold up
//     fast ones. When nobody waits, slow clients may be slow.
//
// Under every condition bodyReader asks for a minimum.
//
// Chosen over a number of upload slots: a slot is held for as long as its client
// likes, and a slow client may be anyone on a mobile network.
type budget struct {
	reserve int64 // kept for short bodies

	mu      sync.Mutex
	free    int64
	shares  []*share  // those that hold memory, oldest first
	waiting []*waiter // shortest body first
}

const (
	minChunk = 32 << 10
	maxChunk = 256 << 10

	// patience and maxChunk together ask for 26 KiB a second under contention.
	patience = 10 * time.Second
	// silence is what a client may be under contention: longer than TCP takes to
	// repeat a lost packet twice.
	silence = 2 * time.Second

	// shortBody is an ordinary request: a few faces, or one photograph made for the web.
	shortBody = 512 << 10
)

func newBudget(size int64) *budget {
	return &budget{free: size, reserve: size / 8}
}

// share is what one request holds of the budget.
type share struct {
	budget *budget
	length int64           // of the whole body; math.MaxInt64 if the client did not say
	cutOff func(time.Time) // ends a Read that waits for the client

	// Guarded by budget.mu.
	held     int64
	beyond   int64     // of that, what exceeds the budget
	decoding int       // pictures
	lastTime time.Time // when it last took memory
	lastByte time.Time // when its client last brought something
	reading  bool      // waits for its client, not for memory
}

// waiter is a request that waits for n bytes.
type waiter struct {
	share *share
	n     int64
	turn  chan struct{} // closed when it has them
}

// open begins a request whose body is length bytes long. cutOff is called, with
// b.mu held, when it is too slow.
func (b *budget) open(length int64, cutOff func(now time.Time)) *share {
	return &share{budget: b, length: length, cutOff: cutOff}
}

// grow takes n bytes of the budget, waiting until they are free or it is this
// request's turn to exceed it.
func (s *share) grow(ctx context.Context, n int64) error {
	b := s.budget
	w := &waiter{share: s, n: n, turn: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.shares, s) {
		b.shares = append(b.shares, s)
	}
	at, _ := slices.BinarySearchFunc(b.waiting, w, func(a, w *waiter) int { return cmp.Or(cmp.Compare(a.share.length, w.share.length), -1) })
	b.waiting = slices.Insert(b.waiting, at, w)
	b.admit()
	for slices.Contains(b.waiting, w) {
		pause := b.cutSlow(time.Now())
		b.mu.Unlock()
		err := wait(ctx, w.turn, pause)
		b.mu.Lock()
		if err != nil {
			b.waiting = slices.DeleteFunc(b.waiting, func(other *waiter) bool { return other == w })
			return err
		}
	}
	return nil
}

// admit gives memory to those that wait; b.mu is held.
func (b *budget) admit() {
	now, used := time.Now(), false // used up for those that come later
	b.waiting = slices.DeleteFunc(b.waiting, func(w *waiter) bool {
		s := w.share
		free := b.free
		if s.length > shortBody {
			free -= b.reserve
		}
		used = used || free < w.n
		if mayExceed := b.shares[0] == s && s.decoding == 0; used && !mayExceed {
			return false
		}
		if used {
			s.beyond += w.n // and not of the budget, whose rest is kept for short bodies
		} else {
			b.free -= w.n
		}
		s.held += w.n
		s.lastTime = now
		close(w.turn)
		return true
	})
}

// shrink returns n bytes.
func (s *share) shrink(n int64) {
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	s.giveBack(n)
	b.admit()
}

// close returns everything. It may be called more than once.
func (s *share) close() {
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	s.giveBack(s.held)
	b.shares = slices.DeleteFunc(b.shares, func(other *share) bool { return other == s })
	b.admit()
}

// giveBack returns n bytes, first those that exceed the budget; b.mu is held.
func (s *share) giveBack(n int64) {
	beyond := min(n, s.beyond)
	s.beyond -= beyond
	s.held -= n
	s.budget.free += n - beyond
}

// decodes counts the pictures of the request that are being decoded.
func (s *share) decodes(n int) {
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	s.decoding += n
	b.admit()
}

// cutSlow cuts off requests whose client was silent, or has had patience to
// bring a chunk, and returns after how long to look again. b.mu is held.
func (b *budget) cutSlow(now time.Time) time.Duration {
	pause := patience
	for _, s := range b.shares {
		if !s.reading {
			continue
		}
		left := min(s.lastTime.Add(patience).Sub(now), s.lastByte.Add(silence).Sub(now))
		if left > 0 {
			pause = min(pause, left)
			continue
		}
		s.cutOff(now)
	}
	return pause
}

func wait(ctx context.Context, turn <-chan struct{}, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-turn:
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// read fills p from r. As io.ReadFull, but io.EOF means that r has ended, after
// however many bytes.
func (s *share) read(ctx context.Context, r io.Reader, p []byte) (n int, err error) {
	defer s.setReading(false)
	for n < len(p) && err == nil {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		s.setReading(true)
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	if n == len(p) && err == io.EOF {
		err = nil // found again by the next read
	}
	return n, err
}

func (s *share) setReading(reading bool) {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.reading = reading
	s.lastByte = time.Now()
}

// file is an encoded picture in memory. One goroutine uses it.
type file struct {
	share  *share
	chunks [][]byte // each full but the last
	size   int64
	held   int64
}

// fill reads r to its end, at most limit bytes.
func (f *file) fill(ctx context.Context, r io.Reader, limit int64) error {
	for {
		size := min(max(f.size, minChunk), maxChunk, limit+1-f.size)
		if err := f.share.grow(ctx, size); err != nil {
			return err
		}
		f.held += size
		chunk := make([]byte, size)
		n, err := f.share.read(ctx, r, chunk)
		f.chunks = append(f.chunks, chunk[:n])
		f.size += int64(n)
		if f.size > limit {
			return errorf(KindFileTooLarge, "the file is over the limit of %s; save the picture smaller, or as a JPEG", mebibytes(limit))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// close returns the memory.
func (f *file) close() {
	f.chunks = nil
	f.share.shrink(f.held)
	f.held = 0
}

func (f *file) reader() io.ReadSeeker { return &fileReader{f: f} }

type fileReader struct {
	f     *file
	pos   int64
	chunk int   // index of the chunk that holds pos
	start int64 // where that chunk begins
}

func (r *fileReader) Read(p []byte) (int, error) {
	for r.chunk < len(r.f.chunks) {
		chunk := r.f.chunks[r.chunk]
		if off := r.pos - r.start; off < int64(len(chunk)) {
			n := copy(p, chunk[off:])
			r.pos += int64(n)
			return n, nil
		}
		r.start += int64(len(chunk))
		r.chunk++
	}
	return 0, io.EOF
}

func (r *fileReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.f.size
	}
	if offset < 0 {
		return 0, errors.New("upload: seek before the beginning")
	}
	if offset < r.start {
		r.chunk, r.start = 0, 0
	}
	r.pos = offset
	return offset, nil
}

// text is text that grows within the budget, where it counts until the form is
// closed.
type text struct {
	share *share
	buf   []byte
	limit int
	over  func() error // the error of text over the limit
}

// room makes place for at least one more byte; it takes one over the limit, by
// which that is noticed.
func (t *text) room(ctx context.Context) error {
	if len(t.buf) > t.limit {
		return t.over()
	}
	if len(t.buf) < cap(t.buf) {
		return nil
	}
	more := min(max(len(t.buf), 512), t.limit+1-len(t.buf))
	if err := t.share.grow(ctx, int64(more)); err != nil {
		return err
	}
	t.buf = append(make([]byte, 0, len(t.buf)+more), t.buf...)
	return nil
}

// fill reads r to its end.
func (t *text) fill(ctx context.Context, r io.Reader) error {
	for {
		if err := t.room(ctx); err != nil {
			return err
		}
		n, err := t.share.read(ctx, r, t.buf[len(t.buf):cap(t.buf)])
		t.buf = t.buf[:len(t.buf)+n]
		switch {
		case len(t.buf) > t.limit:
			return t.over()
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// put appends one byte.
func (t *text) put(ctx context.Context, c byte) error {
	if err := t.room(ctx); err != nil {
		return err
	}
	t.buf = append(t.buf, c)
	if len(t.buf) > t.limit {
		return t.over()
	}
	return nil
}
