package tritonclient

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

var (
	errStub    = status.Error(codes.Internal, "Stub process 'unet_0_0' is not healthy.") // Triton's words
	errLate    = status.Error(codes.DeadlineExceeded, "context deadline exceeded")
	errInvalid = status.Error(codes.InvalidArgument, "unexpected shape")
)

// tried is a set of models whose canaries answer what answer says, in virtual time.
func tried(t *testing.T, answer func(ctx context.Context) error) (*models, *atomic.Int64, *[]ModelStatus) {
	var canaries atomic.Int64
	var mu sync.Mutex
	var told []ModelStatus
	m := newModels("replica", func(ctx context.Context, _ string) error {
		canaries.Add(1)
		return answer(ctx)
	}, func(s ModelStatus) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, s)
	})
	ctx, cancel := context.WithCancel(context.Background())
	go m.watch(ctx)
	t.Cleanup(func() { cancel(); synctest.Wait() })
	return m, &canaries, &told
}

// TestCanariesDecide: a failed call is only a suspicion.
func TestCanariesDecide(t *testing.T) {
	for name, test := range map[string]struct {
		call, canary error
		canaries     int64
		out          bool
	}{
		"a call that works":                         {nil, errStub, 0, false},
		"a model that fails every call":             {errStub, errStub, 3, true},
		"an input that the model cannot take":       {errStub, nil, 1, false},
		"a model that hangs":                        {errLate, errLate, 3, true},
		"a call that took too long":                 {errLate, nil, 1, false},
		"a model whose queue does not move":         {errLate, status.Error(codes.Unavailable, "Exceeds maximum queue size"), 3, true},
		"a server that is down":                     {errDown, errStub, 0, false},
		"a server that goes down":                   {errStub, errDown, 3, false}, // its probe finds that
		"a model of which canaries can say nothing": {errStub, errInvalid, 1, false},
		"a wrong call":                              {errInvalid, errStub, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, canaries, told := tried(t, func(context.Context) error { return test.canary })
				m.note("unet", time.Second, time.Minute, test.call)
				time.Sleep(2*canaryInterval + canaryInterval/2)
				synctest.Wait()
				if n := canaries.Load(); n != test.canaries {
					t.Errorf("%d canaries, want %d", n, test.canaries)
				}
				why := m.refusal("unet")
				if (why != nil) != test.out {
					t.Errorf("refused: %v, want %v", why, test.out)
				}
				if m.refusal("vae") != nil || m.refusal("") != nil {
					t.Error("another model is refused too")
				}
				if !test.out {
					if len(*told) != 0 {
						t.Errorf("told %+v", *told)
					}
					return
				}
				if !strings.Contains(why.Error(), "4 calls of it have failed in a row, the last one with: "+message(test.canary)) {
					t.Errorf("the reason is %v", why)
				}
				var failures []int
				for _, s := range *told {
					failures = append(failures, s.Failures)
					if s.Model != "unet" || s.Replica != "replica" || !errors.Is(s.Err, test.canary) {
						t.Errorf("told %+v", s)
					}
				}
				if !slices.Equal(failures, []int{2, 3, 4}) { // the call is the first
					t.Errorf("failures told: %v", failures)
				}
			})
		})
	}
}

// TestModelComesBack: by its canary, without any traffic, and by a call that was under way.
func TestModelComesBack(t *testing.T) {
	for _, by := range []string{"canary", "call"} {
		synctest.Test(t, func(t *testing.T) {
			var works atomic.Bool
			m, canaries, told := tried(t, func(context.Context) error {
				if works.Load() {
					return nil
				}
				return errStub
			})
			m.note("unet", time.Second, 0, errStub)
			synctest.Wait()
			if m.refusal("unet") == nil {
				t.Fatal("not refused")
			}
			if by == "canary" {
				works.Store(true)
				time.Sleep(canaryInterval)
			} else {
				m.note("unet", time.Second, 0, nil)
			}
			synctest.Wait()
			if why := m.refusal("unet"); why != nil {
				t.Errorf("%s: still refused: %v", by, why)
			}
			if last := (*told)[len(*told)-1]; last != (ModelStatus{Replica: "replica", Model: "unet"}) {
				t.Errorf("%s: told %+v last", by, last)
			}
			before := canaries.Load()
			time.Sleep(time.Minute)
			if canaries.Load() != before {
				t.Errorf("%s: canaries go on", by)
			}
		})
	}
}

// TestModelThatTakesNoZeros: one real call is let through every halfOpenAfter, and brings the model back.
func TestModelThatTakesNoZeros(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, _ := tried(t, func(context.Context) error { return errStub })
		m.note("unet", time.Second, 0, errStub)
		synctest.Wait()
		for i := range 3 {
			if m.admits("unet") {
				t.Fatalf("%d: a call is let through at once", i)
			}
			time.Sleep(halfOpenAfter - time.Millisecond)
			if m.admits("unet") {
				t.Fatalf("%d: a call is let through too early", i)
			}
			time.Sleep(time.Millisecond)
			if !m.admits("unet") || m.refusal("unet") == nil {
				t.Fatalf("%d: admitted %v, refusal %v; want a call let through, and not ready", i, m.admits("unet"), m.refusal("unet"))
			}
			m.begin("unet")
		}
		m.note("unet", time.Second, 0, nil)
		if !m.admits("unet") || m.refusal("unet") != nil {
			t.Error("a call that works does not bring it back")
		}
	})
}

// TestCanaryTimeout: as a multiple of what calls of the model take, within bounds; never more than its callers give it.
func TestCanaryTimeout(t *testing.T) {
	for _, c := range []struct {
		took, limit, want time.Duration
	}{
		{10 * time.Millisecond, 30 * time.Second, minCanaryTimeout},
		{time.Second, 30 * time.Second, canaryFactor * time.Second},
		{time.Minute, 30 * time.Second, 30 * time.Second},
		{time.Minute, 0, maxCanaryTimeout},
		{0, time.Second, time.Second},
		{0, 0, maxCanaryTimeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			var had atomic.Int64
			m, _, _ := tried(t, func(ctx context.Context) error {
				began := time.Now()
				<-ctx.Done()
				had.CompareAndSwap(0, int64(time.Since(began)))
				return status.FromContextError(ctx.Err()).Err()
			})
			if c.took > 0 {
				m.note("unet", c.took, c.limit, nil)
			}
			m.note("unet", c.limit, c.limit, errLate)
			time.Sleep(2 * maxCanaryTimeout)
			if got := time.Duration(had.Load()); got != c.want {
				t.Errorf("calls took %v of %v: a canary had %v, want %v", c.took, c.limit, got, c.want)
			}
		})
	}
}

// TestServerThatComesBackIsNotBlamed for what its predecessor did: the count begins anew, and a canary decides.
func TestServerThatComesBackIsNotBlamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, told := tried(t, func(context.Context) error { return errStub })
		m.note("unet", time.Second, 0, errStub)
		time.Sleep(5 * canaryInterval)
		synctest.Wait()
		m.forget()
		time.Sleep(canaryInterval)
		synctest.Wait()
		if last := (*told)[len(*told)-1]; last.Failures != 1 {
			t.Errorf("told %+v, want a first failure", last)
		}
	})
}

// TestZeros: one row of every input that a call must have.
func TestZeros(t *testing.T) {
	request, err := zeros(&inference.ModelConfig{
		Name: "unet", MaxBatchSize: 8,
		Input: []*inference.ModelInput{
			{Name: "sample", DataType: inference.DataType_TYPE_FP16, Dims: []int64{4, 8, 8}},
			{Name: "ids", DataType: inference.DataType_TYPE_INT64, Dims: []int64{-1}},
			{Name: "mask", DataType: inference.DataType_TYPE_BOOL, Dims: []int64{1}, Optional: true},
		},
	})
	if err != nil || request.Model != "unet" || len(request.Inputs) != 2 {
		t.Fatalf("%+v, %v", request, err)
	}
	for i, shape := range [][]int64{{1, 4, 8, 8}, {1, 1}} {
		in := request.Inputs[i]
		if err := in.check(); err != nil || !slices.Equal(in.Shape, shape) {
			t.Errorf("%s has the shape %v, want %v (%v)", in.Name, in.Shape, shape, err)
		}
	}
	if _, err := zeros(&inference.ModelConfig{Input: []*inference.ModelInput{{Name: "text", DataType: inference.DataType_TYPE_STRING}}}); err == nil {
		t.Error("a string has zeros")
	}
}

// TestRecoveryOfReplicas: 5 s before an outage was measured, then what is left of one as long as the last.
func TestRecoveryOfReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer atomic.Value
		r, _ := watched(t, &answer)
		check := func(want time.Duration) {
			t.Helper()
			if got := r.recovery(); got < want-probeInterval || got > want+probeInterval {
				t.Errorf("expected in %v, want %v", got, want)
			}
		}
		check(5 * time.Second)
		for _, outage := range []time.Duration{20 * time.Second, 12 * time.Second} {
			answer.Store(errDead)
			time.Sleep(outage)
			answer.Store(errNone)
			time.Sleep(probeInterval)
			synctest.Wait()
			check(outage)
		}
		answer.Store(errDead)
		time.Sleep(4 * time.Second)
		check(8 * time.Second)
		time.Sleep(14 * time.Second) // late by 6 s
		check(6 * time.Second)
	})
}
