import fs from "node:fs";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ baseURL: "http://127.0.0.1:8080/v1", apiKey: "none" });
const face = (name) => toFile(fs.createReadStream(`examples/${name}.png`), `${name}.png`, { type: "image/png" });
const answer = await client.images.edit({
  model: "mini",
  image: [await face("alice"), await face("bob")],
  prompt: "a woman <|image|> and a man <|image|> at the beach at sunset",
  seed: 7, // TypeScript wants // @ts-expect-error above a field that OpenAI does not have
});
fs.writeFileSync("out.png", Buffer.from(answer.data[0].b64_json, "base64"));
console.log(answer.data[0].seed, answer.facediffuser.warnings);
