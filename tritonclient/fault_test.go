package tritonclient_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
	"github.com/facediffuser/facediffuser/tritonclient/tritontest"
)

// odd puts a value that is not finite into the first output, FP32 or FP16.
func odd(v float64) tritontest.Fault {
	return tritontest.Fault{Alter: func(r *inference.ModelInferResponse) {
		raw := r.RawOutputContents[0]
		if r.Outputs[0].Datatype == "FP16" {
			binary.LittleEndian.PutUint16(raw[len(raw)-2:], tritonclient.Float32ToFloat16(float32(v)))
			return
		}
		binary.LittleEndian.PutUint32(raw[len(raw)-4:], math.Float32bits(float32(v)))
	}}
}

func finiteSum() tritonclient.Request {
	request := sum()
	request.Outputs[0].Finite = true
	return request
}

// TestOneOddReplica: values that another replica has finite are the replica's fault. Its breaker opens, and no
// caller notices.
func TestOneOddReplica(t *testing.T) {
	servers, pool := replicas(t, 2, tritonclient.Options{})
	servers[0].SetReady(true)
	opened := false
	for range 40 { // in turn: about half of the calls meet the bad one first
		servers[0].Fault("add", odd(math.NaN()))
		response, err := pool.Infer(t.Context(), finiteSum())
		if err != nil {
			t.Fatal(err)
		}
		checkSum(t, response)
		if response.Replica != servers[1].Address() {
			t.Fatal("the answer is of the replica that gives NaN")
		}
		opened = opened || pool.Replicas()[0].Breaker == "open"
	}
	if !opened {
		t.Error("the breaker of the bad replica never opened")
	}
	if s := pool.Replicas()[1]; s.Breaker != "closed" {
		t.Errorf("the breaker of the other is %s", s.Breaker)
	}
}

// TestOddModelAmongOthers: the answers of other models on the same replica do not excuse one that gives NaN.
func TestOddModelAmongOthers(t *testing.T) {
	servers, pool := replicas(t, 2, tritonclient.Options{})
	for range 1000 {
		servers[0].Fault("add", odd(math.NaN()))
	}
	other := tritonclient.Request{Model: "scalar"}
	other.Inputs = []tritonclient.Tensor{tritonclient.Float32("timestep", tritonclient.FP32, []int64{1, 1}, []float32{1})}
	for range 200 {
		response, err := pool.Infer(t.Context(), finiteSum())
		if err != nil {
			t.Fatal(err)
		}
		checkSum(t, response)
		for range 4 {
			if _, err := pool.Infer(t.Context(), other); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := servers[0].Calls("add"); n < 3 || n > 10 {
		t.Errorf("the bad model was called %d times in 200, want a few", n)
	}
	if n := servers[0].Calls("scalar"); n < 200 {
		t.Errorf("its replica's good model was called %d times in 800, want about half", n)
	}
}

// TestOddInput: what no replica has finite is the input's fault. The call fails after two answers, and nothing
// trips, however often it is repeated.
func TestOddInput(t *testing.T) {
	for _, n := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			servers, pool := replicas(t, n, tritonclient.Options{})
			calls := func() (all int) {
				for _, s := range servers {
					all += s.Calls("add")
				}
				return all
			}
			for i := range 10 {
				for _, s := range servers {
					s.Fault("add", odd(math.Inf(-1)), odd(math.Inf(-1)))
				}
				before := calls()
				_, err := pool.Infer(t.Context(), finiteSum())
				var failed *tritonclient.Error
				if !errors.As(err, &failed) || failed.Kind != tritonclient.NotFinite || failed.Model != "add" || failed.Replica == "" ||
					!strings.Contains(err.Error(), "-Inf among the values of output sum (value 1 of 2)") {
					t.Fatalf("%v, want NotFinite", err)
				}
				if asked := calls() - before; asked != 2 {
					t.Fatalf("asked %d times, want 2", asked)
				}
				for _, s := range pool.Replicas() {
					if s.Breaker != "closed" || !s.Usable() {
						t.Fatalf("after %d calls: %+v", i+1, s)
					}
				}
				for _, s := range servers { // what was not asked for
					for range 2 {
						if _, err := pool.Infer(t.Context(), sum()); err != nil {
							t.Fatal(s.Address(), err)
						}
					}
				}
			}
		})
	}
}

// TestOddOnce: the only replica is asked again, and what it says then counts.
func TestOddOnce(t *testing.T) {
	servers, pool := replicas(t, 1, tritonclient.Options{})
	servers[0].Fault("add", odd(math.Inf(1)))
	response, err := pool.Infer(t.Context(), finiteSum())
	if err != nil {
		t.Fatal(err)
	}
	checkSum(t, response)
	if n := servers[0].Calls("add"); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}

// TestOddIsWhatTheCallerSays: an output that need not be finite is not looked at.
func TestOddIsWhatTheCallerSays(t *testing.T) {
	servers, pool := replicas(t, 1, tritonclient.Options{})
	servers[0].Fault("add", odd(math.NaN()))
	response, err := pool.Infer(t.Context(), sum())
	if err != nil {
		t.Fatal(err)
	}
	tensor, err := response.Output("sum")
	if err != nil {
		t.Fatal(err)
	}
	if values, err := tensor.Float32s(); err != nil || values[1] == values[1] {
		t.Errorf("%v, %v, want NaN", values, err)
	}
}

// TestModelThatHangs: a model that answers nothing, on a server that says it is ready, gets no more calls and is not
// ready, and works again when a canary does.
func TestModelThatHangs(t *testing.T) {
	var mu sync.Mutex
	var told []tritonclient.ModelStatus
	servers, pool := replicas(t, 1, tritonclient.Options{OnModel: func(s tritonclient.ModelStatus) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, s)
	}})
	hang := tritontest.Fault{Hang: true}
	servers[0].Fault("add", hang, hang, hang) // a call and two canaries
	request := sum()
	request.Timeout = 300 * time.Millisecond // the canaries' too
	if _, err := pool.Infer(t.Context(), request); !errors.Is(err, tritonclient.DeadlineExceeded) {
		t.Fatalf("%v, want DeadlineExceeded", err)
	}
	await(t, "the model to be out", func() bool { return pool.ModelReady(t.Context(), "add") != nil })
	if err := pool.ModelReady(t.Context(), "add"); !errors.Is(err, tritonclient.BreakerOpen) || !strings.Contains(err.Error(), "have failed in a row") {
		t.Errorf("readiness: %v", err)
	}
	if err := pool.Ready(t.Context()); err != nil {
		t.Errorf("the server: %v", err)
	}
	if _, err := pool.Infer(t.Context(), sum()); !errors.Is(err, tritonclient.BreakerOpen) {
		t.Errorf("a call: %v, want BreakerOpen", err)
	}
	if err := pool.ModelReady(t.Context(), "scalar"); err != nil {
		t.Errorf("another model: %v", err)
	}
	await(t, "the model to be back", func() bool { return pool.ModelReady(t.Context(), "add") == nil })
	response, err := pool.Infer(t.Context(), sum())
	if err != nil {
		t.Fatal(err)
	}
	checkSum(t, response)
	mu.Lock()
	defer mu.Unlock()
	if len(told) < 3 || told[0].Failures != 2 || told[1].Failures != 3 || told[len(told)-1].Err != nil {
		t.Errorf("told %+v", told)
	}
}

// TestModelThatHangsElsewhere: with another replica, one failed call is all that a hanging model costs.
func TestModelThatHangsElsewhere(t *testing.T) {
	servers, pool := replicas(t, 2, tritonclient.Options{})
	for range 1000 {
		servers[0].Fault("add", tritontest.Fault{Code: codes.Internal, Message: "Stub process 'add_0_0' is not healthy."})
	}
	for servers[0].Calls("add") == 0 {
		if _, err := pool.Infer(t.Context(), sum()); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "a canary to fail", func() bool { return servers[0].Calls("add") >= 2 })
	for range 20 {
		response, err := pool.Infer(t.Context(), sum())
		if err != nil || response.Replica != servers[1].Address() {
			t.Fatalf("%+v, %v", response, err)
		}
	}
	if err := pool.ModelReady(t.Context(), "add"); err != nil {
		t.Errorf("one replica has the model: %v", err)
	}
}

// TestCallersPatience says nothing of a model: a caller that gives up early brings no canary.
func TestCallersPatience(t *testing.T) {
	servers, pool := replicas(t, 1, tritonclient.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	servers[0].Fault("add", tritontest.Fault{Hang: true})
	if _, err := pool.Infer(ctx, sum()); !errors.Is(err, tritonclient.DeadlineExceeded) {
		t.Fatalf("%v, want DeadlineExceeded", err)
	}
	time.Sleep(50 * time.Millisecond)
	if n := servers[0].Calls("add"); n != 1 {
		t.Errorf("%d calls arrived, want the caller's alone", n)
	}
}
