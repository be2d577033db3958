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
	"github.com/facediffuser/facediffuser/gateway/internal/keys"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/telemetry"
)

const idempotencyKey = "Idempotency-Key"

// repeats remembers the jobs of requests that carried an Idempotency-Key, so
// that a request sent again gets the pictures of the first instead of new ones.
// It lives in this process only. Jobs that run are bounded by the queue; of
// those that are done it keeps the successful ones, for a time and within a
// budget that counts all they hold, and forgets the oldest beyond it.
type repeats struct {
	metrics *telemetry.Metrics

	mu    sync.Mutex
	byKey map[ownedKey]*repeat
	kept  int // jobs that are done
	bytes int // that these hold
}

// ownedKey is an Idempotency-Key of one principal: others have their own.
type ownedKey struct{ owner, key string }

type repeat struct {
	digest  [sha256.Size]byte
	job     *job.Job
	holders int // requests that wait for the job

	// Of a job that is done and kept.
	since  time.Time
	bytes  int
	expiry *time.Timer
}

const (
	repeatsMaxAge   = 10 * time.Minute
	repeatsMaxKeys  = 256
	repeatsMaxBytes = 32 << 20
	maxKeyLength    = 255
)

func newRepeats(m *telemetry.Metrics) *repeats {
	return &repeats{metrics: m, byKey: map[ownedKey]*repeat{}}
}

// knows says whether a request with that key may find a job.
func (p *repeats) knows(k ownedKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.byKey[k]
	return k.key != "" && ok
}

// submit starts the request's job, or finds the one that an earlier request
// of the same principal with the same key has started. release ends this
// request's interest in the job: a job that nobody waits for is canceled.
func (s *server) submit(c *gin.Context, r *session) (release func(), err error) {
	ctx, admission := c.Request.Context(), admissionOf(c)
	k := ownedKey{principalOf(c).ID(), c.GetHeader(idempotencyKey)}
	if k.key == "" {
		if r.job, err = s.start(ctx, r, admission); err != nil {
			return nil, err
		}
		return r.job.Cancel, nil
	}
	if len(k.key) > maxKeyLength {
		return nil, invalid(idempotencyKey, "%s is %d bytes long, at most %d are taken", idempotencyKey, len(k.key), maxKeyLength)
	}

	digest := r.digest()
	p := s.repeats
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.byKey[k]
	if ok && known.digest != digest {
		return nil, &fault{kind: keyReused, param: idempotencyKey, message: "this " + idempotencyKey + " came with another request before"}
	}
	if ok && known.job.State().Final() && known.job.State() != job.Succeeded {
		ok = false // what did not work may be tried again; settle is about to forget it
	}
	if !ok {
		// The job must outlive this request when another waits for it too.
		started, err := s.start(context.WithoutCancel(ctx), r, admission)
		if err != nil {
			return nil, err
		}
		known = &repeat{digest: digest, job: started}
		p.byKey[k] = known
		go p.settle(k, known)
	}
	known.holders++
	r.job, r.request = known.job, known.job.Request
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if known.holders--; known.holders == 0 && !known.job.State().Final() {
			// Whoever comes with the key now must not meet a job that is being canceled.
			if p.byKey[k] == known {
				delete(p.byKey, k)
			}
			known.job.Cancel()
		}
	}, nil
}

// start spends the key's pictures and submits the job. If it fails, all are
// given back when that is no doing of the client's, and those that were not
// begun when the client left; the others have cost what pictures do.
func (s *server) start(ctx context.Context, r *session, admission *keys.Admission) (*job.Job, error) {
	n := r.request.N
	if err := admission.Spend(n); err != nil {
		return nil, err
	}
	j, err := s.Runner.Submit(ctx, r.request)
	if err != nil {
		admission.Refund(n)
		return nil, err
	}
	go func() {
		_, err := j.Wait(context.WithoutCancel(ctx))
		switch {
		case err == nil:
		case answers[faultOf(err).kind].status >= 500:
			admission.Refund(n)
		case faultOf(err).kind == clientGone:
			admission.Refund(n - begun(j))
		}
	}()
	return j, nil
}

// begun is how many pictures of a job have left the queue.
func begun(j *job.Job) int {
	seen := map[int]bool{}
	events, _ := j.Since(0)
	for _, e := range events {
		if e.Picture != nil {
			seen[e.Picture.Image] = true
		}
	}
	return len(seen)
}

// settle waits for a job and then keeps or forgets it.
func (p *repeats) settle(k ownedKey, r *repeat) {
	_, err := r.job.Wait(context.Background())
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byKey[k] != r {
		return // nobody waited for it, or another has taken its place
	}
	if r.bytes = footprint(r); err != nil || r.bytes > repeatsMaxBytes {
		delete(p.byKey, k)
		return
	}
	r.since = time.Now()
	r.expiry = time.AfterFunc(repeatsMaxAge, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.drop(k, r)
	})
	p.count(1, r.bytes)
	p.shrink()
}

// count changes what is kept; mu is held.
func (p *repeats) count(jobs, bytes int) {
	p.kept += jobs
	p.bytes += bytes
	p.metrics.KeptRequests.Set(float64(p.kept))
	p.metrics.KeptBytes.Set(float64(p.bytes))
}

// drop forgets a kept job; mu is held.
func (p *repeats) drop(k ownedKey, r *repeat) {
	if p.byKey[k] == r {
		r.expiry.Stop()
		p.count(-1, -r.bytes)
		delete(p.byKey, k)
	}
}

// shrink forgets the oldest beyond the bounds; mu is held.
func (p *repeats) shrink() {
	for p.kept > repeatsMaxKeys || p.bytes > repeatsMaxBytes {
		var oldest ownedKey
		var since time.Time
		for k, r := range p.byKey {
			if !r.since.IsZero() && (since.IsZero() || r.since.Before(since)) {
				oldest, since = k, r.since
			}
		}
		p.drop(oldest, p.byKey[oldest])
	}
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
