import fs from "node:fs";
import { Configuration, DefaultApi } from "./client-typescript/dist/index.js";

const api = new DefaultApi(new Configuration({ basePath: "http://127.0.0.1:8080" }));
const face = (name) => new File([fs.readFileSync(`examples/${name}.png`)], `${name}.png`, { type: "image/png" });
const save = (answer, name) => fs.writeFileSync(name, Buffer.from(answer.data[0].b64Json, "base64"));

save(await api.createImageEdit({ image: [face("alice")], prompt: "a woman <|image|> in the snow", seed: 4294967295 }), "one.png");
save(await api.createImageEdit({
  image: [face("alice"), face("bob")],
  prompt: "a woman <|image|> and a man <|image|> at the beach at sunset",
}), "out.png");
save(await api.createImage({ generationRequest: { prompt: "a forest at night" } }), "scene.png");
try {
  await api.createImageEdit({ image: [face("alice")], prompt: "a woman <|image|> and a man <|image|>" });
} catch (failure) {
  const { error } = await failure.response.json();
  console.log(error.param, error.message);
}
