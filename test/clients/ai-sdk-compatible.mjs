import fs from "node:fs";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";

const faces = createOpenAICompatible({ name: "faces", baseURL: "http://127.0.0.1:8080/v1", apiKey: "none" });
const { image } = await generateImage({
  model: faces.imageModel("mini"),
  prompt: {
    images: [fs.readFileSync("examples/alice.png"), fs.readFileSync("examples/bob.png")],
    text: "a woman <|image|> and a man <|image|> at the beach at sunset",
  },
  providerOptions: { faces: { seed: 7, num_inference_steps: 20 } }, // under the provider's name
});
fs.writeFileSync("out.png", image.uint8Array);
