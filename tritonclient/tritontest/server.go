package tritontest

import (
	"context"
	"maps"
	"math"
	"net"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

const maxMessageBytes = math.MaxInt32 // as Triton

// Server is an in-process inference server. It is safe for concurrent use.
type Server struct {
	inference.UnimplementedGRPCInferenceServiceServer
	address string
	models  map[string]Model

	mu       sync.Mutex
	ready    bool
	version  string
	closed   map[string]bool // methods
	script   map[string][]Fault
	counts   map[string]*inference.ModelStatistics
	calls    map[string]int
	listener *cutListener
	server   *grpc.Server // nil while stopped
	served   chan struct{}
}

// Start serves models on a free loopback port until the test ends. Every model must
// have a configuration with a name and, if it can be run, max_batch_size above 0.
func Start(t testing.TB, models ...Model) *Server {
	t.Helper()
	s := &Server{
		address: "127.0.0.1:0",
		models:  make(map[string]Model),
		ready:   true,
		version: "tritontest",
		closed:  make(map[string]bool),
		script:  make(map[string][]Fault),
		counts:  make(map[string]*inference.ModelStatistics),
		calls:   make(map[string]int),
	}
	for _, m := range models {
		if m.Config.GetName() == "" || m.Run != nil && m.Config.MaxBatchSize < 1 {
			t.Fatalf("tritontest: a model needs a name and a max_batch_size: %v", m.Config)
		}
		if m.Version == "" {
			m.Version = "1"
		}
		s.models[m.Config.Name] = m
		s.ready = s.ready && m.Failed == ""
		s.counts[m.Config.Name] = &inference.ModelStatistics{Name: m.Config.Name, Version: m.Version}
	}
	if err := s.Resume(); err != nil {
		t.Fatal("tritontest:", err)
	}
	t.Cleanup(s.Stop)
	return s
}

// Address is host:port; it stays the same over Stop and Resume.
func (s *Server) Address() string { return s.address }

// Stop ends the server as a crash does: connections break, new ones are refused.
func (s *Server) Stop() {
	s.mu.Lock()
	server, served := s.server, s.served
	s.server = nil
	s.mu.Unlock()
	if server != nil {
		server.Stop()
		<-served
	}
}

// Resume starts a stopped server again on its address.
func (s *Server) Resume() error {
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.address = listener.Addr().String()
	s.listener = &cutListener{Listener: listener, conns: make(map[string]*cutConn)}
	s.server = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.InitialWindowSize(4<<20), grpc.InitialConnWindowSize(4<<20),
		grpc.UnaryInterceptor(s.guard),
	)
	inference.RegisterGRPCInferenceServiceServer(s.server, s)
	s.served = make(chan struct{})
	server, on, served := s.server, s.listener, s.served
	go func() {
		defer close(served)
		_ = server.Serve(on) // ends with Stop
	}()
	return nil
}

// SetReady changes what the server answers to readiness questions.
func (s *Server) SetReady(ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = ready
}

// SetVersion changes the release that the server says it is.
func (s *Server) SetVersion(version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version = version
}

// Restrict closes a method, such as "RepositoryIndex", as --grpc-restricted-protocol does
// for callers without the secret.
func (s *Server) Restrict(method string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed[method] = true
}

func (s *Server) guard(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	s.mu.Lock()
	closed := s.closed[path.Base(info.FullMethod)]
	s.mu.Unlock()
	if closed {
		return nil, status.Error(codes.Unavailable, "This protocol is restricted, expecting header 'triton-grpc-protocol-secret'")
	}
	return handle(ctx, request)
}

// Fault appends to the script of a model: each inference takes the next Fault, and
// works when there is none left.
func (s *Server) Fault(model string, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script[model] = append(s.script[model], faults...)
}

// Calls is how many inferences of the model have arrived.
func (s *Server) Calls(model string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[model]
}

func (s *Server) ServerLive(context.Context, *inference.ServerLiveRequest) (*inference.ServerLiveResponse, error) {
	return &inference.ServerLiveResponse{Live: true}, nil
}

func (s *Server) ServerReady(context.Context, *inference.ServerReadyRequest) (*inference.ServerReadyResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &inference.ServerReadyResponse{Ready: s.ready}, nil
}

func (s *Server) ModelReady(_ context.Context, request *inference.ModelReadyRequest) (*inference.ModelReadyResponse, error) {
	m, known := s.models[request.Name]
	return &inference.ModelReadyResponse{Ready: known && m.Failed == ""}, nil
}

func (s *Server) ServerMetadata(context.Context, *inference.ServerMetadataRequest) (*inference.ServerMetadataResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &inference.ServerMetadataResponse{Name: "triton", Version: s.version,
		Extensions: []string{"model_configuration", "binary_tensor_data", "statistics"}}, nil
}

func (s *Server) ModelMetadata(_ context.Context, request *inference.ModelMetadataRequest) (*inference.ModelMetadataResponse, error) {
	m, err := s.model(request.Name)
	if err != nil {
		return nil, err
	}
	tensor := func(name string, datatype inference.DataType, dims []int64) *inference.ModelMetadataResponse_TensorMetadata {
		wire, _ := tritonclient.DatatypeOf(datatype)
		return &inference.ModelMetadataResponse_TensorMetadata{Name: name, Datatype: string(wire), Shape: append([]int64{-1}, dims...)}
	}
	answer := &inference.ModelMetadataResponse{Name: request.Name, Versions: []string{m.Version}, Platform: m.Config.Backend}
	for _, in := range m.Config.Input {
		answer.Inputs = append(answer.Inputs, tensor(in.Name, in.DataType, in.Dims))
	}
	for _, out := range m.Config.Output {
		answer.Outputs = append(answer.Outputs, tensor(out.Name, out.DataType, out.Dims))
	}
	return answer, nil
}

func (s *Server) ModelConfig(_ context.Context, request *inference.ModelConfigRequest) (*inference.ModelConfigResponse, error) {
	m, err := s.model(request.Name)
	if err != nil {
		return nil, err
	}
	return &inference.ModelConfigResponse{Config: m.Config}, nil
}

func (s *Server) ModelStatistics(_ context.Context, request *inference.ModelStatisticsRequest) (*inference.ModelStatisticsResponse, error) {
	names := slices.Sorted(maps.Keys(s.models))
	if request.Name != "" {
		if _, err := s.model(request.Name); err != nil {
			return nil, err
		}
		names = []string{request.Name}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := new(inference.ModelStatisticsResponse)
	for _, name := range names {
		c := s.counts[name]
		answer.ModelStats = append(answer.ModelStats, &inference.ModelStatistics{
			Name: name, Version: c.Version, InferenceCount: c.InferenceCount, ExecutionCount: c.ExecutionCount, LastInference: c.LastInference,
		})
	}
	return answer, nil
}

func (s *Server) RepositoryIndex(context.Context, *inference.RepositoryIndexRequest) (*inference.RepositoryIndexResponse, error) {
	answer := new(inference.RepositoryIndexResponse)
	for _, name := range slices.Sorted(maps.Keys(s.models)) {
		index := &inference.RepositoryIndexResponse_ModelIndex{Name: name, Version: s.models[name].Version, State: "READY"}
		if reason := s.models[name].Failed; reason != "" {
			index.State, index.Reason = "UNAVAILABLE", reason
		}
		answer.Models = append(answer.Models, index)
	}
	return answer, nil
}

// ModelInfer takes the next fault of the model's script, runs the model and answers.
func (s *Server) ModelInfer(ctx context.Context, request *inference.ModelInferRequest) (*inference.ModelInferResponse, error) {
	m, err := s.model(request.ModelName)
	if err == nil && m.Run == nil {
		err = status.Errorf(codes.Unimplemented, "the model '%s' of this double has nothing to run", request.ModelName)
	}
	if err != nil {
		return nil, err
	}
	fault := s.nextFault(request.ModelName)
	if err := wait(ctx, fault.Delay); err != nil {
		return nil, err
	}
	if fault.Hang {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if fault.Code != codes.OK {
		return nil, status.Error(fault.Code, fault.Message)
	}
	response, err := s.run(ctx, m, request)
	if err != nil {
		return nil, err
	}
	if fault.Alter != nil {
		fault.Alter(response)
	}
	if client, ok := peer.FromContext(ctx); ok && fault.Cut > 0 {
		s.mu.Lock()
		listener := s.listener
		s.mu.Unlock()
		listener.cut(client.Addr.String(), fault.Cut)
	}
	return response, nil
}

func (s *Server) nextFault(model string) (fault Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[model]++
	if script := s.script[model]; len(script) > 0 {
		fault, s.script[model] = script[0], script[1:]
	}
	return fault
}

func (s *Server) model(name string) (Model, error) {
	m, ok := s.models[name]
	if !ok {
		return m, status.Errorf(codes.NotFound, "Request for unknown model: '%s' is not found", name)
	}
	if m.Failed != "" {
		return m, status.Errorf(codes.NotFound, "Request for unknown model: '%s' has no available versions", name)
	}
	return m, nil
}

func (s *Server) run(ctx context.Context, m Model, request *inference.ModelInferRequest) (*inference.ModelInferResponse, error) {
	inputs, err := readInputs(m.Config, request)
	if err != nil {
		return nil, err
	}
	rows := inputs[0].Shape[0]
	for i, in := range m.Config.Input {
		if in.Reshape != nil {
			inputs[i].Shape = append([]int64{rows}, in.Reshape.Shape...)
		}
	}
	outputs, err := m.Run(ctx, inputs)
	if err != nil {
		if _, ok := status.FromError(err); !ok {
			err = status.Error(codes.Internal, err.Error())
		}
		return nil, err
	}
	s.mu.Lock()
	counts := s.counts[m.Config.Name]
	counts.InferenceCount += uint64(rows)
	counts.ExecutionCount++
	counts.LastInference = uint64(time.Now().UnixMilli())
	s.mu.Unlock()
	response := &inference.ModelInferResponse{ModelName: m.Config.Name, ModelVersion: m.Version, Id: request.Id}
	for _, out := range outputs {
		wanted := func(o *inference.ModelInferRequest_InferRequestedOutputTensor) bool { return o.Name == out.Name }
		if len(request.Outputs) > 0 && !slices.ContainsFunc(request.Outputs, wanted) {
			continue
		}
		response.Outputs = append(response.Outputs, &inference.ModelInferResponse_InferOutputTensor{
			Name: out.Name, Datatype: string(out.Datatype), Shape: slices.Clone(out.Shape),
		})
		response.RawOutputContents = append(response.RawOutputContents, out.Bytes())
	}
	return response, nil
}

// readInputs checks a request as Triton does and gives its inputs in the order of
// the configuration.
func readInputs(config *inference.ModelConfig, request *inference.ModelInferRequest) ([]tritonclient.Tensor, error) {
	invalid := func(format string, args ...any) error {
		return status.Errorf(codes.InvalidArgument, "[request id: %s] "+format, append([]any{request.Id}, args...)...)
	}
	if len(request.RawInputContents) != len(request.Inputs) {
		return nil, invalid("expected %d raw input contents, got %d", len(request.Inputs), len(request.RawInputContents))
	}
	if len(request.Inputs) != len(config.Input) {
		return nil, invalid("expected %d inputs but got %d inputs for model '%s'", len(config.Input), len(request.Inputs), config.Name)
	}
	for _, o := range request.Outputs {
		if !slices.ContainsFunc(config.Output, func(c *inference.ModelOutput) bool { return c.Name == o.Name }) {
			return nil, invalid("unexpected inference output '%s' for model '%s'", o.Name, config.Name)
		}
	}
	inputs := make([]tritonclient.Tensor, len(config.Input))
	for i, want := range config.Input {
		at := slices.IndexFunc(request.Inputs, func(t *inference.ModelInferRequest_InferInputTensor) bool { return t.Name == want.Name })
		if at < 0 {
			return nil, invalid("input '%s' is missing for model '%s'", want.Name, config.Name)
		}
		got := request.Inputs[at]
		datatype, _ := tritonclient.DatatypeOf(want.DataType)
		if got.Datatype != string(datatype) {
			return nil, invalid("inference input '%s' data-type is '%s', but model '%s' expects '%s'", got.Name, got.Datatype, config.Name, datatype)
		}
		if len(got.Shape) != len(want.Dims)+1 || !slices.EqualFunc(got.Shape[1:], want.Dims, func(g, w int64) bool { return w < 0 || g == w }) {
			return nil, invalid("unexpected shape for input '%s' for model '%s'. Expected %v, got %v", got.Name, config.Name, append([]int64{-1}, want.Dims...), got.Shape)
		}
		if got.Shape[0] < 1 || got.Shape[0] > int64(config.MaxBatchSize) || i > 0 && got.Shape[0] != inputs[0].Shape[0] {
			return nil, invalid("inference request batch-size must be <= %d for '%s'", config.MaxBatchSize, config.Name)
		}
		inputs[i] = tritonclient.Tensor{Name: got.Name, Datatype: datatype, Shape: got.Shape, Data: request.RawInputContents[at]}
		if have, need := int64(len(inputs[i].Data)), inputs[i].Elements()*datatype.Size(); have != need {
			return nil, invalid("input byte size mismatch for input '%s' for model '%s'. Expected %d, got %d", got.Name, config.Name, need, have)
		}
	}
	return inputs, nil
}
