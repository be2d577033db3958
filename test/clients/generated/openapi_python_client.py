import base64
import pathlib

from facediffuser_client import Client
from facediffuser_client.api.default import create_image, create_image_edit
from facediffuser_client.models import EditForm, GenerationRequest, ImagesResponse
from facediffuser_client.types import File

client = Client(base_url="http://127.0.0.1:8080", timeout=120)


def face(name):
    return File(payload=open(f"examples/{name}.png", "rb"), file_name=f"{name}.png", mime_type="image/png")


def save(answer, name):
    assert isinstance(answer, ImagesResponse), answer.error.message
    pathlib.Path(name).write_bytes(base64.b64decode(answer.data[0].b64_json))


one = EditForm(image=[face("alice")], prompt="a woman <|image|> in the snow", seed=4294967295)
save(create_image_edit.sync(client=client, body=one), "one.png")
two = EditForm(image=[face("alice"), face("bob")], prompt="a woman <|image|> and a man <|image|> at the beach at sunset")
save(create_image_edit.sync(client=client, body=two), "out.png")
save(create_image.sync(client=client, body=GenerationRequest(prompt="a forest at night")), "scene.png")

wrong = EditForm(image=[face("alice")], prompt="a woman <|image|> and a man <|image|>")
error = create_image_edit.sync(client=client, body=wrong).error
print(error.param, error.message)
