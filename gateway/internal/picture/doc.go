// Package picture is the way of pixels into and out of the gateway: uploaded
// bytes become reference pixels, a decoded tensor becomes a PNG, JPEG or WebP.
//
// # In
//
// [Decoder] turns untrusted bytes into a [Reference]: recognise the format by
// its first bytes, compare the dimensions in the header with the limits, wait for
// its turn, decode, convert colours to sRGB by an embedded profile, apply the
// orientation of EXIF or XMP, composite transparency over black, pad to a centred square
// with black and resize to the object resolution as Pillow does. There the
// pixels are rounded to 8 bits; from there to the image encoder's size
// everything is floating point. A profile that cannot be applied leaves a
// warning ([Reference.Warning]), never an error.
//
// What is harmlessly damaged is read as Pillow reads it, or better
// (docs/images.md, docs/adr/0017): the readers of containers here give the
// libraries' decoders, which are strict, what makes the picture and no more.
//
// # Memory and time
//
// Padding and resizing work on rows as they are decoded, so that no square, no
// rotated and no 8-bit RGB copy of a large picture ever exists. What decoders
// hold, and how many run at once, is decided by a queue (see queue).
//
// # Out
//
// [FromTensor] makes a [Picture], [Encode] writes it together with the
// parameters that reproduce it and the XMP that says it is synthetic, and
// [ReadParameters] reads those back.
package picture
