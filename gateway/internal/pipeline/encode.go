package pipeline

import (
	"context"
)

// conditionings are the UNets' encoder_hidden_states, each [L, D].
type conditionings struct {
	null      []float32 // c_null: the empty or the negative prompt
	text      []float32 // c_text: the prompt without markers
	augmented []float32 // c_aug: c_text with the subjects' tokens augmented; nil without subjects
}

// encode turns the prompt and the reference pixels into conditionings
// (paper section 3; FastComposer's subject augmentation). One text encoder
// serves both models.
func (p *Pipeline) encode(ctx context.Context, clock *networkClock, dims Dimensions, r *Request) (*conditionings, error) {
	c := new(conditionings)
	embeds := make([]float32, dims.Subjects*dims.Embedding)
	err := clock.run(func() error {
		calls, ctx := newGroup(ctx)
		calls.Go(func() (err error) {
			c.null, err = p.networks.EncodeText(ctx, r.negative.IDs)
			return err
		})
		calls.Go(func() (err error) {
			c.text, err = p.networks.EncodeText(ctx, r.prompt.IDs)
			return err
		})
		for s, subject := range r.Subjects {
			calls.Go(func() error {
				pixels := make([]float32, 3*dims.EncoderSize*dims.EncoderSize)
				subject.PixelValues(pixels, dims.EncoderSize)
				embed, err := p.networks.EncodeImage(ctx, pixels)
				copy(embeds[s*dims.Embedding:], embed)
				return err
			})
		}
		return calls.Wait()
	})
	if err != nil || len(r.Subjects) == 0 {
		return c, err
	}

	positions := make([]int64, dims.Subjects)
	for s := range positions {
		positions[s] = -1
		if s < len(r.prompt.Positions) {
			positions[s] = int64(r.prompt.Positions[s])
		}
	}
	err = clock.run(func() (err error) {
		c.augmented, err = p.networks.FuseSubjects(ctx, c.text, embeds, positions)
		return err
	})
	return c, err
}
