package fusion

// Guide writes the guided noise ε = base + w·(cond − base) into dst, which may be base or cond:
// classifier-free guidance (Ho and Salimans, arXiv 2207.12598) with w as diffusers'
// guidance_scale. In scene construction base and cond are the TDM's predictions for c_null and
// c_text, in subject enhancement the SDM's for c_text and c_aug. All slices have one length; it
// panics otherwise.
func Guide(dst, base, cond []float32, w float32) {
	if len(base) != len(dst) || len(cond) != len(dst) {
		panic("fusion: Guide: slices of different length")
	}
	for k, b := range base {
		dst[k] = b + w*(cond[k]-b)
	}
}
