package tritonclient_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/tritontest"
)

// replicas are n servers with the models of the conformance suite, and a pool on them.
func replicas(t *testing.T, n int, options tritonclient.Options) ([]*tritontest.Server, *tritonclient.Pool) {
	t.Helper()
	models, err := tritontest.Models()
	if err != nil {
		t.Fatal(err)
	}
	var servers []*tritontest.Server
	for range n {
		server := tritontest.Start(t, models...)
		servers = append(servers, server)
		options.Replicas = append(options.Replicas, server.Address())
	}
	pool, err := tritonclient.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range n { // probed once: calls go by readiness, not by the benefit of the doubt
		await(t, "the first probe", func() bool { return pool.Replicas()[i].Ready })
	}
	return servers, pool
}

// await asks every millisecond, for at most 5 s.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 5*time.Second {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func sum() tritonclient.Request {
	x := []float32{1, 2}
	return tritonclient.Request{
		Model: "add",
		Inputs: []tritonclient.Tensor{
			tritonclient.Float32("a", tritonclient.FP32, []int64{1, 2}, x), tritonclient.Float32("b", tritonclient.FP32, []int64{1, 2}, x),
		},
		Outputs: []tritonclient.Output{{Name: "sum", Datatype: tritonclient.FP32, Shape: []int64{-1, 2}}},
		Timeout: 5 * time.Second,
	}
}

func checkSum(t *testing.T, response *tritonclient.Response) {
	t.Helper()
	tensor, err := response.Output("sum")
	if err != nil {
		t.Fatal(err)
	}
	if values, err := tensor.Float32s(); err != nil || !slices.Equal(values, []float32{2, 4}) {
		t.Fatalf("sum is %v (%v)", values, err)
	}
}

// TestFaultsOfOneReplica: on a single replica each fault reaches the caller with its
// kind, and the next call works.
func TestFaultsOfOneReplica(t *testing.T) {
	servers, pool := replicas(t, 1, tritonclient.Options{})
	for _, test := range []struct {
		name  string
		fault tritontest.Fault
		kind  tritonclient.Kind
		says  string
	}{
		{"shutting down", tritontest.Unavailable(), tritonclient.Unavailable, "Server is stopping"},
		{"model being unloaded", tritontest.NotAtReadyState("add"), tritonclient.Unavailable, "not at ready state"},
		{"unknown model", tritontest.UnknownModel("add"), tritonclient.NotFound, "unknown model"},
		{"full queue", tritontest.Fault{Code: codes.Unavailable, Message: "Exceeds maximum queue size"}, tritonclient.ResourceExhausted, "queue size"},
		{"wrong secret", tritontest.Fault{Code: codes.Unavailable, Message: "This protocol is restricted, expecting header 'x'"}, tritonclient.PermissionDenied, "restricted"},
		{"wrong shape", tritontest.WrongShape(), tritonclient.BadResponse, "shape [1 3] does not fit 8 bytes"},
		{"wrong datatype", tritontest.WrongDatatype(), tritonclient.BadResponse, "INT64 of shape [1 2] does not fit 8 bytes"},
		{"wrong length", tritontest.WrongLength(), tritonclient.BadResponse, "does not fit 7 bytes"},
		{"no outputs", tritontest.NoOutputs(), tritonclient.BadResponse, `lacks output "sum"`},
		{"connection cut in the answer", tritontest.Fault{Cut: 20}, tritonclient.Unavailable, ""},
		{"delay", tritontest.Fault{Delay: 20 * time.Millisecond}, "", ""},
		{"none", tritontest.Fault{}, "", ""},
		// Last, for it brings a canary, which would take the next fault of the script.
		{"internal", tritontest.Fault{Code: codes.Internal, Message: "CUDA error"}, tritonclient.Internal, "CUDA error"},
	} {
		servers[0].Fault("add", test.fault)
		response, err := pool.Infer(t.Context(), sum())
		if test.kind == "" {
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
				continue
			}
			checkSum(t, response)
			continue
		}
		var failed *tritonclient.Error
		if !errors.As(err, &failed) {
			t.Errorf("%s: %v, want kind %q", test.name, err, test.kind)
			continue
		}
		if failed.Kind != test.kind || !errors.Is(err, test.kind) || failed.Op != "ModelInfer" || failed.Model != "add" || failed.Replica != servers[0].Address() ||
			!strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %#v (%v), want kind %q saying %q", test.name, failed, err, test.kind, test.says)
		}
		response, err = pool.Infer(t.Context(), sum())
		if err != nil {
			// A cut connection is made again within reconnectDelay.
			await(t, "the connection after "+test.name, func() bool {
				response, err = pool.Infer(t.Context(), sum())
				return err == nil
			})
		}
		checkSum(t, response)
	}
}

// TestFailover: whatever is wrong with one replica, the call succeeds on another.
func TestFailover(t *testing.T) {
	var mu sync.Mutex
	var calls []tritonclient.Call
	servers, pool := replicas(t, 2, tritonclient.Options{Observe: func(c tritonclient.Call) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, c)
	}})
	for _, fault := range []tritontest.Fault{
		tritontest.Unavailable(), tritontest.NotAtReadyState("add"), tritontest.UnknownModel("add"), tritontest.WrongShape(),
		tritontest.WrongLength(), {Code: codes.Internal, Message: "CUDA error"}, {Cut: 20},
	} {
		servers[0].Fault("add", fault)
		for servers[0].Calls("add")%2 == 0 { // until the fault was met, whoever was asked first
			response, err := pool.Infer(t.Context(), sum())
			if err != nil {
				t.Fatalf("%+v: %v", fault, err)
			}
			checkSum(t, response)
			response.Release()
		}
		await(t, "the first replica", func() bool { // it counts a good call, and both are even again
			_, err := pool.Infer(t.Context(), sum())
			return err == nil && servers[0].Calls("add")%2 == 0
		})
	}
	mu.Lock()
	defer mu.Unlock()
	second := 0
	for _, c := range calls {
		if c.Op != "ModelInfer" || c.Model != "add" || c.Duration <= 0 {
			t.Errorf("observed %+v", c)
		}
		if c.Attempt == 2 {
			second++
			if c.Replica != servers[1].Address() || c.Err != nil {
				t.Errorf("second attempt: %+v", c)
			}
		}
	}
	if second < 6 {
		t.Errorf("%d calls were tried a second time, want at least 6", second)
	}
}

// TestNoFailover: faults that are the caller's are not tried again.
func TestNoFailover(t *testing.T) {
	servers, pool := replicas(t, 2, tritonclient.Options{})
	request := sum()
	request.Inputs = request.Inputs[:1]
	if _, err := pool.Infer(t.Context(), request); !errors.Is(err, tritonclient.InvalidArgument) {
		t.Errorf("%v, want InvalidArgument", err)
	}
	for _, s := range servers {
		s.Fault("add", tritontest.Fault{Hang: true})
	}
	request = sum()
	request.Timeout = 50 * time.Millisecond
	if _, err := pool.Infer(t.Context(), request); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
	if n := servers[0].Calls("add") + servers[1].Calls("add"); n != 2 {
		t.Errorf("2 calls arrived as %d", n)
	}
}

// TestReturn: a replica that crashed is refused at once, and used within 2 s of its return.
func TestReturn(t *testing.T) {
	servers, pool := replicas(t, 1, tritonclient.Options{})
	servers[0].Stop()
	var err error
	await(t, "the breaker or the probe", func() bool {
		_, err = pool.Infer(t.Context(), sum())
		return err != nil && !pool.Replicas()[0].Usable()
	})
	began := time.Now()
	for range 100 {
		if _, err = pool.Infer(t.Context(), sum()); !errors.Is(err, tritonclient.Unavailable) && !errors.Is(err, tritonclient.BreakerOpen) {
			t.Fatalf("%v, want Unavailable or BreakerOpen", err)
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("100 calls to a dead replica took %v", took)
	}
	if err := pool.Ready(t.Context()); !errors.Is(err, tritonclient.Unavailable) {
		t.Errorf("Ready: %v, want Unavailable", err)
	}
	// Long enough for the reconnection delay to have reached its maximum.
	time.Sleep(1500 * time.Millisecond)
	if err := servers[0].Resume(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	await(t, "the replica", func() bool {
		_, err := pool.Infer(t.Context(), sum())
		return err == nil
	})
	took := time.Since(began)
	t.Logf("used %v after its return", took)
	if took > 2*time.Second {
		t.Errorf("used %v after its return, want at most 2 s", took)
	}
}

// TestNotReady: a server that answers "not ready" gets no calls while another is ready.
func TestNotReady(t *testing.T) {
	servers, pool := replicas(t, 2, tritonclient.Options{})
	servers[0].SetReady(false)
	await(t, "the probe", func() bool { return !pool.Replicas()[0].Ready })
	before := servers[0].Calls("add")
	for range 10 {
		if _, err := pool.Infer(t.Context(), sum()); err != nil {
			t.Fatal(err)
		}
	}
	if n := servers[0].Calls("add") - before; n != 0 {
		t.Errorf("%d calls went to a replica that is not ready", n)
	}
	if err := pool.Ready(t.Context()); err != nil {
		t.Errorf("Ready with one ready replica: %v", err)
	}
	servers[1].SetReady(false)
	err := pool.Ready(t.Context())
	if err == nil || !strings.Contains(err.Error(), servers[0].Address()) || !strings.Contains(err.Error(), servers[1].Address()) {
		t.Errorf("Ready with none: %v, want both named", err)
	}
	servers[0].SetReady(true)
	if err := pool.Ready(t.Context()); err != nil { // a success here counts at once
		t.Error(err)
	}
	if _, err := pool.Infer(t.Context(), sum()); err != nil {
		t.Error(err)
	}
}

// TestLeastOutstanding: a busy replica gets no second call while another is idle.
func TestLeastOutstanding(t *testing.T) {
	servers, pool := replicas(t, 2, tritonclient.Options{})
	busy, cancel := context.WithCancel(t.Context())
	hung := make(chan error)
	servers[0].Fault("add", tritontest.Fault{Hang: true})
	servers[1].Fault("add", tritontest.Fault{Hang: true})
	go func() {
		_, err := pool.Infer(busy, sum())
		hung <- err
	}()
	await(t, "the call", func() bool { return servers[0].Calls("add")+servers[1].Calls("add") == 1 })
	first := servers[0].Calls("add") == 0 // the other one hangs
	idle := servers[1]
	if first {
		idle = servers[0]
	}
	request := sum()
	request.Timeout = 50 * time.Millisecond
	for idle.Calls("add") == 0 { // take the idle one's own fault out of its script
		_, _ = pool.Infer(t.Context(), request)
	}
	for range 6 {
		response, err := pool.Infer(t.Context(), sum())
		if err != nil {
			t.Fatal(err)
		}
		if response.Replica != idle.Address() {
			t.Fatal("a call went to the busy replica")
		}
	}
	cancel()
	if err := <-hung; !errors.Is(err, tritonclient.Canceled) {
		t.Errorf("%v, want Canceled", err)
	}
}

// TestInputsAreTheCallersAgain: memory may be overwritten as soon as Infer returns,
// above all after a cancellation. The race detector is the judge.
func TestInputsAreTheCallersAgain(t *testing.T) {
	servers, pool := replicas(t, 1, tritonclient.Options{})
	big := make([]float32, 1<<20)
	shape := []int64{1, int64(len(big))}
	for i := range 5 {
		servers[0].Fault("add", tritontest.Fault{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*5*time.Millisecond)
		_, err := pool.Infer(ctx, tritonclient.Request{Model: "add", Inputs: []tritonclient.Tensor{
			tritonclient.Float32("a", tritonclient.FP32, shape, big), tritonclient.Float32("b", tritonclient.FP32, shape, big),
		}})
		cancel()
		if err == nil {
			t.Fatal("a hanging call succeeded")
		}
		for j := range big {
			big[j]++
		}
	}
}

func TestCloseEndsCalls(t *testing.T) {
	models, err := tritontest.Models()
	if err != nil {
		t.Fatal(err)
	}
	server := tritontest.Start(t, models...)
	pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{server.Address()}})
	if err != nil {
		t.Fatal(err)
	}
	server.Fault("add", tritontest.Fault{Hang: true})
	ended := make(chan error)
	go func() {
		_, err := pool.Infer(t.Context(), sum())
		ended <- err
	}()
	await(t, "the call", func() bool { return server.Calls("add") == 1 })
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("a call outlived its pool")
	}
}

func TestBadOptions(t *testing.T) {
	for want, addresses := range map[string][]string{
		"no replica given": nil,
		"given twice":      {"localhost:1", "localhost:1"},
		"replica ://":      {"localhost:1", "://\x00"},
	} {
		pool, err := tritonclient.New(tritonclient.Options{Replicas: addresses})
		if err == nil {
			pool.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want … %s …", addresses, err, want)
		}
	}
}

func TestErrorText(t *testing.T) {
	err := fmt.Errorf("step 3: %w", &tritonclient.Error{Op: "ModelInfer", Model: "unet_tdm", Replica: "gpu0:8001",
		Kind: tritonclient.Unavailable, Err: errors.New("connection refused")})
	if got, want := err.Error(), "step 3: triton: ModelInfer unet_tdm on gpu0:8001: unavailable: connection refused"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if !errors.Is(err, tritonclient.Unavailable) || errors.Is(err, tritonclient.Internal) || errors.Is(err, context.Canceled) {
		t.Error("the error does not match its kind, or matches another")
	}
}

// TestDirect: a pool for diagnosis calls a server that is not ready and that has just
// failed again and again.
func TestDirect(t *testing.T) {
	models, err := tritontest.Models()
	if err != nil {
		t.Fatal(err)
	}
	server := tritontest.Start(t, models...)
	pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{server.Address()}, Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	server.SetReady(false)
	if err := pool.Ready(t.Context()); err == nil {
		t.Error("a server that is not ready is said to be")
	}
	for range 10 {
		server.Fault("add", tritontest.Fault{Code: codes.Internal, Message: "CUDA error"})
		if _, err := pool.Infer(t.Context(), sum()); !errors.Is(err, tritonclient.Internal) {
			t.Fatalf("%v, want the server's own failure", err)
		}
	}
	response, err := pool.Infer(t.Context(), sum())
	if err != nil {
		t.Fatal(err)
	}
	checkSum(t, response)
	if n := server.Calls("add"); n != 11 {
		t.Errorf("%d calls arrived, want 11", n)
	}
}
