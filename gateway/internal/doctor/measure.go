package doctor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/networks"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/sampler"
	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// Faults that only a call shows.
const (
	CallFailed    networks.Code = "call_failed"
	TooSlow       networks.Code = "step_timeout"
	NotFinite     networks.Code = "not_finite"
	RowsMixed     networks.Code = "rows_mixed"
	TokenIDs      networks.Code = "token_ids"
	AnswersDiffer networks.Code = "answers_differ"
	Busy          networks.Code = "busy"
)

const (
	// A network is called for at least measureFor, and once if it takes as long as slowCall.
	measureFor = 300 * time.Millisecond
	slowCall   = 3 * time.Second
	mostCalls  = 15
	// A batch that would take longer is left out.
	longestBatch = 20 * time.Second
	mostAtOnce   = 8 // instances of one model that are kept busy
	// Answers to the same question may differ by this share of their size (L2 norms):
	// FP16 exports are held to 0.5 %, and another timestep or other weights are far above.
	sameAnswer = 0.05
)

// Measured are seconds of calls, as the gateway sees them: with the wire and with
// Triton's own share.
type Measured struct {
	TextEncoder  float64 `json:"text_encoder_seconds"` // one row, as all but the UNets
	ImageEncoder float64 `json:"image_encoder_seconds"`
	SubjectFuser float64 `json:"subject_fuser_seconds"`
	VAEDecoder   float64 `json:"vae_decoder_seconds"`
	// SafetyChecker is 0 where pictures are not checked.
	SafetyChecker float64 `json:"safety_checker_seconds,omitempty"`
	TDM           []Batch `json:"unet_tdm"`
	SDM           []Batch `json:"unet_sdm"`
	// Both are the two rows of a step of subject-scene fusion in each UNet, at once.
	Both float64 `json:"both_unets_seconds"`

	slots int // pictures that fill an execution
}

// Batch is the time of AtOnce calls of Rows rows each, made at the same time.
type Batch struct {
	Rows    int     `json:"rows"`
	AtOnce  int     `json:"at_once"` // as many as the model has instances, for its largest batch
	Seconds float64 `json:"seconds"`
}

func (b Batch) String() string {
	switch {
	case b.AtOnce > 1:
		return fmt.Sprintf("%d × %d rows", b.AtOnce, b.Rows)
	case b.Rows == 1:
		return "1 row"
	}
	return fmt.Sprintf("%d rows", b.Rows)
}

func (b Batch) alike(other Batch) bool { return b.Rows == other.Rows && b.AtOnce == other.AtOnce }

// question is what every replica is asked, so that answers can be compared: normal noise,
// which any weights take, and a prompt.
type question struct {
	prompt    []int64
	last      []int64 // ends in the vocabulary's last id
	pixels    []float32
	states    [2][]float32
	embeds    []float32
	positions []int64
	latents   []float32
	vae       []float32 // latents as the decoder takes them
	picture   []float32 // pixel values for the safety checker; empty without one
}

// timesteps of the two rows: an early and a late step, which no UNet answers alike.
var timesteps = [2]float32{981, 1}

func (e *examination) question(d pipeline.Dimensions) (*question, error) {
	prompt, err := e.words.Encode("a " + e.family.PersonNouns[0])
	if err != nil {
		return nil, err
	}
	generator := sampler.NewGenerator(0)
	noise := func(n int) []float32 {
		values := make([]float32, n)
		generator.Randn(values)
		return values
	}
	q := &question{
		prompt: prompt.IDs, last: slices.Clone(prompt.IDs),
		pixels: noise(3 * d.EncoderSize * d.EncoderSize),
		states: [2][]float32{noise(d.Tokens * d.Embedding), noise(d.Tokens * d.Embedding)},
		embeds: noise(d.Subjects * d.Embedding), positions: slices.Repeat([]int64{-1}, d.Subjects),
		latents: noise(d.Latent()),
		picture: noise(3 * d.SafetySize * d.SafetySize),
	}
	q.last[d.Tokens-1] = int64(e.words.Size() - 1)
	q.positions[0] = 2 // the noun
	q.vae = make([]float32, len(q.latents))
	for i, z := range q.latents {
		q.vae[i] = z / float32(e.family.ScalingFactor)
	}
	return q, nil
}

// measurement runs the networks of one patient.
type measurement struct {
	*patient
	say  func(string)
	q    *question
	dims pipeline.Dimensions

	mu   sync.Mutex
	rows map[string]uint64 // that were sent to each UNet
}

// measure fills in what only calls show. It returns at the first network that does not
// answer; the error is ctx's.
func (e *examination) measure(ctx context.Context, p *patient) error {
	dims, err := p.networks.Dimensions(ctx)
	if err == nil && e.asked == nil {
		e.asked, err = e.question(dims)
	}
	if err != nil {
		p.found(p.failed("", err))
		return ctx.Err()
	}
	m := &measurement{patient: p, q: e.asked, dims: dims, rows: map[string]uint64{},
		say: func(what string) { e.say("%s: measuring %s", p.replica.Address, what) }}
	before := m.counted(ctx)
	times, fault := m.run(ctx)
	if err := ctx.Err(); err != nil {
		return err
	}
	if fault != nil {
		p.found(*fault)
		return nil
	}
	for model, rows := range m.counted(ctx) {
		if others := int64(rows-before[model]) - int64(m.rows[model]); others > 0 {
			p.found(networks.Fault{Code: Busy, Warning: true, Model: model, Found: fmt.Sprintf("%d rows of other callers during the measurement", others),
				Want: "an idle replica", Remedy: "measure again when it is idle: these times are too long"})
		}
	}
	p.replica.Measured, p.replica.Predicted = times, predict(e.family, times)
	return nil
}

// counted are the rows that each UNet has run so far; empty if the server does not say.
func (m *measurement) counted(ctx context.Context) map[string]uint64 {
	counts := map[string]uint64{}
	for _, unet := range []pipeline.UNet{pipeline.TDM, pipeline.SDM} {
		all, err := m.pool.Statistics(ctx, string(unet))
		if err != nil {
			continue
		}
		for _, version := range all {
			counts[string(unet)] += version.InferenceCount
		}
	}
	return counts
}

// run calls every network. Its second result is what ended it.
func (m *measurement) run(ctx context.Context) (*Measured, *networks.Fault) {
	q, n := m.q, m.networks
	times := &Measured{slots: max(m.dims.MaxBatch/2, 1)}
	for _, one := range []struct {
		model   string
		seconds *float64
		call    func(context.Context) ([]float32, error)
	}{
		{"text_encoder", &times.TextEncoder, func(ctx context.Context) ([]float32, error) { return n.EncodeText(ctx, q.prompt) }},
		{"image_encoder", &times.ImageEncoder, func(ctx context.Context) ([]float32, error) { return n.EncodeImage(ctx, q.pixels) }},
		{"subject_fuser", &times.SubjectFuser, func(ctx context.Context) ([]float32, error) {
			return n.FuseSubjects(ctx, q.states[0], q.embeds, q.positions)
		}},
		{"vae_decoder", &times.VAEDecoder, func(ctx context.Context) ([]float32, error) { return n.DecodeLatents(ctx, q.vae) }},
	} {
		m.say(one.model)
		if one.model == "text_encoder" {
			if fault := m.checkTokens(ctx); fault != nil {
				return nil, fault
			}
		}
		seconds, err := timed(ctx, func(ctx context.Context) (err error) {
			m.answers[one.model], err = one.call(ctx)
			return err
		})
		if fault := m.judge(one.model, err); fault != nil {
			return nil, fault
		}
		*one.seconds = seconds
	}
	if len(q.picture) > 0 {
		m.say(networks.SafetyChecker)
		// The score is of noise, and not compared with other replicas': near 0 it may have any sign.
		seconds, err := timed(ctx, func(ctx context.Context) error {
			_, err := n.ScoreSafety(ctx, q.picture)
			return err
		})
		if fault := m.judge(networks.SafetyChecker, err); fault != nil {
			return nil, fault
		}
		times.SafetyChecker = seconds
	}
	for _, one := range []struct {
		unet    pipeline.UNet
		batches *[]Batch
	}{{pipeline.TDM, &times.TDM}, {pipeline.SDM, &times.SDM}} {
		if fault := m.runUNet(ctx, one.unet, one.batches); fault != nil {
			return nil, fault
		}
	}
	m.say("both UNets at once")
	seconds, err := timed(ctx, func(ctx context.Context) error {
		return atOnce(2, func(i int) error {
			_, err := m.predict(ctx, []pipeline.UNet{pipeline.TDM, pipeline.SDM}[i], 2, 0)
			return err
		})
	})
	if err != nil {
		return nil, m.judge("", err)
	}
	times.Both = seconds
	return times, nil
}

// checkTokens asks for an id that every vocabulary has and for the last one of ours.
func (m *measurement) checkTokens(ctx context.Context) *networks.Fault {
	if _, err := m.networks.EncodeText(ctx, make([]int64, m.dims.Tokens)); err != nil {
		return m.judge("text_encoder", err)
	}
	_, err := m.networks.EncodeText(ctx, m.q.last)
	fault := m.judge("text_encoder", err)
	if fault != nil && fault.Code == CallFailed {
		fault.Code, fault.What = TokenIDs, "input input_ids"
		fault.Want = fmt.Sprintf("ids up to %d, the last of the tokenizer", m.q.last[m.dims.Tokens-1])
		fault.Remedy = "serve the text_encoder that tokenizer/ belongs to"
	}
	return fault
}

// runUNet measures one UNet and checks that its rows do not depend on one another.
func (m *measurement) runUNet(ctx context.Context, unet pipeline.UNet, batches *[]Batch) *networks.Fault {
	model := string(unet)
	full := Batch{Rows: m.dims.MaxBatch, AtOnce: instances(m.configs[model])}
	if m.configs[model].GetDynamicBatching() == nil {
		full.Rows = 2 // no execution ever holds more
	}
	sizes := []Batch{{Rows: 1, AtOnce: 1}, {Rows: 2, AtOnce: 1}}
	if !slices.ContainsFunc(sizes, full.alike) {
		sizes = append(sizes, full)
	}
	var rows [2][]float32 // answers to a call of one row and of two
	for i, size := range sizes {
		if i == 2 && (*batches)[1].Seconds*float64(full.Rows*full.AtOnce)/2 > longestBatch.Seconds() {
			continue
		}
		m.say(fmt.Sprintf("%s, %s", model, size))
		seconds, err := timed(ctx, func(ctx context.Context) error {
			return atOnce(size.AtOnce, func(caller int) error {
				answer, err := m.predict(ctx, unet, size.Rows, 0)
				if caller == 0 && i < 2 {
					rows[i] = answer
				}
				return err
			})
		})
		if fault := m.judge(model, err); fault != nil {
			return fault
		}
		size.Seconds = seconds
		*batches = append(*batches, size)
	}
	m.answers[model] = rows[1]
	second, err := m.predict(ctx, unet, 1, 1) // the pair's other row, alone
	if err != nil {
		return m.judge(model, err)
	}
	latent := m.dims.Latent()
	for row, alone := range [][]float32{rows[0], second} {
		if by := difference(rows[1][row*latent:(row+1)*latent], alone); by > sameAnswer {
			return &networks.Fault{Code: RowsMixed, Model: model, What: "output noise_pred",
				Found: fmt.Sprintf("row %d of a batch differs by %.0f %% from the same row alone", row, 100*by), Want: "the same answer",
				Remedy: "export the UNet with a timestep and a conditioning of its own for every row, as `toolkit export` does: pictures that share a batch spoil each other"}
		}
	}
	return nil
}

// predict calls a UNet on rows rows, which alternate between the question's two beginning
// with first.
func (m *measurement) predict(ctx context.Context, unet pipeline.UNet, rows, first int) ([]float32, error) {
	latents, times, states := make([][]float32, rows), make([]float32, rows), make([][]float32, rows)
	for i := range rows {
		latents[i], times[i], states[i] = m.q.latents, timesteps[(first+i)%2], m.q.states[(first+i)%2]
	}
	m.mu.Lock()
	m.rows[string(unet)] += uint64(rows)
	m.mu.Unlock()
	answer := make([]float32, rows*len(m.q.latents))
	return answer, m.networks.PredictRows(ctx, answer, unet, latents, times, states)
}

// judge says what is wrong with the outcome of a call; nil if nothing is.
func (m *measurement) judge(model string, err error) *networks.Fault {
	if err == nil {
		return nil
	}
	fault := m.failed(model, err)
	return &fault
}

// failed is the fault that an error of a call is.
func (p *patient) failed(model string, err error) networks.Fault {
	fault := networks.Fault{Code: CallFailed, Model: model, Found: err.Error(), Want: "an answer", Remedy: "see Triton's log"}
	var call *tritonclient.Error
	if !errors.As(err, &call) {
		return fault
	}
	if fault.Model == "" {
		fault.Model = call.Model
	}
	fault.Found = "the answer: " + firstLine(call.Message())
	switch call.Kind {
	case tritonclient.DeadlineExceeded:
		fault.Code, fault.Found, fault.Want = TooSlow, "no answer in "+p.timeout.String(), "one within --step-timeout"
		fault.Remedy = "raise --step-timeout here and for `serve`, or give the model a faster device"
	case tritonclient.NotFinite:
		fault.Code, fault.Found, fault.Want = NotFinite, firstLine(call.Message()), "finite numbers"
		fault.Remedy = "keep the layers that overflow in FP32, or export the whole model in FP32: FP16 ends at 65504"
	case tritonclient.BadResponse:
		fault.Remedy = "let config.pbtxt describe the outputs that the file gives"
	case tritonclient.Unavailable:
		fault.Remedy = "see Triton's log: it ended, or it is shutting down"
	case tritonclient.PermissionDenied:
		fault = restricted(call)
	}
	return fault
}

// timed is the median time of call in seconds, after one call to warm up.
func timed(ctx context.Context, call func(context.Context) error) (float64, error) {
	var took []time.Duration
	for total := time.Duration(0); len(took) < 3 || total < measureFor && len(took) < mostCalls; {
		began := time.Now()
		if err := call(ctx); err != nil {
			return 0, err
		}
		d := time.Since(began)
		if total += d; d >= slowCall {
			return d.Seconds(), nil
		}
		took = append(took, d)
	}
	took = took[1:]
	slices.Sort(took)
	return took[len(took)/2].Seconds(), nil
}

// atOnce runs call n times at the same time and returns the first error of any.
func atOnce(n int, call func(i int) error) error {
	errs := make([]error, n)
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() { errs[i] = call(i) })
	}
	calls.Wait()
	return errors.Join(errs...)
}

// instances is how many executions of a model run at the same time.
func instances(config *inference.ModelConfig) int {
	n := 0
	for _, group := range config.GetInstanceGroup() {
		n += int(group.Count) * max(len(group.Gpus), 1)
	}
	return min(max(n, 1), mostAtOnce)
}

// difference is |a − b| over |b|, in L2 norms.
func difference(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	var apart, size float64
	for i := range a {
		d, v := float64(a[i])-float64(b[i]), float64(b[i])
		apart, size = apart+d*d, size+v*v
	}
	if apart == 0 {
		return 0
	}
	return math.Sqrt(apart / size)
}
