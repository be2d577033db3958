// Package picture is the way of pixels into and out of the gateway: uploaded
// bytes become reference pixels, a decoded tensor becomes a PNG, JPEG or WebP.
//
// # In
//
// [Decoder] turns untrusted bytes into a [Reference]: recognise the format by
// its first bytes, compare the dimensions in the header with the limits, decode
// (one picture at a time), apply the EXIF orientation, composite transparency
// over black, pad to a centred square with black and resize to the object
// resolution as Pillow does. There the pixels are rounded to 8 bits; from there
// to the image encoder's size everything is floating point. ICC profiles are
// ignored: the numbers in the file are taken as sRGB, as Pillow and torchvision
// do by default.
//
// [Decoder.ReadForm] and [Decoder.ReadJSON] do this for the body of a request
// while it streams in. A face is biometric data: no byte of an upload is
// written to disk or logged, and only pixels at object resolution are kept.
//
// # Memory
//
// Three things bound it, whatever the number of requests: the encoded bytes of
// all uploads share Limits.BufferBytes (see intake), one picture is decoded at
// a time, and padding and resizing work on rows as they are decoded, so that no
// square, no rotated and no 8-bit RGB copy of a large picture ever exists.
//
// # Out
//
// [FromTensor] makes a [Picture], [Encode] writes it together with the
// parameters that reproduce it and the XMP that says it is synthetic, and
// [ReadParameters] reads those back.
package picture
