// Package fusion decides what one denoising step is made of: which stage it belongs to ([Plan]),
// classifier-free guidance ([Guide]) and Saliency-adaptive Noise Fusion ([Fuser]), the per-pixel
// collaboration of a text-driven (TDM) and a subject-augmented (SDM) diffusion model.
//
// Source: "Face-diffuser" (arXiv 2311.10329), section 4; stage bounds and base conditionings are
// those of its released code.
//
// The package is pure: nothing is read, written or logged, and a step allocates nothing. Kernels
// take dst first, the caller owns all memory, and misuse of shapes panics with a constant message;
// errors exist only where numbers from outside come in ([Plan.Validate]).
package fusion
