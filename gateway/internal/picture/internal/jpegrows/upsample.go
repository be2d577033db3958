package jpegrows

// Upsampling as libjpeg-turbo does by default (jdsample.c: "fancy upsampling"):
// between two samples, the new ones are 3/4 of the nearer and 1/4 of the farther,
// where a component has half the samples in a row, in a column or in both. With
// other factors, and in components of at most two columns, samples repeat. The
// constants before the shifts alternate the rounding of halves, as there.

// interpolatesRows says whether the rows of c are interpolated.
func (d *decoder) interpolatesRows(c *component) bool {
	return d.vMax == 2*c.v && (d.hMax == c.h || d.interpolatesColumns(c))
}

func (d *decoder) interpolatesColumns(c *component) bool {
	return d.hMax == 2*c.h && d.vMax <= 2*c.v && c.width > 2
}

// row returns row y of the image in component c, a sample for each pixel, when
// the my-th row of MCUs is in the plane.
func (d *decoder) row(c *component, my, y int) []byte {
	// line returns a row of the component, as it is or, beyond the image, as its
	// nearest.
	line := func(y int) []byte {
		y = max(0, min(y, c.height-1))
		return c.plane[(1+y-my*8*c.v)*8*c.stride:][:c.width]
	}
	near := line(y * c.v / d.vMax)
	if c.h == d.hMax && c.v == d.vMax {
		return near
	}
	if c.wide == nil {
		c.wide = make([]byte, c.width*(d.hMax/c.h)) // up to 3 more than the image has
	}
	wide := c.wide
	far, up := near, y%2 == 0 // the row on the other side, if rows are interpolated
	if d.interpolatesRows(c) {
		if up {
			far = line(y/2 - 1)
		} else {
			far = line(y/2 + 1)
		}
	}
	switch {
	case d.interpolatesRows(c) && d.interpolatesColumns(c):
		interpolateBoth(wide, near, far)
	case d.interpolatesRows(c):
		interpolateRows(wide, near, far, up)
	case d.interpolatesColumns(c):
		interpolateColumns(wide, near)
	default:
		repeat(wide, near, d.hMax/c.h)
	}
	return wide[:d.width]
}

// repeat writes each sample of src n times.
func repeat(dst, src []byte, n int) {
	for x, v := range src {
		out := dst[x*n:][:n]
		for i := range out {
			out[i] = v
		}
	}
}

// interpolateRows: dst is one of the two rows that lie between the middle of
// near and the middle of the row above it (up) or below it.
func interpolateRows(dst, near, far []byte, up bool) {
	round := uint(2)
	if up {
		round = 1
	}
	for x := range near {
		dst[x] = uint8((3*uint(near[x]) + uint(far[x]) + round) >> 2)
	}
}

// interpolateColumns writes two samples for each of src, which has at least two.
func interpolateColumns(dst, src []byte) {
	last := len(src) - 1
	left := uint(src[0])
	for x, v := range src {
		here, right := uint(v), uint(src[min(x+1, last)])
		dst[2*x] = uint8((3*here + left + 1) >> 2)
		dst[2*x+1] = uint8((3*here + right + 2) >> 2)
		left = here
	}
}

// interpolateBoth writes two samples for each of near.
func interpolateBoth(dst, near, far []byte) {
	last := len(near) - 1
	column := func(x int) uint { return 3*uint(near[x]) + uint(far[x]) }
	left := column(0)
	here := left
	for x := range near {
		right := column(min(x+1, last))
		dst[2*x] = uint8((3*here + left + 8) >> 4)
		dst[2*x+1] = uint8((3*here + right + 7) >> 4)
		left, here = here, right
	}
}
