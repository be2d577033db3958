package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
)

// repeats remembers the jobs of requests that carried an Idempotency-Key, so
// that a request sent again gets the pictures of the first instead of new ones.
// It lives in this process only and forgets the oldest beyond its bounds.
type repeats struct {
	mu    sync.Mutex
	byKey map[string]*repeat
}

type repeat struct {
	digest  [sha256.Size]byte
	job     *job.Job
	holders int // requests that wait for the job
}

const (
	repeatsMaxAge   = 10 * time.Minute
	repeatsMaxKeys  = 256
	repeatsMaxBytes = 32 << 20 // of pixels, about
	maxKeyLength    = 255
)

func newRepeats() *repeats { return &repeats{byKey: map[string]*repeat{}} }

// submit starts the request's job, or finds the one that an earlier request
// with the same key has started. release ends this request's interest in the
// job: a job that nobody waits for is canceled.
func (s *server) submit(c *gin.Context, r *session) (release func(), err error) {
	key := c.GetHeader("Idempotency-Key")
	if key == "" {
		if r.job, err = s.Runner.Submit(c.Request.Context(), r.request); err != nil {
			return nil, err
		}
		return r.job.Cancel, nil
	}
	if len(key) > maxKeyLength {
		return nil, invalid("Idempotency-Key", "Idempotency-Key is %d bytes long, at most %d are taken", len(key), maxKeyLength)
	}

	digest := r.digest()
	s.repeats.mu.Lock()
	defer s.repeats.mu.Unlock()
	s.repeats.forget()
	known, ok := s.repeats.byKey[key]
	if ok && known.digest != digest {
		return nil, &fault{kind: keyReused, param: "Idempotency-Key", message: "this Idempotency-Key came with another request before"}
	}
	if ok && known.job.State().Final() && known.job.State() != job.Succeeded {
		ok = false // what did not work may be tried again
	}
	if !ok {
		// The job must outlive this request when another waits for it too.
		started, err := s.Runner.Submit(context.WithoutCancel(c.Request.Context()), r.request)
		if err != nil {
			return nil, err
		}
		known = &repeat{digest: digest, job: started}
		s.repeats.byKey[key] = known
	}
	known.holders++
	r.job, r.request = known.job, known.job.Request
	return func() {
		s.repeats.mu.Lock()
		defer s.repeats.mu.Unlock()
		if known.holders--; known.holders == 0 {
			known.job.Cancel() // nothing to a job that has ended
		}
	}, nil
}

// forget drops what is too old or too much, oldest first; mu is held.
func (p *repeats) forget() {
	oldest := slices.SortedFunc(maps.Keys(p.byKey), func(a, b string) int {
		return p.byKey[a].job.Created.Compare(p.byKey[b].job.Created)
	})
	var bytes int
	for _, k := range oldest {
		bytes += p.byKey[k].bytes()
	}
	for i, k := range oldest {
		r := p.byKey[k]
		if len(oldest)-i < repeatsMaxKeys && bytes <= repeatsMaxBytes && time.Since(r.job.Created) < repeatsMaxAge {
			return
		}
		bytes -= r.bytes()
		delete(p.byKey, k)
	}
}

// bytes is about what the job's pictures take.
func (r *repeat) bytes() int {
	q := r.job.Request
	return 3 * q.Width * q.Height * q.N * (1 + q.Previews)
}

// digest identifies what was asked for: the endpoint, every field as it was
// said, and the pixels of the subjects.
func (r *session) digest() (sum [sha256.Size]byte) {
	h := sha256.New()
	say := func(s string) {
		_ = binary.Write(h, binary.LittleEndian, uint64(len(s))) // a hash takes everything
		_, _ = io.WriteString(h, s)
	}
	say(r.on.path())
	for _, name := range slices.Sorted(maps.Keys(r.said)) {
		say(name)
		say(r.said[name])
	}
	for _, subject := range r.request.Subjects {
		_ = binary.Write(h, binary.LittleEndian, pixels(subject))
	}
	h.Sum(sum[:0])
	return sum
}

func pixels(subject *picture.Reference) []float32 {
	values := make([]float32, 3*subject.Size()*subject.Size())
	subject.PixelValues(values, subject.Size())
	return values
}
