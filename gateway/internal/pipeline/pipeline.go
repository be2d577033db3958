// Package pipeline is the method of "High-fidelity Person-centric
// Subject-to-Image Synthesis" (Face-Diffuser, CVPR 2024, arXiv 2311.10329,
// section 4) as a program: Generate encodes the prompt and the subjects,
// walks the denoising loop through scene construction, subject-scene fusion and
// subject enhancement, and decodes the pictures.
//
// The package evaluates no network: it calls them through Networks. It owns
// every sampling decision, and all the state of a picture: its latents and, for
// a multistep scheduler, up to three earlier predictions of the same size.
//
// A file per part: prepare.go (what a request means), prompt.go (what its words
// mean), words.go (which words a family knows), encode.go, denoise.go, decode.go, safety.go (pictures that are
// not safe for work).
package pipeline

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/facediffuser/facediffuser/fusion"
	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/placement"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
	"github.com/facediffuser/facediffuser/sampler"
)

// UNet names one of the two diffusion models of the paper.
type UNet string

const (
	TDM UNet = "unet_tdm" // text-driven diffusion model: the scene
	SDM UNet = "unet_sdm" // subject-augmented diffusion model: the person
)

// Dimensions are the sizes of a family's tensors, as its networks declare them.
type Dimensions struct {
	Tokens    int // L, tokens of a prompt
	Embedding int // D, width of a token state
	Subjects  int // S, subject slots of the subject_fuser

	EncoderSize int // side of the image encoder's input, pixels
	SafetySize  int // side of the safety checker's input, pixels; 0 without one

	LatentChannels, LatentHeight, LatentWidth int
	Height, Width                             int // of a picture, pixels

	// MaxBatch is how many rows one execution of a UNet takes.
	MaxBatch int
}

// Latent is the number of values of one latent.
func (d Dimensions) Latent() int { return d.LatentChannels * d.LatentHeight * d.LatentWidth }

// Networks runs the networks of one family. All tensors are FP32, row-major;
// implementations are safe for concurrent use and keep no reference to their
// arguments after they return.
type Networks interface {
	// Dimensions says what the networks take. It fails while they are not reachable.
	Dimensions(ctx context.Context) (Dimensions, error)
	// EncodeText maps token ids [L] to token states [L, D].
	EncodeText(ctx context.Context, inputIDs []int64) ([]float32, error)
	// EncodeImage maps CLIP-normalised pixels [3, E, E] to an embedding [D].
	EncodeImage(ctx context.Context, pixelValues []float32) ([]float32, error)
	// FuseSubjects augments token states [L, D] with embeddings [S, D] at
	// positions [S], -1 for an unused slot.
	FuseSubjects(ctx context.Context, hiddenStates, imageEmbeds []float32, positions []int64) ([]float32, error)
	// PredictNoise runs one UNet on one latent under two conditionings
	// [L, D] in one call of two rows, and writes noise_pred of both into dst
	// [2, 4, h, w]: base first.
	PredictNoise(ctx context.Context, dst []float32, unet UNet, latents []float32, timestep float32, base, cond []float32) error
	// DecodeLatents maps VAE latents, already divided by the scaling factor,
	// to an image [3, H, W] in [-1, 1].
	DecodeLatents(ctx context.Context, latents []float32) ([]float32, error)
}

// Pipeline makes pictures with one family. It is safe for concurrent use.
type Pipeline struct {
	family    *family.Family
	tokenizer *tokenizer.Tokenizer
	schedule  *sampler.Schedule
	networks  Networks
	checker   SafetyChecker
	safety    Safety
	nearest   bool
	known     words
	placer    *placement.Placer
	version   string
	servers   int
	dims      atomic.Pointer[Dimensions] // once the networks have said them

	mu       sync.Mutex
	capacity int                 // pictures at once; 0 until the batch size is known, unless configured
	slots    *semaphore.Weighted // one per picture in its loop, first come first served; nil until first used
}

// Options configure a Pipeline.
type Options struct {
	Family    *family.Family
	Tokenizer *tokenizer.Tokenizer
	Networks  Networks
	// Safety says what becomes of unsafe pictures; "" is SafetyOff. The others
	// need a SafetyChecker.
	Safety        Safety
	SafetyChecker SafetyChecker
	// MaxRunning is how many pictures are in their loop at once. 0 takes as
	// many as fill one execution of a UNet (its batch size over the two rows
	// that a picture needs) on each of Servers.
	MaxRunning int
	// Servers is how many serve the networks; 0 counts as one.
	Servers int
	// NearestSize serves a size that the family does not have in the nearest one
	// that it has, with a warning.
	NearestSize bool
	// Version of the program, for the parameters that a picture carries.
	Version string
}

// New makes a pipeline. It calls no network.
func New(o Options) (*Pipeline, error) {
	schedule, err := sampler.NewSchedule(o.Family.Schedule)
	if err != nil {
		return nil, err
	}
	if o.Safety == "" {
		o.Safety = SafetyOff
	}
	if o.Safety != SafetyOff && o.SafetyChecker == nil {
		return nil, fmt.Errorf("pipeline: %q needs a safety checker", o.Safety)
	}
	known := knownWords(o.Family)
	return &Pipeline{
		family: o.Family, tokenizer: o.Tokenizer, schedule: schedule, networks: o.Networks, checker: o.SafetyChecker,
		safety: o.Safety, nearest: o.NearestSize, known: known, placer: placement.New(o.Family.PersonNouns, known.has),
		version: o.Version, servers: max(o.Servers, 1), capacity: o.MaxRunning,
	}, nil
}

// Family is the family that the pipeline serves.
func (p *Pipeline) Family() *family.Family { return p.family }

// Safety is what becomes of pictures that are not safe for work.
func (p *Pipeline) Safety() Safety { return p.safety }

// Dimensions are the networks' dimensions; an error means that they cannot be
// reached now.
func (p *Pipeline) Dimensions(ctx context.Context) (Dimensions, error) {
	dims, err := p.networks.Dimensions(ctx)
	if err == nil {
		p.dims.Store(&dims)
	}
	return dims, err
}

// KnownDimensions are the networks' dimensions as they have been found, without
// asking; false before that.
func (p *Pipeline) KnownDimensions() (Dimensions, bool) {
	dims := p.dims.Load()
	if dims == nil {
		return Dimensions{}, false
	}
	return *dims, true
}

// Capacity is how many pictures run at once; 1 until the networks have said
// their batch size.
func (p *Pipeline) Capacity() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.capacity, 1)
}

func (p *Pipeline) runningSlots(dims Dimensions) *semaphore.Weighted {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots == nil {
		if p.capacity == 0 {
			p.capacity = max(dims.MaxBatch/2, 1) * p.servers
		}
		p.slots = semaphore.NewWeighted(int64(p.capacity))
	}
	return p.slots
}

// EventKind says what happened.
type EventKind int

const (
	Started  EventKind = iota // a picture has left the queue
	Step                      // a step is done
	Preview                   // the predicted clean picture of a step
	Withheld                  // a preview has been made, and waits until its picture has passed the safety checker
	Finished                  // a picture is complete
)

// Event is one thing that happened to one picture of a request.
type Event struct {
	Kind  EventKind
	Image int // 0 … N-1, which picture of the request
	// Step just done, 1 … Steps, and the stage that it belonged to. Steps are
	// the loop's iterations: PNDM has one more than num_inference_steps.
	Step, Steps int
	Stage       fusion.Stage
	// PreviewIndex counts a picture's previews from 0.
	PreviewIndex int
	Picture      *picture.Picture // Preview
	NSFW         *bool            // Preview, as in Result
	Result       *Result          // Finished
}

// Result is one finished picture.
type Result struct {
	Picture *picture.Picture
	// NSFW is what the safety checker says: not safe for work; nil if it was not asked.
	NSFW       *bool
	Seed       uint32
	Parameters Parameters
	// Fusion has an entry for every step of subject-scene fusion.
	Fusion []FusionStep
	// FusionMap is a grey picture of the share of fusion steps in which the
	// SDM won a pixel; nil unless asked for.
	FusionMap *picture.Picture
	Timings   Timings
}

// FusionStep says how one step of subject-scene fusion divided the latent.
type FusionStep struct {
	Step     int
	SDMShare float64 // of the latent's pixels, 0 … 1
	Mask     []uint8 // [h, w], 1 where the SDM won; nil unless the map was asked for
}

// Timings divide a picture's wall time. What is neither waiting nor networks
// is the gateway's own work. All begin with Generate, which is the admission of
// the request, for every picture of it.
type Timings struct {
	Total    time.Duration // from Generate's start to the finished picture
	Queued   time.Duration // from Generate's start to the picture's slot, behind other pictures of its own request too
	Networks time.Duration // with a call to the networks in flight; at most Total − Queued
}

// Generate makes the pictures of one request. observe, which may be nil, sees
// every event; its calls never overlap. Generate returns when all pictures
// are done, at the first failure, or within one step of ctx ending.
func (p *Pipeline) Generate(ctx context.Context, r *Request, observe func(Event)) ([]Result, error) {
	start := time.Now()
	dims, err := p.Dimensions(ctx)
	if err != nil {
		return nil, err
	}
	slots := p.runningSlots(dims)
	var observing sync.Mutex
	emit := func(e Event) {
		if observe != nil {
			observing.Lock()
			defer observing.Unlock()
			observe(e)
		}
	}

	// The conditionings are the same for all pictures: the first slot makes them.
	var encode sync.Once
	var c *conditionings
	var encodeErr error

	results := make([]Result, r.N)
	pictures, ctx := newGroup(ctx)
	for k := range results {
		// Slots are taken in order, so that requests are served in the order of
		// their arrival, not all at once.
		if err := slots.Acquire(ctx, 1); err != nil {
			break // ctx has ended; Wait says why
		}
		queued := time.Since(start)
		pictures.Go(func() error {
			defer slots.Release(1)
			emit(Event{Kind: Started, Image: k, Steps: r.Plan.Steps})
			clock := new(networkClock)
			encode.Do(func() { c, encodeErr = p.encode(ctx, clock, dims, r) })
			if encodeErr != nil {
				return encodeErr
			}
			held := p.holdPreviews(emit)
			latents, steps, err := p.denoise(ctx, clock, dims, r, k, c, held.emit)
			if err != nil {
				return err
			}
			image, err := p.decode(ctx, clock, dims, latents)
			if err != nil {
				return err
			}
			nsfw, err := p.checkSafety(ctx, clock, dims, image)
			if err != nil {
				return err
			}
			if p.safety == SafetyRefuse && *nsfw {
				return &UnsafeError{Image: k}
			}
			held.release()
			results[k] = Result{
				Picture: image, NSFW: nsfw, Seed: r.seed(k), Parameters: r.parameters(p, k), Fusion: steps,
				Timings: Timings{Total: time.Since(start), Queued: queued, Networks: clock.spent},
			}
			results[k].Parameters.NSFW = nsfw != nil && *nsfw
			if r.FusionMap {
				results[k].FusionMap = fusionMap(dims, steps)
			}
			emit(Event{Kind: Finished, Image: k, Step: r.Plan.Steps, Steps: r.Plan.Steps, Result: &results[k]})
			return nil
		})
	}
	if err := pictures.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil && results[r.N-1].Picture == nil {
		return nil, context.Cause(ctx)
	}
	return results, nil
}

// networkClock adds up the time in which one picture had a call in flight.
type networkClock struct{ spent time.Duration }

func (c *networkClock) run(call func() error) error {
	start := time.Now()
	err := call()
	c.spent += time.Since(start)
	return err
}
