package tritonclient

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// Datatype is a tensor's element type as the protocol spells it on the wire.
type Datatype string

const (
	FP32  Datatype = "FP32"
	FP16  Datatype = "FP16"
	INT64 Datatype = "INT64"
)

// Size is the number of bytes of one element, 0 for a datatype that this client
// does not handle.
func (d Datatype) Size() int64 {
	switch d {
	case FP16:
		return 2
	case FP32:
		return 4
	case INT64:
		return 8
	}
	return 0
}

// DatatypeOf translates the datatype of a model configuration. ok is false for one
// that this client does not handle.
func DatatypeOf(t inference.DataType) (d Datatype, ok bool) {
	switch t {
	case inference.DataType_TYPE_FP32:
		return FP32, true
	case inference.DataType_TYPE_FP16:
		return FP16, true
	case inference.DataType_TYPE_INT64:
		return INT64, true
	}
	return "", false
}

// Tensor is a named array, row-major, with the batch as its first dimension.
type Tensor struct {
	Name     string
	Datatype Datatype
	Shape    []int64
	// Data holds the elements, little-endian: what the protocol calls raw contents.
	Data []byte
	// Parts, if not nil, stand for Data: the elements are their concatenation. Rows
	// that lie apart in memory are so sent without being put together first.
	Parts [][]byte
}

// Float32 is a tensor of the given datatype, FP32 or FP16, with the given values
// one after the other. FP32 values are not copied: they are read by Infer. FP16
// values are rounded to nearest, ties to even.
func Float32(name string, datatype Datatype, shape []int64, values ...[]float32) Tensor {
	if datatype == FP16 {
		total := 0
		for _, v := range values {
			total += len(v)
		}
		data := make([]byte, 0, 2*total)
		for _, v := range values {
			data = AppendFloat16(data, v)
		}
		return Tensor{Name: name, Datatype: FP16, Shape: shape, Data: data}
	}
	return fromParts(name, FP32, shape, values)
}

// Int64 is an INT64 tensor with the given values one after the other. They are not
// copied: they are read by Infer.
func Int64(name string, shape []int64, values ...[]int64) Tensor {
	return fromParts(name, INT64, shape, values)
}

func fromParts[E float32 | int64](name string, datatype Datatype, shape []int64, values [][]E) Tensor {
	t := Tensor{Name: name, Datatype: datatype, Shape: shape}
	if len(values) == 1 {
		t.Data = bytesOf(values[0])
		return t
	}
	t.Parts = make([][]byte, len(values))
	for i, v := range values {
		t.Parts[i] = bytesOf(v)
	}
	return t
}

// Float32s reads an FP32 or FP16 tensor. The result may share memory with Data.
func (t Tensor) Float32s() ([]float32, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	if t.Datatype == FP32 && t.Parts == nil && nativeIsLittle && aligned(t.Data, 4) {
		return viewOf[float32](t.Data), nil
	}
	values := make([]float32, t.Elements())
	return values, t.CopyFloat32s(values)
}

// CopyFloat32s reads an FP32 or FP16 tensor into dst, which must have as many
// elements.
func (t Tensor) CopyFloat32s(dst []float32) error {
	if err := t.check(); err != nil {
		return err
	}
	if int64(len(dst)) != t.Elements() {
		return fmt.Errorf("tensor %s: shape %v does not fit %d elements", t.Name, t.Shape, len(dst))
	}
	switch t.Datatype {
	case FP32:
		if nativeIsLittle {
			copyParts(bytesOf(dst), t)
			return nil
		}
		data := t.Bytes()
		for i := range dst {
			dst[i] = float32frombytes(data[4*i:])
		}
	case FP16:
		data := t.Bytes()
		for i := range dst {
			dst[i] = Float16ToFloat32(binary.LittleEndian.Uint16(data[2*i:]))
		}
	default:
		return fmt.Errorf("tensor %s is %s, not a float", t.Name, t.Datatype)
	}
	return nil
}

// Int64s reads an INT64 tensor. The result may share memory with Data.
func (t Tensor) Int64s() ([]int64, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	if t.Datatype != INT64 {
		return nil, fmt.Errorf("tensor %s is %s, not INT64", t.Name, t.Datatype)
	}
	if t.Parts == nil && nativeIsLittle && aligned(t.Data, 8) {
		return viewOf[int64](t.Data), nil
	}
	data := t.Bytes()
	values := make([]int64, t.Elements())
	for i := range values {
		values[i] = int64(binary.LittleEndian.Uint64(data[8*i:]))
	}
	return values, nil
}

// Elements is the product of the shape, -1 if a dimension is negative or the
// product does not fit.
func (t Tensor) Elements() int64 {
	n := int64(1)
	for _, d := range t.Shape {
		if d < 0 || d > 0 && n > (1<<40)/d {
			return -1
		}
		n *= d
	}
	return n
}

func (t Tensor) bytes() int64 {
	if t.Parts == nil {
		return int64(len(t.Data))
	}
	n := int64(0)
	for _, p := range t.Parts {
		n += int64(len(p))
	}
	return n
}

// check says whether datatype, shape and number of bytes agree.
func (t Tensor) check() error {
	size := t.Datatype.Size()
	if size == 0 {
		return fmt.Errorf("tensor %s: datatype %q is not supported", t.Name, t.Datatype)
	}
	if n := t.Elements(); n < 0 || n*size != t.bytes() {
		return fmt.Errorf("tensor %s: %s of shape %v does not fit %d bytes", t.Name, t.Datatype, t.Shape, t.bytes())
	}
	return nil
}

// Bytes are the contents in one piece: Data, or a copy of the Parts.
func (t Tensor) Bytes() []byte {
	if t.Parts == nil {
		return t.Data
	}
	data := make([]byte, t.bytes())
	copyParts(data, t)
	return data
}

// copyParts writes the contents of t to dst, which is at least as long.
func copyParts(dst []byte, t Tensor) {
	if t.Parts == nil {
		copy(dst, t.Data)
		return
	}
	for _, p := range t.Parts {
		dst = dst[copy(dst, p):]
	}
}

// nativeIsLittle says whether a number's bytes in memory are its bytes on the wire.
var nativeIsLittle = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// bytesOf is values as little-endian bytes, sharing memory where it can.
func bytesOf[E float32 | int64](values []E) []byte {
	var zero E
	size := int(unsafe.Sizeof(zero))
	if len(values) == 0 {
		return []byte{}
	}
	if nativeIsLittle {
		return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(values))), len(values)*size)
	}
	data, err := binary.Append(make([]byte, 0, len(values)*size), binary.LittleEndian, values)
	if err != nil {
		panic("tritonclient: fixed-size values have no encoding")
	}
	return data
}

// viewOf is data as numbers, sharing memory. data must be aligned and little-endian
// the native order.
func viewOf[E float32 | int64](data []byte) []E {
	var zero E
	if len(data) == 0 {
		return []E{}
	}
	return unsafe.Slice((*E)(unsafe.Pointer(unsafe.SliceData(data))), len(data)/int(unsafe.Sizeof(zero)))
}

func aligned(data []byte, to uintptr) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(data)))%to == 0
}
