package upload

import (
	"errors"
	"io"
	"math"
	"net/http"
	"os"
	"sync"
	"time"
)

// Body is the body of a request on its way in.
type Body struct {
	Reader          io.Reader
	ContentType     string
	ContentLength   int64                 // 0 or −1 if the client did not say
	ContentEncoding string                // of the content that was sent; empty for none
	SetReadDeadline func(time.Time) error // of the connection; nil where there is none
}

// RequestBody takes the body of r, whose response goes to w.
func RequestBody(w http.ResponseWriter, r *http.Request) Body {
	h := r.Header
	b := Body{Reader: r.Body, ContentType: h.Get("Content-Type"), ContentLength: r.ContentLength, ContentEncoding: h.Get("Content-Encoding")}
	set := http.NewResponseController(w).SetReadDeadline
	if set(time.Time{}) == nil {
		b.SetReadDeadline = set
	}
	return b
}

// length is that of the content, as far as it is known.
func (b Body) length() int64 {
	if b.ContentLength <= 0 || b.compressed() {
		return math.MaxInt64
	}
	return b.ContentLength
}

// Drop reads a body that nobody wants, within the limits that hold after an
// error. A client that is still sending would otherwise see a broken connection
// instead of the answer.
func (b Body) Drop() { b.open(0, 0).finish(nil) }

const (
	// A client has to bring idleBytes within idleTimeout of reading: 1 KiB a
	// second. Time in which the gateway does not read does not count.
	idleTimeout = 15 * time.Second
	idleBytes   = 16 << 10

	// After an error the rest of a body is read and dropped up to these limits
	// (see Body.Drop).
	drainBytes   = 64 << 20
	drainTimeout = 10 * time.Second
)

// bodyReader enforces the limits of size and speed.
type bodyReader struct {
	r           io.Reader
	left        int64 // bytes until the body is too large
	limit       int64
	timeout     time.Duration
	end         time.Time // of the whole body
	setDeadline func(time.Time) error

	mu      sync.Mutex
	cut     bool          // by the intake, for being slow while others wait
	patient time.Duration // reading time left for the current idleBytes
	got     int64         // of the current idleBytes
}

func (b Body) open(limit int64, timeout time.Duration) *bodyReader {
	r := &bodyReader{
		r: b.Reader, left: limit, limit: limit, setDeadline: b.SetReadDeadline,
		timeout: timeout, end: time.Now().Add(timeout), patient: idleTimeout,
	}
	if r.setDeadline == nil {
		r.setDeadline = func(time.Time) error { return nil }
	}
	return r
}

func (b *bodyReader) Read(p []byte) (int, error) {
	start := time.Now()
	if err := b.arm(start); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errorf(KindBodyTooLarge, "the request body is over the limit of %s", mebibytes(b.limit))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.patient -= time.Since(start)
	if b.got += int64(n); b.got >= idleBytes {
		b.got, b.patient = 0, idleTimeout
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = b.slow()
	}
	return n, err
}

// arm and cutOff set the deadline under one lock, so that neither undoes the
// other.
func (b *bodyReader) arm(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut {
		return b.slow()
	}
	deadline := now.Add(b.patient)
	if b.end.Before(deadline) {
		deadline = b.end
	}
	return b.setDeadline(deadline)
}

// cutOff makes the Read under way and all later ones fail.
func (b *bodyReader) cutOff(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut = true
	_ = b.setDeadline(now) // has worked before, in arm
}

func (b *bodyReader) slow() error {
	if b.cut {
		return errorf(KindTooSlow, "the upload is too slow while others wait: nothing in %v, or under %d KiB in %v", silence, maxChunk>>10, patience)
	}
	if !time.Now().Before(b.end) {
		return errorf(KindTooSlow, "the request body took longer than %v to arrive; send less, such as smaller or fewer pictures", b.timeout)
	}
	return errorf(KindTooSlow, "the upload has stalled: under %d KiB in %v", idleBytes>>10, idleTimeout)
}

// finish reads the rest of the body; after its end the server watches for a
// client that leaves, and no deadline may end that watch. A body that does not
// end gets no more time: net/http would wait for it before it answers.
func (b *bodyReader) finish(err error) {
	var e *Error
	ended := false
	if err == nil || errors.As(err, &e) && e.Kind != KindTooSlow {
		if b.setDeadline(time.Now().Add(drainTimeout)) == nil {
			_, err := io.CopyN(io.Discard, b.r, drainBytes)
			ended = errors.Is(err, io.EOF)
		}
	}
	deadline := time.Time{}
	if !ended {
		deadline = time.Now()
	}
	_ = b.setDeadline(deadline) // has worked before
}
