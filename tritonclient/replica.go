package tritonclient

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"google.golang.org/grpc"

	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// ReplicaStatus is a snapshot of one replica.
type ReplicaStatus struct {
	Address     string
	Ready       bool   // the last readiness probe succeeded; false before the first
	Breaker     string // "closed", "half-open" or "open"
	Outstanding int    // calls in flight
	Err         error  // why it is not ready; nil before the first probe
}

// Usable says whether calls are sent to the replica.
func (s ReplicaStatus) Usable() bool { return s.Ready && s.Breaker != "open" }

// replica is one server. Only its probe goroutine and Pool.Ready change readiness.
type replica struct {
	address     string
	conn        *grpc.ClientConn
	client      inference.GRPCInferenceServiceClient
	outstanding atomic.Int64
	breaker     atomic.Pointer[gobreaker.TwoStepCircuitBreaker[struct{}]]
	models      *models
	onChange    func(ReplicaStatus)
	// ask is one readiness call; a field so that time can be tested without a network.
	ask func(context.Context) error

	mu     sync.Mutex
	probed bool // at least one probe has a result
	why    error
	misses int           // probes in a row without an answer
	down   time.Time     // when readiness was lost last; zero before
	outage time.Duration // how long it was lost the last time that it came back
	opened time.Time     // when the present breaker opened last
}

// ErrNotReady is the readiness of a server that can be reached: a model is not loaded, or
// it is starting or shutting down.
var ErrNotReady = errors.New("the server answers that it is not ready")

func newReplica(address string, conn *grpc.ClientConn, onChange func(ReplicaStatus), onModel func(ModelStatus)) *replica {
	r := &replica{address: address, conn: conn, onChange: onChange}
	r.models = newModels(address, r.canary, onModel)
	if conn != nil {
		r.client = inference.NewGRPCInferenceServiceClient(conn)
	}
	r.ask = func(ctx context.Context) error {
		answer, err := r.client.ServerReady(ctx, &inference.ServerReadyRequest{})
		if err == nil && !answer.Ready {
			err = ErrNotReady
		}
		return err
	}
	r.renewBreaker()
	return r
}

func (r *replica) renewBreaker() {
	r.breaker.Store(gobreaker.NewTwoStepCircuitBreaker[struct{}](breakerSettings(r.address, func() {
		r.mu.Lock()
		r.opened = time.Now()
		r.mu.Unlock()
	})))
}

// watch probes until ctx ends.
func (r *replica) watch(ctx context.Context) {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		_ = r.probe(ctx) // kept in the replica
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// probe asks the server whether it is ready, keeps the answer and returns it.
func (r *replica) probe(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	began := time.Now()
	err := r.ask(asking)
	if ctx.Err() != nil {
		return err // the pool is closed, or the caller gave up: no answer
	}
	before := r.status()
	r.mu.Lock()
	if err != nil && kindOf(err) == DeadlineExceeded {
		r.misses++
	} else {
		r.misses = 0
	}
	if r.misses == 0 || r.misses >= probeMisses || !r.probed {
		switch lost := r.probed && r.why == nil && err != nil; {
		case lost:
			r.down = began
		case r.why != nil && err == nil && !r.down.IsZero():
			r.outage = time.Since(r.down)
		}
		r.probed, r.why = true, err
	}
	opened := r.opened
	r.mu.Unlock()
	if err == nil && before.Breaker != gobreaker.StateClosed.String() && began.After(opened) {
		r.renewBreaker()
	}
	if err == nil && !before.Ready {
		r.models.forget() // it may be a new process
	}
	if after := r.status(); r.onChange != nil && (after.Ready != before.Ready || after.Breaker != before.Breaker) {
		r.onChange(after)
	}
	return err
}

func (r *replica) status() ReplicaStatus {
	breaker := r.breaker.Load().State().String()
	r.mu.Lock()
	defer r.mu.Unlock()
	return ReplicaStatus{
		Address:     r.address,
		Ready:       r.probed && r.why == nil,
		Breaker:     breaker,
		Outstanding: int(r.outstanding.Load()),
		Err:         r.why,
	}
}

// recovery is how long the replica can be expected to be out of use from now: what its
// last outage would still take.
func (r *replica) recovery() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	expected := r.outage
	if expected == 0 {
		expected = usualOutage
	}
	if r.why == nil || r.down.IsZero() {
		return expected
	}
	passed := time.Since(r.down)
	if passed < expected {
		return expected - passed
	}
	return min(max(passed-expected, time.Second), maxRecovery) // late, and perhaps as late again
}

// refusal says why no call of a model, or about the server if it is "", is sent to the
// replica, nil if calls are. Before the first probe has an answer the replica gets the
// benefit of the doubt.
func (r *replica) refusal(model string) *Error {
	if why := r.notReady(); why != nil {
		return why
	}
	if r.breaker.Load().State() == gobreaker.StateOpen {
		return &Error{Replica: r.address, Kind: BreakerOpen, Err: gobreaker.ErrOpenState}
	}
	if why := r.models.refusal(model); why != nil && !r.models.admits(model) {
		return &Error{Replica: r.address, Kind: BreakerOpen, Err: why}
	}
	return nil
}

// notReady says why the last probe failed, nil if it did not.
func (r *replica) notReady() *Error {
	r.mu.Lock()
	why := r.why
	r.mu.Unlock()
	if why == nil {
		return nil
	}
	kind := kindOf(why)
	if kind != PermissionDenied {
		kind = Unavailable
	}
	return &Error{Replica: r.address, Kind: kind, Err: why}
}

// call runs one attempt under the breaker.
func (r *replica) call(ctx context.Context, attempt func(context.Context, *replica) error) error {
	done, err := r.breaker.Load().Allow()
	if err != nil {
		return &Error{Kind: BreakerOpen, Err: err}
	}
	r.outstanding.Add(1)
	defer r.outstanding.Add(-1)
	err = attempt(ctx, r)
	if err != nil {
		err = failure(ctx, err)
	}
	done(err)
	return err
}

// charge counts an answer against the replica of which it turned out later that it was bad.
func (r *replica) charge(bad *Error) {
	if done, err := r.breaker.Load().Allow(); err == nil {
		done(&Error{Kind: BadResponse, Err: bad})
	}
}
