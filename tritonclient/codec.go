package tritonclient

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec for all other messages
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// Field numbers of the raw contents, which this codec moves itself.
const (
	rawInputContents  protowire.Number = 7 // of ModelInferRequest
	rawOutputContents protowire.Number = 6 // of ModelInferResponse
)

// inferRequest is a ModelInferRequest whose raw contents are still where the caller
// has them.
type inferRequest struct {
	header *inference.ModelInferRequest
	inputs []Tensor
}

// inferResponse is a ModelInferResponse whose raw contents lie in buffers of their
// own. fault is what was wrong with the message, if anything.
type inferResponse struct {
	header inference.ModelInferResponse
	raw    []*[]byte
	fault  error
}

// rawCodec is gRPC's proto codec, except that tensors are copied exactly once in
// each direction: from the caller's memory into the pooled message that is sent, and
// from the received frames into a pooled, aligned buffer per tensor. (The default
// codec copies them twice and leaves the copies to the garbage collector.)
type rawCodec struct{ encoding.CodecV2 }

func newRawCodec() rawCodec { return rawCodec{encoding.GetCodecV2("proto")} }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*inferRequest)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	options := proto.MarshalOptions{}
	size := options.Size(r.header)
	tag := protowire.SizeTag(rawInputContents)
	for _, t := range r.inputs {
		size += tag + protowire.SizeBytes(int(t.bytes()))
	}
	pool := mem.DefaultBufferPool()
	buffer := pool.Get(size)
	message, err := options.MarshalAppend((*buffer)[:0], r.header)
	if err != nil {
		pool.Put(buffer)
		return nil, err
	}
	for _, t := range r.inputs {
		n := int(t.bytes())
		message = protowire.AppendTag(message, rawInputContents, protowire.BytesType)
		message = protowire.AppendVarint(message, uint64(n))
		at := len(message)
		message = message[:at+n]
		copyParts(message[at:], t)
	}
	*buffer = message
	return mem.BufferSlice{mem.NewBuffer(buffer, pool)}, nil
}

func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*inferResponse)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	// A fault is kept, not returned: gRPC would turn it into a status of its own.
	r.fault = r.unmarshal(data)
	return nil
}

func (r *inferResponse) unmarshal(data mem.BufferSlice) error {
	reader := data.Reader()
	defer reader.Close()
	var header []byte
	for reader.Remaining() > 0 {
		tag, err := readVarint(reader)
		if err != nil {
			return err
		}
		number, kind := protowire.DecodeTag(tag)
		if number == rawOutputContents && kind == protowire.BytesType {
			n, err := readLength(reader)
			if err != nil {
				return err
			}
			buffer := tensorPool.Get(n)
			r.raw = append(r.raw, buffer)
			if _, err := io.ReadFull(reader, *buffer); err != nil {
				return err
			}
			continue
		}
		header = protowire.AppendVarint(header, tag)
		if header, err = appendField(header, reader, kind); err != nil {
			return err
		}
	}
	return proto.Unmarshal(header, &r.header)
}

// appendField copies the value of one field.
func appendField(dst []byte, r *mem.Reader, kind protowire.Type) ([]byte, error) {
	var n int
	switch kind {
	case protowire.VarintType:
		v, err := readVarint(r)
		return protowire.AppendVarint(dst, v), err
	case protowire.Fixed32Type:
		n = 4
	case protowire.Fixed64Type:
		n = 8
	case protowire.BytesType:
		length, err := readLength(r)
		if err != nil {
			return nil, err
		}
		dst, n = protowire.AppendVarint(dst, uint64(length)), length
	default:
		return nil, fmt.Errorf("wire type %d", kind)
	}
	at := len(dst)
	dst = append(dst, make([]byte, n)...)
	_, err := io.ReadFull(r, dst[at:])
	return dst, err
}

// readVarint reads what protowire.ConsumeVarint reads: of a tenth byte, only the lowest bit
// is left of the 64, so more than that is an overflow.
func readVarint(r *mem.Reader) (uint64, error) {
	var encoded [binary.MaxVarintLen64]byte
	for i := range encoded {
		b, err := r.ReadByte()
		if err != nil {
			return 0, io.ErrUnexpectedEOF
		}
		encoded[i] = b
		if b < 0x80 {
			v, n := protowire.ConsumeVarint(encoded[:i+1])
			return v, protowire.ParseError(n)
		}
	}
	return 0, errors.New("varint of more than 64 bits")
}

// readLength reads a length that the message can still hold.
func readLength(r *mem.Reader) (int, error) {
	n, err := readVarint(r)
	if err != nil {
		return 0, err
	}
	if n > uint64(r.Remaining()) {
		return 0, fmt.Errorf("field of %d bytes in a message that has %d left", n, r.Remaining())
	}
	return int(n), nil
}

// tensorPool holds the memory of received tensors between Response.Release and the
// next response.
var tensorPool = func() mem.BufferPool {
	pool, err := mem.NewBinaryTieredBufferPool(8, 12, 14, 16, 17, 18, 19, 20, 22, 24)
	if err != nil {
		panic("tritonclient: " + err.Error())
	}
	return pool
}()
