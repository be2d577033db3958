//go:build unix

package fusion_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/facediffuser/facediffuser/fusion"
	"github.com/facediffuser/facediffuser/sampler"
)

// BenchmarkStep4x64x64 is everything that the gateway computes between the networks of one fusion
// step of a 512×512 picture: saliency, fusion, guidance and DDIM. It must stay below 0.15 ms. White
// noise makes it hard: the choice changes from pixel to pixel far more often than in a picture.
func BenchmarkStep4x64x64(b *testing.B) {
	const channels, height, width = 4, 64, 64
	g := sampler.NewGenerator(3407)
	random := func() []float32 {
		v := make([]float32, channels*height*width)
		g.Randn(v)
		return v
	}
	latents, noise := random(), random()
	// Several inputs in turn, or the branch predictor learns the masks by heart.
	var inputs [4][4][]float32
	for i := range inputs {
		inputs[i] = [4][]float32{random(), random(), random(), random()}
	}
	mask := make([]uint8, height*width)
	schedule, err := sampler.NewSchedule(sampler.ScheduleConfig{
		NumTrainTimesteps: 1000, BetaStart: 0.00085, BetaEnd: 0.012, BetaSchedule: sampler.BetaScaledLinear,
		StepsOffset: 1, TimestepSpacing: sampler.SpacingLeading, PredictionType: sampler.PredictionEpsilon,
	})
	if err != nil {
		b.Fatal(err)
	}
	solver, err := schedule.Solver(sampler.DDIM, 50, 0)
	if err != nil {
		b.Fatal(err)
	}
	fuser := fusion.NewFuser(channels, height, width)
	b.ReportAllocs()
	before := processorTime(b)
	for i := 0; b.Loop(); i++ {
		in := inputs[i%len(inputs)]
		fuser.Fuse(noise, mask, in[0], in[1], in[2], in[3], 5)
		solver.Step(latents, nil, latents, noise, nil, 20)
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// processorTime is what the process has spent so far: a busy machine stretches the wall time of a
// step, not this.
func processorTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
