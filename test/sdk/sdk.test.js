// The official `openai` SDK against a running gateway at FACEDIFFUSER_URL, whose metrics are at FACEDIFFUSER_ADMIN_URL. Nothing of the SDK is adapted.
// FACEDIFFUSER_BROKEN_URL is a server whose streams fail in the middle as the gateway's do, FACEDIFFUSER_REFUSING_URL one that refuses every
// picture as the gateway's safety checker does; FACEDIFFUSER_EXAMPLES holds sample faces.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import OpenAI, { toFile } from 'openai';

const url = process.env.FACEDIFFUSER_URL;
const admin = process.env.FACEDIFFUSER_ADMIN_URL;
const quick = { num_inference_steps: 4, seed: 42 }; // this gateway's own fields

const client = (base = url) => new OpenAI({ baseURL: `${base}/v1`, apiKey: 'none', timeout: 120_000 });
const face = (name) => fs.createReadStream(path.join(process.env.FACEDIFFUSER_EXAMPLES, `${name}.png`));

function isPicture(b64, magic = '89504e47') {
  const file = Buffer.from(b64, 'base64');
  assert.equal(file.subarray(0, magic.length / 2).toString('hex'), magic);
  assert.ok(file.includes('trainedAlgorithmicMedia'));
}

async function metric(line) {
  const text = await (await fetch(`${admin}/metrics`)).text();
  return Number(text.split('\n').find((l) => l.startsWith(line + ' '))?.split(' ').pop() ?? 0);
}

test('edit, one subject', async () => {
  const result = await client().images.edit({ model: 'mini', image: face('alice'), prompt: 'a woman <|image|> in the snow', ...quick });
  assert.equal(result.data.length, 1);
  isPicture(result.data[0].b64_json);
  assert.equal(result.data[0].seed, 42);
  assert.equal(result.usage.total_tokens, result.usage.input_tokens + result.usage.output_tokens);
  assert.equal(result.facediffuser.prompt_used, 'a woman <|image|> in the snow');
  assert.match(result._request_id, /^req_/);
});

test('edit, three subjects', async () => {
  const image = await Promise.all(['alice', 'bob', 'carol'].map((name) => toFile(face(name), `${name}.png`, { type: 'image/png' })));
  const result = await client().images.edit({
    model: 'mini', image, prompt: 'a woman <|image|>, a man <|image|> and a woman <|image|> on a beach', ...quick,
  });
  isPicture(result.data[0].b64_json);
  assert.equal(result.facediffuser.parameters.subjects, 3);
});

test('generate', async () => {
  const result = await client().images.generate({ model: 'mini', prompt: 'a man in a forest', n: 2, output_format: 'jpeg', ...quick });
  assert.deepEqual(result.data.map((d) => d.seed), [42, 43]);
  for (const d of result.data) isPicture(d.b64_json, 'ffd8ff');
});

test('stream with partial images', async () => {
  const stream = await client().images.edit({
    model: 'mini', image: face('alice'), prompt: 'a woman <|image|> in the snow', stream: true, partial_images: 2, ...quick,
  });
  const types = [];
  for await (const event of stream) {
    types.push(event.type);
    isPicture(event.b64_json);
  }
  assert.deepEqual(types, ['image_edit.partial_image', 'image_edit.partial_image', 'image_edit.completed']);
});

test('error', async () => {
  await assert.rejects(
    client().images.edit({ model: 'mini', image: face('alice'), prompt: 'a woman <|image|> and a man <|image|>' }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === 'prompt' && /^req_/.test(error.requestID),
  );
  await assert.rejects(client().images.generate({ model: 'dall-e-3', prompt: 'a man' }), { status: 404, code: 'model_not_found' });
});

test('refused picture', async () => {
  for (const stream of [false, true]) { // refused before its first event, a stream is an ordinary error too
    await assert.rejects(
      client(process.env.FACEDIFFUSER_REFUSING_URL).images.generate({ prompt: 'a man', stream }),
      (error) => error instanceof OpenAI.BadRequestError && error.code === 'moderation_blocked' && /the prompt or the seed/.test(error.message),
    );
  }
});

test('error in a stream', async () => {
  const stream = await client(process.env.FACEDIFFUSER_BROKEN_URL).images.generate({ prompt: 'a man', stream: true });
  let partial = 0;
  await assert.rejects(async () => {
    for await (const event of stream) partial += event.type.endsWith('.partial_image');
  }, (error) => error instanceof OpenAI.APIError && error.code === 'internal_error');
  assert.ok(partial > 0);
});

test('abandoned stream', async () => {
  const canceled = 'facediffuser_pictures_total{outcome="canceled"}';
  const before = await metric(canceled);
  const stream = await client().images.generate({ prompt: 'a man in a forest', stream: true, num_inference_steps: 100, progress: true });
  for await (const event of stream) {
    assert.equal(event.type, 'image_generation.progress');
    break; // closes the connection
  }
  const deadline = Date.now() + 20_000;
  while ((await metric(canceled)) === before) {
    assert.ok(Date.now() < deadline, 'the picture of an abandoned stream goes on');
    await pause(50);
  }
});
