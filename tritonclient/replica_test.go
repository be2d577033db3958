package tritonclient

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = status.Error(codes.Unavailable, "connection refused")

// watched is a replica whose probes answer what answer says (nil at first), in
// virtual time.
func watched(t *testing.T, answer *atomic.Value) (*replica, *[]ReplicaStatus) {
	answer.Store(errNone)
	var changes []ReplicaStatus
	r := newReplica("test", nil, func(s ReplicaStatus) { changes = append(changes, s) }, nil)
	r.ask = func(ctx context.Context) error {
		switch err := answer.Load().(error); {
		case errors.Is(err, errHang):
			<-ctx.Done()
			return status.FromContextError(ctx.Err()).Err()
		case errors.Is(err, errNone):
			return nil
		}
		return errDown
	}
	ctx, cancel := context.WithCancel(context.Background())
	go r.watch(ctx)
	t.Cleanup(func() { cancel(); synctest.Wait() })
	synctest.Wait()
	return r, &changes
}

var (
	errHang = errors.New("hang")
	errNone = errors.New("no error")
	errDead = errors.New("down")
)

func (r *replica) failing(ctx context.Context, err error) error {
	return r.call(ctx, func(context.Context, *replica) error { return err })
}

func TestReadinessClosesTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer atomic.Value
		r, _ := watched(t, &answer)
		if s := r.status(); !s.Usable() {
			t.Fatalf("%+v after a good probe", s)
		}
		answer.Store(errDead)
		for range tripAfter {
			if r.refusal("") != nil {
				t.Fatalf("refused after fewer than %d failures", tripAfter)
			}
			if err := r.failing(t.Context(), errDown); !errors.Is(err, Unavailable) {
				t.Fatal(err)
			}
		}
		if why := r.refusal(""); why == nil || why.Kind != BreakerOpen {
			t.Fatalf("%d failures in a row: %v, want BreakerOpen", tripAfter, why)
		}
		if err := r.failing(t.Context(), nil); !errors.Is(err, BreakerOpen) {
			t.Fatalf("a call through an open breaker: %v", err)
		}
		time.Sleep(probeInterval)
		synctest.Wait()
		if why := r.refusal(""); why == nil || why.Kind != Unavailable || !errors.Is(why, errDown) {
			t.Fatalf("after a failed probe: %v, want Unavailable with its reason", why)
		}
		answer.Store(errNone)
		time.Sleep(probeInterval)
		synctest.Wait()
		if why := r.refusal(""); why != nil {
			t.Fatalf("one probe interval after its return: %v", why)
		}
		if err := r.failing(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	})
}

// TestProbeFromBeforeTheFailures must not close the breaker: it says nothing about
// what came after it began.
func TestProbeFromBeforeTheFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplica("test", nil, nil, nil)
		r.ask = func(context.Context) error {
			time.Sleep(100 * time.Millisecond) // on its way while the breaker opens
			return nil
		}
		go func() { _ = r.probe(t.Context()) }()
		time.Sleep(50 * time.Millisecond)
		for range tripAfter {
			_ = r.failing(t.Context(), errDown)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if why := r.refusal(""); why == nil || why.Kind != BreakerOpen {
			t.Fatalf("%v, want BreakerOpen", why)
		}
		if err := r.probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		if why := r.refusal(""); why != nil {
			t.Fatalf("after a probe that began later: %v", why)
		}
	})
}

// TestOldFailuresDoNotCount: calls that began before the breaker was renewed end after it.
func TestOldFailuresDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplica("test", nil, nil, nil)
		r.ask = func(context.Context) error { return nil }
		for range 2 * tripAfter {
			go func() {
				_ = r.call(t.Context(), func(context.Context, *replica) error {
					time.Sleep(time.Second)
					return errDown
				})
			}()
		}
		synctest.Wait()
		for range tripAfter {
			_ = r.failing(t.Context(), errDown)
		}
		time.Sleep(time.Millisecond)
		if err := r.probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if why := r.refusal(""); why != nil {
			t.Fatalf("failures of the old generation count: %v", why)
		}
	})
}

func TestHalfOpenWithoutProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplica("test", nil, nil, nil)
		for range tripAfter {
			_ = r.failing(t.Context(), errDown)
		}
		time.Sleep(halfOpenAfter + time.Millisecond)
		if why := r.refusal(""); why != nil {
			t.Fatalf("still refused after %v: %v", halfOpenAfter, why)
		}
		if err := r.failing(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if s := r.status(); s.Breaker != "closed" {
			t.Errorf("breaker %s after a success", s.Breaker)
		}
	})
}

func TestSlowProbesCountWhenTheyRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer atomic.Value
		r, changes := watched(t, &answer)
		answer.Store(errHang)
		for range probeMisses {
			if why := r.refusal(""); why != nil {
				t.Fatalf("after fewer than %d probes without an answer: %v", probeMisses, why)
			}
			time.Sleep(probeInterval + probeTimeout)
			synctest.Wait()
		}
		if why := r.refusal(""); why == nil || why.Kind != Unavailable {
			t.Fatalf("after %d probes without an answer: %v, want Unavailable", probeMisses, why)
		}
		answer.Store(errNone)
		time.Sleep(probeInterval + probeTimeout)
		synctest.Wait()
		if why := r.refusal(""); why != nil {
			t.Fatalf("after an answer: %v", why)
		}
		var ready []bool
		for _, c := range *changes {
			ready = append(ready, c.Ready)
		}
		if len(ready) != 3 || !ready[0] || ready[1] || !ready[2] {
			t.Errorf("changes told: %v, want ready, not ready, ready", ready)
		}
	})
}

func TestPolicy(t *testing.T) {
	type row struct{ trips, retried, excluded bool }
	for kind, want := range map[Kind]row{
		Unavailable:       {trips: true, retried: true},
		Internal:          {trips: true, retried: true},
		BadResponse:       {trips: true, retried: true},
		NotFound:          {retried: true},
		ResourceExhausted: {retried: true},
		PermissionDenied:  {retried: true},
		BreakerOpen:       {retried: true},
		InvalidArgument:   {},
		Canceled:          {excluded: true},
		DeadlineExceeded:  {excluded: true},
		NotFinite:         {retried: true, excluded: true},
	} {
		if got := (row{kind.trips(), kind.retried(), kind.excluded()}); got != want {
			t.Errorf("%s: %+v, want %+v", kind, got, want)
		}
	}
}

func TestKindOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		want Kind
	}{
		{status.Error(codes.Unavailable, "Server is stopping, scheduler for model has stopped accepting new inference requests"), Unavailable},
		{status.Error(codes.Unavailable, "Request for unknown model: 'unet' version 1 is not at ready state"), Unavailable},
		{status.Error(codes.Unavailable, "This protocol is restricted, expecting header 'triton-grpc-protocol-secret'"), PermissionDenied},
		{status.Error(codes.Unavailable, "[request id: 1] Exceeds maximum queue size"), ResourceExhausted},
		{status.Error(codes.Unavailable, "Request timeout expired"), DeadlineExceeded},
		{status.Error(codes.NotFound, "Request for unknown model: 'unet' is not found"), NotFound},
		{status.Error(codes.Internal, "Stub process 'unet_0_0' is not healthy."), Internal},
		{status.Error(codes.Unknown, "?"), Internal},
		{status.Error(codes.Unimplemented, "unknown method"), Internal},
		{errors.New("not a status"), Internal},
		{&Error{Kind: BadResponse, Err: errors.New("x")}, BadResponse},
	} {
		if got := kindOf(test.err); got != test.want {
			t.Errorf("%v is %q, want %q", test.err, got, test.want)
		}
	}
}
