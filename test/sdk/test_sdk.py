"""The official `openai` SDK against a running gateway at FACEDIFFUSER_URL, whose metrics are at FACEDIFFUSER_ADMIN_URL. Nothing of the SDK is adapted.

FACEDIFFUSER_BROKEN_URL is a server whose streams fail in the middle as the gateway's do, FACEDIFFUSER_REFUSING_URL one that refuses every
picture as the gateway's safety checker does; FACEDIFFUSER_EXAMPLES holds sample faces.
"""

import base64
import json
import os
import pathlib
import re
import time
import typing
import unittest
import urllib.request
import uuid

import openai
from openai.types.image_generate_params import ImageGenerateParamsBase

URL = os.environ["FACEDIFFUSER_URL"]
ADMIN = os.environ["FACEDIFFUSER_ADMIN_URL"]
FACES = pathlib.Path(os.environ["FACEDIFFUSER_EXAMPLES"])
QUICK = {"num_inference_steps": 4, "seed": 42}  # this gateway's own fields, flat in extra_body


def client(url=URL):
    return openai.OpenAI(base_url=url + "/v1", api_key="none", timeout=120)


def face(name):
    return open(FACES / f"{name}.png", "rb")


def metric(line):
    with urllib.request.urlopen(ADMIN + "/metrics") as response:
        found = re.search(rf"^{re.escape(line)} (\S+)$", response.read().decode(), re.M)
    return float(found[1]) if found else 0.0


class TestSDK(unittest.TestCase):
    def is_picture(self, b64, magic=b"\x89PNG\r\n"):
        file = base64.b64decode(b64, validate=True)
        self.assertEqual(file[: len(magic)], magic)
        self.assertIn(b"trainedAlgorithmicMedia", file)
        return file

    def test_edit_one_subject(self):
        with face("alice") as alice:
            result = client().images.edit(
                model="mini", image=alice, prompt="a woman <|image|> in the snow", size="auto", quality="low",
                extra_body={**QUICK, "return_fusion_map": True})
        self.assertEqual(len(result.data), 1)
        self.is_picture(result.data[0].b64_json)
        self.is_picture(result.data[0].fusion_map)
        self.assertEqual(result.data[0].seed, 42)
        self.assertEqual(result.output_format, "png")
        self.assertEqual(result.usage.total_tokens, result.usage.input_tokens + result.usage.output_tokens)
        self.assertEqual(result.usage.input_tokens_details.image_tokens, 1)
        self.assertEqual(result.facediffuser["prompt_used"], "a woman <|image|> in the snow")
        self.assertRegex(result._request_id, r"^req_")

    def test_edit_three_subjects(self):
        with face("alice") as a, face("bob") as b, face("carol") as c:
            result = client().images.edit(
                model="mini", image=[a, b, c], prompt="a woman <|image|>, a man <|image|> and a woman <|image|> on a beach", extra_body=QUICK)
        self.is_picture(result.data[0].b64_json)
        self.assertEqual(result.facediffuser["parameters"]["subjects"], 3)

    def test_generate(self):
        result = client().images.generate(model="mini", prompt="a man in a forest", n=2, output_format="jpeg", output_compression=90, user="u1", extra_body=QUICK)
        self.assertEqual([d.seed for d in result.data], [42, 43])
        for d in result.data:
            self.is_picture(d.b64_json, b"\xff\xd8\xff")
        self.assertEqual(result.safety_identifier, "u1")

    def test_same_seed_same_picture(self):
        first, second = (client().images.generate(prompt="a man in a forest", extra_body=QUICK).data[0].b64_json for _ in range(2))
        self.assertEqual(first, second)

    def test_values_of_the_sdk(self):
        """Every value that the SDK has for a field is served, or refused as OpenAI's that is not served here."""

        def literals(kind):
            if typing.get_origin(kind) is typing.Literal:
                return list(typing.get_args(kind))
            return [v for part in typing.get_args(kind) for v in literals(part)]

        tried = 0
        for name, kind in typing.get_type_hints(ImageGenerateParamsBase).items():
            for value in literals(kind):
                if name == "model":
                    continue  # a name is served or a 404
                with self.subTest(name=name, value=value):
                    tried += 1
                    try:
                        client().images.generate(prompt="a man", extra_body={**QUICK, "num_inference_steps": 1, name: value})
                    except openai.BadRequestError as error:
                        self.assertIn(error.code, ("unsupported_value", "unsupported_parameter"))
                        self.assertEqual(error.param, name)
        self.assertGreater(tried, 20)

    def test_base_url_without_version(self):
        with self.assertRaises(openai.NotFoundError) as raised, face("alice") as alice:
            openai.OpenAI(base_url=URL, api_key="none").images.edit(image=alice, prompt="a woman <|image|>")
        self.assertIn("the base URL must end in /v1", raised.exception.message)

    def test_seeds_and_warnings_of_openais_fields(self):
        """What a program sees that knows nothing of this gateway."""
        with face("alice") as alice:
            raw = client().images.with_raw_response.edit(image=alice, prompt="a woman with a zebra", n=2, extra_body=QUICK)
        result = raw.parse()
        self.assertEqual([d.revised_prompt for d in result.data], ["a woman <|image|> with a zebra"] * 2)
        self.assertEqual(raw.headers["x-facediffuser-seeds"], "42, 43")
        self.assertRegex(raw.headers["x-facediffuser-warnings"], r'^%"[ -~]*zebra[ -~]*";param="prompt"$')

    def test_models(self):
        names = [m.id for m in client().models.list()]
        self.assertEqual(client().models.retrieve(names[0]).id, names[0])

    def test_stream(self):
        with face("alice") as alice:
            events = list(client().images.edit(
                model="mini", image=alice, prompt="a woman <|image|> in the snow", stream=True, partial_images=2,
                extra_body={"num_inference_steps": 6, "seed": 42}))
        self.assertEqual([e.type for e in events], ["image_edit.partial_image"] * 2 + ["image_edit.completed"])
        self.assertEqual([e.partial_image_index for e in events[:2]], [0, 1])
        pictures = {self.is_picture(e.b64_json) for e in events}
        self.assertEqual(len(pictures), 3, "a partial image is the predicted picture of its own step")
        self.assertEqual(type(events[2]).__name__, "ImageEditCompletedEvent")
        self.assertGreater(events[2].usage.total_tokens, 0)

    def test_stream_of_generations(self):
        events = list(client().images.generate(prompt="a man in a forest", n=2, stream=True, extra_body=QUICK))
        self.assertEqual([e.type for e in events], ["image_generation.completed"] * 2)
        self.assertEqual(sorted(e.image_index for e in events), [0, 1])

    def test_error(self):
        with face("alice") as alice, self.assertRaises(openai.BadRequestError) as caught:
            client().images.edit(model="mini", image=alice, prompt="a woman <|image|> and a man <|image|>")
        self.assertEqual(caught.exception.param, "prompt")
        self.assertEqual(caught.exception.type, "invalid_request_error")
        self.assertRegex(caught.exception.request_id, r"^req_")
        with self.assertRaises(openai.NotFoundError) as caught:
            client().images.generate(model="dall-e-3", prompt="a man")
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_refused_picture(self):
        for stream in (False, True):  # refused before its first event, a stream is an ordinary error too
            with self.assertRaises(openai.BadRequestError) as caught:
                client(os.environ["FACEDIFFUSER_REFUSING_URL"]).images.generate(prompt="a man", stream=stream)
            self.assertEqual(caught.exception.code, "moderation_blocked")
            self.assertEqual(caught.exception.type, "image_generation_user_error")
            self.assertIn("change the prompt or the seed", caught.exception.message)

    def test_error_in_a_stream(self):
        stream = client(os.environ["FACEDIFFUSER_BROKEN_URL"]).images.generate(prompt="a man", stream=True)
        self.assertTrue(next(stream).type.endswith(".partial_image"))
        with self.assertRaises(openai.APIError) as caught:
            list(stream)
        self.assertEqual(caught.exception.code, "internal_error")

    def test_abandoned_stream(self):
        canceled = 'facediffuser_pictures_total{outcome="canceled"}'
        before = metric(canceled)
        stream = client().images.generate(prompt="a man in a forest", stream=True, extra_body={"num_inference_steps": 100, "progress": True})
        self.assertEqual(next(stream).type, "image_generation.progress")
        stream.close()
        deadline = time.monotonic() + 20
        while metric(canceled) == before:
            self.assertLess(time.monotonic(), deadline, "the picture of an abandoned stream goes on")
            time.sleep(0.05)

    def test_open_webui(self):
        """Open WebUI's own form: it uses no SDK, knows no marker, and asks for b64_json."""
        boundary = uuid.uuid4().hex
        fields = {"model": "mini", "prompt": "a woman reading in the snow at night", "n": "1", "response_format": "b64_json", "num_inference_steps": "4"}
        body = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items())
        with face("alice") as alice:
            body += (f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{uuid.uuid4()}.png"\r\n'
                     "Content-Type: image/png\r\n\r\n").encode() + alice.read() + f"\r\n--{boundary}--\r\n".encode()
        request = urllib.request.Request(
            URL + "/v1/images/edits", body,
            {"Content-Type": f"multipart/form-data; boundary={boundary}", "Authorization": "Bearer none"})
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)
        self.is_picture(answer["data"][0]["b64_json"])
        self.assertEqual(answer["facediffuser"]["prompt_used"], "a woman <|image|> reading in the snow at night")


if __name__ == "__main__":
    unittest.main(verbosity=2)
