package keys

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Principal is who asks: the holder of a key, or Anonymous where no key is
// needed. It is safe for concurrent use.
type Principal struct {
	id     string
	mu     sync.Mutex
	key    Key
	rate   *rate.Limiter // nil: no limit
	active int           // admissions that are not done
	day    int64         // since 1970 in UTC, which spent belongs to
	spent  int           // pictures
}

// Anonymous may do everything, without limits: who asks where there are no keys.
var Anonymous = &Principal{key: Key{Scopes: Scopes()}}

func newPrincipal(k Key) *Principal {
	p := &Principal{id: k.ID}
	p.become(k)
	return p
}

// become takes over what a reload says of the key. What was used stays used.
func (p *Principal) become(k Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch n := k.RequestsPerMinute; {
	case n == 0:
		p.rate = nil
	case p.rate == nil:
		p.rate = rate.NewLimiter(perMinute(n), n)
	default:
		p.rate.SetLimit(perMinute(n))
		p.rate.SetBurst(n)
	}
	p.key = k
}

func perMinute(n int) rate.Limit { return rate.Limit(float64(n) / 60) }

// ID identifies the key and is no secret; "" is Anonymous.
func (p *Principal) ID() string { return p.id }

// Key is the key's entry.
func (p *Principal) Key() Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.key
}

// May says whether the principal has a scope. Whoever has any may read.
func (p *Principal) May(s Scope) bool {
	scopes := p.Key().Scopes
	return s == Read && len(scopes) > 0 || slices.Contains(scopes, s)
}

// LimitKind is the limit that was met.
type LimitKind string

const (
	Rate        LimitKind = "requests"
	Quota       LimitKind = "pictures"
	Concurrency LimitKind = "concurrency"
)

// LimitError refuses what would go beyond a limit of the key.
type LimitError struct {
	Kind  LimitKind
	Limit int
	After time.Duration // until it may work; 0: when a request of the same key ends
}

func (e *LimitError) Error() string {
	switch e.Kind {
	case Rate:
		return fmt.Sprintf("this key may send %d requests for pictures a minute", e.Limit)
	case Quota:
		return fmt.Sprintf("this key may have %d pictures a day (UTC), and too few of them are left", e.Limit)
	}
	return fmt.Sprintf("this key may have %d requests for pictures in progress at once", e.Limit)
}

// Admission is one request for pictures that its key's limits let in.
type Admission struct {
	p        *Principal
	counted  bool // among the active
	pictures int
	day      int64
}

// Admit lets one request in, before anyone knows how many pictures it asks
// for: one must be left. Whoever is admitted calls Done.
func (p *Principal) Admit() (*Admission, error) { return p.admit(true) }

// AdmitRepeat lets a request in that may turn out to be one of before, whose
// pictures are there: only its rate counts until it spends pictures.
func (p *Principal) AdmitRepeat() (*Admission, error) { return p.admit(false) }

func (p *Principal) admit(count bool) (*Admission, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.turn(now)
	a := &Admission{p: p}
	if count {
		if err := a.fits(1, now); err != nil {
			return nil, err
		}
	}
	if p.rate != nil && !p.rate.AllowN(now, 1) {
		missing := 1 - p.rate.TokensAt(now)
		return nil, &LimitError{Kind: Rate, Limit: p.key.RequestsPerMinute, After: seconds(missing / float64(p.rate.Limit()))}
	}
	if count {
		a.count()
	}
	return a, nil
}

// fits says whether the limits have room for the admission with n more pictures; mu is held.
func (a *Admission) fits(n int, now time.Time) error {
	p := a.p
	if limit := p.key.PicturesPerDay; limit > 0 && p.spent+n > limit {
		return p.quotaError(now)
	}
	if limit := p.key.Concurrency; limit > 0 && !a.counted && p.active >= limit {
		return &LimitError{Kind: Concurrency, Limit: limit}
	}
	return nil
}

// count makes the admission one of the active; mu is held.
func (a *Admission) count() {
	if !a.counted {
		a.counted = true
		a.p.active++
	}
}

// Spend takes n pictures off the day's quota, or none and returns a *LimitError.
func (a *Admission) Spend(n int) error {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	now := time.Now()
	a.p.turn(now)
	if err := a.fits(n, now); err != nil {
		return err
	}
	a.count()
	a.p.spent += n
	a.pictures += n
	a.day = a.p.day
	return nil
}

// Refund gives back n of the pictures that the admission has spent, at most all.
func (a *Admission) Refund(n int) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	n = min(n, a.pictures)
	if a.day == a.p.day {
		a.p.spent -= n
	}
	a.pictures -= n
}

// Done ends the admission. It is called once.
func (a *Admission) Done() {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	if a.counted {
		a.p.active--
	}
}

const day = 24 * time.Hour

// turn begins a new day; mu is held.
func (p *Principal) turn(now time.Time) {
	if today := now.Unix() / int64(day/time.Second); today != p.day {
		p.day, p.spent = today, 0
	}
}

func (p *Principal) quotaError(now time.Time) error {
	return &LimitError{Kind: Quota, Limit: p.key.PicturesPerDay, After: midnight(now)}
}

// midnight is the time until the day of UTC ends.
func midnight(now time.Time) time.Duration {
	return now.UTC().Truncate(day).Add(day).Sub(now)
}

// Allowance is one limit with what is left of it.
type Allowance struct {
	Limit, Remaining int
	Reset            time.Duration // until all of it is there again
}

// Requests is the allowance of requests for pictures; ok is false without a limit.
func (p *Principal) Requests() (a Allowance, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate == nil {
		return a, false
	}
	a.Limit = p.key.RequestsPerMinute
	tokens := max(0, p.rate.Tokens())
	a.Remaining = int(tokens)
	a.Reset = seconds((float64(a.Limit) - tokens) / float64(p.rate.Limit()))
	return a, true
}

// Pictures is the allowance of pictures; ok is false without a limit.
func (p *Principal) Pictures() (a Allowance, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.turn(now)
	a.Limit = p.key.PicturesPerDay
	a.Remaining = max(0, a.Limit-p.spent)
	if p.spent > 0 {
		a.Reset = midnight(now)
	}
	return a, a.Limit > 0
}

func seconds(s float64) time.Duration {
	return time.Duration(math.Ceil(s*1000)) * time.Millisecond
}
