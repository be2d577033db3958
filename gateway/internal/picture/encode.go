package picture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image/jpeg"
	"image/png"
	"io"
	"slices"

	"github.com/HugoSmits86/nativewebp"
)

// The formats of [Encoding].
const (
	PNG  = "png"
	JPEG = "jpeg"
	WebP = "webp"
)

// Formats are the formats [Encode] writes, and whether Compression acts on it.
// WebP is lossless: no maintained lossy encoder exists without cgo.
var Formats = []struct {
	Name        string
	Compression bool
}{{PNG, false}, {JPEG, true}, {WebP, false}}

// Encoding says how a picture is written.
type Encoding struct {
	Format      string // PNG, JPEG or WebP
	Compression int    // OpenAI's output_compression, 0–100, 100 the best picture; JPEG only

	Parameters      []byte // JSON that reproduces the picture; never anything of a reference image
	EmbedParameters bool   // write Parameters into the file
	EmbedXMP        bool   // write the mark of a synthetic picture into the file
}

// Encode writes p. Equal input gives equal bytes. Where the parameters go is
// said at [ReadParameters].
func Encode(w io.Writer, p *Picture, e Encoding) error {
	if !e.EmbedParameters {
		e.Parameters = nil
	}
	var buf bytes.Buffer
	var out []byte
	var err error
	switch e.Format {
	case PNG:
		if err = png.Encode(&buf, p.nrgba()); err == nil {
			out = e.intoPNG(buf.Bytes())
		}
	case JPEG:
		if e.Compression < 0 || e.Compression > 100 {
			return fmt.Errorf("picture: compression %d is not within 0 to 100", e.Compression)
		}
		if err = jpeg.Encode(&buf, p.nrgba(), &jpeg.Options{Quality: max(e.Compression, 1)}); err == nil {
			out = e.intoJPEG(buf.Bytes())
		}
	case WebP:
		if err = nativewebp.Encode(&buf, p.nrgba(), nil); err == nil {
			out = e.intoWebP(buf.Bytes(), p.Width, p.Height)
		}
	default:
		return fmt.Errorf("picture: no format %q", e.Format)
	}
	if err != nil {
		return fmt.Errorf("picture: encode %s: %w", e.Format, err)
	}
	_, err = w.Write(out)
	return err
}

// intoPNG inserts text chunks after the header chunk.
func (e Encoding) intoPNG(file []byte) []byte {
	const headerEnd = 8 + 4 + 4 + 13 + 4 // signature; length, type, IHDR, CRC
	var chunks []byte
	if e.Parameters != nil {
		chunks = appendITXt(chunks, parametersKey, e.Parameters)
	}
	if e.EmbedXMP {
		chunks = appendITXt(chunks, pngXMPKey, xmpPacket(true, nil))
	}
	return slices.Insert(file, headerEnd, chunks...)
}

// appendITXt appends a chunk of uncompressed UTF-8 text without language.
func appendITXt(dst []byte, key string, text []byte) []byte {
	data := append([]byte("iTXt"+key+"\x00\x00\x00\x00\x00"), text...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(data)-4))
	dst = append(dst, data...)
	return binary.BigEndian.AppendUint32(dst, crc32.ChecksumIEEE(data))
}

// intoJPEG inserts segments after the start marker. A segment has at most 65533
// bytes; longer parameters go on in the next one.
func (e Encoding) intoJPEG(file []byte) []byte {
	var segments []byte
	add := func(marker byte, head string, data []byte) {
		segments = append(segments, 0xff, marker)
		segments = binary.BigEndian.AppendUint16(segments, uint16(2+len(head)+len(data)))
		segments = append(append(segments, head...), data...)
	}
	if e.EmbedXMP {
		add(jpegAPP1, jpegXMPHead, xmpPacket(true, nil))
	}
	for part := range slices.Chunk(e.Parameters, 65533-len(parametersKey)-1) {
		add(jpegCOM, parametersKey+" ", part)
	}
	return slices.Insert(file, 2, segments...)
}

// intoWebP puts an extended header before the picture and an XMP chunk after it.
func (e Encoding) intoWebP(file []byte, width, height int) []byte {
	if !e.EmbedXMP && e.Parameters == nil {
		return file
	}
	const hasXMP = 1 << 2
	header := []byte{hasXMP, 0, 0, 0}
	for _, side := range []int{width - 1, height - 1} {
		header = append(header, byte(side), byte(side>>8), byte(side>>16))
	}
	body := appendRIFF([]byte("WEBP"), "VP8X", header)
	body = append(body, file[12:]...)
	body = appendRIFF(body, "XMP ", xmpPacket(e.EmbedXMP, e.Parameters))
	return appendRIFF(nil, "RIFF", body)
}

func appendRIFF(dst []byte, id string, data []byte) []byte {
	dst = append(appendRIFFHead(dst, id, int64(len(data))), data...)
	if len(data)%2 != 0 {
		dst = append(dst, 0)
	}
	return dst
}

func appendRIFFHead(dst []byte, id string, size int64) []byte {
	return binary.LittleEndian.AppendUint32(append(dst, id...), uint32(size))
}
