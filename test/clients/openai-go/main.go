package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

func main() {
	client := openai.NewClient(option.WithBaseURL("http://127.0.0.1:8080/v1/"), option.WithAPIKey("none"))
	var faces []io.Reader
	for _, name := range []string{"alice", "bob"} {
		file, err := os.Open("examples/" + name + ".png")
		if err != nil {
			log.Fatal(err)
		}
		defer file.Close()
		faces = append(faces, openai.File(file, name+".png", "image/png"))
	}
	params := openai.ImageEditParams{
		Model:  "mini",
		Image:  openai.ImageEditParamsImageUnion{OfFileArray: faces},
		Prompt: "a woman <|image|> and a man <|image|> at the beach at sunset",
	}
	params.SetExtraFields(map[string]any{"seed": "7"}) // a form drops extra fields that are not strings
	answer, err := client.Images.Edit(context.Background(), params)
	if err != nil {
		log.Fatal(err)
	}
	picture, err := base64.StdEncoding.DecodeString(answer.Data[0].B64JSON)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("out.png", picture, 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.Data[0].JSON.ExtraFields["seed"].Raw(), answer.JSON.ExtraFields["facediffuser"].Raw())
}
