import fs from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { generateImage } from "ai";

const gateway = createOpenAI({ baseURL: "http://127.0.0.1:8080/v1", apiKey: "none" });
const { image, warnings, providerMetadata } = await generateImage({
  model: gateway.image("mini"),
  prompt: {
    images: [fs.readFileSync("examples/alice.png"), fs.readFileSync("examples/bob.png")],
    text: "a woman <|image|> and a man <|image|> at the beach at sunset",
  },
  providerOptions: { openai: { quality: "high", outputFormat: "png" } },
});
fs.writeFileSync("out.png", image.uint8Array);
console.log(warnings, providerMetadata.openai.images[0].revisedPrompt);
