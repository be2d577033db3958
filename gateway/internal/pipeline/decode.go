package pipeline

import (
	"context"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
)

// decode makes the picture of a latent; it leaves the latent as it is.
func (p *Pipeline) decode(ctx context.Context, clock *networkClock, dims Dimensions, latents []float32) (*picture.Picture, error) {
	scaled := make([]float32, len(latents))
	factor := float32(p.family.ScalingFactor)
	for i, z := range latents {
		scaled[i] = z / factor
	}
	var image []float32
	err := clock.run(func() (err error) {
		image, err = p.networks.DecodeLatents(ctx, scaled)
		return err
	})
	if err != nil {
		return nil, err
	}
	return picture.FromTensor(image, dims.Height, dims.Width), nil
}

// fusionMap draws, for every latent pixel, the share of fusion steps that the
// SDM won: black is TDM's, white is SDM's.
func fusionMap(dims Dimensions, steps []FusionStep) *picture.Picture {
	m := &picture.Picture{Width: dims.Width, Height: dims.Height, Pix: make([]uint8, 3*dims.Width*dims.Height)}
	if len(steps) == 0 {
		return m
	}
	won := make([]int, dims.LatentHeight*dims.LatentWidth)
	for _, step := range steps {
		for i, sdm := range step.Mask {
			won[i] += int(sdm)
		}
	}
	for y := range dims.Height {
		for x := range dims.Width {
			latent := y*dims.LatentHeight/dims.Height*dims.LatentWidth + x*dims.LatentWidth/dims.Width
			grey := uint8((won[latent]*255 + len(steps)/2) / len(steps))
			at := 3 * (y*dims.Width + x)
			m.Pix[at], m.Pix[at+1], m.Pix[at+2] = grey, grey, grey
		}
	}
	return m
}
