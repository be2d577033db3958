import base64

import openai

client = openai.OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
with open("examples/alice.png", "rb") as alice, open("examples/bob.png", "rb") as bob:
    answer = client.images.edit(
        model="mini",
        image=[alice, bob],
        prompt="a woman <|image|> and a man <|image|> at the beach at sunset",
        extra_body={"seed": 7},
    )
with open("out.png", "wb") as out:
    out.write(base64.b64decode(answer.data[0].b64_json))
print(answer.data[0].seed, answer.facediffuser["warnings"])
