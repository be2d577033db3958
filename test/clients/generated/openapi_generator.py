import base64
import pathlib

from facediffuser_client import ApiClient, ApiException, Configuration, DefaultApi, GenerationRequest

api = DefaultApi(ApiClient(Configuration(host="http://127.0.0.1:8080")))
alice, bob = "examples/alice.png", "examples/bob.png"


def save(answer, name):
    pathlib.Path(name).write_bytes(base64.b64decode(answer.data[0].b64_json))


save(api.create_image_edit(image=[alice], prompt="a woman <|image|> in the snow", seed=4294967295), "one.png")
save(api.create_image_edit(image=[alice, bob], prompt="a woman <|image|> and a man <|image|> at the beach at sunset"), "out.png")
save(api.create_image(GenerationRequest(prompt="a forest at night")), "scene.png")
try:
    api.create_image_edit(image=[alice], prompt="a woman <|image|> and a man <|image|>")
except ApiException as exception:
    print(exception.data.error.param, exception.data.error.message)
