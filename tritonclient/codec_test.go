package tritonclient

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// TestMarshalIsTheProtobufEncoding compares the codec with protobuf's own encoder.
func TestMarshalIsTheProtobufEncoding(t *testing.T) {
	inputs := []Tensor{
		Float32("sample", FP32, []int64{2, 2}, []float32{1, 2}, []float32{3, 4}),
		Float32("half", FP16, []int64{1, 3}, []float32{1, 2, 3}),
		Int64("empty", []int64{0}),
		Float32("long", FP32, []int64{1, 100000}, make([]float32, 100000)),
	}
	request := Request{Model: "unet", ID: "17", Inputs: inputs, Outputs: []Output{{Name: "noise_pred"}}, Priority: 2}
	data, err := newRawCodec().Marshal(&inferRequest{header: request.header(), inputs: inputs})
	if err != nil {
		t.Fatal(err)
	}
	defer data.Free()
	want := request.header()
	for _, in := range inputs {
		want.RawInputContents = append(want.RawInputContents, in.Bytes())
	}
	got := new(inference.ModelInferRequest)
	if err := proto.Unmarshal(data.Materialize(), got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Error("the message differs from what was sent")
	}
	if data.Len() != proto.Size(want) {
		t.Errorf("%d bytes, protobuf has %d", data.Len(), proto.Size(want))
	}
}

func response() *inference.ModelInferResponse {
	return &inference.ModelInferResponse{
		ModelName: "unet", ModelVersion: "1", Id: "17",
		Parameters: map[string]*inference.InferParameter{"x": {ParameterChoice: &inference.InferParameter_DoubleParam{DoubleParam: 1}}},
		Outputs: []*inference.ModelInferResponse_InferOutputTensor{
			{Name: "noise_pred", Datatype: "FP32", Shape: []int64{1, 2}}, {Name: "empty", Datatype: "INT64", Shape: []int64{0}},
		},
		RawOutputContents: [][]byte{{0, 0, 128, 63, 0, 0, 0, 64}, {}},
	}
}

// chop is data in frames of n bytes.
func chop(data []byte, n int) mem.BufferSlice {
	var frames mem.BufferSlice
	for len(data) > 0 {
		k := min(n, len(data))
		frames = append(frames, mem.SliceBuffer(data[:k]))
		data = data[k:]
	}
	return frames
}

func TestUnmarshalReadsAcrossFrames(t *testing.T) {
	want := response()
	data, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= len(data); n++ {
		got := new(inferResponse)
		if err := newRawCodec().Unmarshal(chop(data, n), got); err != nil || got.fault != nil {
			t.Fatal(n, err, got.fault)
		}
		for i, raw := range want.RawOutputContents {
			if !bytes.Equal(*got.raw[i], raw) {
				t.Errorf("frames of %d: tensor %d is % x, want % x", n, i, *got.raw[i], raw)
			}
			got.header.RawOutputContents = append(got.header.RawOutputContents, raw)
		}
		if !proto.Equal(&got.header, want) {
			t.Errorf("frames of %d: %v", n, &got.header)
		}
		release(got.raw)
	}
}

// FuzzUnmarshal: the codec never panics, reads what protobuf reads, and refuses what
// protobuf refuses.
func FuzzUnmarshal(f *testing.F) {
	data, err := proto.Marshal(response())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, 3)
	f.Add(data[:len(data)-3], 16)
	f.Add([]byte{0x32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 2) // a length beyond everything
	f.Add([]byte{0x33, 0x34}, 1)                                                    // groups
	// Varints whose tenth byte says more than the 64th bit: as a value, a length and a tag.
	f.Add([]byte{0x40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2}, 4)
	f.Add([]byte{0x32, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2}, 4)
	f.Add([]byte{0xb2, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7e, 0}, 4)
	f.Add([]byte{0x32, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 7}, 4) // ten bytes, but no overflow
	f.Fuzz(func(t *testing.T, data []byte, frame int) {
		got := new(inferResponse)
		if err := newRawCodec().Unmarshal(chop(data, max(1, frame)), got); err != nil {
			t.Fatal(err)
		}
		want := new(inference.ModelInferResponse)
		if err := proto.Unmarshal(data, want); err != nil {
			if got.fault == nil {
				t.Fatalf("read what protobuf refuses: %v", err)
			}
			return
		}
		if got.fault != nil {
			return // groups and the like, which protobuf skips and no server sends
		}
		if len(got.raw) != len(want.RawOutputContents) {
			t.Fatalf("%d tensors, want %d", len(got.raw), len(want.RawOutputContents))
		}
		for i, raw := range want.RawOutputContents {
			if !bytes.Equal(*got.raw[i], raw) {
				t.Fatalf("tensor %d differs", i)
			}
		}
	})
}
