package tritonclient_test

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// noise answers every inference with the same 128 KiB, without looking at the request:
// what is measured is the client, gRPC and loopback.
type noise struct {
	inference.UnimplementedGRPCInferenceServiceServer
	answer *inference.ModelInferResponse
}

func (n noise) ServerReady(context.Context, *inference.ServerReadyRequest) (*inference.ServerReadyResponse, error) {
	return &inference.ServerReadyResponse{Ready: true}, nil
}

func (n noise) ModelInfer(context.Context, *inference.ModelInferRequest) (*inference.ModelInferResponse, error) {
	return n.answer, nil
}

// deaf does not parse inference requests, so that the server's copies of them are not
// measured.
type deaf struct{ encoding.CodecV2 }

func (d deaf) Unmarshal(data mem.BufferSlice, v any) error {
	if _, ok := v.(*inference.ModelInferRequest); ok {
		return nil
	}
	return d.CodecV2.Unmarshal(data, v)
}

const (
	latents     = 4 * 64 * 64 // of SD 1.5 at 512²
	conditions  = 77 * 768
	requestSize = 4 * (2*latents + 2 + 2*conditions)
	answerSize  = 4 * 2 * latents
)

func serveNoise(b *testing.B) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(deaf{encoding.GetCodecV2("proto")}), grpc.MaxRecvMsgSize(64<<20), grpc.InitialWindowSize(4<<20), grpc.InitialConnWindowSize(4<<20),
		grpc.ReadBufferSize(1<<20), grpc.WriteBufferSize(1<<20))
	inference.RegisterGRPCInferenceServiceServer(server, noise{answer: &inference.ModelInferResponse{
		ModelName:         "unet",
		Outputs:           []*inference.ModelInferResponse_InferOutputTensor{{Name: "noise_pred", Datatype: "FP32", Shape: []int64{2, 4, 64, 64}}},
		RawOutputContents: [][]byte{make([]byte, answerSize)},
	}})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	b.Cleanup(func() { server.Stop(); <-served })
	return listener.Addr().String()
}

// BenchmarkInfer is one UNet call of SD 1.5 in FP32: two rows, 594 KiB out and 128 KiB
// back, on loopback with the server in this process (whose own work is in the
// figures, the same for both).
func BenchmarkInfer(b *testing.B) {
	latent, text, base := make([]float32, latents), make([]float32, conditions), make([]float32, conditions)
	timestep := []float32{981, 981}
	b.Run("pool", func(b *testing.B) {
		pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{serveNoise(b)}})
		if err != nil {
			b.Fatal(err)
		}
		defer pool.Close()
		dst := make([]float32, 2*latents)
		call := func() {
			response, err := pool.Infer(b.Context(), tritonclient.Request{
				Model: "unet",
				Inputs: []tritonclient.Tensor{
					tritonclient.Float32("sample", tritonclient.FP32, []int64{2, 4, 64, 64}, latent, latent),
					tritonclient.Float32("timestep", tritonclient.FP32, []int64{2, 1}, timestep),
					tritonclient.Float32("encoder_hidden_states", tritonclient.FP32, []int64{2, 77, 768}, base, text),
				},
				Outputs: []tritonclient.Output{{Name: "noise_pred", Datatype: tritonclient.FP32, Shape: []int64{2, 4, 64, 64}}},
			})
			if err != nil {
				b.Fatal(err)
			}
			if err := response.Outputs[0].CopyFloat32s(dst); err != nil {
				b.Fatal(err)
			}
			response.Release()
		}
		call()
		b.SetBytes(requestSize + answerSize)
		b.ReportAllocs()
		for b.Loop() {
			call()
		}
	})
	// The generated stub with gRPC's own codec and defaults, and rows put together by hand.
	b.Run("stub", func(b *testing.B) {
		conn, err := grpc.NewClient(serveNoise(b), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		client := inference.NewGRPCInferenceServiceClient(conn)
		tensor := func(name string, shape ...int64) *inference.ModelInferRequest_InferInputTensor {
			return &inference.ModelInferRequest_InferInputTensor{Name: name, Datatype: "FP32", Shape: shape}
		}
		bytesOf := func(rows ...[]float32) []byte {
			return tritonclient.Float32("", tritonclient.FP32, nil, rows...).Bytes()
		}
		dst := make([]float32, 2*latents)
		call := func() {
			response, err := client.ModelInfer(b.Context(), &inference.ModelInferRequest{
				ModelName: "unet",
				Inputs: []*inference.ModelInferRequest_InferInputTensor{
					tensor("sample", 2, 4, 64, 64), tensor("timestep", 2, 1), tensor("encoder_hidden_states", 2, 77, 768),
				},
				RawInputContents: [][]byte{bytesOf(latent, latent), bytesOf(timestep), bytesOf(base, text)},
			})
			if err != nil {
				b.Fatal(err)
			}
			answer := tritonclient.Tensor{Datatype: tritonclient.FP32, Shape: response.Outputs[0].Shape, Data: response.RawOutputContents[0]}
			if err := answer.CopyFloat32s(dst); err != nil {
				b.Fatal(err)
			}
		}
		call()
		b.SetBytes(requestSize + answerSize)
		b.ReportAllocs()
		for b.Loop() {
			call()
		}
	})
	// A call without tensors, for scale.
	b.Run("empty", func(b *testing.B) {
		conn, err := grpc.NewClient(serveNoise(b), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		client := inference.NewGRPCInferenceServiceClient(conn)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.ServerReady(b.Context(), &inference.ServerReadyRequest{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
