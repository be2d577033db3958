package sampler

import "math"

// Notation of this file
//
//	engine state      624 words of MT19937 (Matsumoto and Nishimura, 1998)
//	u1, u2            uniform in [0, 1)
//	radius, theta     √(−2·ln(1 − u)), 2π·u of the Box–Muller transform
//
// PyTorch draws normal numbers in two ways, and which one depends on the size of the tensor
// (aten/src/ATen/native/cpu/DistributionTemplates.h):
//
//  1. 16 elements or more: the whole tensor is first filled with 24-bit uniforms, one word each;
//     then every block of 16 becomes 8 pairs: elements j and j+8 are u1 and u2 of pair j and take
//     its cosine and its sine. A tail that does not fill a block is not transformed: the *last* 16
//     elements of the tensor are drawn again, overwriting what stood there.
//  2. Fewer: one element at a time in float64, from 53-bit uniforms of two words each. The sine of
//     a pair is kept for the next such draw, however many large tensors are drawn in between.

const (
	mtSize   = 624
	mtShift  = 397
	mtMatrix = 0x9908b0df

	normalBlock = 16 // elements of one Box–Muller block
	halfBlock   = normalBlock / 2
)

// Generator is torch.Generator('cpu') after manual_seed: the same integers, and the same normal
// numbers up to the last bits of ln, sin and cos. It must not be used concurrently.
type Generator struct {
	state [mtSize]uint32
	next  int // index of the next word of state; mtSize means that all are used

	spare    float64 // second normal of the last pair drawn for a small tensor
	hasSpare bool
}

// NewGenerator seeds a generator. PyTorch's engine uses the lower 32 bits of a seed only.
func NewGenerator(seed uint32) *Generator {
	g := &Generator{next: mtSize}
	g.state[0] = seed
	for i := uint32(1); i < mtSize; i++ {
		previous := g.state[i-1]
		g.state[i] = 1812433253*(previous^previous>>30) + i
	}
	return g
}

// Uint32 is the next word of the generator's integer stream.
func (g *Generator) Uint32() uint32 {
	if g.next == mtSize {
		g.twist()
	}
	y := g.state[g.next]
	g.next++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

// twist replaces the whole state by the next 624 words of the recurrence.
func (g *Generator) twist() {
	for i := range g.state {
		y := g.state[i]&0x80000000 | g.state[(i+1)%mtSize]&0x7fffffff
		// −(y&1) is a mask: all ones when y is odd.
		g.state[i] = g.state[(i+mtShift)%mtSize] ^ y>>1 ^ -(y&1)&mtMatrix
	}
	g.next = 0
}

// Randn fills dst with standard normal numbers as torch.randn(len(dst), generator=g) does. Several
// calls continue one stream, but not as one call for all elements would: the length decides how
// they are drawn, as PyTorch has it.
func (g *Generator) Randn(dst []float32) {
	if len(dst) < normalBlock {
		for i := range dst {
			dst[i] = float32(g.normal())
		}
		return
	}
	g.uniform(dst)
	whole := len(dst) &^ (normalBlock - 1)
	for i := 0; i < whole; i += normalBlock {
		boxMuller(dst[i : i+normalBlock])
	}
	if whole < len(dst) {
		tail := dst[len(dst)-normalBlock:]
		g.uniform(tail)
		boxMuller(tail)
	}
}

// uniform fills dst with numbers in [0, 1) of 24 random bits.
func (g *Generator) uniform(dst []float32) {
	for i := range dst {
		dst[i] = float32(g.Uint32()&(1<<24-1)) * (1.0 / (1 << 24))
	}
}

// boxMuller turns a block of uniforms into normals in place. Angle and radius are rounded to
// float32 where PyTorch holds them in float32; the error of a rounded angle is larger than what
// the functions themselves add.
func boxMuller(block []float32) {
	for j := range halfBlock {
		u1, u2 := 1-block[j], block[j+halfBlock] // 1 − u lies in (0, 1], so that its logarithm is finite
		radius := float32(math.Sqrt(float64(-2 * float32(math.Log(float64(u1))))))
		theta := float32(2*math.Pi) * u2
		sin, cos := math.Sincos(float64(theta))
		block[j] = radius * float32(cos)
		block[j+halfBlock] = radius * float32(sin)
	}
}

// normal is one number of the path for small tensors.
func (g *Generator) normal() float64 {
	if g.hasSpare {
		g.hasSpare = false
		return g.spare
	}
	u1, u2 := g.uniform53(), g.uniform53()
	radius, theta := math.Sqrt(-2*math.Log1p(-u2)), 2*math.Pi*u1
	g.spare, g.hasSpare = radius*math.Sin(theta), true
	return radius * math.Cos(theta)
}

// uniform53 is a number in [0, 1) of 53 random bits; the first of its two words is the upper one.
func (g *Generator) uniform53() float64 {
	upper := uint64(g.Uint32())
	lower := uint64(g.Uint32())
	return float64((upper<<32|lower)&(1<<53-1)) * (1.0 / (1 << 53))
}
