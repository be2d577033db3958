import base64

import litellm

with open("examples/alice.png", "rb") as alice, open("examples/bob.png", "rb") as bob:
    answer = litellm.image_edit(
        model="openai/mini",
        api_base="http://127.0.0.1:8080/v1",
        api_key="none",
        image=[alice, bob],
        prompt="a woman <|image|> and a man <|image|> at the beach at sunset",
    )
with open("out.png", "wb") as out:
    out.write(base64.b64decode(answer.data[0].b64_json))
scene = litellm.image_generation(
    model="openai/mini", api_base="http://127.0.0.1:8080/v1", api_key="none", prompt="a forest at night")
print(answer.data[0].revised_prompt, len(scene.data))
