// A smoke test under a light, even load: edits, generations and streams, each at RATE requests a second (default 0.5) for DURATION
// (default 30s). `make load` runs it; FACEDIFFUSER_URL names the gateway, FACEDIFFUSER_API_KEY a key where it wants one. k6 v1, https://grafana.com/docs/k6/
import http from 'k6/http';
import encoding from 'k6/encoding';
import { check } from 'k6';
import { Counter, Trend } from 'k6/metrics';

const url = __ENV.FACEDIFFUSER_URL || 'http://127.0.0.1:8080';
const auth = __ENV.FACEDIFFUSER_API_KEY ? { authorization: `Bearer ${__ENV.FACEDIFFUSER_API_KEY}` } : {};
const face = open(__ENV.FACE || import.meta.resolve('../../examples/alice.png'), 'b');
const rate = Number(__ENV.RATE || 0.5);

const picture = new Trend('picture_seconds');
const lost = new Counter('pictures_lost'); // asked for, answered with 200, and not there

function steady(exec) {
  return {
    exec, executor: 'constant-arrival-rate', rate: Math.round(60 * rate), timeUnit: '60s', duration: __ENV.DURATION || '30s',
    preAllocatedVUs: 16, maxVUs: 32,
  };
}

export const options = {
  scenarios: { edits: steady('edit'), generations: steady('generation'), streams: steady('stream') },
  thresholds: {
    checks: ['rate==1'],
    http_req_failed: [{ threshold: 'rate==0', abortOnFail: true, delayAbortEval: '5s' }],
    pictures_lost: ['count==0'],
    dropped_iterations: ['count==0'],
    picture_seconds: ['p(95)<20'],
  },
  summaryTrendStats: ['min', 'med', 'p(95)', 'max'],
};

// Few steps, so that the load is the gateway's more than the networks'.
const quick = { num_inference_steps: 8, seed: 3407 };

function isPNG(b64) {
  return !!b64 && encoding.b64decode(b64.slice(0, 12), 'std', 's').slice(1, 4) === 'PNG';
}

function judge(response, pictures, more) {
  picture.add(response.timings.duration / 1000);
  const whole = pictures.every(isPNG);
  if (response.status === 200 && !whole) lost.add(1);
  check(response, { 'status is 200': (r) => r.status === 200, 'pictures are PNG': () => whole, ...more });
}

function form(fields) {
  const values = {};
  for (const [name, value] of Object.entries(fields)) values[name] = String(value);
  return { ...values, image: http.file(face, 'face.png', 'image/png') };
}

const answer = (response) => (response.status === 200 ? response.json('data') : [{}]).map((d) => d.b64_json);

export function edit() {
  const response = http.post(`${url}/v1/images/edits`, form({ ...quick, prompt: 'a woman <|image|> in the snow at night' }), { headers: auth });
  judge(response, answer(response));
}

export function generation() {
  const body = JSON.stringify({ ...quick, prompt: 'a man on the beach at sunset', n: 2 });
  const response = http.post(`${url}/v1/images/generations`, body, { headers: { ...auth, 'content-type': 'application/json' } });
  judge(response, answer(response), { 'two pictures': () => answer(response).length === 2 });
}

export function stream() {
  const fields = form({ ...quick, prompt: 'a woman <|image|> in the forest', stream: true, partial_images: 2 });
  const response = http.post(`${url}/v1/images/edits`, fields, { headers: auth }); // k6 gives the body of a stream when it has ended
  const events = (response.body || '').split('\n').filter((line) => line.startsWith('data: ')).map((line) => JSON.parse(line.slice(6)));
  const of = (type) => events.filter((e) => e.type === `image_edit.${type}`).map((e) => e.b64_json);
  judge(response, [...of('partial_image'), ...(of('completed').length ? of('completed') : [''])], {
    'two partial images': () => of('partial_image').length === 2,
    'one completed image': () => of('completed').length === 1,
  });
}
