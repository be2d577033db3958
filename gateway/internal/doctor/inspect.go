package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/networks"
	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// Faults of a server.
const (
	Unreachable networks.Code = "unreachable"
	NotReady    networks.Code = "not_ready"
	Restricted  networks.Code = "restricted"
	LoadFailed  networks.Code = "load_failed"
)

const (
	answerWithin = 5 * time.Second // a call without work
	roundTrips   = 5
	greetings    = 3 // that may stay without an answer: a machine under load answers late
)

// patient is one replica under examination.
type patient struct {
	replica  Replica
	pool     *tritonclient.Pool
	networks *networks.Networks
	timeout  time.Duration // of one call of a network
	configs  map[string]*inference.ModelConfig
	answers  map[string][]float32 // of the models to the question
	faults   []networks.Fault
}

func (p *patient) found(f networks.Fault) { p.faults = append(p.faults, f) }

// sound says whether there is no fault but warnings.
func (p *patient) sound() bool {
	return !slices.ContainsFunc(p.faults, func(f networks.Fault) bool { return !f.Warning })
}

// faulty says whether a model of it has a fault.
func (p *patient) faulty(model string) bool {
	return slices.ContainsFunc(p.faults, func(f networks.Fault) bool { return !f.Warning && f.Model == model })
}

// inspect fills in all that a server says without running a network.
func (e *examination) inspect(ctx context.Context, p *patient) {
	if !p.greet(ctx) {
		return
	}
	index := p.index(ctx)
	missing := map[string]networks.Fault{}
	for _, model := range slices.Concat(networks.Models, e.optional) {
		config, err := ask(ctx, func(ctx context.Context) (*inference.ModelConfig, error) { return p.pool.ModelConfig(ctx, model) })
		if errors.Is(err, tritonclient.PermissionDenied) {
			p.found(restricted(err))
			return // so are the others
		}
		if err != nil {
			missing[model] = p.absent(model, err, index)
			continue
		}
		p.configs[model] = config
		p.describe(ctx, model, config)
	}
	for _, fault := range networks.Check(p.configs, e.family, e.optional...) {
		if better, ok := missing[fault.Model]; ok && fault.Code == networks.ModelMissing {
			fault = better
		}
		p.found(fault)
	}
	if d, err := ask(ctx, p.networks.Dimensions); err == nil {
		p.replica.Sizes = &Sizes{Tokens: d.Tokens, Width: d.Embedding, Subjects: d.Subjects, Reference: d.EncoderSize,
			Latents: [3]int{d.LatentChannels, d.LatentHeight, d.LatentWidth}, Picture: [2]int{d.Height, d.Width}}
	}
}

// greet asks for health, release and round trip; false means that nothing else can be asked.
func (p *patient) greet(ctx context.Context) bool {
	var err error
	for range greetings {
		if err = p.pool.Ready(ctx); !errors.Is(err, tritonclient.DeadlineExceeded) {
			break
		}
	}
	switch {
	case err == nil:
		p.replica.Ready = true
	case errors.Is(err, tritonclient.ErrNotReady):
		p.found(networks.Fault{Code: NotReady, Found: "a server that says it is not ready", Want: "one that is",
			Remedy: "wait if it has just started; otherwise a model did not load: see the faults below and Triton's log"})
	case errors.Is(err, tritonclient.PermissionDenied):
		p.found(restricted(err))
		return false
	default:
		p.found(networks.Fault{Code: Unreachable, Found: reason(err), Want: "a Triton server",
			Remedy: "start it, or correct --triton: it wants the gRPC port, 8001 unless --grpc-port says otherwise (8000 is HTTP)"})
		return false
	}
	server, err := ask(ctx, p.pool.ServerMetadata)
	if err != nil {
		p.found(p.failed("", err))
		return false
	}
	p.replica.Triton = server.Version
	var took []float64
	for range roundTrips {
		began := time.Now()
		if _, err := ask(ctx, p.pool.ServerMetadata); err == nil {
			took = append(took, time.Since(began).Seconds())
		}
	}
	if slices.Sort(took); len(took) > 0 {
		p.replica.RoundTrip = took[len(took)/2]
	}
	return true
}

// index is the server's list of its repository by name; nil if it keeps that to itself.
func (p *patient) index(ctx context.Context) map[string]*inference.RepositoryIndexResponse_ModelIndex {
	list, err := ask(ctx, p.pool.RepositoryIndex)
	if err != nil {
		return nil
	}
	index := map[string]*inference.RepositoryIndexResponse_ModelIndex{}
	for _, m := range list {
		index[m.Name] = m
	}
	return index
}

// absent says why a model has no configuration, as far as the server tells: one that it
// read but could not load has "no available versions", and the list says why; one whose
// config.pbtxt it could not read stands in the list without a state.
func (p *patient) absent(model string, err error, index map[string]*inference.RepositoryIndexResponse_ModelIndex) networks.Fault {
	listed := index[model]
	switch {
	case !errors.Is(err, tritonclient.NotFound):
		return p.failed(model, err)
	case listed.GetReason() != "":
		return networks.Fault{Code: LoadFailed, Model: model, Found: "not loaded: " + firstLine(listed.Reason), Want: "one that is loaded",
			Remedy: "mend the model and load it again; Triton's log has the rest"}
	case listed.GetState() == "LOADING":
		return networks.Fault{Code: LoadFailed, Model: model, Found: "still loading", Want: "one that is loaded", Remedy: "wait, and ask again"}
	case listed != nil:
		return networks.Fault{Code: LoadFailed, Model: model, Found: "a folder whose config.pbtxt is not accepted", Want: "one that is loaded",
			Remedy: "see Triton's log, which names the line"}
	case strings.Contains(err.Error(), "no available versions"):
		return networks.Fault{Code: LoadFailed, Model: model, Found: "a model of which no version is loaded", Want: "one that is loaded",
			Remedy: "see Triton's log; a version is a folder with a number, " + model + "/1, that holds the model's file"}
	}
	return networks.Fault{Code: networks.ModelMissing, Model: model, Found: "no such model", Want: "one that is loaded",
		Remedy: "put it into the model repository that this server loads, or let --triton name the servers that have it"}
}

// describe notes what a model is. It is a fault if the model has a configuration and is not ready.
func (p *patient) describe(ctx context.Context, model string, config *inference.ModelConfig) {
	m := Model{Name: model, Backend: config.Backend, MaxBatchSize: config.MaxBatchSize,
		DynamicBatching: config.GetDynamicBatching() != nil, Instances: instanceGroups(config)}
	if m.Backend == "" {
		m.Backend = config.Platform
	}
	floats := map[string]bool{}
	tensor := func(name string, datatype inference.DataType, dims []int64) string {
		kind := strings.TrimPrefix(datatype.String(), "TYPE_")
		if !strings.Contains(kind, "INT") {
			floats[kind] = true
		}
		return fmt.Sprintf("%s %s %s", name, kind, strings.ReplaceAll(fmt.Sprint(dims), " ", ", "))
	}
	for _, t := range config.Input {
		m.Inputs = append(m.Inputs, tensor(t.Name, t.DataType, t.Dims))
	}
	for _, t := range config.Output {
		m.Outputs = append(m.Outputs, tensor(t.Name, t.DataType, t.Dims))
	}
	m.Floats = strings.Join(slices.Sorted(maps.Keys(floats)), ", ")
	if metadata, err := ask(ctx, func(ctx context.Context) (*inference.ModelMetadataResponse, error) {
		return p.pool.ModelMetadata(ctx, model)
	}); err == nil {
		m.Versions = metadata.Versions
	}
	p.replica.Models = append(p.replica.Models, m)
	_, err := ask(ctx, func(ctx context.Context) (any, error) { return nil, p.pool.ModelReady(ctx, model) })
	if err != nil {
		p.found(networks.Fault{Code: LoadFailed, Model: model, Found: "not ready: " + reason(err), Want: "one that is ready",
			Remedy: "see Triton's log, and load the model again"})
	}
}

// instanceGroups is "2 on GPU 0, 1": how many executions there are, on each of what.
func instanceGroups(config *inference.ModelConfig) string {
	var all []string
	for _, g := range config.InstanceGroup {
		where := strings.TrimPrefix(g.Kind.String(), "KIND_")
		if len(g.Gpus) > 0 {
			where += " " + strings.Trim(strings.ReplaceAll(fmt.Sprint(g.Gpus), " ", ", "), "[]")
		}
		all = append(all, fmt.Sprintf("%d on %s", g.Count, where))
	}
	return strings.Join(all, " + ")
}

// restricted is the fault of a server that wants a secret.
func restricted(err error) networks.Fault {
	return networks.Fault{Code: Restricted, Found: reason(err), Want: "health, metadata, model-config and inference open to the gateway",
		Remedy: "take them out of Triton's --grpc-restricted-protocol, or put them behind a network that only the gateway reaches"}
}

// ask makes a call that needs no work.
func ask[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return call(ctx)
}

// reason is what went wrong, without what the report says anyway.
func reason(err error) string {
	var call *tritonclient.Error
	if !errors.As(err, &call) {
		return firstLine(err.Error())
	}
	if call.Kind == tritonclient.DeadlineExceeded {
		return "no answer"
	}
	text := firstLine(call.Message())
	if strings.Contains(text, "server preface") { // gRPC's words for a connection on which HTTP/2 does not begin
		return "something that does not speak gRPC"
	}
	if _, dialing, ok := strings.Cut(text, "dialing: "); ok { // inside a sentence of gRPC's
		text = strings.TrimSuffix(dialing, `"`)
	}
	return text
}

// firstLine is the first line of a message, and not all of a long one.
func firstLine(text string) string {
	text, _, _ = strings.Cut(strings.TrimSpace(text), "\n")
	if runes := []rune(text); len(runes) > 300 {
		return string(runes[:300]) + "…"
	}
	return text
}
