package tritonclient

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

const (
	// Stream and connection window. Both are set: setting one of them turns gRPC's
	// bandwidth estimator off, and the other would stay at 64 KiB.
	windowBytes = 4 << 20
	bufferBytes = 1 << 20
	// The largest message either way. gRPC's own limit of 4 MiB is one picture.
	maxMessageBytes = 256 << 20
	// Triton takes a ping every 300 s at most and closes the connection at the third
	// that comes earlier.
	keepaliveTime    = 6 * time.Minute
	keepaliveTimeout = 20 * time.Second
	connectTimeout   = 3 * time.Second
	maxAttempts      = 3
)

// Options describe a pool. Replicas is required.
type Options struct {
	// Replicas are the servers, as host:port or any gRPC target.
	Replicas []string
	// Header is sent with every call, such as the secret of a restricted protocol:
	// {"triton-grpc-protocol-<key>": "<value>"}.
	Header map[string]string
	// Observe, if set, is told of every attempt, from the goroutine that made it.
	Observe func(Call)
	// OnReplica, if set, is told when a replica's readiness or breaker changes, from
	// the goroutine that found it.
	OnReplica func(ReplicaStatus)
	// OnModel, if set, is told of every failed canary of a model that gets no calls on a
	// replica, and when it gets calls again, from the goroutine that found it.
	OnModel func(ModelStatus)
	// Direct is for diagnosis: replicas are probed by Ready alone, and every call is made,
	// whatever readiness and breakers say.
	Direct bool
	// DialOptions come after the pool's own, such as transport credentials; without
	// them connections are plain text.
	DialOptions []grpc.DialOption
}

// Call is one attempt of one call on one replica.
type Call struct {
	Op       string
	Model    string
	Replica  string
	Attempt  int // from 1
	Duration time.Duration
	Err      error // nil or an *Error
}

// Pool sends calls to a set of replicas that serve the same models. It is safe for
// concurrent use.
type Pool struct {
	replicas []*replica
	observe  func(Call)
	direct   bool
	header   metadata.MD
	turn     atomic.Uint32
	stop     context.CancelFunc
	probes   sync.WaitGroup
}

// New makes a pool and begins to probe its replicas. It does not wait for them.
func New(options Options) (*Pool, error) {
	if len(options.Replicas) == 0 {
		return nil, errors.New("tritonclient: no replica given")
	}
	p := &Pool{observe: options.Observe, direct: options.Direct, header: metadata.New(options.Header)}
	for i, address := range options.Replicas {
		if slices.Contains(options.Replicas[:i], address) {
			return nil, errors.Join(fmt.Errorf("tritonclient: replica %s is given twice", address), p.closeConnections())
		}
		conn, err := grpc.NewClient(address, dialOptions(options.DialOptions)...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("tritonclient: replica %s: %w", address, err), p.closeConnections())
		}
		p.replicas = append(p.replicas, newReplica(address, conn, options.OnReplica, options.OnModel))
	}
	ctx, stop := context.WithCancel(p.outgoing(context.Background()))
	p.stop = stop
	if !p.direct {
		for _, r := range p.replicas {
			p.probes.Go(func() { r.watch(ctx) })
			p.probes.Go(func() { r.models.watch(ctx) })
		}
	}
	return p, nil
}

func dialOptions(more []grpc.DialOption) []grpc.DialOption {
	return append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(windowBytes),
		grpc.WithInitialConnWindowSize(windowBytes),
		grpc.WithReadBufferSize(bufferBytes),
		grpc.WithWriteBufferSize(bufferBytes),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessageBytes),
			grpc.MaxCallSendMsgSize(maxMessageBytes),
			grpc.ForceCodecV2(newRawCodec()),
		),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectDelay},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithDisableRetry(),         // the pool decides: see policy.go
		grpc.WithDisableServiceConfig(), // no TXT look-ups
	}, more...)
}

// Close ends the probes and the connections. Calls in flight fail.
func (p *Pool) Close() error {
	p.stop()
	p.probes.Wait()
	return p.closeConnections()
}

func (p *Pool) closeConnections() error {
	var errs []error
	for _, r := range p.replicas {
		errs = append(errs, r.conn.Close())
	}
	return errors.Join(errs...)
}

// Replicas says how every replica is, in the order of Options.Replicas.
func (p *Pool) Replicas() []ReplicaStatus {
	all := make([]ReplicaStatus, len(p.replicas))
	for i, r := range p.replicas {
		all[i] = r.status()
	}
	return all
}

// Recovery is in how long one of the replicas can be expected to take calls again, when none
// does now: the least of what their last outages would still take.
func (p *Pool) Recovery() time.Duration {
	least := maxRecovery
	for _, r := range p.replicas {
		least = min(least, r.recovery())
	}
	return least
}

// Ready asks every replica now and returns nil if at least one is ready: it is live
// and all its models are loaded. A success puts a replica back into use.
func (p *Pool) Ready(ctx context.Context) error {
	return p.any(ctx, "ServerReady", "", (*replica).probe)
}

// ModelReady asks every replica now and returns nil if one of them is ready to run
// the model, and the model has not been found to hang there.
func (p *Pool) ModelReady(ctx context.Context, model string) error {
	return p.any(ctx, "ModelReady", model, func(r *replica, ctx context.Context) error {
		answer, err := r.client.ModelReady(ctx, &inference.ModelReadyRequest{Name: model})
		if err == nil && !answer.Ready {
			return &Error{Kind: NotFound, Err: errors.New("the model is not loaded")}
		}
		if why := r.models.refusal(model); err == nil && why != nil && !p.direct {
			return &Error{Kind: BreakerOpen, Err: why}
		}
		return err
	})
}

// any runs ask on all replicas at once and returns nil as soon as one succeeds.
func (p *Pool) any(ctx context.Context, op, model string, ask func(*replica, context.Context) error) error {
	asking, cancel := context.WithCancel(p.outgoing(ctx))
	defer cancel()
	answers := make(chan error, len(p.replicas))
	for _, r := range p.replicas {
		go func() {
			err := ask(r, asking)
			if err != nil {
				failed := failure(ctx, err)
				failed.Op, failed.Model, failed.Replica = op, model, r.address
				err = failed
			}
			answers <- err
		}()
	}
	var errs []error
	for range p.replicas {
		err := <-answers
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// ServerMetadata is name, version and extensions of a replica.
func (p *Pool) ServerMetadata(ctx context.Context) (answer *inference.ServerMetadataResponse, err error) {
	err = p.do(ctx, "ServerMetadata", "", func(ctx context.Context, r *replica) error {
		answer, err = r.client.ServerMetadata(ctx, &inference.ServerMetadataRequest{})
		return err
	})
	return answer, err
}

// ModelMetadata is the model's tensors as the wire sees them.
func (p *Pool) ModelMetadata(ctx context.Context, model string) (answer *inference.ModelMetadataResponse, err error) {
	err = p.do(ctx, "ModelMetadata", model, func(ctx context.Context, r *replica) error {
		answer, err = r.client.ModelMetadata(ctx, &inference.ModelMetadataRequest{Name: model})
		return err
	})
	return answer, err
}

// ModelConfig is the model's configuration: dimensions, batching, instances.
func (p *Pool) ModelConfig(ctx context.Context, model string) (config *inference.ModelConfig, err error) {
	err = p.do(ctx, "ModelConfig", model, func(ctx context.Context, r *replica) error {
		answer, err := r.client.ModelConfig(ctx, &inference.ModelConfigRequest{Name: model})
		if err != nil {
			return err
		}
		if config = answer.Config; config == nil {
			return &Error{Kind: BadResponse, Err: errors.New("the answer holds no configuration")}
		}
		return nil
	})
	return config, err
}

// Statistics are the counters of one model (all versions), or of every model if
// model is empty, on one replica.
func (p *Pool) Statistics(ctx context.Context, model string) (all []*inference.ModelStatistics, err error) {
	err = p.do(ctx, "ModelStatistics", model, func(ctx context.Context, r *replica) error {
		answer, err := r.client.ModelStatistics(ctx, &inference.ModelStatisticsRequest{Name: model})
		all = answer.GetModelStats()
		return err
	})
	return all, err
}

// RepositoryIndex lists the models in the repository of one replica, loaded or not, with
// the reason of those that are not. Servers that are reached by others often restrict it.
func (p *Pool) RepositoryIndex(ctx context.Context) (models []*inference.RepositoryIndexResponse_ModelIndex, err error) {
	err = p.do(ctx, "RepositoryIndex", "", func(ctx context.Context, r *replica) error {
		answer, err := r.client.RepositoryIndex(ctx, &inference.RepositoryIndexRequest{})
		models = answer.GetModels()
		return err
	})
	return models, err
}

// do runs attempt on the best replica and, as policy.go says, on others after it.
// The error is an *Error.
func (p *Pool) do(ctx context.Context, op, model string, attempt func(context.Context, *replica) error) error {
	ctx = p.outgoing(ctx)
	var tried, odd []*replica // odd ones gave values that were not finite
	last := (*Error)(nil)
	for n := 1; n <= maxAttempts; n++ {
		r, refused := p.pick(model, tried)
		if r == nil && len(odd) > 0 {
			r = odd[0] // no other is left to ask: the same one again
		}
		if r == nil {
			if last == nil {
				refused.Op, refused.Model = op, model
				return refused
			}
			return last
		}
		tried = append(tried, r)
		began := time.Now()
		err := p.call(ctx, r, attempt)
		var failed *Error
		if errors.As(err, &failed) {
			failed.Op, failed.Model, failed.Replica = op, model, r.address
		}
		if p.observe != nil {
			p.observe(Call{Op: op, Model: model, Replica: r.address, Attempt: n, Duration: time.Since(began), Err: err})
		}
		if err == nil {
			for _, o := range odd {
				o.charge(last)
				if o != r {
					o.models.charge(model, last)
				}
			}
			return nil
		}
		last = failed
		if failed.Kind == NotFinite {
			odd = append(odd, r)
		}
		if !failed.Kind.retried() || len(odd) == 2 {
			break
		}
	}
	return last
}

func (p *Pool) call(ctx context.Context, r *replica, attempt func(context.Context, *replica) error) error {
	if !p.direct {
		return r.call(ctx, attempt)
	}
	if err := attempt(ctx, r); err != nil {
		return failure(ctx, err)
	}
	return nil
}

// pick chooses, among the replicas that were not tried yet and take calls, one with
// the fewest calls in flight, in turn among equals. If there is none, it says why;
// the reason of a replica that only rests counts more than that of one that is down.
func (p *Pool) pick(model string, tried []*replica) (*replica, *Error) {
	var best *replica
	var refused *Error
	least := int64(math.MaxInt64)
	first := int(p.turn.Add(1))
	for i := range p.replicas {
		r := p.replicas[(first+i)%len(p.replicas)]
		if slices.Contains(tried, r) {
			continue
		}
		if why := r.refusal(model); why != nil && !p.direct {
			if refused == nil || why.Kind == BreakerOpen {
				refused = why
			}
			continue
		}
		if n := r.outstanding.Load(); n < least {
			best, least = r, n
		}
	}
	return best, refused
}

func (p *Pool) outgoing(ctx context.Context) context.Context {
	if len(p.header) == 0 {
		return ctx
	}
	existing, _ := metadata.FromOutgoingContext(ctx)
	return metadata.NewOutgoingContext(ctx, metadata.Join(existing, p.header))
}
