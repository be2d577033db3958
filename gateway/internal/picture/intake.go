package picture

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"
)

// intake shares a budget of memory between the uploads of all requests. An
// upload is kept whole until it is decoded, so the budget, not the number of
// requests, decides how much memory uploads take. The rules:
//
//   - An upload takes memory chunk by chunk, for bytes about to arrive: a slow
//     client holds little more than it has sent.
//   - Where the budget is used up, uploads wait, which slows their senders down
//     (TCP flow control). The oldest one may exceed the budget, so that one can
//     always finish and return what it holds: no deadlock. The total is thus at
//     most the budget plus one file.
//   - While one waits, an upload that does not bring a chunk within patience is
//     cut off, so that slow clients cannot hold up fast ones. When nobody waits,
//     slow clients may be slow.
//
// Under every condition bodyReader asks for a minimum.
//
// Chosen over a number of upload slots: a slot is held for as long as its client
// likes, and a slow client may be anyone on a mobile network.
type intake struct {
	mu      sync.Mutex
	free    int64         // of the budget; negative while the oldest exceeds it
	uploads []*upload     // those that hold memory, oldest first
	waiting int           // how many wait for memory
	changed chan struct{} // closed and replaced when memory returns
}

const (
	minChunk = 32 << 10
	maxChunk = 256 << 10

	// patience and maxChunk together ask for 26 KiB a second under contention.
	patience = 10 * time.Second
)

func newIntake(budget int64) *intake {
	return &intake{free: budget, changed: make(chan struct{})}
}

// upload is the encoded picture of one part of a request. One goroutine uses it.
type upload struct {
	intake *intake
	cutOff func(time.Time) // ends a Read that waits for the client

	chunks [][]byte // each full but the last
	size   int64

	// Guarded by intake.mu.
	held     int64
	lastTime time.Time // when it last took memory
	reading  bool      // waits for its client, not for memory
}

// open begins an upload. cutOff is called, with in.mu held, when it is too slow.
func (in *intake) open(cutOff func(now time.Time)) *upload {
	return &upload{intake: in, cutOff: cutOff}
}

// close returns the memory.
func (u *upload) close() {
	u.chunks = nil
	in := u.intake
	in.mu.Lock()
	defer in.mu.Unlock()
	in.free += u.held
	u.held = 0
	if i := slices.Index(in.uploads, u); i >= 0 {
		in.uploads = slices.Delete(in.uploads, i, i+1)
	}
	in.wake()
}

func (in *intake) wake() {
	close(in.changed)
	in.changed = make(chan struct{})
}

// fill reads r to its end, at most limit bytes.
func (u *upload) fill(ctx context.Context, r io.Reader, limit int64) error {
	for {
		size := min(max(u.size, minChunk), maxChunk, limit+1-u.size)
		if err := u.grow(ctx, size); err != nil {
			return err
		}
		chunk := make([]byte, 0, size)
		n, err := u.read(ctx, r, chunk[:size])
		u.chunks = append(u.chunks, chunk[:n])
		u.size += int64(n)
		if u.size > limit {
			return errorf(KindTooManyBytes, "the file is over the limit of %s", mebibytes(limit))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// grow takes n bytes of the budget, waiting until they are free or this is the
// oldest upload.
func (u *upload) grow(ctx context.Context, n int64) error {
	in := u.intake
	in.mu.Lock()
	defer in.mu.Unlock()
	if !slices.Contains(in.uploads, u) {
		in.uploads = append(in.uploads, u)
	}
	for in.free < n && in.uploads[0] != u {
		changed := in.changed
		in.waiting++
		pause := in.cutSlow(time.Now())
		in.mu.Unlock()
		err := wait(ctx, changed, pause)
		in.mu.Lock()
		in.waiting--
		if err != nil {
			return err
		}
	}
	in.free -= n
	u.held += n
	u.lastTime = time.Now()
	return nil
}

// cutSlow cuts off uploads whose client has had patience to bring a chunk, and
// returns after how long to look again. in.mu is held.
func (in *intake) cutSlow(now time.Time) time.Duration {
	pause := patience
	for _, u := range in.uploads {
		if !u.reading {
			continue
		}
		if left := u.lastTime.Add(patience).Sub(now); left > 0 {
			pause = min(pause, left)
			continue
		}
		u.cutOff(now)
	}
	return pause
}

func wait(ctx context.Context, changed <-chan struct{}, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// read fills p from r. As io.ReadFull, but io.EOF means that r has ended, after
// however many bytes.
func (u *upload) read(ctx context.Context, r io.Reader, p []byte) (n int, err error) {
	u.setReading(true)
	defer u.setReading(false)
	for n < len(p) && err == nil {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	if n == len(p) && err == io.EOF {
		err = nil // found again by the next read
	}
	return n, err
}

func (u *upload) setReading(reading bool) {
	u.intake.mu.Lock()
	defer u.intake.mu.Unlock()
	u.reading = reading
}

// head returns the first bytes, enough to recognise any format.
func (u *upload) head() []byte {
	if len(u.chunks) == 0 {
		return nil
	}
	return u.chunks[0][:min(len(u.chunks[0]), 512)]
}

// reader reads the upload from its beginning; it ends with the cause of ctx.
func (u *upload) reader(ctx context.Context) *uploadReader {
	return &uploadReader{ctx: ctx, u: u}
}

type uploadReader struct {
	ctx   context.Context //nolint:containedctx // a reader has no other way to be cancelled
	u     *upload
	pos   int64
	chunk int   // index of the chunk that holds pos
	start int64 // where that chunk begins
}

func (r *uploadReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	for r.chunk < len(r.u.chunks) {
		chunk := r.u.chunks[r.chunk]
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

func (r *uploadReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.u.size
	}
	if offset < 0 {
		return 0, errors.New("picture: seek before the beginning")
	}
	if offset < r.start {
		r.chunk, r.start = 0, 0
	}
	r.pos = offset
	return offset, nil
}
