// Package sampler holds everything of the denoising loop that is not a network: the noise
// schedule, the timesteps, the update of every scheduler and the seeded noise.
//
// It reproduces, to the last bits that float32 allows,
//
//   - diffusers' DDIMScheduler, PNDMScheduler and DPMSolverMultistepScheduler
//     (huggingface/diffusers v0.42, src/diffusers/schedulers/scheduling_*.py) as they are used
//     with Stable Diffusion 1.5, see docs/adr/0007-schedulers.md, and
//   - PyTorch's CPU generator (pytorch/pytorch, aten/src/ATen/core/MT19937RNGEngine.h,
//     TransformationHelper.h and native/cpu/DistributionTemplates.h).
//
// The package is pure: nothing is read, written or logged, and a step allocates nothing. Kernels
// take dst first, the caller owns all memory, and misuse of shapes panics with a constant message;
// errors exist only where numbers from outside come in ([NewSchedule], [Schedule.Solver]).
package sampler
