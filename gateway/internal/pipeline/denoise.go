package pipeline

import (
	"context"

	"github.com/facediffuser/facediffuser/fusion"
	"github.com/facediffuser/facediffuser/sampler"
)

// denoise walks the loop of picture k from its initial noise to its last
// latent.
//
//	z       latents          ε_T, ε_S  noise_pred of TDM and SDM
//	w       guidance_scale   c_*       conditionings
//
// Scene construction (TDM):     ε = ε_T(z, c_null) + w (ε_T(z, c_text) − ε_T(z, c_null))
// Subject-scene fusion (both):  SNF picks, pixel by pixel, one of the guided noises
// Subject enhancement (SDM):    ε = ε_S(z, c_text) + w (ε_S(z, c_aug) − ε_S(z, c_text))
//
// (paper section 4.2 and 4.3; the bases are those of the released code.)
func (p *Pipeline) denoise(ctx context.Context, clock *networkClock, dims Dimensions, r *Request, k int, c *conditionings, emit func(Event)) ([]float32, []FusionStep, error) {
	solver := r.solver
	generator := sampler.NewGenerator(r.seed(k))
	latents := make([]float32, dims.Latent())
	generator.Randn(latents) // the initial noise of every scheduler has unit variance

	// Everything that the loop writes is allocated here, once.
	tdm, sdm := newPair(len(latents)), newPair(len(latents))
	noise := make([]float32, len(latents))
	original := make([]float32, len(latents))
	history := make([]float32, solver.History()*len(latents)) // what the scheduler remembers of the fused noise
	var stepNoise []float32
	if solver.NeedsNoise() {
		stepNoise = make([]float32, len(latents))
	}
	mask := make([]uint8, dims.LatentHeight*dims.LatentWidth)
	fuser := fusion.NewFuser(dims.LatentChannels, dims.LatentHeight, dims.LatentWidth)
	w := float32(r.GuidanceScale)

	var fused []FusionStep
	previews := 0
	for i := range solver.Iterations() {
		if err := ctx.Err(); err != nil {
			return nil, nil, context.Cause(ctx)
		}
		stage := r.Plan.Stage(i)
		t := solver.Timestep(i)
		err := clock.run(func() error {
			calls, ctx := newGroup(ctx)
			if stage != fusion.SubjectEnhancement {
				calls.Go(func() error { return p.networks.PredictNoise(ctx, tdm.rows, TDM, latents, t, c.null, c.text) })
			}
			if stage != fusion.SceneConstruction {
				calls.Go(func() error { return p.networks.PredictNoise(ctx, sdm.rows, SDM, latents, t, c.text, c.augmented) })
			}
			return calls.Wait()
		})
		if err != nil {
			return nil, nil, err
		}

		switch stage {
		case fusion.SceneConstruction:
			fusion.Guide(noise, tdm.base, tdm.cond, w)
		case fusion.SubjectSceneFusion:
			won := fuser.Fuse(noise, mask, tdm.base, tdm.cond, sdm.base, sdm.cond, w)
			step := FusionStep{Step: i, SDMShare: float64(won) / float64(len(mask))}
			if r.FusionMap {
				step.Mask = append([]uint8(nil), mask...)
			}
			fused = append(fused, step)
		case fusion.SubjectEnhancement:
			fusion.Guide(noise, sdm.base, sdm.cond, w)
		}

		preview := previews < r.Previews && i == r.previewStep(previews)
		if preview {
			solver.PredictOriginal(original, latents, noise, i)
		}
		if stepNoise != nil {
			generator.Randn(stepNoise)
		}
		solver.Step(latents, history, latents, noise, stepNoise, i)
		emit(Event{Kind: Step, Image: k, Step: i + 1, Steps: r.Plan.Steps, Stage: stage})
		if preview {
			image, err := p.decode(ctx, clock, dims, original)
			if err != nil {
				return nil, nil, err
			}
			nsfw, err := p.checkSafety(ctx, clock, dims, image)
			if err != nil {
				return nil, nil, err
			}
			emit(Event{Kind: Preview, Image: k, Step: i + 1, Steps: r.Plan.Steps, Stage: stage, PreviewIndex: previews, Picture: image, NSFW: nsfw})
			previews++
		}
	}
	return latents, fused, nil
}

// pair holds noise_pred of one model under its two conditionings.
type pair struct{ rows, base, cond []float32 }

func newPair(latent int) pair {
	rows := make([]float32, 2*latent)
	return pair{rows: rows, base: rows[:latent], cond: rows[latent:]}
}
