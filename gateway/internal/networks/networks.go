// Package networks runs the pipeline's networks in Triton: it knows the
// names, datatypes and shapes of the contract between gateway and networks
// (ARCHITECTURE.md), and nothing of sampling.
package networks

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// Models are the models that a family must serve.
var Models = []string{
	"text_encoder", "image_encoder", "subject_fuser",
	string(pipeline.TDM), string(pipeline.SDM), "vae_decoder",
}

// SafetyChecker is the model that a family may serve beside them.
const SafetyChecker = "safety_checker"

// Client is what this package needs of a tritonclient.Pool.
type Client interface {
	Infer(ctx context.Context, request tritonclient.Request) (*tritonclient.Response, error)
	ModelConfig(ctx context.Context, model string) (*inference.ModelConfig, error)
}

// Networks implements pipeline.Networks and, with the model for it,
// pipeline.SafetyChecker on a Triton client. It is safe for concurrent use.
type Networks struct {
	client   Client
	family   *family.Family
	timeout  time.Duration
	optional []string // models that must be served beside Models

	mu       sync.Mutex // held while the contract is read
	contract *contract  // nil until it has been read
}

var (
	_ pipeline.Networks      = (*Networks)(nil)
	_ pipeline.SafetyChecker = (*Networks)(nil)
)

// New makes the networks of a family on client: Models and optional ones, which
// is to say SafetyChecker. timeout bounds one call to one network; 0 is none.
func New(client Client, f *family.Family, timeout time.Duration, optional ...string) *Networks {
	return &Networks{client: client, family: f, timeout: timeout, optional: optional}
}

// Dimensions reads the configuration of every model, once, and holds it
// against the contract. The error is the client's, or a *ContractError.
func (n *Networks) Dimensions(ctx context.Context) (pipeline.Dimensions, error) {
	c, err := n.read(ctx)
	if err != nil {
		return pipeline.Dimensions{}, err
	}
	return c.dims, nil
}

func (n *Networks) read(ctx context.Context) (*contract, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.contract != nil {
		return n.contract, nil
	}
	configs := make(map[string]*inference.ModelConfig)
	for _, model := range slices.Concat(Models, n.optional) {
		config, err := n.client.ModelConfig(ctx, model)
		if err != nil {
			return nil, err
		}
		configs[model] = config
	}
	c, err := newContract(configs, n.family, n.optional...)
	if err != nil {
		return nil, err
	}
	n.contract = c
	return c, nil
}

// EncodeText implements pipeline.Networks.
func (n *Networks) EncodeText(ctx context.Context, inputIDs []int64) ([]float32, error) {
	return n.run(ctx, "text_encoder", "hidden_states", func(c *contract) []tritonclient.Tensor {
		return []tritonclient.Tensor{c.int64("text_encoder", "input_ids", 1, inputIDs)}
	})
}

// EncodeImage implements pipeline.Networks.
func (n *Networks) EncodeImage(ctx context.Context, pixelValues []float32) ([]float32, error) {
	return n.run(ctx, "image_encoder", "image_embeds", func(c *contract) []tritonclient.Tensor {
		return []tritonclient.Tensor{c.float32("image_encoder", "pixel_values", 1, pixelValues)}
	})
}

// FuseSubjects implements pipeline.Networks.
func (n *Networks) FuseSubjects(ctx context.Context, hiddenStates, imageEmbeds []float32, positions []int64) ([]float32, error) {
	return n.run(ctx, "subject_fuser", "hidden_states_augmented", func(c *contract) []tritonclient.Tensor {
		return []tritonclient.Tensor{
			c.float32("subject_fuser", "hidden_states", 1, hiddenStates),
			c.float32("subject_fuser", "image_embeds", 1, imageEmbeds),
			c.int64("subject_fuser", "subject_positions", 1, positions),
		}
	})
}

// PredictNoise implements pipeline.Networks. The two rows of a pair share the
// latents and the timestep; they differ in what they are told.
func (n *Networks) PredictNoise(ctx context.Context, dst []float32, unet pipeline.UNet, latents []float32, timestep float32, base, cond []float32) error {
	return n.PredictRows(ctx, dst, unet, [][]float32{latents, latents}, []float32{timestep, timestep}, [][]float32{base, cond})
}

// PredictRows runs one UNet on rows that share nothing: latents [4, h, w], a
// timestep and a conditioning [L, D] each, at most MaxBatch of them in one call.
// It writes noise_pred [rows, 4, h, w] into dst.
func (n *Networks) PredictRows(ctx context.Context, dst []float32, unet pipeline.UNet, latents [][]float32, timesteps []float32, conditionings [][]float32) error {
	c, err := n.read(ctx)
	if err != nil {
		return err
	}
	model, rows := string(unet), int64(len(timesteps))
	return n.call(ctx, c, model, rows, dst, "noise_pred",
		c.float32(model, "sample", rows, latents...),
		c.float32(model, "timestep", rows, timesteps),
		c.float32(model, "encoder_hidden_states", rows, conditionings...))
}

// DecodeLatents implements pipeline.Networks.
func (n *Networks) DecodeLatents(ctx context.Context, latents []float32) ([]float32, error) {
	return n.run(ctx, "vae_decoder", "image", func(c *contract) []tritonclient.Tensor {
		return []tritonclient.Tensor{c.float32("vae_decoder", "latents", 1, latents)}
	})
}

// ScoreSafety implements pipeline.SafetyChecker.
func (n *Networks) ScoreSafety(ctx context.Context, pixelValues []float32) (float32, error) {
	score, err := n.run(ctx, SafetyChecker, "nsfw_score", func(c *contract) []tritonclient.Tensor {
		return []tritonclient.Tensor{c.float32(SafetyChecker, "pixel_values", 1, pixelValues)}
	})
	if err != nil {
		return 0, err
	}
	return score[0], nil
}

// run calls a model on one row and returns its output.
func (n *Networks) run(ctx context.Context, model, output string, inputs func(*contract) []tritonclient.Tensor) ([]float32, error) {
	c, err := n.read(ctx)
	if err != nil {
		return nil, err
	}
	dst := make([]float32, elements(c.tensors[model][output].shape))
	return dst, n.call(ctx, c, model, 1, dst, output, inputs(c)...)
}

// call runs a model on rows rows and writes its output into dst. Whatever the network,
// an output that is not finite ends here: further on it would become a black picture,
// or a score that passes every threshold.
func (n *Networks) call(ctx context.Context, c *contract, model string, rows int64, dst []float32, output string, inputs ...tritonclient.Tensor) error {
	declared := c.tensors[model][output]
	response, err := n.client.Infer(ctx, tritonclient.Request{
		Model: model, Inputs: inputs, Timeout: n.timeout,
		Outputs: []tritonclient.Output{{Name: output, Datatype: declared.datatype, Shape: batched(rows, declared.shape), Finite: true}},
	})
	if err != nil {
		return err
	}
	defer response.Release()
	return response.Outputs[0].CopyFloat32s(dst)
}
