package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log"
	"os"

	"example.org/me/facediffuser"
)

func face(name string) *os.File {
	file, err := os.Open("../examples/" + name + ".png")
	if err != nil {
		log.Fatal(err)
	}
	return file // the client closes it
}

func save(answer *facediffuser.ImagesResponse, name string, err error) {
	if err != nil {
		log.Fatal(err)
	}
	picture, err := base64.StdEncoding.DecodeString(answer.Data[0].B64Json)
	if err == nil {
		err = os.WriteFile("../"+name, picture, 0o644)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	configuration := facediffuser.NewConfiguration()
	configuration.Servers = facediffuser.ServerConfigurations{{URL: "http://127.0.0.1:8080"}}
	api := facediffuser.NewAPIClient(configuration).DefaultAPI
	ctx := context.Background()

	one, _, err := api.CreateImageEdit(ctx).Image([]*os.File{face("alice")}).Prompt("a woman <|image|> in the snow").Seed(4294967295).Execute()
	save(one, "one.png", err)
	two, _, err := api.CreateImageEdit(ctx).Image([]*os.File{face("alice"), face("bob")}).
		Prompt("a woman <|image|> and a man <|image|> at the beach at sunset").Execute()
	save(two, "out.png", err)
	scene, _, err := api.CreateImage(ctx).GenerationRequest(*facediffuser.NewGenerationRequest("a forest at night")).Execute()
	save(scene, "scene.png", err)

	_, _, err = api.CreateImageEdit(ctx).Image([]*os.File{face("alice")}).Prompt("a woman <|image|> and a man <|image|>").Execute()
	var failure *facediffuser.GenericOpenAPIError
	if errors.As(err, &failure) {
		body := failure.Model().(facediffuser.ErrorBody)
		fmt.Println(body.Error.GetParam(), body.Error.Message)
	}
}
