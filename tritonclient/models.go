package tritonclient

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// ModelStatus is what canaries have found of one model on one replica.
type ModelStatus struct {
	Replica, Model string
	Failures       int   // of calls of it in a row, canaries included
	Err            error // the last of them; nil when the model works
}

// models knows which models of one replica can be called, as policy.go has it. It is safe
// for concurrent use.
type models struct {
	replica  string
	canary   func(ctx context.Context, model string) error
	onChange func(ModelStatus)
	suspect  chan struct{} // wakes watch

	mu    sync.Mutex
	known map[string]*modelState
}

type modelState struct {
	suspected bool
	failures  int
	odd       int           // answers charged in a row that were not finite
	out       error         // of the canary for which it gets no calls
	next      time.Time     // when one call is let through all the same
	usual     time.Duration // what the slowest of its latest calls took
	limit     time.Duration // what its callers give a call; 0 if they do not say
}

func newModels(replica string, canary func(context.Context, string) error, onChange func(ModelStatus)) *models {
	return &models{replica: replica, canary: canary, onChange: onChange, suspect: make(chan struct{}, 1), known: make(map[string]*modelState)}
}

func (m *models) state(model string) *modelState {
	s := m.known[model]
	if s == nil {
		s = new(modelState)
		m.known[model] = s
	}
	return s
}

// note keeps how a call went that was given limit and took so long.
func (m *models) note(model string, took, limit time.Duration, err error) {
	m.mu.Lock()
	s := m.state(model)
	s.limit = limit
	back := false
	switch {
	case err == nil:
		// One slow call is forgotten after some dozens of others.
		s.usual = max(took, s.usual-s.usual/16)
		back = s.works()
	case kindOf(err).suspicious():
		s.failures++
		s.suspected = true
		select {
		case m.suspect <- struct{}{}:
		default: // watch is awake
		}
	}
	m.mu.Unlock()
	if back {
		m.tell(ModelStatus{Replica: m.replica, Model: model})
	}
}

// charge counts an answer of a model that was not finite where another replica's was. A canary of
// zeros may well be finite, so these answers alone put the model out, until a call of it is let
// through and has a finite answer.
func (m *models) charge(model string, odd error) {
	m.mu.Lock()
	s := m.state(model)
	s.odd++
	out := s.odd >= tripAfter
	if out {
		s.failures = s.odd
		s.out, s.next = odd, time.Now().Add(halfOpenAfter)
	}
	told := ModelStatus{Replica: m.replica, Model: model, Failures: s.odd, Err: odd}
	m.mu.Unlock()
	if out {
		m.tell(told)
	}
}

// works ends a suspicion; it says whether the model was out.
func (s *modelState) works() (back bool) {
	back = s.out != nil
	s.suspected, s.failures, s.odd, s.out = false, 0, 0, nil
	return back
}

// refusal says why a model gets no calls; nil if it does.
func (m *models) refusal(model string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.known[model]; s != nil && s.out != nil {
		return fmt.Errorf("%d calls of it have failed in a row, the last one with: %s", s.failures, message(s.out))
	}
	return nil
}

// admits says whether a call may be sent: the model is not out, or it is time to let one through.
func (m *models) admits(model string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.known[model]
	return s == nil || s.out == nil || !time.Now().Before(s.next)
}

// begin is told that a call is sent.
func (m *models) begin(model string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.known[model]; s != nil && s.out != nil {
		s.next = time.Now().Add(halfOpenAfter)
	}
}

// forget starts the count of failures again, for a server that has come back. A model that
// was out stays so until its next canary.
func (m *models) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.known {
		s.failures = 0
	}
}

// watch sends canaries to the models that are suspected until ctx ends.
func (m *models) watch(ctx context.Context) {
	pace := time.NewTicker(canaryInterval)
	defer pace.Stop()
	for {
		select {
		case <-m.suspect:
		case <-ctx.Done():
			return
		}
		for suspects := m.suspects(); len(suspects) > 0; suspects = m.suspects() {
			for _, model := range suspects {
				m.try(ctx, model)
			}
			select {
			case <-pace.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (m *models) suspects() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m.known)), func(model string) bool { return !m.known[model].suspected })
}

// try sends one canary and judges the model by it.
func (m *models) try(ctx context.Context, model string) {
	m.mu.Lock()
	s := m.state(model)
	limit := maxCanaryTimeout
	if s.limit > 0 {
		limit = min(limit, s.limit)
	}
	if s.usual > 0 {
		limit = min(limit, max(canaryFactor*s.usual, minCanaryTimeout))
	}
	m.mu.Unlock()
	asking, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := m.canary(asking, model)
	if ctx.Err() != nil {
		return
	}
	told := ModelStatus{Replica: m.replica, Model: model}
	m.mu.Lock()
	switch kind := kindOf(err); {
	case err == nil, kind == InvalidArgument, kind == NotFound: // it answers, or nothing can be said of it
		told.Model = ""
		if s.works() {
			told.Model = model
		}
	case kind == Unavailable:
		told.Model = "" // the whole server is down, which its probe finds
	default:
		if !s.suspected {
			told.Model = "" // another call has worked meanwhile
			break
		}
		s.failures++
		if s.out == nil {
			s.next = time.Now().Add(halfOpenAfter)
		}
		s.out = err
		told.Failures, told.Err = s.failures, err
	}
	m.mu.Unlock()
	if told.Model != "" {
		m.tell(told)
	}
}

func (m *models) tell(s ModelStatus) {
	if m.onChange != nil {
		m.onChange(s)
	}
}

// canary calls a model with one row of zeros. The answer's values do not matter.
func (r *replica) canary(ctx context.Context, model string) error {
	if why := r.notReady(); why != nil {
		return why
	}
	answer, err := r.client.ModelConfig(ctx, &inference.ModelConfigRequest{Name: model})
	if err != nil {
		return err
	}
	request, err := zeros(answer.GetConfig())
	if err != nil {
		return &Error{Kind: InvalidArgument, Err: err}
	}
	got := new(inferResponse)
	defer func() { release(got.raw) }()
	return r.conn.Invoke(ctx, inference.GRPCInferenceService_ModelInfer_FullMethodName, &inferRequest{header: request.header(), inputs: request.Inputs}, got)
}

// zeros is a request of one row of zeros.
func zeros(config *inference.ModelConfig) (Request, error) {
	if config == nil {
		return Request{}, errors.New("the answer holds no configuration")
	}
	request := Request{Model: config.Name}
	for _, in := range config.Input {
		if in.Optional {
			continue
		}
		datatype, ok := DatatypeOf(in.DataType)
		if !ok {
			return Request{}, fmt.Errorf("input %s is %s, of which this client has no zeros", in.Name, in.DataType)
		}
		var shape []int64
		if config.MaxBatchSize > 0 {
			shape = append(shape, 1)
		}
		for _, d := range in.Dims {
			shape = append(shape, max(d, 1)) // -1 stands for any size
		}
		t := Tensor{Name: in.Name, Datatype: datatype, Shape: shape}
		t.Data = make([]byte, t.Elements()*datatype.Size())
		request.Inputs = append(request.Inputs, t)
	}
	return request, nil
}
